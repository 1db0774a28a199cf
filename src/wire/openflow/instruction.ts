// Instructions (OpenFlow 1.1 §A.2.4, 1.5.1 §7.2.5) as Open vSwitch sees them: a flow has one list of actions, in the
// order meter, apply, clear, write, metadata, goto; OpenFlow 1.0 gets the list without the instructions. Also the
// checks of the list as a whole: order, what may be nested where.

import { decodeActions } from './actionDecode.ts';
import { encodeActions } from './actionEncode.ts';
import type { Reader, Writer } from './buffer.ts';
import type { CodecContext } from './oxm.ts';
import type { Action } from './types.ts';
import { OfError } from './types.ts';

const GOTO_TABLE = 1;
const WRITE_METADATA = 2;
const WRITE_ACTIONS = 3;
const APPLY_ACTIONS = 4;
const CLEAR_ACTIONS = 5;
const METER = 6;
const EXPERIMENTER = 0xffff;

/** Fixed length of the instruction, 0 = at least 8. */
const LENGTHS: Readonly<Record<number, number>> = {
  [GOTO_TABLE]: 8,
  [WRITE_METADATA]: 24,
  [WRITE_ACTIONS]: 0,
  [APPLY_ACTIONS]: 0,
  [CLEAR_ACTIONS]: 8,
  [METER]: 8,
};

/** Instructions (OpenFlow 1.0: actions) to the end of `r`. */
export function decodeInstructions(r: Reader, ctx: CodecContext): Action[] {
  if (ctx.version === 1) {
    const actions = decodeActions(r, ctx);
    verifyActions(actions, ctx.version);
    return actions;
  }
  const bodies = splitInstructions(r, ctx);
  const actions: Action[] = [];
  const meter = bodies.get(METER);
  if (meter !== undefined) actions.push({ type: 'meter', meterId: meter.u32() });
  const apply = bodies.get(APPLY_ACTIONS);
  if (apply !== undefined) {
    apply.skip(4);
    actions.push(...decodeActions(apply, ctx));
  }
  if (bodies.has(CLEAR_ACTIONS)) actions.push({ type: 'clear_actions' });
  const write = bodies.get(WRITE_ACTIONS);
  if (write !== undefined) {
    write.skip(4);
    const nested = decodeActions(write, ctx, 1);
    for (const a of nested) if (!mayBeInActionSet(a)) throw new OfError('OFPBAC_BAD_TYPE');
    actions.push({ type: 'write_actions', actions: nested });
  }
  const metadata = bodies.get(WRITE_METADATA);
  if (metadata !== undefined) {
    metadata.skip(4);
    actions.push({ type: 'write_metadata', metadata: metadata.u64(), mask: metadata.u64() });
  }
  const goto = bodies.get(GOTO_TABLE);
  if (goto !== undefined) actions.push({ type: 'goto_table', table: goto.u8() });
  verifyActions(actions, ctx.version);
  return actions;
}

function splitInstructions(r: Reader, ctx: CodecContext): Map<number, Reader> {
  if (r.left % 8 !== 0) throw new OfError('OFPBIC_BAD_LEN');
  const bodies = new Map<number, Reader>();
  while (r.left > 0) {
    const type = r.u16();
    const length = r.u16();
    if (length < 8 || length % 8 !== 0 || length - 4 > r.left) throw new OfError('OFPBIC_BAD_LEN');
    if (type === EXPERIMENTER) throw new OfError('OFPBIC_BAD_EXPERIMENTER');
    const expected = LENGTHS[type];
    // OpenFlow 1.5 made the meter an action.
    if (expected === undefined || (type === METER && (ctx.version < 4 || ctx.version > 5)))
      throw new OfError('OFPBIC_UNKNOWN_INST');
    if (expected !== 0 && length !== expected) throw new OfError('OFPBIC_BAD_LEN');
    if (bodies.has(type)) throw new OfError('OFPBIC_DUP_INST');
    bodies.set(type, r.sub(length - 4, 'OFPBIC_BAD_LEN'));
  }
  return bodies;
}

