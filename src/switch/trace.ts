// ofproto/trace: what would happen to this packet, and why (ovs-vswitchd(8), "ofproto/trace"). The text is that of the
// real daemon, byte by byte, since people and test suites read it.

import {
  ACT_CHECK_PKT_LEN,
  ACT_CLONE,
  ACT_END,
  ACT_OUTPUT,
  ACT_RECIRC,
  ACT_SAMPLE,
  ACT_TRUNC,
} from '../../contract/action.ts';
import {
  F_ACTSET_OUTPUT,
  F_IN_PORT,
  F_METADATA,
  F_REGS,
  FLOW_SIZE,
  FRAG_LATER,
  K_ARP_SHA,
  K_CT_IPV6_SRC,
  K_CT_LABEL,
  K_CT_MARK,
  K_CT_NW_PROTO,
  K_CT_NW_SRC,
  K_CT_STATE,
  K_CT_TP_SRC,
  K_CT_ZONE,
  K_ETH_DST,
  K_ETH_TYPE,
  K_IN_PORT,
  K_IPV6_SRC,
  K_MPLS_COUNT,
  K_MPLS_LSE,
  K_ND_TARGET,
  K_NW_FRAG,
  K_NW_PROTO,
  K_NW_SRC,
  K_NW_TOS,
  K_NW_TTL,
  K_PACKET_TYPE,
  K_PKT_MARK,
  K_PRIORITY,
  K_RECIRC_ID,
  K_TCP_FLAGS,
  K_TP_DST,
  K_TP_SRC,
  K_TUN_FLAGS,
  K_TUN_GBP_ID,
  K_TUN_GTPU_FLAGS,
  K_TUN_ID,
  K_TUN_IPV6_SRC,
  K_TUN_SRC,
  K_VLAN0_TCI,
  K_VLAN1_TCI,
  KEY_SIZE,
  TUN_KEY,
} from '../../contract/key.ts';
import { formatActions } from '../wire/openflow/actionText.ts';
import { getFieldBytes, getSubfield, resolveField } from '../wire/openflow/fieldAccess.ts';
import { fieldByName } from '../wire/openflow/fields.ts';
import {
  formatField,
  formatSubfield,
  type PortMap,
  TextError,
} from '../wire/openflow/fieldText.ts';
import { parseExactFlow } from '../wire/openflow/matchParse.ts';
import { formatMatch } from '../wire/openflow/matchText.ts';
import type { TlvMapping } from '../wire/openflow/messages.ts';
import { isMpls } from '../wire/openflow/prereq.ts';
import { type Action, OFPP_UNSET } from '../wire/openflow/types.ts';
import { composeFrame, countingPayload } from './composeFrame.ts';
import type { Datapath, DatapathBridge, LocatedFlow } from './datapath.ts';
import {
  be16,
  be32,
  ETH_TYPE_ARP,
  ETH_TYPE_IP,
  ETH_TYPE_IPV6,
  ETH_TYPE_RARP,
  IPPROTO_ICMP,
  IPPROTO_ICMPV6,
  IPPROTO_SCTP,
  IPPROTO_TCP,
  IPPROTO_UDP,
  isZero,
  neighborDiscoveryType,
  newRecord,
  putBe32,
} from './flow.ts';
import { extractFlow } from './flowExtract.ts';
import { parseOdpFlow } from './odpParse.ts';
import { formatOdpActions } from './odpText.ts';
import { slowText } from './protocolPort.ts';
import { parseNextState, RECIRC_TRACES_MAX, recircHeading } from './traceRecirc.ts';
import { conntrackValid } from './translate/ctFields.ts';
import { translate } from './translate/translate.ts';
import type { Effects, FrozenState, RecircTrace, TraceNode, XlateText } from './translate/types.ts';
import { hasTunnel } from './tunnel/record.ts';

/** A request that cannot be traced; the text is what ovs-appctl shows. */
export class TraceError extends Error {}

/** What to trace. */
export interface TraceRequest {
  bridge: DatapathBridge;
  /** FLOW_SIZE bytes. */
  flow: Uint8Array;
  packet: Uint8Array | undefined;
  /** --names: ports by name. */
  names: boolean;
  /** --ct-next: states that connection tracking gives, in turn. */
  ctStates: readonly number[];
  /** The flow comes out of a recirculation. */
  frozen?: FrozenState | undefined;
  /** A packet-out: these actions are run instead of a look-up. */
  actions?: readonly Action[];
}

