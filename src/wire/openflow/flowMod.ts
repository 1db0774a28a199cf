// Flow-mods: OFPT_FLOW_MOD of OpenFlow 1.0 and of 1.1 and later, NXT_FLOW_MOD. OpenFlow 1.5.1 §7.3.4.3.
//
// What the versions mean by the cookie: OpenFlow 1.0 and Nicira set the cookie of flows that they modify, later versions
// do not and can instead choose flows by it. Nicira chooses by a pseudo-field of the match.

import {
  FLOW_SIZE,
  K_CT_IPV6_DST,
  K_CT_IPV6_SRC,
  K_CT_NW_DST,
  K_CT_NW_SRC,
  K_ETH_TYPE,
  K_NW_PROTO,
  K_VLAN0_TCI,
  VLAN_PRESENT,
} from '../../../contract/key.ts';
import type { Reader, Writer } from './buffer.ts';
import type { BodyContext, Codecs } from './codec.ts';
import { port10To11, port11To10 } from './fieldAccess.ts';
import { decodeInstructions, encodeInstructions } from './instruction.ts';
import { normalizeMatch, pullOfp10Match, putOfp10Match } from './legacyMatch.ts';
import { type PullOptions, pullMatch, pullNxMatch, putMatch, putNxMatch } from './match.ts';
import { packMatch, packWords } from './packedMatch.ts';
import { checkPort } from './port.ts';
import { ETH_TYPE_IP, ETH_TYPE_IPV6, get16, get32 } from './prereq.ts';
import type { Action, FlowMod, FlowModCommand, Match } from './types.ts';
import { OFPP_NONE, OfError } from './types.ts';

export const COMMANDS: readonly FlowModCommand[] = [
  'add',
  'modify',
  'modify_strict',
  'delete',
  'delete_strict',
];

export const NO_BUFFER = 0xffffffff;
export const OFPG_ANY = 0xffffffff;
const NO_COOKIE = 0xffffffffffffffffn;
const ALL_WILDCARDS10 = 0x3fffff;

interface Head {
  command: number;
  match: Match;
  cookie: bigint;
  cookieMask: bigint;
  newCookie: bigint;
  priority: number;
  table: number;
  idleTimeout: number;
  hardTimeout: number;
  importance: number;
  bufferId: number;
  outPort: number;
  outGroup: number;
  flags: number;
}

/** Records in which matches are read that are packed as soon as the message is understood. */
const lentKey = new Int32Array(FLOW_SIZE / 4);
const lentMask = new Int32Array(FLOW_SIZE / 4);
const lent: Match = {
  key: new Uint8Array(lentKey.buffer),
  mask: new Uint8Array(lentMask.buffer),
};
const LENT: PullOptions = { into: lent };
const LENT_WITH_COOKIE: PullOptions = { into: lent, allowCookie: true };
const OWN: PullOptions = {};
const OWN_WITH_COOKIE: PullOptions = { allowCookie: true };

function lend(ctx: BodyContext, allowCookie: boolean): PullOptions {
  if (ctx.packed !== true) return allowCookie ? OWN_WITH_COOKIE : OWN;
  lentKey.fill(0);
  lentMask.fill(0);
  return allowCookie ? LENT_WITH_COOKIE : LENT;
}

function packed(match: Match): Match {
  return match === lent ? packWords(lentKey, lentMask) : packMatch(match);
}

function decode10(r: Reader, ctx: BodyContext): Head {
  const start = r.offset;
  const match = pullOfp10Match(r);
  const wildcards = r.view.getUint32(start) & ALL_WILDCARDS10;
  normalizeMatch(match);
  const newCookie = r.u64();
  const { command, table } = splitCommand(r.u16(), ctx);
  const idleTimeout = r.u16();
  const hardTimeout = r.u16();
  const priority = r.u16();
  return {
    command,
    match,
    cookie: 0n,
    cookieMask: 0n,
    newCookie,
    // OpenFlow 1.0.1 §3.4: exact-match flows come first whatever their priority says.
    priority: wildcards === 0 ? 0xffff : priority,
    table,
    idleTimeout,
    hardTimeout,
    importance: 0,
    bufferId: r.u32(),
    outPort: port10To11(r.u16()),
    outGroup: OFPG_ANY,
    flags: r.u16(),
  };
}

