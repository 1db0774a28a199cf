// Keeping megaflows true: when flows, configuration or MAC tables change, megaflows that depend on what changed are
// translated again; what gives another program gets it, what was too wide is removed, and a narrower one is put before if it is
// busy. Twice a second, while there are megaflows, statistics go to the OpenFlow rules and idle megaflows go.
//
// Work is done in slices of a few milliseconds, so that the event loop (echo requests, new upcalls) stays free.
// `settled` resolves when all changes made before the call are in the data plane and every worker has acknowledged:
// a barrier is answered when no packet can meet the old state any more.

import { KEY_SIZE } from '../../contract/key.ts';
import type { Datapath } from './datapath.ts';
import type { DebugLog } from './debugLog.ts';
import { logFlow } from './flowLog.ts';
import type { MacTable } from './macLearning.ts';
import { creditStats, type Megaflow, UNVALIDATED } from './megaflow.ts';
import { type RuleChange, touches } from './ruleChange.ts';
import { slowPathProgram } from './slowPath.ts';
import { translate } from './translate/translate.ts';
import type { XlateBridge } from './translate/types.ts';
import { datapathMask } from './translate/wildcards.ts';

const SLICE_MS = 4;
const DUMP_INTERVAL_MS = 500;
const FLOW_LIMIT_START = 10_000;
const FLOW_LIMIT_MIN = 1000;
/** Over the limit, flows go after this much idleness. */
const CROWDED_IDLE_MS = 100;
/** A busy megaflow has had a packet so lately. */
const BUSY_MS = 1000;
/** Changes of single flows that are looked at one by one; more in one go touch everything. */
const RULE_LOG_MAX = 64;

