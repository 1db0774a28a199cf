// The main thread's turns with upcalls: takes them from the rings of all workers, the same share from each.

import { CONTROL_BASE, CTL_STARVED, CTL_UPCALL_ARMED } from '../../contract/memory.ts';
import type { EngineMemory } from './memory.ts';
import { UpcallRing } from './rings.ts';
import type { EngineOptions, Upcall } from './types.ts';

/** Upcalls handed over in one turn of the event loop, and the time after which a turn ends. */
const UPCALLS_PER_TURN = 512;
const TURN_MS = 5;
/** Shorter turns say nothing of whether this thread lacks a core. */
const TELLING_TURN_MS = 0.2;
/** With less CPU time than this part of a turn, somebody else had the core. */
const STARVED_SHARE = 0.9;
/** For so long behind the last such turn. */
const STARVED_MS = 100;

/** What passes, and what of it this thread had a core for. */
export interface TurnClocks {
  nowMs(): number;
  cpuMs(): number;
}

const CLOCKS: TurnClocks = {
  nowMs: () => performance.now(),
  cpuMs: () => {
    const { user, system } = process.threadCpuUsage();
    return (user + system) / 1000;
  },
};

export class UpcallReader {
  private readonly memory: EngineMemory;
  private readonly options: Pick<EngineOptions, 'onUpcall' | 'log'>;
  private readonly clocks: TurnClocks;
  private readonly rings: UpcallRing[] = [];
  private nextRing = 0;
  private scheduled = false;
  private closed = false;
  private starvedUntilMs = 0;
  private readonly take = (upcall: Upcall): void => this.handUp(upcall);

  constructor(
    memory: EngineMemory,
    options: Pick<EngineOptions, 'onUpcall' | 'log'>,
    clocks = CLOCKS,
  ) {
    this.memory = memory;
    this.options = options;
    this.clocks = clocks;
    memory.store(CONTROL_BASE + CTL_UPCALL_ARMED, 1);
  }

  addWorker(worker: number): void {
    this.rings[worker] ??= new UpcallRing(this.memory, worker);
  }

  /** Whether a worker has handed up packets that wait for their turn of the event loop. */
  get waiting(): boolean {
    return this.rings.some((ring) => !ring.empty);
  }

  close(): void {
    this.closed = true;
  }

  /** Hands over upcalls; goes on in the next turn of the event loop if there are more. */
  turn(): void {
    this.scheduled = false;
    if (this.closed) return;
    const beginMs = this.clocks.nowMs();
    const beginCpuMs = this.clocks.cpuMs();
    this.handOver(beginMs + TURN_MS);
    this.noteStarvation(beginMs, beginCpuMs);
    if (this.waiting) {
      this.schedule();
      return;
    }
    this.memory.store(CONTROL_BASE + CTL_UPCALL_ARMED, 1);
    // A worker that posted just before rings nobody.
    if (this.waiting) this.schedule();
  }

  private handOver(endMs: number): void {
    let left = UPCALLS_PER_TURN;
    let quietRings = 0;
    const { rings } = this;
    while (left > 0 && quietRings < rings.length && this.clocks.nowMs() < endMs) {
      const ring = rings[this.nextRing++ % rings.length]!;
      const count = ring.drain(Math.min(left, 32), this.take);
      left -= count;
      quietRings = count === 0 ? quietRings + 1 : 0;
    }
  }

  /** Workers that poll may have the only cores that are left for this thread: they hear of it (HostLoop.letMainCatchUp()). */
  private noteStarvation(beginMs: number, beginCpuMs: number): void {
    const nowMs = this.clocks.nowMs();
    const passedMs = nowMs - beginMs;
    if (
      passedMs >= TELLING_TURN_MS &&
      this.clocks.cpuMs() - beginCpuMs < STARVED_SHARE * passedMs
    ) {
      this.starvedUntilMs = nowMs + STARVED_MS;
    }
    this.memory.set(CONTROL_BASE + CTL_STARVED, nowMs < this.starvedUntilMs ? 1 : 0);
  }

  /** A packet that the control plane stumbles over costs itself, not the process. */
  private handUp(upcall: Upcall): void {
    try {
      this.options.onUpcall(upcall);
    } catch (error) {
      const text = error instanceof Error ? error.stack : String(error);
      this.options.log?.('err', `upcall of port ${upcall.inPort}: ${text}`);
    }
  }

  private schedule(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    setImmediate(() => this.turn());
  }
}
