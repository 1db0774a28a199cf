// Bridge protocol data units: IEEE 802.1D-1998 §9.3 (configuration, topology change notification) and 802.1D-2004 §9.3.3
// (rapid spanning tree), with the LLC header in front of them.

export const ETH_ADDR_STP = Uint8Array.of(0x01, 0x80, 0xc2, 0, 0, 0);
const ETH_HEADER_LENGTH = 14;
const LLC = Uint8Array.of(0x42, 0x42, 0x03);
const HEADER_LENGTH = 4;
const CONFIG_LENGTH = 35;
const RST_LENGTH = 36;

const TYPE_CONFIG = 0;
const TYPE_RST = 2;
const TYPE_TCN = 0x80;

const FLAG_TC = 0x01;
const FLAG_PROPOSAL = 0x02;
const FLAG_LEARNING = 0x10;
const FLAG_FORWARDING = 0x20;
const FLAG_AGREEMENT = 0x40;
const FLAG_TC_ACK = 0x80;

/** Role of the sender's port (§9.3.3 j): in bits 2 and 3 of the flags. */
export type BpduRole = 'unknown' | 'alternate-backup' | 'root' | 'designated';
const ROLES: readonly BpduRole[] = ['unknown', 'alternate-backup', 'root', 'designated'];

/** What a configuration message or rapid message says. */
export interface TreeMessage {
  rootId: bigint;
  rootPathCost: number;
  bridgeId: bigint;
  portId: number;
  messageAgeMs: number;
  maxAgeMs: number;
  helloTimeMs: number;
  forwardDelayMs: number;
  topologyChange: boolean;
  topologyChangeAck: boolean;
  /** These five are the rapid protocol's. */
  role: BpduRole;
  proposal: boolean;
  agreement: boolean;
  learning: boolean;
  forwarding: boolean;
}

export type Bpdu =
  | { type: 'tcn' }
  | { type: 'config'; message: TreeMessage }
  | { type: 'rst'; message: TreeMessage };

/** Times go in units of 1/256 second. */
const toTicks = (ms: number): number =>
  Math.min(0xffff, Math.max(0, Math.round((ms * 256) / 1000)));
const fromTicks = (ticks: number): number => (ticks * 1000) / 256;

/** A BPDU without the frame around it. */
export function encodeBpdu(bpdu: Bpdu): Uint8Array {
  if (bpdu.type === 'tcn') return Uint8Array.of(0, 0, 0, TYPE_TCN);
  const { type, message: m } = bpdu;
  const rapid = type === 'rst';
  const bytes = new Uint8Array(rapid ? RST_LENGTH : CONFIG_LENGTH);
  const view = new DataView(bytes.buffer);
  view.setUint8(2, rapid ? 2 : 0);
  view.setUint8(3, rapid ? TYPE_RST : TYPE_CONFIG);
  let flags = m.topologyChange ? FLAG_TC : 0;
  if (rapid) {
    flags |= ROLES.indexOf(m.role) << 2;
    if (m.proposal) flags |= FLAG_PROPOSAL;
    if (m.learning) flags |= FLAG_LEARNING;
    if (m.forwarding) flags |= FLAG_FORWARDING;
    if (m.agreement) flags |= FLAG_AGREEMENT;
  } else if (m.topologyChangeAck) flags |= FLAG_TC_ACK;
  view.setUint8(4, flags);
  view.setBigUint64(5, m.rootId);
  view.setUint32(13, m.rootPathCost);
  view.setBigUint64(17, m.bridgeId);
  view.setUint16(25, m.portId);
  view.setUint16(27, toTicks(m.messageAgeMs));
  view.setUint16(29, toTicks(m.maxAgeMs));
  view.setUint16(31, toTicks(m.helloTimeMs));
  view.setUint16(33, toTicks(m.forwardDelayMs));
  return bytes;
}