function sameProgram(a: Uint32Array, b: Uint32Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** Lets the event loop turn. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

export class Revalidator {
  readonly #datapath: Datapath;
  readonly #dumpLog: DebugLog | undefined;
  /** Number of the last change; a megaflow is valid if no bridge that it crosses changed after its own number. */
  change = 0;
  readonly #changes = new WeakMap<XlateBridge, number>();
  /** Changes of single flows since the last pass, in order. */
  #ruleLog: { number: number; change: RuleChange }[] = [];
  #macDirty = new Set<Megaflow>();
  /** Changes of MAC tables, and those whose megaflows have been looked at. */
  #macChange = 0;
  #macDone = 0;
  #done = 0;
  #running: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #dumping = false;
  #closed = false;
  #paused = false;
  #dumpWaiters: (() => void)[] = [];
  #waiters: { change: number; macChange: number; resolve: () => void }[] = [];
  /** Open_vSwitch.other_config: flow-limit, max-idle, max-revalidator. */
  maxFlowLimit = 200_000;
  maxIdleMs = 10_000;
  dumpIntervalMs = DUMP_INTERVAL_MS;
  /** A busy megaflow has had so many packets; others are not worth a new one that perhaps nobody needs. */
  busyPackets = 32;
  flowLimit = FLOW_LIMIT_START;
  averageFlows = 0;
  maxFlows = 0;
  dumpDurationMs = 0;

  constructor(datapath: Datapath, dumpLog?: DebugLog) {
    this.#datapath = datapath;
    this.#dumpLog = dumpLog;
  }

  /** Flows, ports or configuration of a bridge changed. */
  changed(bridge: XlateBridge): void {
    this.#changes.set(bridge, ++this.change);
    this.#schedule();
  }

  /** Some flows changed: only what they may have to do with is translated again. */
  rulesChanged(changes: readonly RuleChange[]): void {
    this.change++;
    for (const change of changes) this.#ruleLog.push({ number: this.change, change });
    if (this.#ruleLog.length > RULE_LOG_MAX) {
      for (const { number, change } of this.#ruleLog.splice(0)) {
        this.#changes.set(change.bridge, number);
      }
    }
    this.#schedule();
  }

  /** The answer of a MAC table changed: for one address, or (undefined) for all. */
  macChanged(macs: MacTable, key: string | undefined): void {
    for (const flow of this.#datapath.megaflows.dependingOn(macs, key)) this.#macDirty.add(flow);
    // Addresses grow old without megaflows, too.
    if (macs.size > 0) this.wake();
    if (this.#macDirty.size === 0) return;
    this.#macChange++;
    this.#schedule();
  }

  /** Resolves when no packet can meet a state older than the call. */
  async settled(): Promise<void> {
    // Changes that come in meanwhile are not waited for: a barrier must not starve.
    const change = this.change;
    const macChange = this.#macChange;
    while (!this.#closed && (this.#done < change || this.#macDone < macChange)) {
      await this.#run(change, macChange);
    }
    await this.#datapath.engine.quiesce();
  }

  /** Resolves after a complete round over all megaflows (revalidator/wait). */
  async wait(): Promise<void> {
    await this.settled();
    const dumped = new Promise<void>((resolve) => this.#dumpWaiters.push(resolve));
    void this.#dump();
    await dumped;
  }

  /** revalidator/pause and /resume: no rounds over all megaflows meanwhile. Changes are followed all the same. */
  pause(paused: boolean): void {
    this.#paused = paused;
    if (!paused) this.wake();
  }

  /** upcall/set-flow-limit: from where the limit adapts itself. */
  setFlowLimit(limit: number): void {
    this.flowLimit = limit;
  }

  /** There are megaflows: the periodic work has to run. */
  wake(): void {
    if (this.#timer !== undefined || this.#closed) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      void this.#dump();
    }, this.dumpIntervalMs);
    this.#timer.unref();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#wakeWaiters();
    for (const resolve of this.#dumpWaiters.splice(0)) resolve();
  }

  #pending(): boolean {
    return !this.#closed && (this.#done < this.change || this.#macDone < this.#macChange);
  }

  #schedule(): void {
    if (this.#running !== undefined || this.#closed) return;
    // Changes of one turn of the event loop are looked at together.
    this.#running = nextTurn().then(() => this.#passes());
  }

  /** Resolves when the running pass, or a new one, has got as far as this. */
  #run(change: number, macChange: number): Promise<void> {
    this.#running ??= this.#passes();
    return new Promise((resolve) => this.#waiters.push({ change, macChange, resolve }));
  }

  #wakeWaiters(): void {
    this.#waiters = this.#waiters.filter(({ change, macChange, resolve }) => {
      const reached = this.#done >= change && this.#macDone >= macChange;
      if (reached || this.#closed) resolve();
      return !reached && !this.#closed;
    });
  }

  async #passes(): Promise<void> {
    try {
      while (this.#pending()) {
        const target = this.change;
        if (this.#done < target) await this.#pass();
        this.#done = Math.max(this.#done, target);
        this.#ruleLog = this.#ruleLog.filter(({ number }) => number > this.#done);
        await this.#macPass();
        this.#wakeWaiters();
      }
    } finally {
      this.#running = undefined;
    }
  }

  async #pass(): Promise<void> {
    let end = performance.now() + SLICE_MS;
    let count = 0;
    for (const flow of this.#datapath.megaflows) {
      if (this.#isOutdated(flow)) this.#revalidate(flow);
      else flow.validated = this.change;
      if ((++count & 15) === 0 && performance.now() > end) {
        await nextTurn();
        end = performance.now() + SLICE_MS;
      }
    }
  }

  async #macPass(): Promise<void> {
    let end = performance.now() + SLICE_MS;
    const target = this.#macChange;
    const dirty = this.#macDirty;
    this.#macDirty = new Set();
    for (const flow of dirty) {
      if (!flow.deleted) this.#revalidate(flow);
      if (performance.now() > end) {
        await nextTurn();
        end = performance.now() + SLICE_MS;
      }
    }
    this.#macDone = target;
  }

  #isOutdated(flow: Megaflow): boolean {
    if (flow.validated === UNVALIDATED) return true;
    for (const bridge of flow.effects.bridges) {
      if ((this.#changes.get(bridge) ?? 0) > flow.validated) return true;
    }
    for (const { number, change } of this.#ruleLog) {
      if (number > flow.validated && touches(flow, change)) return true;
    }
    return false;
  }

  /** Translates a megaflow again. The packets counted so far are credited to the old rules first. */
  #revalidate(flow: Megaflow): void {
    const { engine, handler, packetIns, recircs, megaflows, scratch, scratchMask, timeoutPolicy } =
      this.#datapath;
    creditStats(flow, engine.flowStats(flow.id));
    const validated = this.change;
    const located = this.#datapath.flowOf(flow.key, scratch.flow);
    if (located === undefined) {
      void this.#datapath.deleteMegaflow(flow);
      return;
    }
    const out = translate({
      ...located,
      packetIns,
      tunnels: this.#datapath.tunnels,
      features: this.#datapath.features,
      recircs,
      timeoutPolicy,
      learn: false,
      scratch,
    });
    if (out.passing) {
      this.#datapath.releaseIds(out.effects);
      void this.#datapath.deleteMegaflow(flow);
      return;
    }
    const mask = datapathMask(out.wildcards, flow.key, scratchMask);
    for (let i = 0; i < KEY_SIZE; i++) {
      if ((mask[i]! & ~flow.mask[i]!) !== 0) {
        // Now it depends on more than the megaflow matches. Packets that come all the time must not wait for an upcall.
        const kept = this.#isBusy(flow) && handler.replace(flow, out, validated);
        if (!kept) this.#datapath.releaseIds(out.effects);
        void this.#datapath.deleteMegaflow(flow);
        return;
      }
    }
    const program = out.slow ? slowPathProgram(out.slowReasons) : out.program;
    if (!sameProgram(program, flow.program)) {
      engine.setFlowActions(flow.id, program);
      flow.program = program;
      flow.slow = out.slow;
      if (this.#dumpLog?.isDbg()) logFlow(this.#dumpLog, this.#datapath, flow, 'put[modify]');
    }
    const old = flow.effects;
    megaflows.setEffects(flow, out.effects);
    this.#datapath.releaseIds(old);
    flow.validated = validated;
  }

  /** Its statistics are of just now. */
  #isBusy({ packets, usedMs }: Megaflow): boolean {
    return packets >= this.busyPackets && this.#datapath.engine.nowMs() - usedMs < BUSY_MS;
  }

  /** One round: statistics, idle flows, the flow limit. */
  async #dump(): Promise<void> {
    if (this.#dumping || this.#closed || this.#paused) return;
    this.#dumping = true;
    const { engine, megaflows, bridges } = this.#datapath;
    const waiters = this.#dumpWaiters;
    this.#dumpWaiters = [];
    try {
      const start = performance.now();
      const flows = megaflows.size;
      this.maxFlows = Math.max(this.maxFlows, flows);
      this.averageFlows = Math.floor((this.averageFlows + flows) / 2);
      const everything = flows > 2 * this.flowLimit;
      const idleMs = flows > this.flowLimit ? CROWDED_IDLE_MS : this.maxIdleMs;
      let end = start + SLICE_MS;
      let busyMs = 0;
      let count = 0;
      let sliceStart = start;
      for (const flow of megaflows) {
        if (this.#dumpLog?.isDbg()) logFlow(this.#dumpLog, this.#datapath, flow, 'flow_dump');
        creditStats(flow, engine.flowStats(flow.id));
        const lastMs = Math.max(flow.usedMs, flow.createdMs);
        if (everything || engine.nowMs() - lastMs > idleMs) {
          void this.#datapath.deleteMegaflow(flow);
        } else if (flow.validated === UNVALIDATED) this.#revalidate(flow);
        if ((++count & 63) === 0 && performance.now() > end) {
          busyMs += performance.now() - sliceStart;
          await nextTurn();
          sliceStart = performance.now();
          end = sliceStart + SLICE_MS;
        }
      }
      busyMs += performance.now() - sliceStart;
      for (const { macs, snooping } of bridges.values()) {
        macs.expire();
        snooping?.expire();
      }
      this.#datapath.packetIns.sweep();
      this.#datapath.recircs.sweep();
      this.dumpDurationMs = Math.round(performance.now() - start);
      this.#adaptLimit(Math.max(1, busyMs), flows);
    } finally {
      this.#dumping = false;
      for (const resolve of waiters) resolve();
    }
    if (this.#dumpWaiters.length > 0) void this.#dump();
    if (megaflows.size > 0 || this.#macsRemain()) this.wake();
  }

  #macsRemain(): boolean {
    for (const { macs, snooping } of this.#datapath.bridges.values()) {
      if (macs.size > 0 || snooping?.isEmpty === false) return true;
    }
    return false;
  }

  /** Fewer flows when a round takes long, more when rounds are short and the limit is in the way. */
  #adaptLimit(durationMs: number, flows: number): void {
    let limit = this.flowLimit;
    if (durationMs > 2000) limit = Math.floor(limit / Math.floor(durationMs / 1000));
    else if (durationMs > 1300) limit = Math.floor((limit * 3) / 4);
    else if (durationMs < 1000 && limit < (flows * 1000) / durationMs) limit += 1000;
    this.flowLimit = Math.min(this.maxFlowLimit, Math.max(limit, FLOW_LIMIT_MIN));
  }
}