const TRANSPORTS = [IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP, IPPROTO_ICMP, IPPROTO_ICMPV6, 2];

/** Mask of the fields that a packet with these headers has; metadata that is zero is left out. */
function packetMask(flow: Uint8Array): Uint8Array {
  const mask = new Uint8Array(FLOW_SIZE);
  const cover = (offset: number, bytes: number): void =>
    void mask.fill(0xff, offset, offset + bytes);
  for (const offset of [K_RECIRC_ID, K_PKT_MARK, K_PRIORITY, K_CT_MARK, F_IN_PORT]) {
    if (be32(flow, offset) !== 0) cover(offset, 4);
  }
  for (let i = 0; i < 16; i++) if (be32(flow, F_REGS + 4 * i) !== 0) cover(F_REGS + 4 * i, 4);
  if (be32(flow, K_CT_STATE) !== 0) mask[K_CT_STATE + 3] = 0xff;
  if (be16(flow, K_CT_ZONE) !== 0) cover(K_CT_ZONE, 2);
  if (!isZero(flow, K_CT_LABEL, 16)) cover(K_CT_LABEL, 16);
  const originalTuple =
    flow[K_CT_NW_PROTO] !== 0 && conntrackValid(flow, new Uint8Array(FLOW_SIZE));
  if (originalTuple) cover(K_CT_TP_SRC, 5);
  if (!isZero(flow, F_METADATA, 8)) cover(F_METADATA, 8);
  const tunFlags = be16(flow, K_TUN_FLAGS);
  // A tunnel's key is one by its flag; without a tunnel, by its value.
  const hasKey = hasTunnel(flow) ? (tunFlags & TUN_KEY) !== 0 : !isZero(flow, K_TUN_ID, 8);
  if (hasKey) cover(K_TUN_ID, 8);
  if (hasTunnel(flow)) {
    cover(K_TUN_SRC, 8);
    cover(K_TUN_IPV6_SRC, 32);
    cover(K_TUN_FLAGS, 4); // TOS and TTL, too
    cover(K_TUN_GBP_ID, 3);
    cover(K_TUN_GTPU_FLAGS, 2);
  }
  cover(K_PACKET_TYPE, 4);
  cover(K_ETH_DST, 14);
  cover(K_VLAN0_TCI, 2);
  if (be16(flow, K_VLAN0_TCI) !== 0) cover(K_VLAN1_TCI, 2);
  const type = be16(flow, K_ETH_TYPE);
  const protocol = flow[K_NW_PROTO]!;
  if (type === ETH_TYPE_ARP || type === ETH_TYPE_RARP) {
    cover(K_NW_SRC, 8);
    cover(K_NW_PROTO, 1);
    cover(K_ARP_SHA, 12);
    return mask;
  }
  if (type === ETH_TYPE_IP) {
    cover(K_NW_SRC, 8);
    if (originalTuple) cover(K_CT_NW_SRC, 8);
  } else if (type === ETH_TYPE_IPV6) {
    if (originalTuple) cover(K_CT_IPV6_SRC, 32);
    cover(K_IPV6_SRC, 36);
    if (neighborDiscoveryType(flow, new Uint8Array(FLOW_SIZE)) !== 0) {
      cover(K_ARP_SHA, 12);
      cover(K_ND_TARGET, 16);
    }
  } else {
    if (isMpls(type)) cover(K_MPLS_LSE, 4 * be16(flow, K_MPLS_COUNT));
    return mask;
  }
  mask[K_NW_FRAG] = 3;
  cover(K_NW_TOS, 1);
  cover(K_NW_TTL, 1);
  cover(K_NW_PROTO, 1);
  if ((flow[K_NW_FRAG]! & FRAG_LATER) === 0 && TRANSPORTS.includes(protocol)) {
    cover(K_TP_SRC, 2);
    cover(K_TP_DST, 2);
    if (protocol === IPPROTO_TCP) mask.set([0x0f, 0xff], K_TCP_FLAGS);
  }
  return mask;
}

function flowText(flow: Uint8Array, ports: PortMap | undefined): string {
  const mask = packetMask(flow);
  const key = flow.map((byte, i) => byte & mask[i]!);
  return formatMatch({ key, mask }, ports === undefined ? {} : { ports });
}

