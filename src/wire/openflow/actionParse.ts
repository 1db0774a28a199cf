// Actions from text, as ovs-ofctl takes them (ovs-actions(7)): the ones that the switch itself executes. Errors are
// TextError with Open vSwitch's words where users meet them.

import { PACKET_TYPE_NSH } from '../../../contract/tunnel.ts';
import { parseCt } from './ctParse.ts';
import { parseEncapProps } from './encapProps.ts';
import { toBytes } from './fieldAccess.ts';
import { fieldByName, findField } from './fields.ts';
import type { PortMap } from './fieldText.ts';
import { parseField, parsePort, parseSubfield, TextError } from './fieldText.ts';
import { splitKeyValues } from './matchParse.ts';
import type { Action } from './types.ts';
import * as t from './types.ts';

function number(text: string, what: string, max: number): number {
  const n = /^(0x[0-9a-f]+|\d+)$/i.test(text) ? Number(text) : Number.NaN;
  if (!(n <= max)) throw new TextError(`invalid ${what} "${text}"`);
  return n;
}

function portOf(text: string, ports?: PortMap): number {
  const port = parsePort(text, ports);
  if (port === undefined) throw new TextError(`${text}: output to unknown port`);
  return port;
}

function split(text: string): [value: string, field: string] {
  const arrow = text.indexOf('->');
  if (arrow < 0) throw new TextError(`${text}: missing \`->'`);
  if (arrow + 2 === text.length) throw new TextError(`${text}: missing field name following \`->'`);
  return [text.slice(0, arrow), text.slice(arrow + 2)];
}

const LEGACY: Readonly<Record<string, string>> = {
  mod_dl_src: 'eth_src',
  mod_dl_dst: 'eth_dst',
  mod_nw_src: 'ip_src',
  mod_nw_dst: 'ip_dst',
  mod_nw_ecn: 'nw_ecn',
  mod_nw_ttl: 'nw_ttl',
  mod_tp_src: 'tcp_src',
  mod_tp_dst: 'tcp_dst',
  set_tunnel: 'tun_id',
  set_tunnel64: 'tun_id',
  set_mpls_label: 'mpls_label',
  set_mpls_tc: 'mpls_tc',
  set_mpls_ttl: 'mpls_ttl',
};

function legacy(name: string, text: string): Action {
  if (name === 'mod_nw_tos') {
    const tos = number(text, 'TOS', 255);
    if (tos & 3) throw new TextError(`${tos}: not a valid TOS`);
    return set('ip_dscp', BigInt(tos >> 2), name);
  }
  const field = LEGACY[name]!;
  const [value] = parseField({ ...fieldByName(field), maskable: false }, text);
  return set(field, value, name);
}

function set(field: string, value: bigint, name?: string): Action {
  const f = fieldByName(field);
  return {
    type: 'set_field',
    field,
    value: toBytes(value, f.bytes),
    mask: new Uint8Array(f.bytes).fill(0xff),
    ...(name === undefined ? {} : { legacy: name }),
  };
}

function setField(text: string, ports?: PortMap): Action {
  const [valueText, name] = split(text);
  const f = findField(name);
  if (f === undefined) throw new TextError(`${name} is not a valid OXM field name`);
  if (!f.writable) throw new TextError(`${name} is read-only`);
  let [value, mask] = parseField({ ...f, maskable: true }, valueText, ports);
  if (f.name === 'vlan_vid') {
    value |= 0x1000n;
    mask |= 0x1000n;
  }
  value &= mask;
  if (value >> BigInt(f.valueBits) !== 0n)
    throw new TextError(`${valueText}: value too large for field ${name}`);
  return {
    type: 'set_field',
    field: f.name,
    value: toBytes(value, f.bytes),
    mask: toBytes(mask, f.bytes),
  };
}

function load(text: string): Action {
  const [valueText, name] = split(text);
  const dst = parseSubfield(name);
  if (!/^(0x[0-9a-f]+|\d+)$/i.test(valueText))
    throw new TextError(`${valueText}: cannot parse integer value`);
  const value = BigInt(valueText);
  if (value >> BigInt(dst.bits) !== 0n)
    throw new TextError(`${text}: value ${valueText} does not fit into ${dst.bits} bits`);
  return { type: 'load', dst, value };
}

