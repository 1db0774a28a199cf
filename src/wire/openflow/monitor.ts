// Flow monitors: NXST_FLOW_MONITOR of OpenFlow 1.0-1.2, its ONF form of 1.3, OFPMP_FLOW_MONITOR of 1.4 and later
// (OpenFlow 1.4.1 §7.3.5.17). Pause, resume and cancel are messages before 1.4, later events and a command.

import { decodeActions } from './actionDecode.ts';
import { encodeActions } from './actionEncode.ts';
import type { Reader, Writer } from './buffer.ts';
import type { BodyContext, Codecs } from './codec.ts';
import { empty, readList } from './codec.ts';
import { port10To11, port11To10 } from './fieldAccess.ts';
import { OFPG_ANY } from './flowMod.ts';
import { REMOVED_REASONS, readRemovedReason } from './flowRemoved.ts';
import { decodeInstructions, encodeInstructions } from './instruction.ts';
import { pullMatch, pullNxMatch, putMatch, putNxMatch } from './match.ts';
import type { FlowMonitorRequest, FlowUpdate, MonitorFlags } from './messages.ts';
import { checkPort } from './port.ts';
import { OfError } from './types.ts';

const INITIAL = 1;
const ADD = 2;
const DELETE = 4;
const MODIFY = 8;
const ACTIONS = 16;
/** NXFMF_OWN: own changes in full. In OpenFlow 1.4 the bit is OFPFMF_NO_ABBREV, which Open vSwitch refuses. */
const OWN = 32;
const ONLY_OWN = 64;

const COMMANDS = ['add', 'modify', 'delete'] as const;

function readFlags(bits: number, own: number): MonitorFlags {
  const known = INITIAL | ADD | DELETE | MODIFY | ACTIONS | own;
  if ((bits & (ADD | DELETE | MODIFY)) === 0 || (bits & ~known) !== 0)
    throw new OfError('OFPMOFC_BAD_FLAGS');
  return {
    initial: (bits & INITIAL) !== 0,
    add: (bits & ADD) !== 0,
    delete: (bits & DELETE) !== 0,
    modify: (bits & MODIFY) !== 0,
    actions: (bits & ACTIONS) !== 0,
    own: (bits & OWN) !== 0,
  };
}

function flagBits(q: FlowMonitorRequest, version: number): number {
  const f = q.flags;
  let bits = 0;
  if (f.initial) bits |= INITIAL;
  if (f.add) bits |= ADD;
  if (f.delete) bits |= DELETE;
  if (f.modify) bits |= MODIFY;
  if (f.actions) bits |= ACTIONS;
  if (version < 5 ? f.own : false) bits |= OWN;
  if (version >= 5 && q.onlyOwn) bits |= ONLY_OWN;
  return bits;
}

function readRequest(r: Reader, ctx: BodyContext): FlowMonitorRequest {
  const v = ctx.version;
  const id = r.u32();
  if (v < 5) {
    const bits = r.u16();
    let outPort: number;
    let matchLen: number;
    if (ctx.kind === 'nx_request') {
      outPort = port10To11(r.u16());
      matchLen = r.u16();
    } else {
      matchLen = r.u16();
      outPort = r.u32();
    }
    const table = r.u8();
    const flags = readFlags(bits, OWN);
    r.mustBeZero(ctx.kind === 'nx_request' ? 5 : 3, 'NXBRC_MUST_BE_ZERO');
    const match =
      ctx.kind === 'nx_request' ? pullNxMatch(r, matchLen, ctx).match : pullMatch(r, ctx, {});
    return {
      id,
      command: 'add',
      flags,
      noAbbrev: flags.own,
      onlyOwn: false,
      outPort: ctx.kind === 'nx_request' ? outPort : checkPort(outPort),
      outGroup: OFPG_ANY,
      table,
      match,
    };
  }
  const outPort = r.u32();
  const outGroup = r.u32();
  const bits = r.u16();
  const table = r.u8();
  const command = COMMANDS[r.u8()];
  if (command === undefined) throw new OfError('OFPMOFC_BAD_COMMAND');
  const flags =
    command === 'delete'
      ? { initial: false, add: false, delete: false, modify: false, actions: false, own: false }
      : readFlags(bits, ONLY_OWN);
  const match = pullMatch(r, ctx);
  return {
    id,
    command,
    flags,
    noAbbrev: false,
    onlyOwn: (bits & ONLY_OWN) !== 0,
    outPort: command === 'delete' ? outPort : checkPort(outPort),
    outGroup,
    table,
    match,
  };
}

function putRequest(w: Writer, q: FlowMonitorRequest, ctx: BodyContext): void {
  const bits = flagBits(q, ctx.version);
  w.u32(q.id);
  if (ctx.kind === 'nx_request') {
    w.u16(bits).u16(port11To10(q.outPort));
    const at = w.length;
    w.u16(0).u8(q.table).zeros(5);
    w.patch16(at, putNxMatch(w, q.match, ctx));
  } else if (ctx.version < 5) {
    w.u16(bits);
    const at = w.length;
    w.u16(0).u32(q.outPort).u8(q.table).zeros(3);
    const start = w.length;
    putMatch(w, q.match, ctx);
    w.patchLength(at, start);
  } else {
    w.u32(q.outPort).u32(q.outGroup).u16(bits).u8(q.table).u8(COMMANDS.indexOf(q.command));
    putMatch(w, q.match, ctx);
  }
}