function megaflowText(flow: Uint8Array, wildcards: Uint8Array, ports: PortMap | undefined): string {
  const mask = wildcards.slice();
  mask.fill(0, K_IN_PORT, K_IN_PORT + 4);
  mask.fill(0xff, F_IN_PORT, F_IN_PORT + 4);
  const key = flow.map((byte, i) => byte & mask[i]!);
  return formatMatch({ key, mask }, ports === undefined ? {} : { ports });
}

/** As C's %#x has it. */
function hexText(value: bigint): string {
  return value === 0n ? '0' : `0x${value.toString(16)}`;
}

/** Texts inside the trace: actions, matches, fields. */
function xlateText(ports: PortMap | undefined, tlvs: readonly TlvMapping[]): XlateText {
  const options = ports === undefined ? { tlvs } : { ports, tlvs };
  return {
    actions: (actions: readonly Action[]) => formatActions(actions, options),
    match: (rule) => formatMatch(rule.match, options),
    subfield: (s, flow) => {
      const f = resolveField(fieldByName(s.field), tlvs);
      const whole = s.offset === 0 && s.bits >= f.bits;
      const value = whole
        ? formatField(f, getFieldBytes(flow, f))
        : hexText(getSubfield(flow, s, f));
      return `${formatSubfield(s)} is now ${value}`;
    },
  };
}

function printNodes(nodes: readonly TraceNode[], level: number, out: string[]): void {
  nodes.forEach((node, i) => {
    if (node.type === 'bridge') out.push('');
    const terminal =
      node.type === 'detail' ||
      node.type === 'warn' ||
      node.type === 'error' ||
      node.type === 'bucket';
    const more = i < nodes.length - 1 || terminal || node.type === 'action' ? 1 : 0;
    const indent = ' '.repeat((level + more) * 4);
    switch (node.type) {
      case 'detail':
        out.push(`${indent} -> ${node.text}`);
        break;
      case 'warn':
        out.push(`${indent} >> ${node.text}`);
        break;
      case 'error':
        out.push(`${indent} >>>> ${node.text} <<<<`);
        break;
      case 'bridge':
        out.push(`${indent}${node.text}`, `${indent}${'-'.repeat(node.text.length)}`);
        break;
      default:
        out.push(`${indent}${node.text}`);
    }
    printNodes(node.subs, level + more + more, out);
  });
}

const SENDING: ReadonlySet<number> = new Set([
  ACT_OUTPUT,
  ACT_RECIRC,
  ACT_TRUNC,
  ACT_CLONE,
  ACT_SAMPLE,
  ACT_CHECK_PKT_LEN,
]);

/** The program without its outputs: a traced packet goes nowhere but to controllers. */
function withoutOutputs(program: Uint32Array): Uint32Array {
  const words: number[] = [];
  for (let at = 0; (program[at]! & 0xffff) !== ACT_END; at += program[at]! >>> 16) {
    const op = program[at]! & 0xffff;
    if (SENDING.has(op)) continue;
    words.push(...program.subarray(at, at + (program[at]! >>> 16)));
  }
  return Uint32Array.of(...words, ACT_END | (1 << 16));
}

function portMap(bridge: DatapathBridge): PortMap {
  return { byNumber: (port) => bridge.ports.get(port)?.name };
}

/**
 * Traces a flow, and its recirculations behind it; with a packet, controllers get what the flow sends them and addresses
 * are learned.
 */
export function trace(datapath: Datapath, request: TraceRequest): string {
  const recircs: RecircTrace[] = [];
  const held: Effects[] = [];
  const states = [...request.ctStates];
  let text = traceOne(datapath, request, recircs, held);
  for (let i = 0; i < recircs.length && i < RECIRC_TRACES_MAX; i++) {
    const node = recircs[i]!;
    const flow = node.flow.slice();
    text += recircHeading(node, flow, states);
    const frozen = datapath.recircs.get(node.id);
    const bridge = (frozen?.bridge as DatapathBridge | undefined) ?? request.bridge;
    const { actions: _, ...rest } = request;
    const resumed = { ...rest, bridge, flow, frozen };
    text += traceOne(datapath, resumed, recircs, held, request.bridge);
  }
  // The ids have to mean something until the last trace that needs them is written.
  for (const effects of held) datapath.releaseIds(effects);
  return text;
}