function splitCommand(command: number, ctx: BodyContext): { command: number; table: number } {
  return ctx.tableId ? { command: command & 0xff, table: command >> 8 } : { command, table: 0xff };
}

function decodeNx(r: Reader, ctx: BodyContext): Head {
  const newCookie = r.u64();
  const { command, table } = splitCommand(r.u16(), ctx);
  const idleTimeout = r.u16();
  const hardTimeout = r.u16();
  const priority = r.u16();
  const bufferId = r.u32();
  const outPort = port10To11(r.u16());
  const flags = r.u16();
  const matchLen = r.u16();
  r.skip(6);
  const { match, cookie, cookieMask } = pullNxMatch(r, matchLen, ctx, lend(ctx, true));
  // Something new has no cookie to match.
  if (command === 0 && cookieMask !== 0n) throw new OfError('NXBRC_NXM_INVALID');
  return {
    command,
    match,
    cookie,
    cookieMask,
    newCookie,
    priority,
    table,
    idleTimeout,
    hardTimeout,
    importance: 0,
    bufferId,
    outPort,
    outGroup: OFPG_ANY,
    flags,
  };
}

function decode11(r: Reader, ctx: BodyContext): Head {
  const cookie = r.u64();
  const cookieMask = r.u64();
  const table = r.u8();
  const command = r.u8();
  const idleTimeout = r.u16();
  const hardTimeout = r.u16();
  const priority = r.u16();
  const bufferId = r.u32();
  const rawPort = r.u32();
  const outGroup = r.u32();
  const flags = r.u16();
  const importance = r.u16();
  const match = pullMatch(r, ctx, lend(ctx, false));
  const isDelete = command === 3 || command === 4;
  if (table === 0xff && (ctx.version === 2 || !isDelete)) throw new OfError('OFPFMFC_BAD_TABLE_ID');
  const outPort = checkPort(rawPort);
  // OpenFlow 1.1: a modify that does not choose by cookie adds the flow if there is none.
  const sets =
    command === 0 || (ctx.version === 2 && (command === 1 || command === 2) && cookieMask === 0n);
  return {
    command,
    match,
    cookie: sets ? 0n : cookie,
    cookieMask: sets ? 0n : cookieMask,
    newCookie: sets ? cookie : NO_COOKIE,
    priority,
    table,
    idleTimeout,
    hardTimeout,
    importance: ctx.version >= 5 && command === 0 ? importance : 0,
    bufferId,
    outPort,
    outGroup: isDelete ? outGroup : OFPG_ANY,
    flags,
  };
}

function decodeFlowMod(r: Reader, ctx: BodyContext): FlowMod {
  const nxt = ctx.kind === 'nx';
  const h = nxt ? decodeNx(r, ctx) : ctx.version === 1 ? decode10(r, ctx) : decode11(r, ctx);
  checkCtTuple(h.match);
  const command = COMMANDS[h.command];
  if (command === undefined) throw new OfError('OFPFMFC_BAD_COMMAND');
  const actions = decodeFlowActions(r.sub(r.left), ctx, h.match);
  const flags = decodeFlags(h.flags, ctx.version, command);
  if (flags.emergency)
    throw new OfError(
      h.idleTimeout !== 0 || h.hardTimeout !== 0
        ? 'OFPFMFC_BAD_EMERG_TIMEOUT'
        : 'OFPFMFC_TABLE_FULL',
    );
  return {
    command,
    table: h.table,
    match: ctx.packed === true ? packed(h.match) : h.match,
    priority: h.priority,
    cookie: h.cookie,
    cookieMask: h.cookieMask,
    newCookie: h.newCookie,
    modifyCookie: (nxt || ctx.version === 1) && h.newCookie !== NO_COOKIE,
    idleTimeout: h.idleTimeout,
    hardTimeout: h.hardTimeout,
    importance: h.importance,
    bufferId: h.bufferId,
    outPort: h.outPort,
    outGroup: h.outGroup,
    flags,
    actions,
  };
}

