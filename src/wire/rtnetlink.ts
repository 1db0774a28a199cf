// rtnetlink messages about network devices (rtnetlink(7), linux/rtnetlink.h, linux/if_link.h): a pure codec.
//
//   nlmsghdr   0 u32 length   4 u16 type   6 u16 flags   8 u32 sequence   12 u32 port id     (16 bytes)
//   ifinfomsg  0 u8 family    2 u16 type   4 i32 index   8 u32 flags      12 u32 change      (16 bytes)
//   attribute  0 u16 length   2 u16 type   4 payload, padded to 4
//
// Host byte order, which is little-endian on every machine that we run on.

export const NLMSG_ERROR = 2;
export const NLMSG_DONE = 3;
export const RTM_NEWLINK = 16;
export const RTM_DELLINK = 17;
export const RTM_GETLINK = 18;
export const RTM_SETLINK = 19;
export const NLM_F_REQUEST = 1;
export const NLM_F_ACK = 4;
export const NLM_F_DUMP = 0x300;

export const IFF_UP = 1;
export const IFF_LOOPBACK = 8;
export const IFF_RUNNING = 0x40;
export const IFF_PROMISC = 0x100;

const IFLA_ADDRESS = 1;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFLA_LINKINFO = 18;
const IFLA_STATS64 = 23;
const IFLA_NUM_RX_QUEUES = 32;
const IFLA_CARRIER = 33;
const IFLA_XDP = 43;
const IFLA_MAX_MTU = 51;
const IFLA_INFO_KIND = 1;
const IFLA_XDP_FD = 1;
const IFLA_XDP_FLAGS = 3;
const NLA_F_NESTED = 0x8000;

/** struct rtnl_link_stats64, in its order. */
const STATS64 = [
  'rxPackets',
  'txPackets',
  'rxBytes',
  'txBytes',
  'rxErrors',
  'txErrors',
  'rxDropped',
  'txDropped',
  'multicast',
  'collisions',
  'rxLengthErrors',
  'rxOverErrors',
  'rxCrcErrors',
  'rxFrameErrors',
  'rxFifoErrors',
  'rxMissedErrors',
  'txAbortedErrors',
  'txCarrierErrors',
  'txFifoErrors',
  'txHeartbeatErrors',
  'txWindowErrors',
] as const;
export type LinkStats = Record<(typeof STATS64)[number], number>;

/** A network device as the kernel describes it. */
export interface Link {
  index: number;
  name: string;
  /** IFF_* */
  flags: number;
  mtu: number;
  maxMtu: number;
  /** "02:00:00:00:00:01"; empty for devices without one. */
  mac: string;
  carrier: boolean;
  rxQueues: number;
  /** "veth", "tun" …; empty for devices without rtnl_link_ops. */
  kind: string;
  stats: LinkStats | undefined;
}

export interface NetlinkMessage {
  type: number;
  flags: number;
  sequence: number;
  portId: number;
  /** NLMSG_ERROR: 0 = acknowledgement, else the errno (positive). */
  error: number;
  /** RTM_NEWLINK and RTM_DELLINK of the whole device (family AF_UNSPEC). */
  link: Link | undefined;
  /** What follows the header; a view of the datagram. */
  payload: Uint8Array;
}

