// Messages as text, for the log of module vconn (ovs-vswitchd(8), "vlog/set vconn:dbg"): like ovs-ofctl prints them, where
// debugging of controllers needs it (hello, flow-mods, flows, bundles, errors); other messages as the fields that they have.

import { formatActions } from './actionText.ts';
import type { Kind } from './codec.ts';
import { formatPort } from './fieldText.ts';
import { formatMatch } from './matchText.ts';
import { decode, HEADER_LEN } from './message.ts';
import type { Message, MessageType } from './messages.ts';
import { routeByNumber } from './routes.ts';
import { type FlowMod, type FlowStatsEntry, OFPP_NONE, OfError } from './types.ts';

const NO_BUFFER = 0xffffffff;
const ALL_ONES = 0xffffffffffffffffn;
const ALL_TABLES = 0xff;
const NX_VENDOR = 0x00002320;
const EXPERIMENTER = 4;
const STATS_EXPERIMENTER = 0xffff;
/** Of the text of a message whose form we do not know by heart. */
const MAX_FIELDS_TEXT = 2000;

/** printf's %#x: zero has no prefix. */
const hex = (value: number | bigint): string => (value ? `0x${value.toString(16)}` : '0');

/** Names that are not those of our own types. */
const NAMES: Partial<Record<MessageType, string>> = {
  flow_stats_request: 'FLOW',
  flow_stats_reply: 'FLOW',
  table_stats_request: 'TABLE',
  table_stats_reply: 'TABLE',
  port_stats_request: 'PORT',
  port_stats_reply: 'PORT',
  queue_stats_request: 'QUEUE',
  queue_stats_reply: 'QUEUE',
  group_stats_request: 'GROUP',
  group_stats_reply: 'GROUP',
  meter_stats_request: 'METER',
  meter_stats_reply: 'METER',
  bundle_add: 'BUNDLE_ADD_MESSAGE',
};

/** What the header says: the kind of number that the message has, the number, who gave it, whether it is a reply. */
function numberOf(bytes: Uint8Array): { kind: Kind; number: number; who: string } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = bytes[0]!;
  const number = bytes[1]!;
  const at = (offset: number): number => (offset + 4 <= bytes.length ? view.getUint32(offset) : 0);
  const whose = (vendor: number): 'nx' | 'onf' => (vendor === NX_VENDOR ? 'nx' : 'onf');
  const way = number === (version === 1 ? 17 : 19) ? 'reply' : 'request';
  if (way === 'request' && number !== (version === 1 ? 16 : 18)) {
    if (number !== EXPERIMENTER) return { kind: 'of', number, who: 'OFP' };
    const kind = whose(at(HEADER_LEN));
    return { kind, number: at(HEADER_LEN + 4), who: kind.toUpperCase() };
  }
  const stats = at(HEADER_LEN) >>> 16;
  if (stats !== STATS_EXPERIMENTER) return { kind: way, number: stats, who: 'OFP' };
  const vendorAt = version === 1 ? 12 : 16;
  const owner = whose(at(vendorAt));
  return { kind: `${owner}_${way}`, number: at(vendorAt + 4), who: owner.toUpperCase() };
}

/** "OFPST_FLOW reply (OF1.4) (xid=0x2):". */
function heading(bytes: Uint8Array): string {
  const { kind, number, who } = numberOf(bytes);
  const version = bytes[0]!;
  const xid = new DataView(bytes.buffer, bytes.byteOffset).getUint32(4);
  const spoken =
    version === 1
      ? ''
      : version <= 6
        ? ` (OF1.${version - 1})`
        : ` (OF 0x${version.toString(16).padStart(2, '0')})`;
  const end = `${spoken} (xid=0x${xid.toString(16)}):`;
  // A hello may be of a version that we do not know.
  const type = routeByNumber(Math.min(version, 6), kind, number)?.type;
  const way = /(request|reply)$/.exec(kind)?.[0];
  const name =
    type === undefined
      ? `${number}`
      : (NAMES[type] ?? (way ? type.replace(/_(request|reply)$/, '') : type).toUpperCase());
  return way === undefined ? `${who}T_${name}${end}` : `${who}ST_${name} ${way}${end}`;
}

const COMMANDS: Readonly<Record<FlowMod['command'], string>> = {
  add: 'ADD',
  modify: 'MOD',
  modify_strict: 'MOD_STRICT',
  delete: 'DEL',
  delete_strict: 'DEL_STRICT',
};

function flagsText(flags: FlowMod['flags'], version: number): string {
  let text = flags.sendFlowRem ? 'send_flow_rem ' : '';
  if (flags.checkOverlap) text += 'check_overlap ';
  // OpenFlow 1.0 and 1.1 have no such flag, but always do that.
  if (flags.resetCounts && version >= 3) text += 'reset_counts ';
  if (flags.noPktCounts) text += 'no_packet_counts ';
  if (flags.noBytCounts) text += 'no_byte_counts ';
  return text;
}

function flowModText(m: FlowMod, version: number): string {
  let text = ` ${COMMANDS[m.command]}`;
  if (m.table !== 0) text += ` table:${m.table}`;
  text += ' ';
  const match = formatMatch(m.match, { priority: m.priority });
  if (match !== '') text += `${match} `;
  if (m.newCookie !== 0n && m.newCookie !== ALL_ONES) text += `cookie:${hex(m.newCookie)} `;
  if (m.cookieMask !== 0n) text += `cookie:0x${m.cookie.toString(16)}/${hex(m.cookieMask)} `;
  if (m.idleTimeout !== 0) text += `idle:${m.idleTimeout} `;
  if (m.hardTimeout !== 0) text += `hard:${m.hardTimeout} `;
  if (m.importance !== 0) text += `importance:${m.importance} `;
  if (m.bufferId !== NO_BUFFER) text += `buf:0x${m.bufferId.toString(16)} `;
  if (m.outPort !== OFPP_NONE) text += `out_port:${formatPort(m.outPort)} `;
  return `${text}${flagsText(m.flags, version)}actions=${formatActions(m.actions)}`;
}

