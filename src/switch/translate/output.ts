// Where packets go: one port (real or patch), floods, controllers.

import {
  ACT_CLONE,
  ACT_METER,
  ACT_OUTPUT,
  ACT_TRUNC,
  ACT_USERSPACE,
  CLONE_SAMPLE,
  UPCALL_CONTROLLER,
} from '../../../contract/action.ts';
import {
  DROP_BAD_ACTION,
  DROP_CONTROLLER_RATE,
  DROP_NO_PORT,
  DROP_STP,
  DROP_TX_LINK_DOWN,
  DROP_VLAN_FILTER,
} from '../../../contract/drop.ts';
import {
  F_ACTSET_OUTPUT,
  F_CONJ_ID,
  F_IN_PORT,
  F_METADATA,
  FLOW_SIZE,
  K_ETH_DST,
  K_NW_TOS,
  K_PACKET_TYPE,
  K_PRIORITY,
} from '../../../contract/key.ts';
import { OFPM_CONTROLLER } from '../../wire/openflow/meter.ts';
import {
  OFPP_ALL,
  OFPP_CONTROLLER,
  OFPP_FLOOD,
  OFPP_IN_PORT,
  OFPP_LOCAL,
  OFPP_NONE,
  OFPP_NORMAL,
  OFPP_TABLE,
  OFPP_UNSET,
  type PacketInReason,
} from '../../wire/openflow/types.ts';
import { be16, be32, exact, isIp, isZero, putBe32 } from '../flow.ts';
import { NETFLOW_DROP, NETFLOW_FLOOD, NETFLOW_MULTIPLE } from '../netflow.ts';
import { translateNormal } from '../normal.ts';
import { processSpecial, SLOW_ACTION } from '../protocolPort.ts';
import { isBpdu } from '../spanningTree/gate.ts';
import { tunnelOf } from '../tunnel/ports.ts';
import { clearTunnel, copyTunnel } from '../tunnel/record.ts';
import type { BridgePort } from '../types.ts';
import { commit } from './commit.ts';
import { inPort, portOf, report, type Xlate } from './context.ts';
import { clearConntrack } from './ctFields.ts';
import { finish } from './freeze.ts';
import { mirrorOutput } from './mirror.ts';
import { isIrreversible, nest } from './nxActions.ts';
import { sampleOutput } from './sample.ts';
import { translateTable } from './tables.ts';
import { outputToTunnel, terminateTunnel } from './tunnel.ts';
import type { XlateBridge } from './types.ts';

const OFPPC_NO_RECV = 4;
const OFPPC_NO_RECV_STP = 8;
const OFPPC_NO_FLOOD = 16;
const OFPPC_NO_FWD = 32;
/** Of the TOS byte. */
const DSCP_MASK = 0xfc;

const RESERVED_NAMES: ReadonlyMap<number, string> = new Map([
  [OFPP_IN_PORT, 'IN_PORT'],
  [OFPP_TABLE, 'TABLE'],
  [OFPP_NORMAL, 'NORMAL'],
  [OFPP_FLOOD, 'FLOOD'],
  [OFPP_ALL, 'ALL'],
  [OFPP_CONTROLLER, 'CONTROLLER'],
  [OFPP_LOCAL, 'LOCAL'],
  [OFPP_NONE, 'ANY'],
]);

/** OFPR_* numbers of the controller action. */
export const REASONS: readonly PacketInReason[] = [
  'no_match',
  'action',
  'invalid_ttl',
  'action_set',
  'group',
  'packet_out',
  'explicit_miss',
  'implicit_miss',
];

/** As ovs-ofctl writes a port number. */
export function portText(port: number): string {
  return RESERVED_NAMES.get(port) ?? String(port);
}

/** May packets enter by this port (OFPPC_NO_RECV, OFPPC_NO_RECV_STP)? */
export function mayReceive(x: Xlate, port: BridgePort): boolean {
  const isStp = be32(x.flow, K_ETH_DST) === 0x0180c200 && be16(x.flow, K_ETH_DST + 4) === 0;
  const refused = isStp ? OFPPC_NO_RECV_STP : OFPPC_NO_RECV;
  if (isStp || (port.desc.config & OFPPC_NO_RECV_STP) !== 0) {
    x.wildcards.fill(0xff, K_ETH_DST, K_ETH_DST + 6);
  }
  // A port that learns lets actions look at the packet before it is dropped.
  const hears = port.tree === undefined || port.tree.forwards || port.tree.learns;
  if ((port.desc.config & refused) === 0 && hears) return true;
  x.dropReason = DROP_STP;
  return false;
}