// ---- updates

const EVENTS14 = ['initial', 'added', 'removed', 'modified', 'abbrev', 'paused', 'resumed'];
const EVENTS10 = ['added', 'removed', 'modified', 'abbrev'];

function readUpdate(all: Reader, ctx: BodyContext): FlowUpdate | undefined {
  const length = all.u16();
  if (length < 8 || length % 8 !== 0 || length - 2 > all.left) throw new OfError('OFPBRC_BAD_LEN');
  const r = all.sub(length - 2);
  const v = ctx.version;
  const event = (v >= 5 ? EVENTS14 : EVENTS10)[r.u16()];
  if (event === 'abbrev') return { event, xid: r.u32() };
  if (event === 'paused' || event === 'resumed') return undefined;
  if (event === undefined) throw new OfError('NXBRC_FM_BAD_EVENT');
  let reason: number;
  let table: number;
  let priority: number;
  let matchLen = 0;
  let idleTimeout: number;
  let hardTimeout: number;
  if (v >= 5) {
    table = r.u8();
    reason = r.u8();
    [idleTimeout, hardTimeout, priority] = [r.u16(), r.u16(), r.u16()];
    r.skip(4);
  } else {
    [reason, priority, idleTimeout, hardTimeout] = [r.u16(), r.u16(), r.u16(), r.u16()];
    matchLen = r.u16();
    table = r.u8();
    r.skip(1);
  }
  const cookie = r.u64();
  const loose = { loose: true };
  const nx = v < 4;
  const match = nx ? pullNxMatch(r, matchLen, ctx, loose).match : pullMatch(r, ctx, loose);
  const body = r.sub(r.left);
  const actions = nx ? decodeActions(body, ctx) : decodeInstructions(body, ctx);
  const flow = { table, priority, idleTimeout, hardTimeout, cookie, match, actions };
  if (event === 'removed') return { event, flow, reason: readRemovedReason(reason) };
  return { event: event as 'initial' | 'added' | 'modified', flow };
}

function putUpdate(w: Writer, u: FlowUpdate, ctx: BodyContext): void {
  const v = ctx.version;
  const start = w.length;
  // Before OpenFlow 1.4 flows that were there already are "added".
  const event = v < 5 && u.event === 'initial' ? 'added' : u.event;
  w.u16(0).u16((v >= 5 ? EVENTS14 : EVENTS10).indexOf(event));
  if (u.event === 'abbrev') {
    w.u32(u.xid).patchLength(start, start);
    return;
  }
  const { flow } = u;
  const reason = u.event === 'removed' ? REMOVED_REASONS.indexOf(u.reason) : 0;
  let matchLenAt = 0;
  if (v >= 5) {
    w.u8(flow.table).u8(reason).u16(flow.idleTimeout).u16(flow.hardTimeout).u16(flow.priority);
    w.zeros(4);
  } else {
    w.u16(reason).u16(flow.priority).u16(flow.idleTimeout).u16(flow.hardTimeout);
    matchLenAt = w.length;
    w.u16(0).u8(flow.table).zeros(1);
  }
  w.u64(flow.cookie);
  const matchStart = w.length;
  if (v < 4) {
    w.patch16(matchLenAt, putNxMatch(w, flow.match, ctx));
    encodeActions(w, flow.actions ?? [], ctx);
  } else {
    putMatch(w, flow.match, ctx);
    // The unpadded length of the match, as its own header says.
    if (v === 4) w.patchLength(matchLenAt, matchStart);
    encodeInstructions(w, flow.actions ?? [], ctx);
  }
  w.patchLength(start, start);
}

const PAUSED = 5;
const RESUMED = 6;

export const monitorCodecs: Codecs = {
  flow_monitor_request: {
    decode: (r, ctx) => ({
      type: 'flow_monitor_request',
      requests: readList(r, () => readRequest(r, ctx)),
    }),
    encode: (w, m, ctx) => {
      for (const q of m.requests) putRequest(w, q, ctx);
    },
  },
  flow_monitor_reply: {
    decode: (r, ctx) => ({
      type: 'flow_monitor_reply',
      updates: readList(r, () => readUpdate(r, ctx)).filter((u) => u !== undefined),
      ...(ctx.more ? { more: true } : {}),
    }),
    encode: (w, m, ctx) => {
      for (const u of m.updates) {
        putUpdate(w, u, ctx);
        ctx.mark();
      }
    },
  },
  flow_monitor_cancel: {
    decode: (r) => ({ type: 'flow_monitor_cancel', id: r.u32() }),
    encode: (w, m) => void w.u32(m.id),
  },
  flow_monitor_paused: {
    ...empty({ type: 'flow_monitor_paused' }),
    encode: (w, _, ctx) => {
      if (ctx.version >= 5) w.u16(8).u16(PAUSED).zeros(4);
    },
  },
  flow_monitor_resumed: {
    ...empty({ type: 'flow_monitor_resumed' }),
    encode: (w, _, ctx) => {
      if (ctx.version >= 5) w.u16(8).u16(RESUMED).zeros(4);
    },
  },
};
