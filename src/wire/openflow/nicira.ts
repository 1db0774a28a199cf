// Bundles (OpenFlow 1.4.1 §7.3.9, the ONF extension of 1.3), forwarded requests (1.4.1 §7.4.6) and the small Nicira
// messages.

import type { Reader, Writer } from './buffer.ts';
import type { BodyContext, Codecs, MessageOf } from './codec.ts';
import { empty, readList } from './codec.ts';
import { decodeCtFlush, encodeCtFlush } from './ctFlush.ts';
import type { BundleControlType, Message, PacketInFormat, TlvMapping } from './messages.ts';
import { get16, get32 } from './prereq.ts';
import { readProps } from './prop.ts';
import { OfError } from './types.ts';

const CONTROL_TYPES: readonly BundleControlType[] = [
  'open_request',
  'open_reply',
  'close_request',
  'close_reply',
  'commit_request',
  'commit_reply',
  'discard_request',
  'discard_reply',
];

const FORWARDED = new Set<Message['type']>(['group_mod', 'meter_mod']);
const BUNDLABLE = new Set<Message['type']>(['flow_mod', 'port_mod', 'group_mod', 'packet_out']);

function decodeBundleAdd(r: Reader, ctx: BodyContext): MessageOf<'bundle_add'> {
  const bundleId = r.u32();
  r.skip(2);
  const flags = r.u16();
  const { bytes } = r;
  const at = r.offset;
  if (r.left < 8) throw new OfError('OFPBFC_MSG_BAD_LEN');
  const length = get16(bytes, at + 2);
  if (bytes[at] !== ctx.version) throw new OfError('OFPBFC_BAD_VERSION');
  if (length < 8 || length > r.left) throw new OfError('OFPBFC_MSG_BAD_LEN');
  const xid = get32(bytes, at + 4);
  if (xid !== ctx.xid) throw new OfError('OFPBFC_MSG_BAD_XID');
  const message = ctx.nested(r.sub(length));
  if (!BUNDLABLE.has(message.type)) throw new OfError('OFPBFC_MSG_UNSUP');
  r.offset = r.end; // properties: none are known
  return { type: 'bundle_add', bundleId, flags, xid, message };
}

function encodeBundleAdd(w: Writer, m: MessageOf<'bundle_add'>, ctx: BodyContext): void {
  w.u32(m.bundleId).zeros(2).u16(m.flags);
  ctx.encodeNested(w, m.xid, m.message);
}

// ---- TLV table

const TLV_COMMANDS = ['add', 'delete', 'clear'] as const;
const MAX_OPTION_LEN = 124;
const MAX_FIELDS = 64;

function readMapping(r: Reader): TlvMapping {
  const optionClass = r.u16();
  const optionType = r.u8();
  const optionLen = r.u8();
  const index = r.u16();
  r.skip(2);
  return { optionClass, optionType, optionLen, index };
}

function readMappings(r: Reader): TlvMapping[] {
  return readList(r, () => {
    const m = readMapping(r);
    if (m.optionLen === 0 || m.optionLen % 4 !== 0 || m.optionLen > MAX_OPTION_LEN)
      throw new OfError('NXTTMFC_BAD_OPT_LEN');
    if (m.index >= MAX_FIELDS) throw new OfError('NXTTMFC_BAD_FIELD_IDX');
    return m;
  });
}

function putMappings(w: Writer, mappings: readonly TlvMapping[]): void {
  for (const m of mappings)
    w.u16(m.optionClass).u8(m.optionType).u8(m.optionLen).u16(m.index).zeros(2);
}

const FORMATS: readonly PacketInFormat[] = ['standard', 'nxt_packet_in', 'nxt_packet_in2'];

/** NXT_CT_FLUSH: the zone among the properties that narrow the flush; 0xffff0000 and above do not exist. */