function traceOne(
  datapath: Datapath,
  request: TraceRequest,
  recircTraces: RecircTrace[],
  held: Effects[],
  traceBridge = request.bridge,
): string {
  const { bridge, packet } = request;
  const ports = request.names ? portMap(bridge) : undefined;
  const initial = request.flow.slice();
  putBe32(initial, F_ACTSET_OUTPUT, OFPP_UNSET);
  const flow = initial.slice();
  const key = flow.slice(0, KEY_SIZE);
  const nodes: TraceNode[] = [];
  const out = translate({
    bridge,
    flow,
    packetIns: datapath.packetIns,
    tunnels: datapath.tunnels,
    recircs: datapath.recircs,
    frozen: request.frozen,
    ...(request.actions === undefined ? {} : { actions: request.actions, inPacketOut: true }),
    timeoutPolicy: datapath.timeoutPolicy,
    traceBridge,
    recircTraces,
    learn: packet !== undefined,
    trace: nodes,
    text: xlateText(ports, bridge.tlvs ?? []),
  });
  const lines = [`Flow: ${flowText(initial, ports)}`];
  printNodes(nodes, 0, lines);
  const unchanged = initial.every((byte, i) => byte === flow[i]);
  lines.push('', `Final flow: ${unchanged ? 'unchanged' : flowText(flow, ports)}`);
  lines.push(`Megaflow: ${megaflowText(initial, out.wildcards, ports)}`);
  const actions = formatOdpActions(out.program, key, {
    packetIn: (id) => datapath.packetIns.get(id),
    dontSend: packet === undefined,
    portName: (port) =>
      request.names ? datapath.portName(port) : String(datapath.tunnels.shown(port)),
  });
  let text = `${lines.join('\n')}\nDatapath actions: ${actions}`;
  if (out.error !== undefined) {
    text += `\nTranslation failed (${out.error}), packet is dropped.\n`;
  } else if (out.slow) {
    text += slowText(out.slowReasons);
  }
  if (packet !== undefined && out.error === undefined) {
    datapath.engine.inject({
      inPort: be32(key, K_IN_PORT),
      frame: packet,
      key,
      actions: withoutOutputs(out.program),
    });
  }
  held.push(out.effects);
  return text;
}

/** A frame in hexadecimal; undefined when it is none. */
function parseHexFrame(text: string): Uint8Array | undefined {
  const digits = text.replace(/\s/g, '');
  if (digits.length < 28 || digits.length % 2 !== 0 || !/^[0-9a-f]+$/i.test(digits)) {
    return undefined;
  }
  return Uint8Array.from(digits.match(/../g)!, (pair) => Number.parseInt(pair, 16));
}

interface Options {
  generate: boolean;
  names: boolean;
  payload: Uint8Array;
  ctStates: number[];
  args: string[];
}

/** Splits options from arguments; throws TraceError. */
function parseOptions(argv: readonly string[]): Options {
  const options: Options = {
    generate: false,
    names: false,
    payload: countingPayload(64),
    ctStates: [],
    args: [],
  };
  const rest = [...argv];
  const value = (option: string): string => {
    const next = rest.shift();
    if (next === undefined) throw new TraceError(`Missing argument for option ${option}`);
    return next;
  };
  for (let arg = rest.shift(); arg !== undefined; arg = rest.shift()) {
    if (arg === '-generate' || arg === '--generate') {
      options.generate = true;
    } else if (arg === '--l7') {
      const bytes = value(arg).replace(/\s/g, '');
      if (!/^([0-9a-f]{2})*$/i.test(bytes)) throw new TraceError('Trailing garbage in packet data');
      options.payload = Uint8Array.from(bytes.match(/../g) ?? [], (p) => Number.parseInt(p, 16));
    } else if (arg === '--l7-len') {
      const length = value(arg);
      if (Number(length) > 64000) throw new TraceError(`${length}: too much L7 data`);
      options.payload = countingPayload(Number.parseInt(length, 10) || 0);
    } else if (arg === '-names' || arg === '--names') {
      options.names = true;
    } else if (arg === '--ct-next') {
      const state = parseNextState(value(arg));
      if (typeof state === 'string') throw new TraceError(state);
      options.ctStates.push(state);
    } else if (arg.startsWith('-')) {
      throw new TraceError(`${arg}: unknown option`);
    } else if (options.args.length >= 3) {
      throw new TraceError('too many arguments');
    } else {
      options.args.push(arg);
    }
  }
  return options;
}

