// The state of one translation, and the small things that all steps do with it: reporting to the trace, committing,
// finding ports.

import { DROP_FLOW_EXPLICIT } from '../../../contract/drop.ts';
import { F_IN_PORT, K_PRIORITY, KEY_SIZE } from '../../../contract/key.ts';
import { wordsOf } from '../../wire/openflow/packedMatch.ts';
import type { Action } from '../../wire/openflow/types.ts';
import { be32, EMPTY_RECORD, newRecord } from '../flow.ts';
import { NETFLOW_DROP } from '../netflow.ts';
import type { BridgePort, Rule } from '../types.ts';
import { emptyEffects, ResultKeeper } from './keptResults.ts';
import type {
  BridgeSample,
  Effects,
  FlowSample,
  TraceNode,
  TraceType,
  XlateBridge,
  XlateError,
  XlateIn,
  XlateScratch,
} from './types.ts';

/** Resubmits to the same or an earlier table, nested. */
export const MAX_DEPTH = 64;
export const MAX_RESUBMITS = 64 * 64;

/** What a pipeline waits for: a controller, or a hash of the data plane. */
export type Freezing =
  | { for: 'controller'; action: Action & { type: 'controller' } }
  | { for: 'hash'; algorithm: number; basis: number }
  | { for: 'parse' };

export interface Xlate {
  readonly in: XlateIn;
  readonly effects: Effects;
  /** The flow as the actions have changed it. */
  readonly flow: Uint8Array;
  /** The flow as the packet came in. */
  readonly received: Uint8Array;
  /** The packet as the program so far leaves it. */
  readonly base: Uint8Array;
  readonly wildcards: Uint8Array;
  readonly flowWords: Int32Array;
  /** The flow as it came in. */
  readonly originalWords: Int32Array;
  readonly wildcardWords: Int32Array;
  readonly program: number[];
  readonly originalPriority: number;
  bridge: XlateBridge;
  table: number;
  rule: Rule | undefined;
  cookie: bigint;
  depth: number;
  resubmits: number;
  exit: boolean;
  error: XlateError | undefined;
  actionSet: Action[];
  /** Values of stack_push, the oldest first. */
  stack: Uint8Array[];
  inActionSet: boolean;
  /** Why the packet, or this copy of it, goes no further now (freeze.ts). */
  freezing: Freezing | undefined;
  /** A label stack has been popped: what was below is unknown until the packet is parsed again. */
  wasMpls: boolean;
  /** A label that has yet to be committed goes around the whole packet (encap.ts). */
  pendingEncap: boolean;
  /** Metadata of type 2 for the service header that has yet to be committed. */
  encapMetadata: Uint8Array | undefined;
  /** A label that goes away was such a one. */
  pendingDecap: boolean;
  /** What is to be run when it comes back. */
  frozenActions: Action[];
  /** The actions are those of a group's bucket. */
  inBucket: boolean;
  /** Where in the program the clone starts that holds another bridge's actions; -1 = none. */
  patchClone: number;
  /** Connection tracking has seen the packet in this bridge, so its ct fields mean something. */
  conntracked: boolean;
  /** The result holds for this packet only: what it depends on has yet to happen. */
  passing: boolean;
  /** SLOW_*: packets that the main thread has to see, each. */
  slow: number;
  trace: TraceNode[] | undefined;
  /** Samples in the program, whose cookies count them from 1 until the program is complete. */
  samples: PendingSample[];
  sampleBridges: XlateBridge[];
  /** Slots of this bridge's mirrors that the packet has gone to, or whose output it has gone to. */
  mirrors: number;
  /** While a mirror's copy goes out: bytes of it, 0 = all. */
  mirrorSnaplen: number;
  /** Why the packet is dropped, if no output is reached. */
  dropReason: number;
  /** Outputs so far, and the last of them: a tunnel counts as one. */
  outputs: number;
  lastOutput: BridgePort | undefined;
  /** What NetFlow says of them (netflow.ts). */
  netflowOutput: number;
}

