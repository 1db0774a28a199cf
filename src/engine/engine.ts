// The engine: host of the data plane, and the only door between it and the rest of the control plane (types.ts).
//
// Composition of the parts in this directory: memory, workers, generations, ports and queues, megaflows, rings,
// windows. What happens by itself: upcalls are handed over when a worker rings, a bounded number at a turn of the
// event loop; broken queues are reported; port lists are ordered by use; the pool of windows is kept filled.

import { DROP_NONE } from '../../contract/drop.ts';
import {
  ARENA_BASE,
  ARENA_SIZE,
  CONTROL_BASE,
  CT_BASE,
  CT_SIZE,
  CTL_CACHE_INSERT_INV_PROB,
  CTL_CLOCK_SKEW_NS,
  CTL_PATIENCE_US,
  CTL_UPCALLS_ENABLED,
  CTL_VLAN_LIMIT,
  CTL_WORKERS,
  WK_BATCHES,
  WK_BUSY_NS,
  WK_BUSY_POLLS,
  WK_CACHE_HITS,
  WK_CLEAR,
  WK_FLOW_HITS,
  WK_FLOW_PROBES,
  WK_IDLE_NS,
  WK_LOST,
  WK_MISSES,
  WK_PACKETS,
  WK_POLLS,
  WK_RECIRC,
  WK_SIMPLE_HITS,
  WK_SLEEPS,
  WORKER_BASE,
  WORKER_SIZE,
} from '../../contract/memory.ts';
import { Q_BROKEN, Q_BUSY_NS, Q_PACKETS, queueAddress } from '../../contract/port.ts';
import { surviveBusErrors } from '../sys/busError.ts';
import { eventfdCreate, eventfdTake } from '../sys/eventfd.ts';
import { closeFd } from '../sys/fd.ts';
import { lockProgram, mapFixed } from '../sys/memory.ts';
import { watchFd } from '../sys/poll.ts';
import { Arena } from './arena.ts';
import { ConntrackTable } from './conntrack.ts';
import { dataPlaneImports, loadDataPlane } from './dataPlane.ts';
import { FlowTable } from './flowTable.ts';
import { Grace } from './grace.ts';
import type { DataPlane } from './hostLoop.ts';
import { StuckWorkers } from './lostMemory.ts';
import { EngineMemory } from './memory.ts';
import { type PortSettings, Ports } from './ports.ts';
import { InjectRing } from './rings.ts';
import { RxScheduler } from './rxq.ts';
import { SilentDevices } from './silentDevices.ts';
import type {
  Engine,
  EngineOptions,
  FlowId,
  FlowStats,
  Injection,
  PortCounters,
  QueueSpec,
  WorkerStats,
} from './types.ts';
import { UpcallReader } from './upcallReader.ts';
import { GuestWindows } from './windows.ts';
import { Workers } from './workers.ts';

const HOUSEKEEPING_MS = 100;
/** Port lists are ordered once in this many rounds of housekeeping. */
const SORT_ROUNDS = 10;
const DEFAULT_PATIENCE_US = 100;

/** Starts the data plane. Throws if its module has not been built. */
export function createEngine(options: EngineOptions): DataPlaneEngine {
  return new DataPlaneEngine(options);
}

export class DataPlaneEngine implements Engine {
  readonly memory: WebAssembly.Memory;
  readonly base: bigint;
  readonly windows: GuestWindows;
  readonly conntrack: ConntrackTable;
  private readonly options: EngineOptions;
  private readonly mem: EngineMemory;
  private readonly grace: Grace;
  private readonly stuck: StuckWorkers;
  private readonly workers: Workers;
  private readonly ports: Ports;
  private readonly rx: RxScheduler;
  private readonly silent: SilentDevices;
  private readonly flows: FlowTable;
  private readonly arena = new Arena(ARENA_BASE, ARENA_SIZE);
  private readonly upcalls: UpcallReader;
  private readonly injectRings: InjectRing[] = [];
  private readonly mainFd: number;
  private readonly watcher: Disposable;
  private readonly timer: NodeJS.Timeout;
  readonly originNs: bigint;
  private originMs: number = performance.now();
  private rounds = 0;
  private closed = false;
  private locked = false;
  private changingCores: Promise<void> = Promise.resolve();
  /** When a worker's figures have been zero, and what it had sent by then. */
  private readonly statsBegin = new Map<number, { ms: number; sent: number }>();
  private readonly attachedTx = new Set<number>();