/** The spanning tree's say in an output. Messages about the health of links pass. */
function treeAllows(x: Xlate, port: BridgePort): boolean {
  const { tree } = port;
  if (tree === undefined) return true;
  if (isBpdu(x.base)) {
    if (tree.forwardsBpdus) return true;
    report(x, 'warn', 'STP not in listening state, skipping bpdu output');
  } else {
    if (tree.forwards || (port.protocols?.claims(x.flow, x.wildcards) ?? 0) !== 0) return true;
    report(x, 'warn', `${tree.protocol} not in forwarding state, skipping output`);
  }
  x.dropReason = DROP_STP;
  return false;
}

/** True, and said, if the packet goes from one protected port to another. */
export function isBetweenProtected(x: Xlate, to: BridgePort): boolean {
  if (!to.bundle.protected || !portOf(x, inPort(x))?.bundle.protected) return false;
  report(x, 'warn', 'Flow is between protected ports, skipping output.');
  x.dropReason = DROP_VLAN_FILTER;
  return true;
}

function mayOutput(x: Xlate, port: BridgePort | undefined, askTree = true): port is BridgePort {
  if (port === undefined) {
    report(x, 'warn', 'Nonexistent output port');
    x.dropReason = DROP_NO_PORT;
    return false;
  }
  if ((port.desc.config & OFPPC_NO_FWD) !== 0) {
    report(x, 'detail', 'OFPPC_NO_FWD set, skipping output');
    x.dropReason = DROP_TX_LINK_DOWN;
    return false;
  }
  if (isBetweenProtected(x, port)) return false;
  if (askTree && !treeAllows(x, port)) return false;
  const mode = tunnelOf(port)?.tunnel.mode ?? (port.peer === undefined ? 'legacy_l2' : 'ptap');
  if (mode === 'legacy_l2' && be32(x.flow, K_PACKET_TYPE) !== 0) {
    const text = 'Trying to send non-Ethernet packet through legacy L2 port. Dropping packet.';
    report(x, 'warn', text);
    x.dropReason = DROP_BAD_ACTION;
    return false;
  }
  return true;
}

/** Sends the packet out of one port of the current bridge. */
export function outputToPort(x: Xlate, number: number, truncate = false, askTree = true): void {
  const port = portOf(x, number);
  if (!mayOutput(x, port, askTree)) return;
  if (x.mirrorSnaplen !== 0 && port.dpPort < 0) {
    report(x, 'warn', 'Mirror truncate to ODPP_NONE, skipping output');
    return;
  }
  if (port.peer !== undefined) {
    if (truncate) report(x, 'error', 'Cannot truncate output to patch port');
    outputToPatch(x, port);
    return;
  }
  if (port.queueDscp === undefined) {
    outputToDevice(x, port, truncate);
    return;
  }
  // Only what goes out here is marked.
  const tos = x.flow[K_NW_TOS]!;
  markQueue(x, port.queueDscp);
  outputToDevice(x, port, truncate);
  x.flow[K_NW_TOS] = tos;
}

/** The DSCP of the packet's queue (Queue.dscp of ovs-vswitchd.conf.db(5)). */
function markQueue(x: Xlate, marks: ReadonlyMap<number, number>): void {
  const { flow, wildcards } = x;
  exact(wildcards, K_PRIORITY, 4);
  const dscp = marks.get(be32(flow, K_PRIORITY));
  if (dscp === undefined) return;
  // As in Open vSwitch: looked at even where there is no such field, so that traces are the same.
  wildcards[K_NW_TOS]! |= DSCP_MASK;
  if (isIp(flow)) flow[K_NW_TOS] = (flow[K_NW_TOS]! & ~DSCP_MASK) | (dscp << 2);
}

/** Exporters hear of an output. */
export function noteOutput(x: Xlate, port: BridgePort): void {
  x.outputs++;
  x.lastOutput = port;
  x.netflowOutput = port.ofport & 0xffff;
}

/** Sends the packet to a tunnel or to a port of the data plane. `truncated`: ACT_TRUNC is there for it. */
function outputToDevice(x: Xlate, port: BridgePort, truncated: boolean): void {
  const tunnel = tunnelOf(port);
  if (tunnel !== undefined) {
    const { outputs } = x;
    outputToTunnel(x, tunnel);
    x.outputs = outputs;
    noteOutput(x, port);
    mirrorOutput(x, port.bundle);
    return;
  }
  if (port.dpPort < 0) {
    x.dropReason = DROP_NO_PORT;
    return;
  }
  commit(x);
  const start = x.program.length;
  const meter = port.policers?.output(be32(x.flow, K_PRIORITY));
  if (meter !== undefined) x.program.push(ACT_METER | (2 << 16), meter);
  // A truncation and its output are not to be parted.
  const whole = x.program.length - (truncated ? 2 : 0);
  if (x.mirrorSnaplen > 0 && x.mirrorSnaplen < 0xffff) {
    x.program.push(ACT_TRUNC | (2 << 16), x.mirrorSnaplen);
  }
  if (!terminateTunnel(x, port)) {
    if (x.bridge.sampling?.ipfix?.output) sampleOutput(x, port.dpPort, whole);
    x.program.push(ACT_OUTPUT | (2 << 16), port.dpPort);
  }
  noteOutput(x, port);
  // Only what goes out here is policed.
  if (meter !== undefined) nest(x, start, ACT_CLONE, [CLONE_SAMPLE]);
  mirrorOutput(x, port.bundle);
}

