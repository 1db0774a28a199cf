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
  K_NSH,
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
  NSH_KEY_BYTES,
  TUN_KEY,
} from '../../contract/key.ts';
import { formatActions } from '../wire/openflow/actionText.ts';
import { getFieldBytes, getSubfield, resolveField } from '../wire/openflow/fieldAccess.ts';
import { fieldByName } from '../wire/openflow/fields.ts';
import { formatField, formatSubfield, type PortMap } from '../wire/openflow/fieldText.ts';
import { formatMatch } from '../wire/openflow/matchText.ts';
import type { TlvMapping } from '../wire/openflow/messages.ts';
import { ETH_TYPE_NSH, isMpls } from '../wire/openflow/prereq.ts';
import { type Action, OFPP_UNSET } from '../wire/openflow/types.ts';
import type { Datapath, DatapathBridge } from './datapath.ts';
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
  putBe32,
} from './flow.ts';
import { formatOdpActions } from './odpText.ts';
import { slowText } from './protocolPort.ts';
import type { TraceRequest } from './traceArguments.ts';
import { RECIRC_TRACES_MAX, recircHeading } from './traceRecirc.ts';
import { conntrackValid } from './translate/ctFields.ts';
import { translate } from './translate/translate.ts';
import type { Effects, RecircTrace, TraceNode, XlateText } from './translate/types.ts';
import { coverFields, isPresent } from './tunnel/metadata.ts';
import { hasTunnel } from './tunnel/record.ts';

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
    cover(K_TUN_GTPU_FLAGS, 6); // ERSPAN, too
  }
  cover(K_PACKET_TYPE, 4);
  // Without an Ethernet header the packet type says it all.
  if (be32(flow, K_PACKET_TYPE) === 0) {
    cover(K_ETH_DST, 14);
    cover(K_VLAN0_TCI, 2);
    if (be16(flow, K_VLAN0_TCI) !== 0) cover(K_VLAN1_TCI, 2);
  }
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
    if (type !== ETH_TYPE_NSH) return mask;
    // And the fields of an IP header: so does Open vSwitch.
    cover(K_NSH, NSH_KEY_BYTES);
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

/** How matches are written: names of ports, and what the bridge calls the options of tunnels. */
interface FlowTextOptions {
  ports?: PortMap;
  tlvs: readonly TlvMapping[];
}

export function flowText(flow: Uint8Array, options: FlowTextOptions): string {
  const mask = packetMask(flow);
  const tlvs = options.tlvs.filter(({ index }) => isPresent(flow, index));
  coverFields(mask, tlvs);
  const key = flow.map((byte, i) => byte & mask[i]!);
  return formatMatch({ key, mask }, { ...options, tlvs });
}

function megaflowText(flow: Uint8Array, wildcards: Uint8Array, options: FlowTextOptions): string {
  const mask = wildcards.slice();
  mask.fill(0, K_IN_PORT, K_IN_PORT + 4);
  mask.fill(0xff, F_IN_PORT, F_IN_PORT + 4);
  const key = flow.map((byte, i) => byte & mask[i]!);
  const isMissing = (index: number): boolean => !isPresent(flow, index);
  return formatMatch({ key, mask }, { ...options, isMissing });
}

/** As C's %#x has it. */
function hexText(value: bigint): string {
  return value === 0n ? '0' : `0x${value.toString(16)}`;
}

/** Texts inside the trace: actions, matches, fields. */
function xlateText(options: FlowTextOptions): XlateText {
  const { tlvs } = options;
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
      node.type === 'info' ||
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
      case 'info':
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
  const mark = datapath.recircs.mark();
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
  for (const effects of held) datapath.forgetIds(effects, mark);
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
  const texts: FlowTextOptions = {
    tlvs: bridge.tlvs ?? [],
    ...(request.names ? { ports: portMap(bridge) } : {}),
  };
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
    features: datapath.features,
    recircs: datapath.recircs,
    frozen: request.frozen,
    ...(request.actions === undefined ? {} : { actions: request.actions, inPacketOut: true }),
    timeoutPolicy: datapath.timeoutPolicy,
    traceBridge,
    recircTraces,
    learn: packet !== undefined,
    trace: nodes,
    text: xlateText(texts),
  });
  const lines = [`Flow: ${flowText(initial, texts)}`];
  printNodes(nodes, 0, lines);
  const unchanged = initial.every((byte, i) => byte === flow[i]);
  lines.push('', `Final flow: ${unchanged ? 'unchanged' : flowText(flow, texts)}`);
  lines.push(`Megaflow: ${megaflowText(initial, out.wildcards, texts)}`);
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
