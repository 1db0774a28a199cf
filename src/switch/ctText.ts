// Text of tracked connections, as dpctl/dump-conntrack and dpctl/ct-stats-show write it (ovs-dpctl(8)):
//
//   tcp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=1024,dport=80),reply=(…),zone=1,protoinfo=(state=ESTABLISHED)

import {
  CT_TCP_ESTABLISHED,
  CT_TCP_FIN_WAIT_2,
  CT_TCP_SYN_RECV,
  CT_TCP_TIME_WAIT,
} from '../../contract/ct.ts';
import type { CtConnection, CtTcpPeer, CtTuple } from '../engine/conntrackTypes.ts';
import {
  IPPROTO_ICMP,
  IPPROTO_ICMPV6,
  IPPROTO_IGMP,
  IPPROTO_SCTP,
  IPPROTO_TCP,
  IPPROTO_UDP,
  isZero,
} from './flow.ts';
import { ipv6Text } from './odpFields.ts';

const IPPROTO_DCCP = 33;
const IPPROTO_UDPLITE = 136;

/** By CT_TCP_* number. */
export const TCP_STATES: readonly string[] = [
  'CLOSED',
  'LISTEN',
  'SYN_SENT',
  'SYN_RECV',
  'ESTABLISHED',
  'CLOSE_WAIT',
  'FIN_WAIT_1',
  'CLOSING',
  'LAST_ACK',
  'FIN_WAIT_2',
  'TIME_WAIT',
];

const PROTOCOLS: ReadonlyMap<number, string> = new Map([
  [IPPROTO_ICMP, 'icmp'],
  [IPPROTO_ICMPV6, 'icmpv6'],
  [IPPROTO_TCP, 'tcp'],
  [IPPROTO_UDP, 'udp'],
  [IPPROTO_SCTP, 'sctp'],
  [IPPROTO_UDPLITE, 'udplite'],
  [IPPROTO_DCCP, 'dccp'],
  [IPPROTO_IGMP, 'igmp'],
]);

/** Lines of ct-stats-show, in their order. */
const STATISTICS: readonly (readonly [title: string, protocol: number])[] = [
  ['TCP', IPPROTO_TCP],
  ['UDP', IPPROTO_UDP],
  ['UDPLITE', IPPROTO_UDPLITE],
  ['SCTP', IPPROTO_SCTP],
  ['ICMP', IPPROTO_ICMP],
  ['DCCP', IPPROTO_DCCP],
  ['IGMP', IPPROTO_IGMP],
];

function address(bytes: Uint8Array): string {
  return bytes.length === 4 ? bytes.join('.') : ipv6Text(bytes);
}

function tupleText(tuple: CtTuple): string {
  const addresses = `src=${address(tuple.src)},dst=${address(tuple.dst)}`;
  if (tuple.proto === IPPROTO_ICMP || tuple.proto === IPPROTO_ICMPV6) {
    return `${addresses},id=${tuple.icmpId},type=${tuple.icmpType},code=${tuple.icmpCode}`;
  }
  return `${addresses},sport=${tuple.srcPort},dport=${tuple.dstPort}`;
}

/** One state for both ends, as the Linux kernel would name it. */
function commonState([a, b]: readonly [CtTcpPeer, CtTcpPeer]): number {
  const state = Math.max(a.state, b.state);
  if (state === CT_TCP_FIN_WAIT_2) return CT_TCP_TIME_WAIT;
  return state === CT_TCP_SYN_RECV ? CT_TCP_ESTABLISHED : state;
}

const stateName = (state: number): string => TCP_STATES[state] ?? `[${state}]`;

function peerFlags(peer: CtTcpPeer): string {
  const names = [
    ...(peer.hasWindowScale ? ['WINDOW_SCALE'] : []),
    ...(peer.liberal ? ['BE_LIBERAL'] : []),
  ];
  return names.length === 0 ? '0' : names.join('|');
}

function protoInfo(tcp: readonly [CtTcpPeer, CtTcpPeer], verbose: boolean): string {
  if (!verbose) return `state=${stateName(commonState(tcp))}`;
  const [a, b] = tcp;
  const scales =
    a.windowScale === 0 && b.windowScale === 0
      ? ''
      : `,wscale_orig=${a.windowScale},wscale_reply=${b.windowScale}`;
  return (
    `state_orig=${stateName(a.state)},state_reply=${stateName(b.state)}${scales}` +
    `,flags_orig=${peerFlags(a)},flags_reply=${peerFlags(b)}`
  );
}

/** One connection. `verbose`: -m; `statistics`: -s. */
export function connectionText(c: CtConnection, verbose = false, statistics = false): string {
  const { proto } = c.orig;
  let text = PROTOCOLS.get(proto) ?? String(proto);
  text += `,orig=(${tupleText(c.orig)}),reply=(${tupleText(c.reply)})`;
  if (verbose) text += ',id=0';
  if (c.zone !== 0) text += `,zone=${c.zone}`;
  if (verbose) text += ',status=0';
  if (statistics) text += `,timeout=${c.timeoutSeconds}`;
  if (c.mark !== 0) text += `,mark=${c.mark}`;
  if (!isZero(c.label, 0, 16)) text += `,labels=0x${c.label.toHex().replace(/^0+/, '')}`;
  if (c.tcp !== undefined) text += `,protoinfo=(${protoInfo(c.tcp, verbose)})`;
  if (c.helper !== undefined) text += `,helper=${c.helper}`;
  if (verbose && c.parent !== undefined) text += `,parent=(${tupleText(c.parent)})`;
  return text;
}

/** Connections by protocol, and with `verbose` by TCP state. */
export function connectionStatistics(
  connections: Iterable<CtConnection>,
  verbose: boolean,
): string {
  const byProtocol = new Map<number, number>();
  const byState = new Map<number, number>();
  const count = (map: Map<number, number>, key: number): void =>
    void map.set(key, (map.get(key) ?? 0) + 1);
  let total = 0;
  for (const { orig, tcp } of connections) {
    total++;
    count(byProtocol, orig.proto);
    if (tcp !== undefined) count(byState, commonState(tcp));
  }
  let text = `Connections Stats:\n    Total: ${total}\n`;
  let other = total - (byProtocol.get(IPPROTO_ICMPV6) ?? 0); // counted, but never shown
  for (const [title, protocol] of STATISTICS) {
    const n = byProtocol.get(protocol);
    if (n === undefined) continue;
    other -= n;
    text += `  ${title}: ${n}\n`;
    if (protocol !== IPPROTO_TCP || !verbose) continue;
    text += '    Conn per TCP states:\n';
    for (const [state, conns] of [...byState].sort(([a], [b]) => a - b)) {
      text += `\t  [${stateName(state)}]=${conns}\n`;
    }
  }
  return other > 0 ? `${text}  Other: ${other}\n` : text;
}