/** A sample as long as it is not known what becomes of the packet. */
export type PendingSample =
  | Omit<FlowSample, 'forwarded'>
  | Omit<BridgeSample, 'forwarded'>
  | { readonly kind: 'sflow' };

/** Records for many translations, one after the other. */
export function newScratch(flow = newRecord()): XlateScratch {
  const wildcards = newRecord();
  const original = newRecord();
  return {
    flow,
    original,
    base: newRecord(),
    wildcards,
    flowWords: wordsOf(flow),
    originalWords: wordsOf(original),
    wildcardWords: wordsOf(wildcards),
    keyWildcards: wildcards.subarray(0, KEY_SIZE),
    results: new ResultKeeper(),
  };
}

/** `scratch.flow` is the input's flow. */
export function newXlate(input: XlateIn, scratch: XlateScratch): Xlate {
  scratch.base.set(input.flow);
  scratch.wildcards.set(EMPTY_RECORD);
  return {
    in: input,
    effects:
      input.scratch === undefined ? emptyEffects(input.bridge) : scratch.results.lend(input.bridge),
    flow: input.flow,
    received: scratch.original,
    base: scratch.base,
    wildcards: scratch.wildcards,
    flowWords: scratch.flowWords,
    originalWords: scratch.originalWords,
    wildcardWords: scratch.wildcardWords,
    program: [],
    originalPriority: be32(input.flow, K_PRIORITY),
    bridge: input.bridge,
    table: 0,
    rule: undefined,
    cookie: 0xffffffffffffffffn,
    depth: 0,
    resubmits: 0,
    exit: false,
    error: undefined,
    actionSet: [],
    stack: [],
    inActionSet: false,
    freezing: undefined,
    wasMpls: false,
    pendingEncap: false,
    encapMetadata: undefined,
    pendingDecap: false,
    frozenActions: [],
    inBucket: false,
    patchClone: -1,
    conntracked: false,
    passing: false,
    slow: 0,
    trace: input.trace,
    samples: [],
    sampleBridges: [],
    mirrors: 0,
    mirrorSnaplen: 0,
    dropReason: DROP_FLOW_EXPLICIT,
    outputs: 0,
    lastOutput: undefined,
    netflowOutput: NETFLOW_DROP,
  };
}

/** Adds a line to the trace; returns where lines below it go. */
export function report(x: Xlate, type: TraceType, text: string): TraceNode[] | undefined {
  if (x.trace === undefined) {
    if (type === 'error') x.in.onError?.(text, x.bridge, x.base);
    return undefined;
  }
  const node: TraceNode = { type, text, subs: [] };
  x.trace.push(node);
  return node.subs;
}

export function inPort(x: Xlate): number {
  return be32(x.flow, F_IN_PORT);
}

export function portOf(x: Xlate, number: number): BridgePort | undefined {
  return x.bridge.ports.get(number);
}

/** Action list of the set, in the order that OpenFlow 1.5.1 §5.6 gives; the last of a kind wins, all set_fields run. */
export function actionSetOrder(set: readonly Action[]): Action[] {
  if (set.length === 0) return [];
  const last = (...types: Action['type'][]): Action[] => {
    const found = set.findLast((action) => types.includes(action.type));
    return found === undefined ? [] : [found];
  };
  const ordered = [
    ...last('strip_vlan'),
    ...last('pop_mpls'),
    ...last('decap'),
    ...last('encap'),
    ...last('push_mpls'),
    ...last('push_vlan'),
    ...last('dec_ttl'),
    ...last('dec_mpls_ttl'),
    ...last('dec_nsh_ttl'),
    ...set.filter((a) =>
      ['load', 'move', 'set_field', 'set_vlan_vid', 'set_vlan_pcp'].includes(a.type),
    ),
    ...last('set_queue'),
  ];
  const group = last('group');
  if (group.length > 0) return [...ordered, ...group];
  // Without one of these the packet is dropped, whatever else the set says.
  for (const type of ['output', 'resubmit', 'ct_clear', 'ct'] as const) {
    const final = last(type);
    if (final.length > 0) return [...ordered, ...final];
  }
  return [];
}