const IN_ACTION_SET = new Set<Action['type']>([
  'strip_vlan',
  'pop_mpls',
  'decap',
  'encap',
  'push_mpls',
  'push_vlan',
  'dec_ttl',
  'dec_mpls_ttl',
  'dec_nsh_ttl',
  'ct',
  'ct_clear',
  'resubmit',
  'output',
  'group',
  'set_field',
  'load',
  'move',
  'set_queue',
  'set_vlan_pcp',
  'set_vlan_vid',
]);

/** What write_actions and group buckets may hold. */
export function mayBeInActionSet(a: Action): boolean {
  return IN_ACTION_SET.has(a.type);
}

/** Position of the action's instruction in a list; all ordinary actions are "apply". */
function rank(a: Action, version: number): number {
  switch (a.type) {
    case 'meter':
      return version >= 6 ? 1 : 0;
    case 'clear_actions':
      return 2;
    case 'write_actions':
      return 3;
    case 'write_metadata':
      return 4;
    case 'goto_table':
      return 5;
    default:
      return 1;
  }
}

/** Throws OfError for a list that no table could run, whatever its match. */
export function verifyActions(actions: readonly Action[], version: number, outer?: 'clone'): void {
  let last = 0;
  for (const [i, a] of actions.entries()) {
    if (a.type === 'conjunction') {
      for (const b of actions)
        if (b.type !== 'conjunction' && b.type !== 'note')
          throw new OfError('NXBAC_BAD_CONJUNCTION');
      return;
    }
    verifyNesting(a, version, outer);
    const r = rank(a, version);
    if (i > 0 && (last === 1 ? r < last : r <= last)) throw new OfError('OFPBAC_UNSUPPORTED_ORDER');
    if (outer !== undefined && r !== 1) throw new OfError('OFPBIC_UNSUP_INST');
    last = r;
  }
}

function verifyNesting(a: Action, version: number, outer?: 'clone'): void {
  if (a.type === 'nat') throw new OfError('OFPBAC_BAD_SET_ARGUMENT', 'nat outside of ct');
  const field =
    a.type === 'set_field' ? a.field : a.type === 'load' || a.type === 'move' ? a.dst.field : '';
  if (field === 'ct_mark' || field === 'ct_label')
    throw new OfError('OFPBAC_BAD_SET_ARGUMENT', `cannot set ${field} outside of ct`);
  if (a.type === 'meter' && outer !== undefined) throw new OfError('OFPBAC_BAD_ARGUMENT');
  if (a.type === 'clone') verifyActions(a.actions, version, 'clone');
  if (a.type === 'write_actions') for (const b of a.actions) verifyNesting(b, version);
}

// ---- writing

export function encodeInstructions(w: Writer, actions: readonly Action[], ctx: CodecContext): void {
  const v = ctx.version;
  if (v === 1) {
    encodeActions(w, actions, ctx);
    return;
  }
  let i = 0;
  while (i < actions.length) {
    const a = actions[i]!;
    if (rank(a, v) === 1) {
      let end = i;
      while (end < actions.length && rank(actions[end]!, v) === 1) end++;
      putActionList(w, APPLY_ACTIONS, actions.slice(i, end), ctx);
      i = end;
      continue;
    }
    i++;
    switch (a.type) {
      case 'meter':
        if (v === 4 || v === 5) w.u16(METER).u16(8).u32(a.meterId);
        break;
      case 'clear_actions':
        w.u16(CLEAR_ACTIONS).u16(8).zeros(4);
        break;
      case 'write_actions':
        putActionList(w, WRITE_ACTIONS, a.actions, ctx);
        break;
      case 'write_metadata':
        w.u16(WRITE_METADATA).u16(24).zeros(4).u64(a.metadata).u64(a.mask);
        break;
      case 'goto_table':
        w.u16(GOTO_TABLE).u16(8).u8(a.table).zeros(3);
        break;
    }
  }
}

/** An instruction without any action is not sent. */
function putActionList(
  w: Writer,
  type: number,
  actions: readonly Action[],
  ctx: CodecContext,
): void {
  const start = w.length;
  w.u16(type).u16(0).zeros(4);
  encodeActions(w, actions, ctx);
  if (w.length === start + 8) w.truncate(start);
  else w.patchLength(start + 2, start);
}