/** The link to another bridge. */
function outputToPatch(x: Xlate, port: BridgePort): void {
  const peer = x.bridge.peerOf(port);
  if (peer === undefined) {
    report(x, 'warn', 'Nonexistent output port');
    x.dropReason = DROP_NO_PORT;
    return;
  }
  enterBridge(x, peer.bridge, peer.port, port);
}

/**
 * Translation goes on in another bridge, as if the packet had come in by `port`: with the packet as it is, but new pipeline
 * metadata. What that bridge does to the packet is undone by the next commit here; its errors stay its own. `from`: the
 * patch port by which the packet leaves this one.
 */
export function enterBridge(
  x: Xlate,
  bridge: XlateBridge,
  port: BridgePort,
  from: BridgePort | undefined,
): void {
  const { flow, wildcards } = x;
  const saved = {
    flow: flow.slice(),
    mask: wildcards.slice(),
    bridge: x.bridge,
    actionSet: x.actionSet,
    stack: x.stack,
    conntracked: x.conntracked,
    wasMpls: x.wasMpls,
    trace: x.trace,
    base: x.base.slice(),
    start: x.program.length,
    mirrors: x.mirrors,
  };
  if (bridge !== x.bridge) x.mirrors = 0;
  clearTunnel(flow);
  clearTunnel(wildcards);
  flow.fill(0, F_METADATA, FLOW_SIZE);
  putBe32(flow, F_ACTSET_OUTPUT, OFPP_UNSET);
  putBe32(flow, F_IN_PORT, port.ofport);
  clearConntrack(x);
  x.trace = report(x, 'bridge', `bridge("${bridge.name}")`);
  x.bridge = bridge;
  x.actionSet = [];
  x.stack = [];
  x.effects.bridges.add(bridge);

  if (!processSpecial(x, port) && mayReceive(x, port)) {
    translateTable(x, port.ofport, 0, true, true, { ownActionSet: true });
    if (port.tree?.forwards !== false) finish(x);
    else cancel(x, saved.start, saved.base);
  }

  // What the other bridge has made of the packet is undone by the next commit, but not what connection tracking has.
  if (isIrreversible(x.program, saved.start)) {
    nest(x, saved.start, ACT_CLONE, [0]);
    x.base.set(saved.base);
    x.patchClone = saved.start;
  }
  x.trace = saved.trace;
  flow.set(saved.flow);
  copyTunnel(saved.mask, wildcards);
  x.bridge = saved.bridge;
  x.actionSet = saved.actionSet;
  x.stack = saved.stack;
  x.conntracked = saved.conntracked;
  x.wasMpls = saved.wasMpls;
  if (bridge !== saved.bridge) x.mirrors = saved.mirrors;
  x.exit = false;
  x.error = undefined;
  if (from !== undefined) x.effects.patches.push({ tx: from, rx: port });
}

/** The port learns, but does not forward: addresses have been learned, and nothing else happens to the packet. */
function cancel(x: Xlate, start: number, base: Uint8Array): void {
  x.program.length = start;
  x.base.set(base);
  x.freezing = undefined;
  x.frozenActions = [];
  x.dropReason = DROP_STP;
}

function flood(x: Xlate, all: boolean): void {
  const from = inPort(x);
  for (const port of x.bridge.ports.values()) {
    if (port.ofport === from) continue;
    // As in Open vSwitch, OFPP_ALL means all.
    if (all || (port.desc.config & OFPPC_NO_FLOOD) === 0) outputToPort(x, port.ofport, false, !all);
  }
  x.netflowOutput = NETFLOW_FLOOD;
}

/** NetFlow has one number for all outputs of a flow: `before`, and those since then. */
export function addNetflowOutput(x: Xlate, before: number): void {
  const since = x.netflowOutput;
  if (before === NETFLOW_FLOOD) x.netflowOutput = NETFLOW_FLOOD;
  else if (since === NETFLOW_DROP) x.netflowOutput = before;
  else if (before !== NETFLOW_DROP && since !== NETFLOW_FLOOD) x.netflowOutput = NETFLOW_MULTIPLE;
}

