// Upcalls: packets that the data plane cannot, or must not, handle alone.
//
//   miss      translate ── inject the packet with the program, put the megaflow
//   others    to the bridge's controllers (packet-in) or to its exporters (sample)
//
// Order within a flow: a packet is injected, into the worker that it came from, before its megaflow is put, so it leaves in
// front of all that are received from then on. Packets of the same flow that missed in between wait in the upcall ring and
// may be overtaken, as in the Linux datapath; they take a short way (the megaflows put last), so that it is few.

import {
  UPCALL_CONTROLLER,
  UPCALL_MISS,
  UPCALL_SAMPLE,
  UPCALL_SLOW,
} from '../../contract/action.ts';
import {
  DROP_CONTROLLER_RATE,
  DROP_COUNT,
  DROP_NO_PORT,
  DROP_TUNNEL_NO_PORT,
} from '../../contract/drop.ts';
import { K_RECIRC_ID, K_TCP_FLAGS } from '../../contract/key.ts';
import type { Upcall } from '../engine/types.ts';
import type { Datapath, DatapathLog, DatapathOptions } from './datapath.ts';
import type { DebugLog } from './debugLog.ts';
import { be16, be32 } from './flow.ts';
import { logFlowAdded, logUpcall } from './flowLog.ts';
import type { KeyPair } from './keyPool.ts';
import { credit, type Megaflow, meets, UNVALIDATED } from './megaflow.ts';
import { MessageBudget } from './messageBudget.ts';
import { packetInOf } from './packetIns.ts';
import { continuationOf } from './resume.ts';
import { slowPathProgram, splitProgram } from './slowPath.ts';
import { flowText, trace } from './trace.ts';
import { emptyEffects } from './translate/keptResults.ts';
import { translate } from './translate/translate.ts';
import type { XlateIn, XlateOut } from './translate/types.ts';
import { datapathMask } from './translate/wildcards.ts';
import { hasTunnel } from './tunnel/record.ts';

/** Megaflows with which an upcall is compared before it is translated. */
const RECENT_FLOWS = 8;

export class UpcallHandler {
  readonly #datapath: Datapath;
  readonly #log: DatapathLog | undefined;
  readonly #flowLog: DebugLog | undefined;
  readonly #traceLog: Pick<DatapathLog, 'warn'> | undefined;
  readonly #onError: XlateIn['onError'];
  readonly #errorBudget: MessageBudget;
  readonly #traceBudget: MessageBudget;
  /** Upcalls that were translated, and that could not be installed. */
  upcallCount = 0;
  notInstalled = 0;
  /** false (upcall/disable-megaflows): every flow of the data plane matches everything of its packets. */
  megaflowsEnabled = true;
  /** Packets that got lost here, by DROP_* reason. */
  readonly drops = new Array<number>(DROP_COUNT).fill(0);
  #limitWarned = false;
  /** The megaflows put last: packets of theirs may still wait in the upcall ring. */
  readonly #recent: Megaflow[] = [];

