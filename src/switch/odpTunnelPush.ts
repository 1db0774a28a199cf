// Text of ACT_TUNNEL_PUSH, as dpctl/dump-flows writes it:
//
//   tnl_push(tnl_port(4789),header(size=50,type=4,eth(…),ipv4(…),udp(…),vxlan(flags=0x8000000,vni=0x7b)),out_port(100))

import {
  ERSPAN_HWID,
  ERSPAN_SESSION,
  GRE_CSUM,
  GRE_KEY,
  GRE_SEQ,
  TP_HEADER,
  TP_OUT_PORT,
  TP_PORT,
  TP_TYPE,
  TUNNEL_BAREUDP,
  TUNNEL_ERSPAN,
  TUNNEL_GENEVE,
  TUNNEL_GTPU,
  TUNNEL_IP6ERSPAN,
  TUNNEL_VXLAN,
} from '../../contract/tunnel.ts';
import { be16, be32, ETH_TYPE_IPV6 } from './flow.ts';
import { ipv6Text, macText } from './odpFields.ts';
import { optionsText } from './odpTunnel.ts';

const hex = (value: number): string => `0x${value.toString(16)}`;

function udpText(header: Uint8Array, at: number): string {
  const [src, dst, csum] = [be16(header, at), be16(header, at + 2), be16(header, at + 6)];
  return `udp(src=${src},dst=${dst},csum=${hex(csum)})`;
}

function greText(header: Uint8Array, at: number): string {
  const flags = be16(header, at);
  let text = `gre((flags=${hex(flags)},proto=${hex(be16(header, at + 2))})`;
  let next = at + 4;
  if ((flags & GRE_CSUM) !== 0) {
    text += `,csum=${hex(be16(header, next))}`;
    next += 4;
  }
  if ((flags & GRE_KEY) !== 0) {
    text += `,key=${hex(be32(header, next))}`;
    next += 4;
  }
  if ((flags & GRE_SEQ) !== 0) text += `,seq=${hex(be32(header, next))}`;
  return `${text})`;
}

function geneveText(header: Uint8Array, at: number): string {
  const bits = header[at + 1]!;
  const options = header.subarray(at + 8, at + 8 + 4 * (header[at]! & 63));
  const parts = [
    ...((bits & 0x80) !== 0 ? ['oam'] : []),
    ...((bits & 0x40) !== 0 ? ['crit'] : []),
    `vni=${hex(be32(header, at + 4) >>> 8)}`,
    ...(options.length > 0 ? [`options(${optionsText(options, undefined, false)})`] : []),
  ];
  return `geneve(${parts.join(',')})`;
}

function erspanText(header: Uint8Array, at: number): string {
  const version = header[at]! >> 4;
  const session = `ver=${version},sid=${hex(be16(header, at + 2) & ERSPAN_SESSION)}`;
  if (version === 1) return `erspan(${session},idx=${hex(be32(header, at + 4))})`;
  const bits = be16(header, at + 10);
  return `erspan(${session},dir=${(bits >> 3) & 1},hwid=${hex((bits >> 4) & ERSPAN_HWID)})`;
}

function tunnelText(type: number, header: Uint8Array, l4: number): string {
  const at = l4 + 8;
  switch (type) {
    case TUNNEL_VXLAN: {
      const vni = hex(be32(header, at + 4) >>> 8);
      return `${udpText(header, l4)},vxlan(flags=${hex(be32(header, at))},vni=${vni})`;
    }
    case TUNNEL_GENEVE:
      return `${udpText(header, l4)},${geneveText(header, at)}`;
    case TUNNEL_GTPU:
      return (
        `${udpText(header, l4)},gtpu(flags=${hex(header[at]!)},` +
        `msgtype=${header[at + 1]},teid=${hex(be32(header, at + 4))})`
      );
    case TUNNEL_ERSPAN:
    case TUNNEL_IP6ERSPAN:
      return erspanText(header, at);
    case TUNNEL_BAREUDP:
      return udpText(header, l4);
    default:
      return greText(header, l4);
  }
}

function ipText(header: Uint8Array, isIpv6: boolean): string {
  if (isIpv6) {
    const word = be32(header, 14);
    return (
      `ipv6(src=${ipv6Text(header.subarray(22, 38))},dst=${ipv6Text(header.subarray(38, 54))},` +
      `label=${word & 0xfffff},proto=${header[20]},tclass=${hex((word >>> 20) & 0xff)},` +
      `hlimit=${header[21]})`
    );
  }
  const tos = header[15]! === 0 ? '0' : hex(header[15]!);
  return (
    `ipv4(src=${[...header.subarray(26, 30)].join('.')},dst=${[...header.subarray(30, 34)].join('.')},` +
    `proto=${header[23]},tos=${tos},ttl=${header[22]},frag=${hex(be16(header, 20))})`
  );
}

export function tunnelPushText(operands: Uint32Array, portName: (port: number) => string): string {
  const size = operands[TP_TYPE]! >>> 16;
  const type = operands[TP_TYPE]! & 0xffff;
  const header = new Uint8Array(operands.slice(TP_HEADER).buffer).subarray(0, size);
  const ethertype = be16(header, 12);
  const isIpv6 = ethertype === ETH_TYPE_IPV6;
  const eth =
    `eth(dst=${macText(header.subarray(0, 6))},src=${macText(header.subarray(6, 12))},` +
    `dl_type=0x${ethertype.toString(16).padStart(4, '0')})`;
  const inner = tunnelText(type, header, isIpv6 ? 54 : 34);
  return (
    `tnl_push(tnl_port(${portName(operands[TP_PORT]!)}),header(size=${size},type=${type},` +
    `${eth},${ipText(header, isIpv6)},${inner}),out_port(${portName(operands[TP_OUT_PORT]!)}))`
  );
}