function move(text: string): Action {
  const [from, to] = split(text);
  const [src, dst] = [parseSubfield(from), parseSubfield(to)];
  if (src.bits !== dst.bits)
    throw new TextError(
      `${text}: source field is ${src.bits} bits wide but destination is ${dst.bits} bits wide`,
    );
  return { type: 'move', src, dst };
}

function output(text: string, ports?: PortMap): Action {
  if (text.includes('port=') && text.includes('max_len=')) {
    const keys = new Map(splitKeyValues(text));
    const maxLen = number(keys.get('max_len') ?? '', 'max_len', 0xffffffff);
    if (maxLen < 14) throw new TextError(`max_len ${maxLen} is less than the minimum value 14`);
    return { type: 'output_trunc', port: portOf(keys.get('port') ?? '', ports), maxLen };
  }
  const port = parsePort(text, ports);
  if (port !== undefined)
    return { type: 'output', port, maxLen: port === t.OFPP_CONTROLLER ? 0xffff : 0 };
  try {
    return { type: 'output_reg', source: parseSubfield(text), maxLen: 0xffff };
  } catch {
    throw new TextError(`${text}: output to unknown port`);
  }
}

const REASONS = ['no_match', 'action', 'invalid_ttl', 'action_set', 'group', 'packet_out'];

function controller(text: string): Action {
  if (/^\d*$/.test(text)) {
    const maxLen = text === '' ? 0xffff : number(text, 'max_len', 0xffff);
    return { type: 'output', port: t.OFPP_CONTROLLER, maxLen };
  }
  const a: Action & { type: 'controller' } = {
    type: 'controller',
    maxLen: 0xffff,
    controllerId: 0,
    reason: 1,
  };
  for (const [key, value] of splitKeyValues(text)) {
    if (key === 'max_len') a.maxLen = number(value, key, 0xffff);
    else if (key === 'id') a.controllerId = number(value, key, 0xffff);
    else if (key === 'reason') {
      a.reason = REASONS.indexOf(value);
      if (a.reason < 0) throw new TextError(`unknown reason "${value}"`);
    } else if (key === 'userdata') a.userdata = hexBytes(value, "`controller' action `userdata'");
    else if (key === 'pause') a.pause = true;
    else if (key === 'meter_id') a.meterId = number(value, key, 0xffffffff);
    else throw new TextError(`unknown key "${key}" parsing controller action`);
  }
  if (a.reason === 1 && !a.controllerId && !a.userdata && !a.pause && a.meterId === undefined)
    return { type: 'output', port: t.OFPP_CONTROLLER, maxLen: a.maxLen };
  return a;
}

function hexBytes(text: string, what: string): Uint8Array {
  const digits = text.replace(/[.\s]/g, '');
  if (digits.length % 2 !== 0 || !/^[0-9a-f]*$/i.test(digits))
    throw new TextError(`bad hex digit in ${what}`);
  return Uint8Array.from(Buffer.from(digits, 'hex'));
}

/** The note is padded as it would be on the wire: 6 bytes, then multiples of 8. */
function note(text: string): Action {
  const bytes = hexBytes(text, "`note' argument");
  const data = new Uint8Array(6 + 8 * Math.ceil(Math.max(0, bytes.length - 6) / 8));
  data.set(bytes);
  return { type: 'note', data };
}

function resubmit(text: string, parens: boolean, ports?: PortMap): Action {
  if (!parens) return { type: 'resubmit', inPort: portOf(text, ports), table: 0xff };
  const [portText = '', tableText = '', ct = ''] = text.split(',').map((s) => s.trim());
  if (portText === '' && tableText === '')
    throw new TextError('at least one "in_port" or "table" must be specified  on resubmit');
  const inPort = portText === '' ? t.OFPP_IN_PORT : portOf(portText, ports);
  const table = tableText === '' ? 0xff : number(tableText, 'table', 255);
  return { type: 'resubmit', inPort, table, ...(ct === 'ct' ? { withCt: true } : {}) };
}