  constructor(options: EngineOptions) {
    this.options = options;
    surviveBusErrors();
    const nowNs = process.hrtime.bigint();
    const originNs = options.originNs ?? nowNs;
    this.originNs = originNs;
    // In 1/1024 ms, so that sums with a clock that a test has stopped are exact (src/main/dummyClock.ts).
    const originMs = this.originMs - Number(nowNs - originNs) / 1e6;
    this.originMs = Math.round(originMs * 1024) / 1024;
    this.mem = new EngineMemory();
    if (options.conntrackFd !== undefined) {
      mapFixed(this.mem.base + BigInt(CT_BASE), options.conntrackFd, 0, CT_SIZE);
    }
    this.memory = this.mem.memory;
    this.base = this.mem.base;
    const module = loadDataPlane(options.debug);
    const local = new WebAssembly.Instance(
      module,
      dataPlaneImports(this.memory, () => 0),
    ).exports as unknown as DataPlane;
    this.grace = new Grace(this.mem, () => this.workers.ids());
    this.mainFd = eventfdCreate();
    this.workers = new Workers({
      memory: this.mem,
      module,
      mainFd: this.mainFd,
      originNs,
      log: options.log ?? (() => {}),
      onChange: () => this.grace.check(),
    });
    this.ports = new Ports(this.mem);
    this.silent = new SilentDevices(this.mem);
    this.rx = new RxScheduler(this.mem, this.grace, this.ports, (worker) =>
      this.workers.wake(worker),
    );
    this.flows = new FlowTable(this.mem, this.grace, (key, subtable) =>
      local.hashOf(key, subtable),
    );
    this.windows = new GuestWindows(this.mem, this.grace);
    this.stuck = new StuckWorkers(this.mem);
    this.conntrack = new ConntrackTable(this.mem, local, () => this.nowMs());
    this.setControl(CTL_VLAN_LIMIT, 1);
    this.setControl(CTL_CACHE_INSERT_INV_PROB, 1);
    this.setControl(CTL_UPCALLS_ENABLED, 1);
    this.upcalls = new UpcallReader(this.mem, options);
    this.setControl(CTL_PATIENCE_US, DEFAULT_PATIENCE_US);
    this.watcher = watchFd(this.mainFd, { read: true }, () => this.onBell());
    this.timer = setInterval(() => this.housekeeping(), HOUSEKEEPING_MS);
    this.timer.unref();
    for (const core of options.cores ?? [undefined]) this.startWorker(core);
    void this.rx.setWorkers(this.workers.list());
    this.conntrack.start();
  }

  /**
   * Takes up the table of connections of a predecessor that uses it no more (its settings come along). To be called
   * before any queue is attached. `crashed`: the predecessor may have held locks when it died.
   */
  adoptConntrack(fd: number, crashed = false): void {
    this.conntrack.stop();
    mapFixed(this.mem.base + BigInt(CT_BASE), fd, 0, CT_SIZE);
    if (this.locked) this.mem.lock();
    if (crashed) this.conntrack.unlockAll();
    this.conntrack.start();
  }

  lockMemory(): void {
    this.mem.lock();
    this.locked = true;
    lockProgram();
  }

  nowMs(): number {
    return performance.now() - this.originMs;
  }

  private setControl(offset: number, value: number): void {
    this.mem.store(CONTROL_BASE + offset, value);
  }

  private startWorker(core: number | undefined): void {
    const id = this.workers.start(core);
    this.beginStats(id);
    this.upcalls.addWorker(id);
    this.injectRings[id] ??= new InjectRing(this.mem, id);
    this.ports.workersSeen = this.workers.seen;
    this.flows.workersSeen = this.workers.seen;
    this.setControl(CTL_WORKERS, this.workers.list().length);
  }

  // ---- ports

  addPort(wanted?: number): number {
    return this.ports.add(wanted);
  }

  async removePort(port: number): Promise<void> {
    if (!this.ports.has(port)) return;
    this.ports.retire(port);
    const queues = [...this.ports.queueNumbers()].filter((q) => this.ports.portOf(q) === port);
    await Promise.all(queues.map((queue) => this.detachQueue(queue)));
    await this.grace.quiesce();
    for (const queue of queues) this.ports.removeQueue(queue);
    this.ports.free(port);
  }

  setPort(port: number, set: PortSettings): void {
    this.ports.set(port, set);
  }