function text(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return Buffer.from(end < 0 ? bytes : bytes.subarray(0, end)).toString('utf8');
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Attributes of a message or nest; an attribute that leaves the data ends the list. */
export function* attributes(bytes: Uint8Array): Generator<[type: number, payload: Uint8Array]> {
  const view = viewOf(bytes);
  for (let at = 0; at + 4 <= bytes.length; ) {
    const length = view.getUint16(at, true);
    if (length < 4 || at + length > bytes.length) return;
    yield [view.getUint16(at + 2, true) & 0x3fff, bytes.subarray(at + 4, at + length)];
    at += (length + 3) & ~3;
  }
}

function decodeStats(payload: Uint8Array): LinkStats {
  const view = viewOf(payload);
  const stats = {} as LinkStats;
  STATS64.forEach((name, i) => {
    stats[name] = i * 8 + 8 <= payload.length ? Number(view.getBigUint64(i * 8, true)) : 0;
  });
  return stats;
}

function decodeLink(payload: Uint8Array): Link | undefined {
  if (payload.length < 16 || payload[0] !== 0) return undefined; // AF_BRIDGE and others: not about the device itself
  const view = viewOf(payload);
  const link: Link = {
    index: view.getInt32(4, true),
    name: '',
    flags: view.getUint32(8, true),
    mtu: 0,
    maxMtu: 0,
    mac: '',
    carrier: (view.getUint32(8, true) & IFF_RUNNING) !== 0,
    rxQueues: 1,
    kind: '',
    stats: undefined,
  };
  for (const [type, value] of attributes(payload.subarray(16))) {
    const u32 = value.length >= 4 ? viewOf(value).getUint32(0, true) : 0;
    if (type === IFLA_IFNAME) link.name = text(value);
    else if (type === IFLA_MTU) link.mtu = u32;
    else if (type === IFLA_MAX_MTU) link.maxMtu = u32;
    else if (type === IFLA_NUM_RX_QUEUES) link.rxQueues = u32;
    else if (type === IFLA_CARRIER && value.length > 0) link.carrier = value[0] !== 0;
    else if (type === IFLA_STATS64) link.stats = decodeStats(value);
    else if (type === IFLA_ADDRESS && value.length === 6) {
      link.mac = Array.from(value, (byte) => byte.toString(16).padStart(2, '0')).join(':');
    } else if (type === IFLA_LINKINFO) {
      for (const [kind, name] of attributes(value))
        if (kind === IFLA_INFO_KIND) link.kind = text(name);
    }
  }
  return link;
}

/** All messages of one datagram; a message that leaves the datagram ends the list. */
export function decodeMessages(datagram: Uint8Array): NetlinkMessage[] {
  const messages: NetlinkMessage[] = [];
  const view = viewOf(datagram);
  for (let at = 0; at + 16 <= datagram.length; ) {
    const length = view.getUint32(at, true);
    if (length < 16 || at + length > datagram.length) break;
    const type = view.getUint16(at + 4, true);
    const payload = datagram.subarray(at + 16, at + length);
    messages.push({
      type,
      flags: view.getUint16(at + 6, true),
      sequence: view.getUint32(at + 8, true),
      portId: view.getUint32(at + 12, true),
      error: type === NLMSG_ERROR && payload.length >= 4 ? -viewOf(payload).getInt32(0, true) : 0,
      link: type === RTM_NEWLINK || type === RTM_DELLINK ? decodeLink(payload) : undefined,
      payload,
    });
    at += (length + 3) & ~3;
  }
  return messages;
}

export interface LinkRequest {
  type: number;
  /** NLM_F_* besides NLM_F_REQUEST. */
  flags: number;
  sequence: number;
  /** 0 = by name, or all. */
  index?: number;
  name?: string;
  /** New values of the IFF_* bits in `change`. */
  set?: number;
  change?: number;
  mtu?: number;
  /** 6 bytes. */
  mac?: Uint8Array;
  /** XDP program (-1 = remove) and XDP_FLAGS_*. */
  xdp?: { fd: number; flags: number };
}

/** One request about a device. */
export function encodeLinkRequest(request: LinkRequest): Uint8Array {
  const attrs: Uint8Array[] = [];
  const u32 = (value: number): Uint8Array => {
    const bytes = new Uint8Array(4);
    viewOf(bytes).setUint32(0, value >>> 0, true);
    return bytes;
  };
  const attribute = (type: number, payload: Uint8Array): Uint8Array => {
    const bytes = new Uint8Array((4 + payload.length + 3) & ~3);
    viewOf(bytes).setUint16(0, 4 + payload.length, true);
    viewOf(bytes).setUint16(2, type, true);
    bytes.set(payload, 4);
    return bytes;
  };
  if (request.name !== undefined)
    attrs.push(attribute(IFLA_IFNAME, Buffer.from(`${request.name}\0`)));
  if (request.mtu !== undefined) attrs.push(attribute(IFLA_MTU, u32(request.mtu)));
  if (request.mac !== undefined) attrs.push(attribute(IFLA_ADDRESS, request.mac));
  if (request.xdp !== undefined) {
    const fd = attribute(IFLA_XDP_FD, u32(request.xdp.fd));
    const flags = attribute(IFLA_XDP_FLAGS, u32(request.xdp.flags));
    attrs.push(attribute(IFLA_XDP | NLA_F_NESTED, Buffer.concat([fd, flags])));
  }
  const header = new Uint8Array(32);
  const view = viewOf(header);
  const length = attrs.reduce((sum, bytes) => sum + bytes.length, 32);
  view.setUint32(0, length, true);
  view.setUint16(4, request.type, true);
  view.setUint16(6, request.flags | NLM_F_REQUEST, true);
  view.setUint32(8, request.sequence, true);
  view.setInt32(20, request.index ?? 0, true);
  view.setUint32(24, request.set ?? 0, true);
  view.setUint32(28, request.change ?? 0, true);
  return new Uint8Array(Buffer.concat([header, ...attrs]));
}

/** Six bytes of "02:00:00:00:00:01", undefined if it is none. */
export function parseMac(mac: string): Uint8Array | undefined {
  if (!/^([0-9a-fA-F]{1,2}:){5}[0-9a-fA-F]{1,2}$/.test(mac)) return undefined;
  return Uint8Array.from(mac.split(':'), (byte) => Number.parseInt(byte, 16));
}