/** The flow's actions, for good: equal ones may be one list. */
function decodeFlowActions(r: Reader, ctx: BodyContext, match: Match): Action[] {
  const read = () => {
    const actions = decodeInstructions(r, ctx);
    annotate(actions, match);
    return actions;
  };
  // What options of tunnels mean may change, so actions that name them are read anew each time.
  if (ctx.actionLists === undefined || (ctx.tlvs?.length ?? 0) > 0) return read();
  const { key } = match;
  const tagged = (get16(key, K_VLAN0_TCI) & VLAN_PRESENT) !== 0;
  const kind = ctx.version | (tagged ? 8 : 0) | (key[K_NW_PROTO]! << 4);
  return ctx.actionLists.find(r, kind, read);
}

/** Original addresses of a connection are of one IP version, the flow's. */
function checkCtTuple({ key, mask }: Match): void {
  const type = get16(key, K_ETH_TYPE);
  const v4 = get32(mask, K_CT_NW_SRC) !== 0 || get32(mask, K_CT_NW_DST) !== 0;
  const v6 = isAddressMatched(mask, K_CT_IPV6_SRC) || isAddressMatched(mask, K_CT_IPV6_DST);
  if ((v4 && type !== ETH_TYPE_IP) || (v6 && type !== ETH_TYPE_IPV6))
    throw new OfError('OFPBAC_MATCH_INCONSISTENT');
}

function isAddressMatched(mask: Uint8Array, offset: number): boolean {
  for (let i = offset; i < offset + 16; i++) if (mask[i] !== 0) return true;
  return false;
}

const SEND_FLOW_REM = 1;
const CHECK_OVERLAP = 2;
/** Emergency in OpenFlow 1.0, from 1.2 on: reset counts. */
const EMERG_OR_RESET = 4;
const NO_PKT_COUNTS = 8;
const NO_BYT_COUNTS = 16;

export function decodeFlags(
  bits: number,
  version: number,
  command?: FlowModCommand,
): FlowMod['flags'] {
  const known = version >= 4 ? 0x1f : version === 2 ? 3 : 7;
  if ((bits & ~known) !== 0) throw new OfError('OFPFMFC_BAD_FLAGS');
  const resets = version < 3 ? command === 'add' : (bits & EMERG_OR_RESET) !== 0;
  if (version === 1 && (bits & EMERG_OR_RESET) !== 0) {
    return { ...makeFlags(bits, resets), emergency: true };
  }
  return ALL_FLAGS[(bits & ~EMERG_OR_RESET) | (resets ? EMERG_OR_RESET : 0)]!;
}

/** One object for each combination: flows have flags as long as they live, and nobody changes them. */
const ALL_FLAGS: readonly FlowMod['flags'][] = Array.from({ length: 32 }, (_, bits) =>
  makeFlags(bits, (bits & EMERG_OR_RESET) !== 0),
);

function makeFlags(bits: number, resetCounts: boolean): FlowMod['flags'] {
  return {
    sendFlowRem: (bits & SEND_FLOW_REM) !== 0,
    checkOverlap: (bits & CHECK_OVERLAP) !== 0,
    resetCounts,
    noPktCounts: (bits & NO_PKT_COUNTS) !== 0,
    noBytCounts: (bits & NO_BYT_COUNTS) !== 0,
  };
}

export function encodeFlags(flags: FlowMod['flags'], version: number): number {
  let bits = 0;
  if (flags.sendFlowRem) bits |= SEND_FLOW_REM;
  if (flags.checkOverlap) bits |= CHECK_OVERLAP;
  if (version === 1 ? flags.emergency : version >= 3 && flags.resetCounts) bits |= EMERG_OR_RESET;
  if (version >= 4 && flags.noPktCounts) bits |= NO_PKT_COUNTS;
  if (version >= 4 && flags.noBytCounts) bits |= NO_BYT_COUNTS;
  return bits;
}