  addQueue(port: number, spec: QueueSpec): number {
    return this.ports.addQueue(port, spec);
  }

  attachQueue(queue: number): void {
    if (!this.ports.hasQueue(queue)) throw new Error(`no queue ${queue}`);
    this.mem.store(queueAddress(queue) + Q_BROKEN, 0);
    if (this.ports.isRx(queue)) {
      this.rx.attach(queue);
      return;
    }
    this.attachedTx.add(queue);
    this.ports.setTxQueue(this.ports.portOf(queue), queue, true);
  }

  async detachQueue(queue: number): Promise<void> {
    if (!this.ports.hasQueue(queue)) return;
    if (this.ports.isRx(queue)) {
      this.rx.detach(queue);
      this.silent.forget(queue);
    } else {
      this.attachedTx.delete(queue);
      this.ports.setTxQueue(this.ports.portOf(queue), queue, false);
    }
    await this.grace.quiesce();
  }

  removeQueue(queue: number): void {
    if (this.rx.isAttached(queue) || this.attachedTx.has(queue)) {
      throw new Error(`queue ${queue} is attached`);
    }
    this.ports.removeQueue(queue);
  }

  allocArena(bytes: number, align: number): number {
    const address = this.arena.take(bytes, align);
    if (address < 0) throw new Error(`no room for ${bytes} bytes in the arena`);
    return address;
  }

  freeArena(address: number): void {
    this.arena.give(address);
  }

  arenaFree(): number {
    return this.arena.freeBytes() / ARENA_SIZE;
  }

  portCounters(port: number): PortCounters {
    return this.ports.counters(port);
  }

  // ---- megaflows

  putFlow(key: Uint8Array, mask: Uint8Array, actions: Uint32Array, keep = false): FlowId {
    return this.flows.put(key, mask, actions, keep);
  }

  findFlow(key: Uint8Array, mask: Uint8Array): FlowId {
    return this.flows.find(key, mask);
  }

  setFlowActions(flow: FlowId, actions: Uint32Array): void {
    this.flows.setActions(flow, actions);
  }

  deleteFlow(flow: FlowId): Promise<FlowStats> {
    return this.flows.delete(flow);
  }

  flowStats(flow: FlowId): FlowStats {
    const stats = this.flows.stats(flow);
    // A worker's clock may be ahead of one that a test has stopped.
    stats.usedMs = Math.min(stats.usedMs, this.nowMs());
    return stats;
  }

  flowCount(): number {
    return this.flows.size;
  }

  maskCount(): number {
    return this.flows.masks;
  }

  // ---- packets

  inject(injection: Injection): boolean {
    const asked = injection.worker ?? -1;
    const worker = this.workers.takes(asked) ? asked : this.rx.workerOfPort(injection.inPort);
    const pushed = this.injectRings[worker]?.push(injection) ?? false;
    if (pushed) this.workers.wake(worker);
    else this.ports.countLostInjection(injection.inPort);
    return pushed;
  }

  private onBell(): void {
    eventfdTake(this.mainFd);
    this.grace.check();
    this.windows.fillPool();
    this.upcalls.turn();
  }

  /** Whether a worker has handed up packets that wait for their turn of the event loop. */
  get upcallsWaiting(): boolean {
    return this.upcalls.waiting;
  }

  // ---- time

  quiesce(): Promise<number> {
    return this.grace.quiesce();
  }

  setCores(cores: readonly number[]): Promise<void> {
    this.changingCores = this.changingCores.then(() => this.changeCores(cores));
    return this.changingCores;
  }

  private async changeCores(cores: readonly number[]): Promise<void> {
    const wanted: (number | undefined)[] = cores.length === 0 ? [undefined] : [...cores];
    const surplus: number[] = [];
    for (const worker of this.workers.list()) {
      const at = wanted.indexOf(worker.core);
      if (at < 0) surplus.push(worker.id);
      else wanted.splice(at, 1);
    }
    for (const core of wanted) this.startWorker(core);
    const stay = this.workers.list().filter(({ id }) => !surplus.includes(id));
    await this.rx.setWorkers(stay);
    await Promise.all(surplus.map((id) => this.workers.stop(id)));
    this.setControl(CTL_WORKERS, stay.length);
  }

  setAffinity(port: number, queueIndex: number, core: number | undefined): void {
    this.rx.setAffinity(port, queueIndex, core);
  }

  setCacheInsertInvProb(n: number): void {
    this.setControl(CTL_CACHE_INSERT_INV_PROB, n);
  }

