// Whole OpenFlow messages: the header, the multipart header, and the way to the codec of each body.
//
//     0         1      2        4     8
//    +---------+------+--------+-----+-----------------------------------------------------+
//    | version | type | length | xid | body                                                |
//    +---------+------+--------+-----+-----------------------------------------------------+
//      experimenter (type 4):           vendor 4, subtype 4, body
//      multipart (16/17, from 1.1 18/19): type 2, flags 2, [from 1.1: pad 4], body
//      multipart of an experimenter (type 0xffff): … vendor 4, subtype 4, [1.0: pad 4], body
//
// decode() throws OfError for everything that is wrong with a message, and nothing else. encode() takes what the switch
// itself made; it throws RangeError for a message that the version does not have.

import type { ActionLists } from './actionLists.ts';
import { asyncCodecs } from './async.ts';
import { Reader, Writer } from './buffer.ts';
import type { BodyCodec, BodyContext, Codecs, Kind } from './codec.ts';
import { controlCodecs } from './control.ts';
import { flowModCodecs } from './flowMod.ts';
import { flowRemovedCodecs } from './flowRemoved.ts';
import { flowStatsCodecs } from './flowStats.ts';
import { groupCodecs } from './group.ts';
import { ipfixStatsCodecs } from './ipfixStats.ts';
import { lengthFits } from './lengths.ts';
import type { Decoded, DecodeOptions, Message, MessageType, TlvMapping } from './messages.ts';
import { meterCodecs } from './meter.ts';
import { monitorCodecs } from './monitor.ts';
import { niciraCodecs } from './nicira.ts';
import { packetInCodecs } from './packetIn.ts';
import { packetOutCodecs } from './packetOut.ts';
import { portCodecs } from './port.ts';
import { queueCodecs } from './queue.ts';
import type { Route } from './routes.ts';
import { routeByNumber, routeForType } from './routes.ts';
import { tableCodecs } from './table.ts';
import type { OfVersion } from './types.ts';
import { OfError } from './types.ts';

const CODECS: Codecs = {
  ...controlCodecs,
  ...portCodecs,
  ...flowModCodecs,
  ...packetOutCodecs,
  ...packetInCodecs,
  ...flowRemovedCodecs,
  ...flowStatsCodecs,
  ...tableCodecs,
  ...queueCodecs,
  ...groupCodecs,
  ...meterCodecs,
  ...asyncCodecs,
  ...monitorCodecs,
  ...ipfixStatsCodecs,
  ...niciraCodecs,
};

export const HEADER_LEN = 8;
export const MAX_MESSAGE_LEN = 0xffff;
const EXPERIMENTER = 4;
const NX_VENDOR = 0x00002320;
const ONF_VENDOR = 0x4f4e4600;
const STATS_EXPERIMENTER = 0xffff;
const MORE = 1;

const statsType = (version: number): number => (version === 1 ? 16 : 18);

function codecOf(type: MessageType): BodyCodec<MessageType> {
  return CODECS[type] as unknown as BodyCodec<MessageType>;
}

// ---- decoding

/** Decodes exactly one message. */
export function decode(bytes: Uint8Array, options: DecodeOptions = {}): Decoded {
  const r = new Reader(bytes);
  if (bytes.length < HEADER_LEN) throw new OfError('OFPBRC_BAD_LEN');
  if (((bytes[2]! << 8) | bytes[3]!) !== bytes.length) throw new OfError('OFPBRC_BAD_LEN');
  return decodeFrom(r, options);
}

/** What the codec of a body is told: a class, since there is one for each message. */
class DecodeContext implements BodyContext {
  readonly version: number;
  kind: Kind = 'of';
  number: number;
  readonly tableId: boolean;
  readonly xid: number;
  more = false;
  readonly room = 0;
  readonly tlvs: readonly TlvMapping[];
  readonly packed: boolean;
  readonly actionLists: ActionLists | undefined;
  readonly debugActions: boolean;
  readonly #options: DecodeOptions;
  readonly #depth: number;