function enqueue(text: string, ports?: PortMap): Action {
  const [port, queue] = text.split(/[:q,]/);
  if (!port || !queue)
    throw new TextError('"enqueue" syntax is "enqueue:PORT:QUEUE" or "enqueue(PORT,QUEUE)"');
  return { type: 'enqueue', port: portOf(port, ports), queue: number(queue, 'queue', 0xffffffff) };
}

function writeMetadata(text: string): Action {
  const [value = '', mask] = text.split('/');
  if (!/^(0x[0-9a-f]+|\d+)$/i.test(value)) throw new TextError(`${text}: invalid metadata`);
  return {
    type: 'write_metadata',
    metadata: BigInt(value),
    mask: mask === undefined ? 0xffffffffffffffffn : BigInt(mask),
  };
}

type Parser = (text: string, parens: boolean, ports?: PortMap) => Action;

const PARSERS: Readonly<Record<string, Parser>> = {
  output: (s, _, ports) => output(s, ports),
  controller,
  enqueue: (s, _, ports) => enqueue(s, ports),
  set_queue: (s) => ({ type: 'set_queue', queue: number(s, 'queue', 0xffffffff) }),
  pop_queue: () => ({ type: 'pop_queue' }),
  set_field: (s, _, ports) => setField(s, ports),
  load,
  reg_load: load,
  move,
  mod_vlan_vid: (s) => ({ type: 'set_vlan_vid', vid: vid(s), pushIfNeeded: true }),
  set_vlan_vid: (s) => ({ type: 'set_vlan_vid', vid: vid(s), pushIfNeeded: false }),
  mod_vlan_pcp: (s) => ({ type: 'set_vlan_pcp', pcp: pcp(s), pushIfNeeded: true }),
  set_vlan_pcp: (s) => ({ type: 'set_vlan_pcp', pcp: pcp(s), pushIfNeeded: false }),
  strip_vlan: () => ({ type: 'strip_vlan', legacy: true }),
  pop_vlan: () => ({ type: 'strip_vlan' }),
  push_vlan: (s) => {
    const ethertype = number(s, 'ethertype', 0xffff);
    if (ethertype !== 0x8100 && ethertype !== 0x88a8)
      throw new TextError(`${s}: not a valid VLAN ethertype`);
    return { type: 'push_vlan', ethertype };
  },
  push_mpls: (s) => ({ type: 'push_mpls', ethertype: number(s, 'push_mpls', 0xffff) }),
  pop_mpls: (s) => ({ type: 'pop_mpls', ethertype: number(s, 'pop_mpls', 0xffff) }),
  dec_mpls_ttl: () => ({ type: 'dec_mpls_ttl' }),
  dec_nsh_ttl: () => ({ type: 'dec_nsh_ttl' }),
  dec_ttl: (s) =>
    s === ''
      ? { type: 'dec_ttl', controllerIds: [0] }
      : {
          type: 'dec_ttl',
          controllerIds: s.split(',').map((id) => number(id.trim(), 'controller id', 0xffff)),
          explicitIds: true,
        },
  resubmit,
  group: (s) => ({ type: 'group', group: number(s, 'group', 0xffffffff) }),
  note: (s) => note(s),
  exit: () => ({ type: 'exit' }),
  push: (s) => ({ type: 'stack_push', subfield: parseSubfield(s) }),
  pop: (s) => ({ type: 'stack_pop', subfield: parseSubfield(s) }),
  clone: (s, _, ports) => ({ type: 'clone', actions: parseActions(s, ports) }),
  ct: (s, _, ports) => parseCt(s, ports),
  ct_clear: () => ({ type: 'ct_clear' }),
  encap: (s) => encap(s),
  decap: (s) => decap(s),
  meter: (s) => ({ type: 'meter', meterId: number(s, 'meter', 0xffffffff) }),
  clear_actions: () => ({ type: 'clear_actions' }),
  write_actions: (s, _, ports) => ({ type: 'write_actions', actions: parseActions(s, ports) }),
  write_metadata: (s) => writeMetadata(s),
  goto_table: (s) => ({ type: 'goto_table', table: number(s, 'table', 254) }),
};