/** Arguments of ofproto/trace: [dpname] odp_flow | bridge br_flow, options, packet. Throws TraceError. */
export function parseTraceArguments(datapath: Datapath, argv: readonly string[]): TraceRequest {
  const { generate, names, payload, ctStates, args } = parseOptions(argv);
  let packet: Uint8Array | undefined;
  if (!generate && args.length > 1) {
    packet = parseHexFrame(args.at(-1)!);
    if (packet !== undefined) args.pop();
    else if (args.length > 2) throw new TraceError('Trailing garbage in packet data');
  }
  if (args.length !== 1 && args.length !== 2) throw new TraceError('Syntax error');
  const text = args.at(-1)!;
  const located = parseFlow(datapath, args, text);
  const { bridge } = located;
  let { flow } = located;
  if (generate) {
    packet = composeFrame(flow, payload);
  } else if (packet !== undefined) {
    const metadata = flow;
    flow = newRecord();
    extractFlow(flow, packet, vlanLimitOf(bridge));
    for (const [offset, bytes] of [
      [K_IN_PORT, 8],
      [K_PKT_MARK, 8],
      [F_METADATA, FLOW_SIZE - F_METADATA],
    ] as const) {
      flow.set(metadata.subarray(offset, offset + bytes), offset);
    }
  }
  return { bridge, flow, packet, names, ctStates, frozen: located.frozen };
}

/** TYPE@ovs-TYPE, ovs-TYPE or TYPE. */
function isNameOf(datapath: Datapath, name: string): boolean {
  const [type, own] = datapath.name.split('@');
  return name === type || name === own || name === datapath.name;
}

function vlanLimitOf(bridge: DatapathBridge): number {
  return (bridge as { vlanLimit?: number }).vlanLimit ?? 1;
}

function parseFlow(datapath: Datapath, args: readonly string[], text: string): LocatedFlow {
  const portByName = (name: string): number | undefined => {
    for (const [number, { port }] of datapath.ports) if (port.name === name) return number;
    return undefined;
  };
  let key: Uint8Array;
  try {
    key = parseOdpFlow(text, portByName);
    putBe32(key, K_IN_PORT, datapath.tunnels.realNumber(be32(key, K_IN_PORT)));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    if (args.length !== 2) {
      throw new TraceError(`${error.message} (or the bridge name was omitted)`);
    }
    return parseBridgeFlow(datapath, args[0]!, text);
  }
  if (args.length === 2 && !isNameOf(datapath, args[0]!)) {
    throw new TraceError('Cannot find the datapath');
  }
  const located = datapath.flowOf(key);
  if (located === undefined) {
    const recirc = be32(key, K_RECIRC_ID);
    if (recirc !== 0 && datapath.recircs.get(recirc) === undefined) {
      throw new TraceError(`no recirculation data for recirc_id 0x${recirc.toString(16)}`);
    }
    throw new TraceError(
      hasTunnel(key)
        ? 'no OpenFlow tunnel port for this packet'
        : `no OpenFlow port for datapath port ${be32(key, K_IN_PORT)}`,
    );
  }
  return located;
}

function parseBridgeFlow(datapath: Datapath, name: string, text: string): LocatedFlow {
  const bridge = datapath.bridges.get(name);
  if (bridge === undefined) throw new TraceError(`${name}: unknown bridge`);
  let flow: Uint8Array;
  try {
    flow = parseExactFlow(text, {
      byName: (port) => [...bridge.ports.values()].find((p) => p.name === port)?.ofport,
    });
  } catch (error) {
    if (!(error instanceof TextError)) throw error;
    throw new TraceError(`Bad openflow flow syntax: ${error.message}`);
  }
  const port = bridge.ports.get(be32(flow, F_IN_PORT));
  const dpPort = port !== undefined && port.dpPort >= 0 ? port.dpPort : datapath.controllerPort();
  putBe32(flow, K_IN_PORT, dpPort);
  const frozen = datapath.recircs.get(be32(flow, K_RECIRC_ID));
  return { bridge, flow, frozen };
}