export const niciraCodecs: Codecs = {
  bundle_control: {
    decode: (r) => {
      const bundleId = r.u32();
      const control = CONTROL_TYPES[r.u16()];
      if (control === undefined) throw new OfError('OFPBFC_BAD_TYPE');
      const flags = r.u16();
      for (const _ of readProps(r)); // properties: none are known
      return { type: 'bundle_control', bundleId, control, flags };
    },
    encode: (w, m) => void w.u32(m.bundleId).u16(CONTROL_TYPES.indexOf(m.control)).u16(m.flags),
  },
  bundle_add: { decode: decodeBundleAdd, encode: encodeBundleAdd },
  requestforward: {
    decode: (r, ctx) => {
      if (r.left < 8) throw new OfError('OFPBRC_BAD_LEN');
      const xid = r.view.getUint32(r.offset + 4);
      const message = ctx.nested(r);
      if (!FORWARDED.has(message.type)) throw new OfError('OFPBFC_MSG_UNSUP');
      return { type: 'requestforward', xid, message };
    },
    encode: (w, m, ctx) => ctx.encodeNested(w, m.xid, m.message),
  },
  set_flow_format: {
    decode: (r) => {
      const format = r.u32();
      if (format !== 0 && format !== 2) throw new OfError('OFPBRC_EPERM');
      return { type: 'set_flow_format', format: format === 0 ? 'openflow10' : 'nxm' };
    },
    encode: (w, m) => void w.u32(m.format === 'nxm' ? 2 : 0),
  },
  flow_mod_table_id: {
    decode: (r) => {
      const enable = r.u8();
      r.skip(7);
      if (enable > 1) throw new OfError('OFPBRC_EPERM');
      return { type: 'flow_mod_table_id', enable: enable === 1 };
    },
    encode: (w, m) => void w.u8(m.enable ? 1 : 0).zeros(7),
  },
  set_packet_in_format: {
    decode: (r) => {
      const format = FORMATS[r.u32()];
      if (format === undefined) throw new OfError('OFPBRC_EPERM');
      return { type: 'set_packet_in_format', format };
    },
    encode: (w, m) => void w.u32(FORMATS.indexOf(m.format)),
  },
  set_controller_id: {
    decode: (r) => {
      r.mustBeZero(6, 'NXBRC_MUST_BE_ZERO');
      return { type: 'set_controller_id', controllerId: r.u16() };
    },
    encode: (w, m) => void w.zeros(6).u16(m.controllerId),
  },
  flow_age: empty({ type: 'flow_age' }),
  tlv_table_mod: {
    decode: (r) => {
      const command = TLV_COMMANDS[r.u16()];
      if (command === undefined) throw new OfError('NXTTMFC_BAD_COMMAND');
      r.skip(6);
      return { type: 'tlv_table_mod', command, mappings: readMappings(r) };
    },
    encode: (w, m) => {
      w.u16(TLV_COMMANDS.indexOf(m.command)).zeros(6);
      putMappings(w, m.mappings);
    },
  },
  tlv_table_request: empty({ type: 'tlv_table_request' }),
  tlv_table_reply: {
    decode: (r) => {
      const maxSpace = r.u32();
      const maxFields = r.u16();
      r.skip(10);
      return { type: 'tlv_table_reply', maxSpace, maxFields, mappings: readMappings(r) };
    },
    encode: (w, m) => {
      w.u32(m.maxSpace).u16(m.maxFields).zeros(10);
      putMappings(w, m.mappings);
    },
  },
  ct_flush_zone: {
    decode: (r) => {
      r.mustBeZero(6, 'NXBRC_MUST_BE_ZERO');
      return { type: 'ct_flush_zone', zone: r.u16() };
    },
    encode: (w, m) => void w.zeros(6).u16(m.zone),
  },
  ct_flush: {
    decode: (r) => ({ type: 'ct_flush', ...decodeCtFlush(r) }),
    encode: encodeCtFlush,
  },
};