  constructor(version: number, type: number, xid: number, options: DecodeOptions, depth: number) {
    this.version = version;
    this.number = type;
    this.xid = xid;
    this.tableId = options.tableId ?? false;
    this.tlvs = options.tlvs ?? NO_TLVS;
    this.packed = options.packed ?? false;
    this.actionLists = options.actionLists;
    this.debugActions = options.debugActions === true;
    this.#options = options;
    this.#depth = depth;
  }

  nested(inner: Reader): Message {
    return decodeNested(inner, this.#options, this.#depth + 1);
  }

  encodeNested(): void {}

  mark(): void {}
}

const NO_TLVS: readonly TlvMapping[] = [];

/** `depth`: of messages around this one. */
function decodeFrom(r: Reader, options: DecodeOptions, depth = 0): Decoded {
  const wireVersion = r.u8();
  const type = r.u8();
  r.skip(2);
  const xid = r.u32();
  // A peer of a newer version says hello in it, OpenFlow 1.5.1 §6.3.1.
  const version = (type === 0 ? Math.min(wireVersion, 6) : wireVersion) as OfVersion;
  if (version < 1 || version > 6) throw new OfError('OFPBRC_BAD_VERSION');
  const ctx = new DecodeContext(version, type, xid, options, depth);
  const route = readRoute(r, type, ctx);
  ctx.kind = route.kind;
  ctx.number = route.number;
  if (!lengthFits(route.type, version, route.kind, r.left)) throw new OfError('OFPBRC_BAD_LEN');
  const message = codecOf(route.type).decode(r, ctx);
  if (r.left > 0) throw new OfError('OFPBRC_BAD_LEN');
  return { xid, version, message };
}

/** A message in a bundle: an unreadable one is "unsupported", whatever is wrong with its type. */
function decodeNested(r: Reader, options: DecodeOptions, depth: number): Message {
  // What carries a message carries none that does so itself; a long message could have thousands, one in the other.
  if (depth > 1) throw new OfError('OFPBFC_MSG_UNSUP');
  try {
    return decodeFrom(r, options, depth).message;
  } catch (error) {
    const unknown = [
      'OFPBRC_BAD_TYPE',
      'OFPBRC_BAD_STAT',
      'OFPBRC_BAD_VENDOR',
      'OFPBRC_BAD_SUBTYPE',
    ];
    if (error instanceof OfError && unknown.includes(error.code))
      throw new OfError('OFPBFC_MSG_UNSUP');
    throw error;
  }
}

function readRoute(r: Reader, type: number, ctx: BodyContext): Route {
  const { version } = ctx;
  if (type === EXPERIMENTER) {
    if (r.left < 8) throw new OfError('OFPBRC_BAD_LEN');
    const vendor = r.u32();
    if (vendor !== NX_VENDOR && vendor !== ONF_VENDOR) throw new OfError('OFPBRC_BAD_VENDOR');
    const route = routeByNumber(version, vendor === NX_VENDOR ? 'nx' : 'onf', r.u32());
    if (route === undefined) throw new OfError('OFPBRC_BAD_SUBTYPE');
    return route;
  }
  const stats = type - statsType(version);
  if (stats !== 0 && stats !== 1) {
    const route = routeByNumber(version, 'of', type);
    if (route === undefined) throw new OfError('OFPBRC_BAD_TYPE');
    return route;
  }
  const direction = stats === 0 ? 'request' : 'reply';
  const number = r.u16();
  ctx.more = (r.u16() & MORE) !== 0;
  if (version > 1) r.skip(4);
  if (number !== STATS_EXPERIMENTER) {
    const route = routeByNumber(version, direction, number);
    if (route === undefined) throw new OfError('OFPBRC_BAD_STAT');
    return route;
  }
  const vendor = r.u32();
  if (vendor !== NX_VENDOR && vendor !== ONF_VENDOR) throw new OfError('OFPBRC_BAD_VENDOR');
  const subtype = r.u32();
  if (version === 1) r.skip(4);
  const kind: Kind = vendor === NX_VENDOR ? `nx_${direction}` : `onf_${direction}`;
  const route = routeByNumber(version, kind, subtype);
  if (route === undefined) throw new OfError('OFPBRC_BAD_SUBTYPE');
  return route;
}

// ---- encoding

export interface EncodeOptions {
  tlvs?: readonly TlvMapping[];
  /** Flow-mods of OpenFlow 1.0 carry their table. */
  tableId?: boolean;
  /** A flow was too long for a reply of this version, and was left out. */
  skipped?: () => void;
}

const NXT_PACKET_INS = { standard: undefined, nxt_packet_in: 17, nxt_packet_in2: 30 } as const;

function routeOf(message: Message, version: number): Route {
  let nicira = 'nxt' in message && message.nxt === true;
  let number: number | undefined;
  if (message.type === 'packet_in') {
    number = NXT_PACKET_INS[message.format];
    nicira = number !== undefined;
  }
  const route = routeForType(message.type, version, nicira, number);
  if (route === undefined)
    throw new RangeError(`no ${message.type} in OpenFlow version ${version}`);
  return route;
}

/** Encodes a message; as several when a list does not fit into one. */
export function encode(
  version: OfVersion,
  xid: number,
  message: Message,
  options: EncodeOptions = {},
): Uint8Array[] {
  const route = routeOf(message, version);
  const head = headOf(route, version);
  const body = new Writer();
  const marks: number[] = [];
  const ctx: BodyContext = {
    version,
    kind: route.kind,
    number: route.number,
    tableId: options.tableId ?? false,
    xid,
    more: false,
    nested: () => message,
    encodeNested: (w, innerXid, inner) => {
      for (const bytes of encode(version, innerXid, inner, options)) w.put(bytes);
    },
    mark: () => marks.push(body.length),
    room: MAX_MESSAGE_LEN - HEADER_LEN - head.length,
    skipped: options.skipped,
    ...(options.tlvs === undefined ? {} : { tlvs: options.tlvs }),
  };
  codecOf(message.type).encode(body, message as never, ctx);
  const more = 'more' in message && message.more === true;
  return frame(route, head, version, xid, body, marks, more);
}

function frame(
  route: Route,
  head: Uint8Array,
  version: number,
  xid: number,
  body: Writer,
  marks: readonly number[],
  more: boolean,
): Uint8Array[] {
  const bytes = body.finish();
  const room = MAX_MESSAGE_LEN - HEADER_LEN - head.length;
  const messages: Uint8Array[] = [];
  let from = 0;
  while (bytes.length - from > room) {
    const to = marks.findLast((m) => m > from && m - from <= room);
    if (to === undefined) throw new RangeError('OpenFlow message over 64 KiB');
    messages.push(assemble(route, version, xid, head, bytes.subarray(from, to), true));
    from = to;
  }
  messages.push(assemble(route, version, xid, head, bytes.subarray(from), more));
  return messages;
}

/** What stands between header and body, with flags of zero. */
function headOf(route: Route, version: number): Uint8Array {
  const w = new Writer();
  const { kind, number } = route;
  if (kind === 'of') return w.finish();
  const vendor = kind.startsWith('nx') ? NX_VENDOR : ONF_VENDOR;
  if (kind === 'nx' || kind === 'onf') return w.u32(vendor).u32(number).finish();
  const standard = kind === 'request' || kind === 'reply';
  w.u16(standard ? number : STATS_EXPERIMENTER).u16(0);
  if (version > 1) w.zeros(4);
  if (!standard)
    w.u32(vendor)
      .u32(number)
      .zeros(version === 1 ? 4 : 0);
  return w.finish();
}

function assemble(
  route: Route,
  version: number,
  xid: number,
  head: Uint8Array,
  body: Uint8Array,
  more: boolean,
): Uint8Array {
  const { kind, number } = route;
  const type =
    kind === 'of'
      ? number
      : kind === 'nx' || kind === 'onf'
        ? EXPERIMENTER
        : statsType(version) + (kind.endsWith('reply') ? 1 : 0);
  const out = new Uint8Array(HEADER_LEN + head.length + body.length);
  const view = new DataView(out.buffer);
  view.setUint8(0, version);
  view.setUint8(1, type);
  view.setUint16(2, out.length);
  view.setUint32(4, xid);
  out.set(head, HEADER_LEN);
  out.set(body, HEADER_LEN + head.length);
  if (more) view.setUint16(HEADER_LEN + 2, MORE);
  return out;
}