function decodeMessage(view: DataView): TreeMessage {
  const flags = view.getUint8(4);
  return {
    rootId: view.getBigUint64(5),
    rootPathCost: view.getUint32(13),
    bridgeId: view.getBigUint64(17),
    portId: view.getUint16(25),
    messageAgeMs: fromTicks(view.getUint16(27)),
    maxAgeMs: fromTicks(view.getUint16(29)),
    helloTimeMs: fromTicks(view.getUint16(31)),
    forwardDelayMs: fromTicks(view.getUint16(33)),
    topologyChange: (flags & FLAG_TC) !== 0,
    topologyChangeAck: (flags & FLAG_TC_ACK) !== 0,
    role: ROLES[(flags >> 2) & 3]!,
    proposal: (flags & FLAG_PROPOSAL) !== 0,
    agreement: (flags & FLAG_AGREEMENT) !== 0,
    learning: (flags & FLAG_LEARNING) !== 0,
    forwarding: (flags & FLAG_FORWARDING) !== 0,
  };
}

/**
 * What a peer has sent; a text says what is wrong with it. §9.3.4: longer messages and higher versions are read as far as
 * they are known here.
 */
export function decodeBpdu(bytes: Uint8Array): Bpdu | string {
  if (bytes.length < HEADER_LENGTH) return `received runt ${bytes.length}-byte BPDU`;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const protocol = view.getUint16(0);
  if (protocol !== 0) return `received BPDU with unexpected protocol ID ${protocol}`;
  const type = view.getUint8(3);
  if (type === TYPE_TCN) return { type: 'tcn' };
  if (type === TYPE_CONFIG) {
    if (bytes.length < CONFIG_LENGTH) {
      return `received config BPDU with invalid size ${bytes.length}`;
    }
    return { type: 'config', message: decodeMessage(view) };
  }
  if (type === TYPE_RST && view.getUint8(2) >= 2) {
    if (bytes.length < RST_LENGTH) return `received RST BPDU with invalid size ${bytes.length}`;
    return { type: 'rst', message: decodeMessage(view) };
  }
  return `received BPDU of unexpected type ${type}`;
}

/** The whole frame. */
export function bpduFrame(source: Uint8Array, bpdu: Uint8Array): Uint8Array {
  const frame = new Uint8Array(ETH_HEADER_LENGTH + LLC.length + bpdu.length);
  frame.set(ETH_ADDR_STP);
  frame.set(source, 6);
  frame[13] = LLC.length + bpdu.length;
  frame.set(LLC, ETH_HEADER_LENGTH);
  frame.set(bpdu, ETH_HEADER_LENGTH + LLC.length);
  return frame;
}

/** The BPDU in a frame, without padding; empty if there is none. `headerLength`: of Ethernet, with tags. */
export function bpduOf(frame: Uint8Array, headerLength = ETH_HEADER_LENGTH): Uint8Array {
  const length = (frame[headerLength - 2]! << 8) | frame[headerLength - 1]!;
  return frame.subarray(
    headerLength + LLC.length,
    Math.min(frame.length, headerLength + Math.max(length, LLC.length)),
  );
}

/** "8000.aa66aa660000", as Bridge.status has it. */
export function stpIdText(id: bigint): string {
  const hex = id.toString(16).padStart(16, '0');
  return `${hex.slice(0, 4)}.${hex.slice(4)}`;
}

/** "8.000.aa66aa660000", as Bridge.rstp_status has it. */
export function rstpIdText(id: bigint): string {
  const hex = id.toString(16).padStart(16, '0');
  return `${hex.slice(0, 1)}.${hex.slice(1, 4)}.${hex.slice(4)}`;
}

/** The address in a bridge identifier. */
export function idMacText(id: bigint): string {
  return id.toString(16).padStart(16, '0').slice(4).match(/../g)!.join(':');
}

/** Bridge identifier of a priority and an address. */
export function bridgeIdOf(priority: number, mac: Uint8Array): bigint {
  let id = BigInt(priority & 0xffff);
  for (const byte of mac) id = (id << 8n) | BigInt(byte);
  return id;
}