  constructor(datapath: Datapath, options: Omit<DatapathOptions, 'engine'>) {
    this.#datapath = datapath;
    this.#log = options.log;
    this.#flowLog = options.flowLog;
    this.#traceLog = options.traceLog;
    // As often as the real daemon: packets of guests provoke these.
    const nowMs = (): number => datapath.engine.nowMs();
    this.#errorBudget = new MessageBudget(1, 5, nowMs);
    this.#traceBudget = new MessageBudget(1, 1, nowMs);
    const { xlateLog } = options;
    this.#onError =
      xlateLog &&
      ((text, bridge, base) => {
        if (!this.#errorBudget.take()) return;
        const packet = flowText(base, { tlvs: bridge.tlvs ?? [] });
        xlateLog.warn(`${text} on bridge ${bridge.name} while processing ${packet}`);
      });
  }

  handle(upcall: Upcall): void {
    if (this.#flowLog?.isDbg()) logUpcall(this.#flowLog, this.#datapath, upcall);
    switch (upcall.reason) {
      case UPCALL_MISS:
      case UPCALL_SLOW:
        this.#miss(upcall);
        break;
      case UPCALL_CONTROLLER:
        this.#toController(upcall);
        break;
      case UPCALL_SAMPLE:
        this.#toExporter(upcall);
        break;
    }
  }

  #miss(upcall: Upcall): void {
    this.upcallCount++;
    const pair = this.#datapath.keys.take();
    pair.key.set(upcall.key);
    if (!this.#translateMiss(upcall, pair)) this.#datapath.keys.give(pair);
  }

  /** `pair.key` is the upcall's. True: a megaflow keeps the pair. */
  #translateMiss(upcall: Upcall, pair: KeyPair): boolean {
    const tcpFlags = be16(upcall.key, K_TCP_FLAGS);
    if (upcall.reason === UPCALL_MISS) {
      const flow = this.#recentFlow(pair.keyWords);
      if (flow !== undefined) {
        credit(flow.effects, 1, upcall.packetLen, this.#datapath.engine.nowMs(), tcpFlags);
        this.#inject(upcall, flow.program);
        return false;
      }
    }
    const { scratch } = this.#datapath;
    const located = this.#datapath.flowOf(upcall.key, scratch.flow);
    if (located === undefined) {
      // The port went away, and its queues are on their way out; or no tunnel port is for this packet.
      this.drops[hasTunnel(upcall.key) ? DROP_TUNNEL_NO_PORT : DROP_NO_PORT]!++;
      return false;
    }
    const validated = this.#datapath.revalidator.change;
    const out = translate({
      ...located,
      packetIns: this.#datapath.packetIns,
      tunnels: this.#datapath.tunnels,
      features: this.#datapath.features,
      recircs: this.#datapath.recircs,
      timeoutPolicy: this.#datapath.timeoutPolicy,
      packet: upcall.data,
      learn: true,
      scratch,
      onError: this.#onError,
    });
    if (out.error === 'Recursion too deep' || out.error === 'Too many resubmits') {
      this.#logTrace(upcall);
    }
    // The question leaves before the packet, as with Open vSwitch: what answers the packet (a mirror copies both ways, a guest
    // asks back) often goes by the same tunnel, and finds the neighbour.
    for (const { underlay, route } of out.effects.solicits) {
      underlay.solicit(route.device, route, true);
    }
    const nowMs = this.#datapath.engine.nowMs();
    credit(out.effects, 1, upcall.packetLen, nowMs, tcpFlags);
    for (const actions of splitProgram(out.program)) this.#inject(upcall, actions);
    if (upcall.reason !== UPCALL_SLOW && this.#install(pair, out, validated, nowMs)) {
      return true;
    }
    this.#datapath.releaseIds(out.effects);
    return false;
  }

  /** Tables that send packets in circles: once more, telling everything. */
  #logTrace(upcall: Upcall): void {
    if (this.#traceLog === undefined || !this.#traceBudget.take()) return;
    const located = this.#datapath.flowOf(upcall.key);
    if (located === undefined) return;
    const request = { ...located, packet: undefined, names: false, ctStates: [] };
    this.#traceLog.warn(trace(this.#datapath, request));
  }

  /**
   * Translates a packet's key without a packet, and puts the megaflow if `install` says so. Gives the recirculation ids in
   * the program, which the caller has to release; undefined if there is no megaflow for such packets.
   */
  foresee(key: Uint8Array, install: boolean): number[] | undefined {
    const { scratch, recircs } = this.#datapath;
    const pair = this.#datapath.keys.take();
    pair.key.set(key);
    const located = this.#datapath.flowOf(key, scratch.flow);
    const validated = this.#datapath.revalidator.change;
    const out =
      located &&
      translate({
        ...located,
        packetIns: this.#datapath.packetIns,
        tunnels: this.#datapath.tunnels,
        features: this.#datapath.features,
        recircs,
        timeoutPolicy: this.#datapath.timeoutPolicy,
        learn: false,
        scratch,
      });
    const ids =
      out && !out.passing ? out.effects.recircs.filter((id) => recircs.retain(id)) : undefined;
    const nowMs = this.#datapath.engine.nowMs();
    if (out && ids && install && this.#install(pair, out, validated, nowMs)) return ids;
    if (out) this.#datapath.releaseIds(out.effects);
    this.#datapath.keys.give(pair);
    return ids;
  }

  /**
   * Puts a megaflow of what `flow`'s packet does by now (`out`), beside `flow`, which matches more than it should and is going
   * to be removed. False: there is none, `out`'s effects are not kept.
   */
  replace(flow: Megaflow, out: XlateOut, validated: number): boolean {
    const pair = this.#datapath.keys.take();
    pair.key.set(flow.key);
    if (this.#install(pair, out, validated, this.#datapath.engine.nowMs(), true)) return true;
    this.#datapath.keys.give(pair);
    return false;
  }

  #recentFlow(keyWords: Int32Array): Megaflow | undefined {
    for (const flow of this.#recent) {
      if (!flow.deleted && !flow.slow && meets(flow, keyWords)) return flow;
    }
    return undefined;
  }

  #inject({ inPort, data: frame, vnet, key, worker }: Upcall, actions: Uint32Array): void {
    this.#datapath.engine.inject({ inPort, frame, vnet, key, actions, worker });
  }

  /**
   * Puts the megaflow into the data plane. False: not now, neither effects nor pair are kept. `inPlace`: of another one,
   * which goes, so that the limit is none of its concern.
   */
  #install(
    pair: KeyPair,
    out: XlateOut,
    validated: number,
    nowMs: number,
    inPlace = false,
  ): boolean {
    const { key, mask } = pair;
    // What translation has looked at is in the records that were lent to it.
    datapathMask(this.#datapath.scratch.keyWildcards, key, mask);
    if (!this.megaflowsEnabled) mask.fill(0xff);
    if (!inPlace && this.#datapath.megaflows.size >= this.#datapath.revalidator.flowLimit) {
      // The packet may have missed before its megaflow was there: nothing was to be put, and nobody has to hear of the limit.
      if (this.#datapath.engine.findFlow(key, mask) >= 0) return false;
      this.notInstalled++;
      if (!this.#limitWarned) {
        this.#limitWarned = true;
        const { flowLimit } = this.#datapath.revalidator;
        this.#log?.warn(`upcall: datapath reached the dynamic limit of ${flowLimit} flows.`);
      }
      return false;
    }
    this.#limitWarned = false;
    const program = out.slow ? slowPathProgram(out.slowReasons) : out.program;
    const { effects, slow } = out;
    const flow = this.#put(pair, { program, effects, slow, validated }, nowMs);
    if (flow === undefined) return false;
    if (this.#recent.unshift(flow) > RECENT_FLOWS) this.#recent.pop();
    return true;
  }

  /**
   * Puts a megaflow that somebody has made up (dpctl/add-flow): nothing is credited to anybody, and the revalidator looks at it
   * as soon as it comes by. False: there is no room, and the pair is not kept.
   */
  putForeign(pair: KeyPair, program: Uint32Array): boolean {
    const effects = emptyEffects(this.#datapath.ownerOf(pair.key));
    const made = { program, effects, slow: false, validated: UNVALIDATED };
    return this.#put(pair, made, this.#datapath.engine.nowMs()) !== undefined;
  }

  /** Undefined: there is no room, or there is one for the same packets. */
  #put(
    pair: KeyPair,
    made: Pick<Megaflow, 'program' | 'effects' | 'slow' | 'validated'>,
    nowMs: number,
  ): Megaflow | undefined {
    const { key, mask } = pair;
    const recirc = be32(key, K_RECIRC_ID);
    if (recirc !== 0 && !this.#datapath.recircs.retain(recirc)) return undefined;
    const id = this.#datapath.engine.putFlow(key, mask, made.program, true);
    // Already there: for a packet that missed before it was.
    if (id < 0 || this.#datapath.megaflows.has(id)) {
      if (recirc !== 0) this.#datapath.recircs.release([recirc]);
      if (id < 0) this.notInstalled++;
      return undefined;
    }
    const flow: Megaflow = {
      id,
      key,
      mask,
      pair,
      createdMs: nowMs,
      program: made.program,
      effects: made.effects,
      slow: made.slow,
      packets: 0,
      bytes: 0,
      usedMs: 0,
      validated: made.validated,
      deleted: false,
    };
    this.#datapath.megaflows.add(flow);
    if (this.#flowLog?.isDbg()) logFlowAdded(this.#flowLog, this.#datapath, flow);
    this.#datapath.revalidator.wake();
    return flow;
  }

  #toController(upcall: Upcall): void {
    const spec = this.#datapath.packetIns.get(upcall.cookie);
    const bridge = spec === undefined ? undefined : this.#datapath.bridges.get(spec.bridge.name);
    if (spec === undefined || bridge?.onPacketIn === undefined) {
      // Older than its megaflow by seconds, or nobody listens.
      this.drops[DROP_CONTROLLER_RATE]!++;
      return;
    }
    const packet = packetInOf(spec, upcall);
    if (spec.paused !== undefined) {
      const id = this.#datapath.bridgeIds.of(spec.bridge);
      packet.continuation = continuationOf(spec.paused, id, upcall.inPort);
    }
    bridge.onPacketIn(packet, spec.controllerId);
  }

  #toExporter(upcall: Upcall): void {
    const spec = this.#datapath.packetIns.get(upcall.cookie);
    const bridge = spec === undefined ? undefined : this.#datapath.bridges.get(spec.bridge.name);
    if (spec?.sample !== undefined && bridge?.onSample !== undefined) {
      bridge.onSample(spec.sample, upcall);
    } else {
      this.drops[DROP_CONTROLLER_RATE]!++;
    }
  }
}