  setIsolation(isolate: boolean): void {
    this.rx.setIsolation(isolate);
  }

  setVlanLimit(n: number): void {
    this.setControl(CTL_VLAN_LIMIT, n < 1 || n > 2 ? 2 : n);
  }

  /**
   * Moves the workers' clocks (connection tracking, last use of megaflows) by this much against the machine's: for
   * tests that stop the time and let it jump. The main thread's own clock is performance.now().
   */
  setClockSkew(ms: number): void {
    this.mem.f64[(CONTROL_BASE + CTL_CLOCK_SKEW_NS) >> 3] = ms * 1e6;
  }

  setPatience(us: number): void {
    this.setControl(CTL_PATIENCE_US, us);
  }

  workerStats(): WorkerStats[] {
    return this.workers.list().map((running) => {
      const { id, core } = running;
      const stat = (offset: number): number =>
        this.mem.f64[(WORKER_BASE + id * WORKER_SIZE + offset) / 8]!;
      return {
        worker: id,
        core: core ?? -1,
        isolated: this.rx.isIsolated(running),
        durationMs: this.nowMs() - (this.statsBegin.get(id)?.ms ?? 0),
        busyNs: stat(WK_BUSY_NS),
        idleNs: stat(WK_IDLE_NS),
        polls: stat(WK_POLLS),
        busyPolls: stat(WK_BUSY_POLLS),
        packets: stat(WK_PACKETS),
        batches: stat(WK_BATCHES),
        simpleHits: stat(WK_SIMPLE_HITS),
        cacheHits: stat(WK_CACHE_HITS),
        flowHits: stat(WK_FLOW_HITS),
        flowProbes: stat(WK_FLOW_PROBES),
        misses: stat(WK_MISSES),
        lost: stat(WK_LOST),
        sleeps: stat(WK_SLEEPS),
        recirculated: stat(WK_RECIRC),
        sent: this.ports.sentBy(id) - (this.statsBegin.get(id)?.sent ?? 0),
        queues: this.rx.queuesOf(id).map((queue) => ({
          queue,
          port: this.ports.portOf(queue),
          index: this.ports.indexOf(queue),
          packets: this.mem.f64[(queueAddress(queue) + Q_PACKETS) / 8]!,
          busyNs: this.mem.f64[(queueAddress(queue) + Q_BUSY_NS) / 8]!,
        })),
      };
    });
  }

  /** Workers that should poll and have not for five seconds. */
  stalledWorkers(): number[] {
    return this.stuck.stalled();
  }

  clearWorkerStats(): void {
    for (const { id } of this.workers.list()) {
      this.mem.store(WORKER_BASE + id * WORKER_SIZE + WK_CLEAR, 1);
      this.workers.wake(id);
      this.beginStats(id);
    }
  }

  private beginStats(worker: number): void {
    this.statsBegin.set(worker, { ms: this.nowMs(), sent: this.ports.sentBy(worker) });
  }

  private housekeeping(): void {
    this.grace.check();
    this.windows.fillPool();
    this.windows.checkFiles();
    this.silent.look(this.rx.attached());
    for (const offset of this.stuck.find(this.workers.threads())) {
      if (this.windows.lostAt(offset)) continue;
      this.options.log?.('err', `a worker waits for lost memory at 0x${offset.toString(16)}`);
    }
    for (const queue of [...this.rx.attached(), ...this.attachedTx]) {
      const at = queueAddress(queue) + Q_BROKEN;
      const reason = this.mem.load(at);
      if (reason === DROP_NONE || this.reported.get(queue) === reason) continue;
      this.reported.set(queue, reason);
      this.options.onBrokenQueue?.(this.ports.portOf(queue), queue, reason);
    }
    for (const queue of this.reported.keys()) {
      if (this.mem.load(queueAddress(queue) + Q_BROKEN) === DROP_NONE) this.reported.delete(queue);
    }
    if (++this.rounds % SORT_ROUNDS === 0) this.flows.sort();
  }

  private readonly reported = new Map<number, number>();

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    this.upcalls.close();
    clearInterval(this.timer);
    this.conntrack.stop();
    await this.changingCores;
    await Promise.all(this.workers.list().map(({ id }) => this.workers.stop(id)));
    this.grace.check();
    this.watcher[Symbol.dispose]();
    this.silent.close();
    closeFd(this.mainFd);
  }
}