function encap(text: string): Action {
  const [, name = '', inner = ''] = /^\s*([^(\s]*)\s*(?:\((.*)\))?\s*$/s.exec(text) ?? [];
  const packetType = { ethernet: 0, mpls: 0x18847, mpls_mc: 0x18848, nsh: PACKET_TYPE_NSH }[name];
  if (packetType === undefined) throw new TextError(`Encap hdr not supported: ${text}`);
  const properties = parseEncapProps(packetType, inner);
  return { type: 'encap', packetType, ...(properties.length === 0 ? {} : { properties }) };
}

function decap(text: string): Action {
  if (text === '') return { type: 'decap', packetType: 0xfffe };
  const words = /^packet_type\(ns=(\d+),(?:type|id)=(0x[0-9a-f]+|\d+)\)$/i.exec(text);
  if (words === null) throw new TextError(`Unsupported packet_type in decap: ${text}`);
  const [space, type] = [Number(words[1]), Number(words[2])];
  if (space > 0xffff || type > 0xffff)
    throw new TextError(`Unsupported packet_type in decap: ${text}`);
  return { type: 'decap', packetType: ((space << 16) | type) >>> 0 };
}

function vid(text: string): number {
  const n = number(text, 'VLAN VID', 0xffff);
  if (n > 0xfff) throw new TextError(`${text}: not a valid VLAN VID`);
  return n;
}

function pcp(text: string): number {
  const n = number(text, 'VLAN PCP', 0xff);
  if (n > 7) throw new TextError(`${text}: not a valid VLAN PCP`);
  return n;
}

/** "drop" and "" are the empty list. Throws TextError. */
export function parseActions(text: string, ports?: PortMap): Action[] {
  const actions: Action[] = [];
  const pairs = splitActions(text);
  for (const { name, value, parens } of pairs) {
    if (name === 'drop') {
      if (pairs.length > 1)
        throw new TextError('"drop" must not be accompanied by any other action or instruction');
      return [];
    }
    const lower = name.toLowerCase();
    const parser = PARSERS[lower];
    if (parser !== undefined) actions.push(parser(value, parens, ports));
    else if (LEGACY[lower] !== undefined || lower === 'mod_nw_tos')
      actions.push(legacy(lower, value));
    else {
      const port = parsePort(name, ports);
      if (port === undefined || value !== '') throw new TextError(`unknown action ${name}`);
      actions.push({ type: 'output', port, maxLen: port === t.OFPP_CONTROLLER ? 0xffff : 0 });
    }
  }
  return actions;
}

interface ActionTextItem {
  name: string;
  value: string;
  parens: boolean;
}

/** As splitKeyValues, but remembers whether the argument stood in parentheses. */
function splitActions(text: string): ActionTextItem[] {
  const items: ActionTextItem[] = [];
  const re = /[,\s]*([^:=(,\s]+)/y;
  let at = 0;
  while (at < text.length) {
    re.lastIndex = at;
    const m = re.exec(text);
    if (m === null) break;
    at = re.lastIndex;
    const delimiter = text[at];
    let value = '';
    if (delimiter === ':' || delimiter === '=' || delimiter === '(') {
      const end = argumentEnd(text, at + 1, delimiter === '(');
      value = text.slice(at + 1, end);
      at = delimiter === '(' ? end + 1 : end;
    }
    items.push({ name: m[1]!, value, parens: delimiter === '(' });
  }
  return items;
}

function argumentEnd(text: string, start: number, parens: boolean): number {
  let depth = 0;
  for (let i = start; i < text.length; i++) {
    const c = text[i]!;
    if (c === '(') depth++;
    else if (c === ')') {
      if (depth === 0) return i;
      depth--;
    } else if (!parens && depth === 0 && /[,\s]/.test(c)) return i;
  }
  return text.length;
}