function flowText(e: FlowStatsEntry, version: number): string {
  const seconds = e.durationMs / 1000;
  const duration = Number.isInteger(seconds) ? `${seconds}` : seconds.toFixed(3);
  let text = `cookie=0x${e.cookie.toString(16)}, duration=${duration}s, table=${e.table}, `;
  text += `n_packets=${e.packets}, n_bytes=${e.bytes}, `;
  if (e.idleTimeout !== 0) text += `idle_timeout=${e.idleTimeout}, `;
  if (e.hardTimeout !== 0) text += `hard_timeout=${e.hardTimeout}, `;
  text += flagsText(e.flags, version);
  if (e.importance !== 0) text += `importance=${e.importance}, `;
  if (e.idleAge >= 0) text += `idle_age=${e.idleAge}, `;
  if (e.hardAge >= 0 && e.hardAge !== Math.floor(seconds)) text += `hard_age=${e.hardAge}, `;
  const match = formatMatch(e.match, { priority: e.priority });
  return `${text}${match === '' ? '' : `${match} `}actions=${formatActions(e.actions)}`;
}

function flowRequestText({
  table,
  outPort,
  match,
}: { table: number; outPort: number } & Pick<FlowMod, 'match'>): string {
  let text = table === ALL_TABLES ? '' : ` table=${table}`;
  if (outPort !== OFPP_NONE) text += ` out_port=${formatPort(outPort)}`;
  return `${text} ${formatMatch(match)}`;
}

function bundleFlags(flags: number): string {
  const names = [flags & 1 ? 'atomic' : '', flags & 2 ? 'ordered' : ''].filter(Boolean);
  if (flags & ~3) names.push(hex(flags & ~3));
  return names.length > 0 ? names.join(' ') : '0';
}

/** Versions that a hello offers: without a bitmap, all up to that of its header. */
function helloText(bitmap: number | undefined, version: number): string {
  const offered = bitmap ?? 2 ** (version + 1) - 2;
  const versions: string[] = [];
  for (let v = 0; v < 31; v++) {
    if ((offered >>> v) & 1) versions.push(`0x${v.toString(16).padStart(2, '0')}`);
  }
  return `\n version bitmap: ${versions.join(', ')}`;
}

function fieldsText(message: Message): string {
  const { type: _, ...fields } = message;
  const names = Object.keys(fields);
  if (names.length === 0) return '';
  const text = JSON.stringify(fields, (_key, value: unknown) => {
    if (typeof value === 'bigint') return hex(value);
    if (value instanceof Uint8Array) return Buffer.from(value).toString('hex');
    return value;
  });
  return text.length > MAX_FIELDS_TEXT ? ` ${text.slice(0, MAX_FIELDS_TEXT)}…` : ` ${text}`;
}

function bodyText(message: Message, bytes: Uint8Array): string {
  const version = bytes[0]!;
  switch (message.type) {
    case 'hello':
      return helloText(message.bitmap, version);
    case 'error': {
      const { code, errorType = 0, errorCode = 0 } = message;
      return ` ${code === '' ? `***unknown type ${errorType} code ${errorCode}***` : code}`;
    }
    case 'echo_request':
    case 'echo_reply':
      return ` ${message.data.length} bytes of payload`;
    case 'set_flow_format':
      return ` format=${message.format}`;
    case 'flow_mod':
      return flowModText(message.flowMod, version);
    case 'flow_stats_request':
    case 'aggregate_request':
      return flowRequestText(message.request);
    case 'flow_stats_reply': {
      const flags = message.more ? ' flags=[more]' : '';
      return flags + message.entries.map((one) => `\n ${flowText(one, version)}`).join('');
    }
    case 'aggregate_reply': {
      const { packets, bytes: octets, flows } = message;
      return ` packet_count=${packets} byte_count=${octets} flow_count=${flows}`;
    }
    case 'bundle_control': {
      const { bundleId, control, flags } = message;
      const type = control.toUpperCase();
      return `\n bundle_id=${hex(bundleId)} type=${type} flags=${bundleFlags(flags)}`;
    }
    case 'bundle_add': {
      // The message stands behind bundle id and flags; before OpenFlow 1.4, behind the experimenter's numbers, too.
      const inner = bytes.subarray(HEADER_LEN + (version < 5 ? 16 : 8));
      const length = (inner[2]! << 8) | inner[3]!;
      const { bundleId, flags } = message;
      const text = messageText(inner.subarray(0, length));
      return `\n bundle_id=${hex(bundleId)} flags=${bundleFlags(flags)}\n${text}`;
    }
    default:
      return fieldsText(message);
  }
}

/** Text of a message with a whole header. Never throws: what cannot be decoded says so. */
export function messageText(bytes: Uint8Array): string {
  try {
    const { message } = decode(bytes, { tableId: true });
    return heading(bytes) + bodyText(message, bytes);
  } catch (error) {
    const what = error instanceof OfError ? error.code : (error as Error).message;
    return `${heading(bytes)} ***decode error: ${what}***`;
  }
}