/** The output action. `mayPacketIn`: may a miss in OFPP_TABLE send the packet to a controller? */
export function output(
  x: Xlate,
  port: number,
  controllerLen: number,
  mayPacketIn: boolean,
  truncate = false,
): void {
  const before = x.netflowOutput;
  x.netflowOutput = NETFLOW_DROP;
  switch (port) {
    case OFPP_IN_PORT:
      outputToPort(x, inPort(x), truncate);
      break;
    case OFPP_TABLE:
      translateTable(x, inPort(x), 0, mayPacketIn, true);
      break;
    case OFPP_NORMAL:
      translateNormal(x);
      break;
    case OFPP_FLOOD:
      flood(x, false);
      break;
    case OFPP_ALL:
      flood(x, true);
      break;
    case OFPP_CONTROLLER:
      sendToController(x, controllerLen, outputReason(x), 0, undefined);
      break;
    case OFPP_NONE:
      break;
    default:
      if (port === inPort(x)) report(x, 'warn', 'skipping output to input port');
      else outputToPort(x, port, truncate);
  }
  addNetflowOutput(x, before);
}

function outputReason(x: Xlate): PacketInReason {
  if (x.in.inPacketOut) return 'packet_out';
  if (x.inBucket) return 'group';
  return x.inActionSet ? 'action_set' : 'action';
}

/** output(port=N,max_len=M): the next output carries at most M bytes. */
export function outputTruncated(x: Xlate, port: number, maxLen: number): void {
  const special = [OFPP_TABLE, OFPP_NORMAL, OFPP_FLOOD, OFPP_ALL, OFPP_CONTROLLER, OFPP_NONE];
  if (special.includes(port)) {
    report(x, 'warn', `output_trunc does not support port: ${portText(port)}`);
    return;
  }
  if (port === inPort(x)) {
    report(x, 'warn', 'skipping output to input port');
    return;
  }
  const out = portOf(x, port === OFPP_IN_PORT ? inPort(x) : port);
  if (out === undefined || out.dpPort < 0) {
    report(x, 'error', `output_trunc does not support patch port ${portText(port)}`);
    return;
  }
  // The commit comes first, so that the truncation stands directly before its output. A port that refuses the
  // output must not leave a truncation to the next one.
  if (!mayOutput(x, out)) return;
  commit(x);
  if (x.in.features?.get('trunc') === false) x.slow |= SLOW_ACTION;
  x.program.push(ACT_TRUNC | (2 << 16), maxLen);
  output(x, port, 0, false, true);
}

/** Is this the table-miss flow of OpenFlow 1.3: priority 0, matching everything? */
function isTableMiss(x: Xlate): boolean {
  const rule = x.rule;
  return rule !== undefined && rule.priority === 0 && isZero(rule.match.mask, 0, FLOW_SIZE);
}

/**
 * Pipeline state that travels with a packet-in, as it stands at the action. Fields that the datapath knows itself
 * (pkt_mark, connection tracking) come with the upcall.
 */
export function snapshot(flow: Uint8Array): Uint8Array {
  const metadata = new Uint8Array(FLOW_SIZE);
  copyTunnel(flow, metadata);
  metadata.set(flow.subarray(F_METADATA, F_ACTSET_OUTPUT), F_METADATA);
  metadata.set(flow.subarray(F_IN_PORT, F_CONJ_ID), F_IN_PORT);
  return metadata;
}

export function sendToController(
  x: Xlate,
  maxLen: number,
  reason: PacketInReason,
  controllerId: number,
  userdata: Uint8Array | undefined,
  meterId = OFPM_CONTROLLER,
): void {
  commit(x);
  const id = x.in.packetIns.add({
    bridge: x.bridge,
    reason: reason === 'action' && isTableMiss(x) ? 'explicit_miss' : reason,
    table: x.table,
    cookie: x.cookie,
    controllerId,
    maxLen,
    userdata,
    metadata: snapshot(x.flow),
    conntracked: x.conntracked,
  });
  if (id === 0) {
    report(x, 'error', 'Failed to allocate recirculation id');
    x.error = 'No recirculation context';
    x.dropReason = DROP_CONTROLLER_RATE;
    return;
  }
  x.effects.packetIns.push(id);
  const start = x.program.length;
  const meters = x.bridge.meters;
  // A meter that does not exist is none: the one for all packet-ins counts then.
  const meter = (meters?.get(meterId) ?? meters?.get(OFPM_CONTROLLER))?.number;
  if (meter !== undefined) x.program.push(ACT_METER | (2 << 16), meter);
  // In Open vSwitch, 0xffff means the whole packet.
  x.program.push(ACT_USERSPACE | (4 << 16), UPCALL_CONTROLLER, id, Math.min(maxLen, 0xffff));
  // Only the copy for the controller is metered.
  if (meter !== undefined) nest(x, start, ACT_CLONE, [CLONE_SAMPLE]);
}
