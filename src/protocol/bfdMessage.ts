// BFD control messages (RFC 5880 §4.1) in UDP over IPv4 (RFC 5881 §4): a pure codec.
//
//   0 u8 version (3 bits) | diagnostic   1 u8 state (2 bits) | flags   2 u8 detect mult   3 u8 length
//   4 u32 my discriminator   8 u32 your discriminator   12 u32 desired min tx (µs)
//   16 u32 required min rx (µs)   20 u32 required min echo rx (µs)

export const BFD_LENGTH = 24;
export const BFD_PORT = 3784;
export const BFD_VERSION = 1;

export const BFD_FLAG_MULTIPOINT = 1;
export const BFD_FLAG_AUTH = 4;
export const BFD_FLAG_FINAL = 16;
export const BFD_FLAG_POLL = 32;

export const BFD_ADMIN_DOWN = 0;
export const BFD_DOWN = 1;
export const BFD_INIT = 2;
export const BFD_UP = 3;
export type BfdStateNumber = 0 | 1 | 2 | 3;

const STATE_NAMES = ['admin_down', 'down', 'init', 'up'];
const DIAGNOSTICS = [
  'No Diagnostic',
  'Control Detection Time Expired',
  'Echo Function Failed',
  'Neighbor Signaled Session Down',
  'Forwarding Plane Reset',
  'Path Down',
  'Concatenated Path Down',
  'Administratively Down',
  'Reverse Concatenated Path Down',
];
const FLAG_NAMES = ['multipoint', 'demand', 'auth', 'ctl', 'final', 'poll'];

export const bfdStateText = (state: number): string => STATE_NAMES[state] ?? 'invalid';
export const bfdDiagText = (diag: number): string => DIAGNOSTICS[diag] ?? 'Invalid Diagnostic';

export function bfdFlagsText(flags: number): string {
  if (flags === 0) return 'none';
  return FLAG_NAMES.filter((_, bit) => (flags & (1 << bit)) !== 0).join(' ');
}

export interface BfdMessage {
  version: number;
  diag: number;
  state: BfdStateNumber;
  flags: number;
  mult: number;
  length: number;
  myDisc: number;
  yourDisc: number;
  minTxUs: number;
  minRxUs: number;
  minRxEchoUs: number;
}

/** Undefined: shorter than a control message. */
export function decodeBfd(payload: Uint8Array): BfdMessage | undefined {
  if (payload.length < BFD_LENGTH) return undefined;
  const view = new DataView(payload.buffer, payload.byteOffset, BFD_LENGTH);
  return {
    version: payload[0]! >> 5,
    diag: payload[0]! & 0x1f,
    state: (payload[1]! >> 6) as BfdStateNumber,
    flags: payload[1]! & 0x3f,
    mult: payload[2]!,
    length: payload[3]!,
    myDisc: view.getUint32(4),
    yourDisc: view.getUint32(8),
    minTxUs: view.getUint32(12),
    minRxUs: view.getUint32(16),
    minRxEchoUs: view.getUint32(20),
  };
}

export function encodeBfd(message: BfdMessage): Uint8Array {
  const bytes = new Uint8Array(BFD_LENGTH);
  const view = new DataView(bytes.buffer);
  bytes[0] = (message.version << 5) | message.diag;
  bytes[1] = (message.state << 6) | message.flags;
  bytes[2] = message.mult;
  bytes[3] = message.length;
  view.setUint32(4, message.myDisc);
  view.setUint32(8, message.yourDisc);
  view.setUint32(12, message.minTxUs);
  view.setUint32(16, message.minRxUs);
  view.setUint32(20, message.minRxEchoUs);
  return bytes;
}

export function bfdMessageText(message: BfdMessage): string {
  const interval = (name: string, us: number): string =>
    `\n  ${name}:${us}us (${Math.floor(us / 1000)}ms)`;
  return (
    `vers:${message.version} diag:"${bfdDiagText(message.diag)}" ` +
    `state:${bfdStateText(message.state)} mult:${message.mult} length:${message.length}` +
    `\n  flags: ${bfdFlagsText(message.flags)}` +
    `\n  my_disc:0x${message.myDisc.toString(16)} your_disc:0x${message.yourDisc.toString(16)}` +
    interval('min_tx', message.minTxUs) +
    interval('min_rx', message.minRxUs) +
    interval('min_rx_echo', message.minRxEchoUs)
  );
}

export interface BfdFrameAddresses {
  ethSrc: Uint8Array;
  ethDst: Uint8Array;
  ipSrc: Uint8Array;
  ipDst: Uint8Array;
  udpSrc: number;
}

const IP_TOS_INTERNETWORK_CONTROL = 0xc0;
const IPPROTO_UDP = 17;

/** Ethernet, IPv4 (TTL 255: RFC 5881 §5) and UDP around a control message; no UDP checksum, as Open vSwitch sends it. */
export function bfdFrame(addresses: BfdFrameAddresses, message: Uint8Array): Uint8Array {
  const frame = new Uint8Array(42 + message.length);
  const view = new DataView(frame.buffer);
  frame.set(addresses.ethDst, 0);
  frame.set(addresses.ethSrc, 6);
  view.setUint16(12, 0x0800);
  frame[14] = 0x45;
  frame[15] = IP_TOS_INTERNETWORK_CONTROL;
  view.setUint16(16, 28 + message.length);
  frame[22] = 255;
  frame[23] = IPPROTO_UDP;
  frame.set(addresses.ipSrc, 26);
  frame.set(addresses.ipDst, 30);
  let sum = 0;
  for (let at = 14; at < 34; at += 2) sum += view.getUint16(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  view.setUint16(24, ~sum & 0xffff);
  view.setUint16(34, addresses.udpSrc);
  view.setUint16(36, BFD_PORT);
  view.setUint16(38, 8 + message.length);
  frame.set(message, 42);
  return frame;
}