/**
 * Old actions do not say what they act on: the flow does. Ports get the field of the flow's protocol, and the VLAN
 * actions of OpenFlow 1.0 know whether a header has to be pushed. In place.
 */
function annotate(actions: Action[], match: Match): void {
  const proto = match.key[K_NW_PROTO];
  const l4 = proto === 17 ? 'udp' : proto === 132 ? 'sctp' : 'tcp';
  let hasVlan = (get16(match.key, K_VLAN0_TCI) & VLAN_PRESENT) !== 0;
  for (const a of actions) {
    if (a.type === 'set_field') {
      if (a.legacy === 'mod_tp_src') a.field = `${l4}_src`;
      if (a.legacy === 'mod_tp_dst') a.field = `${l4}_dst`;
      if (a.field === 'vlan_tci') {
        if (hasVlan) a.flowHasVlan = true;
        hasVlan = (a.value[0]! & 0x10) !== 0;
      }
    } else if (a.type === 'set_vlan_vid' || a.type === 'set_vlan_pcp') {
      if (a.pushIfNeeded && hasVlan) a.flowHasVlan = true;
      if (a.pushIfNeeded) hasVlan = true;
    } else if (a.type === 'push_vlan') {
      hasVlan = true;
    } else if (a.type === 'strip_vlan') {
      hasVlan = false;
    } else if (a.type === 'write_actions' || a.type === 'clone') {
      annotate(a.actions, match);
    }
  }
}

function encodeFlowMod(w: Writer, m: FlowMod, ctx: BodyContext): void {
  const command = COMMANDS.indexOf(m.command);
  const flags = encodeFlags(m.flags, ctx.version);
  const command10 = ctx.tableId ? command | (m.table << 8) : command;
  if (ctx.kind === 'nx') {
    w.u64(m.newCookie).u16(command10).u16(m.idleTimeout).u16(m.hardTimeout).u16(m.priority);
    w.u32(m.bufferId).u16(port11To10(m.outPort)).u16(flags);
    const at = w.length;
    w.u16(0).zeros(6);
    w.patch16(at, putNxMatch(w, m.match, ctx, m.cookie, m.cookieMask));
  } else if (ctx.version === 1) {
    putOfp10Match(w, m.match);
    w.u64(m.newCookie).u16(command10).u16(m.idleTimeout).u16(m.hardTimeout).u16(m.priority);
    w.u32(m.bufferId).u16(port11To10(m.outPort)).u16(flags);
  } else {
    const sets = m.command === 'add' || (ctx.version === 2 && m.newCookie !== NO_COOKIE);
    w.u64(sets ? m.newCookie : m.cookie).u64(sets ? 0n : m.cookieMask);
    w.u8(m.table).u8(command).u16(m.idleTimeout).u16(m.hardTimeout).u16(m.priority);
    w.u32(m.bufferId).u32(m.outPort).u32(m.outGroup).u16(flags);
    w.u16(ctx.version >= 5 ? m.importance : 0);
    putMatch(w, m.match, ctx);
  }
  encodeInstructions(w, m.actions, ctx);
}

export const flowModCodecs: Codecs = {
  flow_mod: {
    decode: (r, ctx) => ({
      type: 'flow_mod',
      nxt: ctx.kind === 'nx',
      flowMod: decodeFlowMod(r, ctx),
    }),
    encode: (w, m, ctx) => encodeFlowMod(w, m.flowMod, ctx),
  },
};

/** A flow-mod that only says what matters. */
export function flowMod(parts: Partial<FlowMod> & Pick<FlowMod, 'match'>): FlowMod {
  return {
    command: 'add',
    table: 0,
    priority: 0x8000,
    cookie: 0n,
    cookieMask: 0n,
    newCookie: 0n,
    modifyCookie: true,
    idleTimeout: 0,
    hardTimeout: 0,
    importance: 0,
    bufferId: NO_BUFFER,
    outPort: OFPP_NONE,
    outGroup: OFPG_ANY,
    flags: {
      sendFlowRem: false,
      checkOverlap: false,
      resetCounts: false,
      noPktCounts: false,
      noBytCounts: false,
    },
    actions: [],
    ...parts,
  };
}
