// Statistics of single flows and of many: OpenFlow 1.0.1 §5.3.5, 1.1 §A.3.5, 1.5.1 §7.3.5.2 (flow descriptions with OXS);
// NXST_FLOW, NXST_AGGREGATE.

import { type Reader, Writer } from './buffer.ts';
import type { BodyContext, Codecs, MessageOf } from './codec.ts';
import { putDuration, readDuration, readList } from './codec.ts';
import { port10To11, port11To10 } from './fieldAccess.ts';
import { decodeFlags, encodeFlags, OFPG_ANY } from './flowMod.ts';
import { decodeInstructions, encodeInstructions } from './instruction.ts';
import { normalizeMatch, pullOfp10Match, putOfp10Match } from './legacyMatch.ts';
import { pullMatch, pullNxMatch, putMatch, putNxMatch } from './match.ts';
import { putOxs, readOxs } from './oxs.ts';
import { checkPort } from './port.ts';
import type { Action, FlowStatsEntry, FlowStatsRequest } from './types.ts';
import { OfError } from './types.ts';

function decodeRequest(r: Reader, ctx: BodyContext, aggregate: boolean): FlowStatsRequest {
  if (ctx.kind === 'nx_request') {
    const outPort = port10To11(r.u16());
    const matchLen = r.u16();
    const table = r.u8();
    r.skip(3);
    const pulled = pullNxMatch(r, matchLen, ctx, { allowCookie: true });
    return { aggregate, table, outPort, outGroup: OFPG_ANY, ...pulled };
  }
  if (ctx.version === 1) {
    const match = pullOfp10Match(r);
    normalizeMatch(match);
    const table = r.u8();
    r.skip(1);
    const outPort = port10To11(r.u16());
    return { aggregate, table, match, outPort, outGroup: OFPG_ANY, cookie: 0n, cookieMask: 0n };
  }
  const table = r.u8();
  r.skip(3);
  const outPort = checkPort(r.u32());
  const outGroup = r.u32();
  r.skip(4);
  const [cookie, cookieMask] = [r.u64(), r.u64()];
  return { aggregate, table, outPort, outGroup, cookie, cookieMask, match: pullMatch(r, ctx) };
}

function encodeRequest(w: Writer, q: FlowStatsRequest, ctx: BodyContext): void {
  if (ctx.kind === 'nx_request') {
    w.u16(port11To10(q.outPort));
    const at = w.length;
    w.u16(0).u8(q.table).zeros(3);
    w.patch16(at, putNxMatch(w, q.match, ctx, q.cookie, q.cookieMask));
  } else if (ctx.version === 1) {
    putOfp10Match(w, q.match);
    w.u8(q.table).zeros(1).u16(port11To10(q.outPort));
  } else {
    w.u8(q.table).zeros(3).u32(q.outPort).u32(q.outGroup).zeros(4).u64(q.cookie).u64(q.cookieMask);
    putMatch(w, q.match, ctx);
  }
}

/** Ages are sent plus one; 0 means unknown. */
function encodeAge(seconds: number): number {
  return seconds < 0 ? 0 : Math.min(Math.floor(seconds) + 1, 0xffff);
}

const NO_FLAGS = decodeFlags(0, 6);

function entryBody(r: Reader): Reader {
  const start = r.offset;
  const length = r.u16();
  if (length < 4 || length - 2 > r.left) throw new OfError('OFPBRC_BAD_LEN');
  r.offset = start + 2;
  return r.sub(length - 2);
}

function readEntry(all: Reader, ctx: BodyContext): FlowStatsEntry {
  const r = entryBody(all);
  if (ctx.version >= 6) return readEntry15(r, ctx);
  const table = r.u8();
  r.skip(1);
  const nx = ctx.kind === 'nx_reply';
  const match10 = ctx.version === 1 && !nx ? pullOfp10Match(r) : undefined;
  const durationMs = readDuration(r);
  const priority = r.u16();
  const idleTimeout = r.u16();
  const hardTimeout = r.u16();
  let flags = NO_FLAGS;
  let importance = 0;
  let matchLen = 0;
  let idleAge = -1;
  let hardAge = -1;
  if (nx) {
    matchLen = r.u16();
    idleAge = r.u16() - 1;
    hardAge = r.u16() - 1;
  } else if (ctx.version === 1) {
    r.skip(6);
  } else {
    const bits = r.u16();
    if (ctx.version >= 4) flags = decodeFlags(bits & 0x1f, ctx.version);
    const value = r.u16();
    if (ctx.version >= 5) importance = value;
    r.skip(2);
  }
  const [cookie, packets, bytes] = [r.u64(), r.u64(), r.u64()];
  const loose = { loose: true };
  const match =
    match10 ?? (nx ? pullNxMatch(r, matchLen, ctx, loose).match : pullMatch(r, ctx, loose));
  const actions = decodeInstructions(r.sub(r.left), ctx);
  return {
    table,
    match,
    priority,
    cookie,
    durationMs,
    idleTimeout,
    hardTimeout,
    idleAge,
    hardAge,
    importance,
    flags,
    packets,
    bytes,
    actions,
  };
}

function readEntry15(r: Reader, ctx: BodyContext): FlowStatsEntry {
  r.skip(2);
  const table = r.u8();
  r.skip(1);
  const [priority, idleTimeout, hardTimeout] = [r.u16(), r.u16(), r.u16()];
  const flags = decodeFlags(r.u16() & 0x1f, ctx.version);
  const importance = r.u16();
  const cookie = r.u64();
  const match = pullMatch(r, ctx, { loose: true });
  const s = readOxs(r);
  const actions = decodeInstructions(r.sub(r.left), ctx);
  return {
    table,
    match,
    priority,
    cookie,
    durationMs: s.durationMs ?? 0,
    idleTimeout,
    hardTimeout,
    idleAge: s.idleMs === undefined ? -1 : Math.floor(s.idleMs / 1000),
    hardAge: -1,
    importance,
    flags,
    packets: s.packets ?? 0n,
    bytes: s.bytes ?? 0n,
    actions,
  };
}

function putEntry(w: Writer, e: FlowStatsEntry, ctx: BodyContext): void {
  const start = w.length;
  const v = ctx.version;
  w.u16(0);
  if (v >= 6) {
    w.zeros(2).u8(e.table).zeros(1).u16(e.priority).u16(e.idleTimeout).u16(e.hardTimeout);
    w.u16(encodeFlags(e.flags, v)).u16(e.importance).u64(e.cookie);
    putMatch(w, e.match, ctx);
    putOxs(w, {
      durationMs: e.durationMs,
      ...(e.idleAge < 0 ? {} : { idleMs: Math.floor(e.idleAge) * 1000 }),
      packets: e.packets,
      bytes: e.bytes,
    });
  } else {
    w.u8(e.table).zeros(1);
    const nx = ctx.kind === 'nx_reply';
    if (v === 1 && !nx) putOfp10Match(w, e.match);
    putDuration(w, e.durationMs);
    w.u16(e.priority).u16(e.idleTimeout).u16(e.hardTimeout);
    const matchLenAt = w.length;
    if (nx) w.u16(0).u16(encodeAge(e.idleAge)).u16(encodeAge(e.hardAge));
    else if (v === 1) w.zeros(6);
    else
      w.u16(v >= 4 ? encodeFlags(e.flags, v) : 0)
        .u16(v >= 5 ? e.importance : 0)
        .zeros(2);
    w.u64(e.cookie).u64(e.packets).u64(e.bytes);
    if (nx) w.patch16(matchLenAt, putNxMatch(w, e.match, ctx));
    else if (v > 1) putMatch(w, e.match, ctx);
  }
  putActions(w, e.actions, ctx);
  w.patchLength(start, start);
}

/** The actions written last: flows that come one after the other often share a list (actionLists.ts). */
let recent: { actions: readonly Action[]; version: number; bytes: Uint8Array } | undefined;

function putActions(w: Writer, actions: readonly Action[], ctx: BodyContext): void {
  // What options of tunnels are called may change.
  if ((ctx.tlvs?.length ?? 0) > 0) {
    encodeInstructions(w, actions, ctx);
    return;
  }
  if (recent?.actions !== actions || recent.version !== ctx.version) {
    const own = new Writer();
    encodeInstructions(own, actions, ctx);
    recent = { actions, version: ctx.version, bytes: own.finish() };
  }
  w.put(recent.bytes);
}

/** Encodes an entry. One that does not fit into a message of this version, though it came in one of another, is left out. */
function putEntrySafely(w: Writer, e: FlowStatsEntry, ctx: BodyContext): void {
  const start = w.length;
  try {
    putEntry(w, e, ctx);
    if (w.length - start <= ctx.room) return;
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  w.truncate(start);
  ctx.skipped?.();
}

function decodeAggregate(r: Reader, ctx: BodyContext): MessageOf<'aggregate_reply'> {
  const nxt = ctx.kind === 'nx_reply';
  if (ctx.version >= 6) {
    const s = readOxs(r);
    const { packets = 0n, bytes = 0n, flows = 0 } = s;
    return { type: 'aggregate_reply', nxt, packets, bytes, flows };
  }
  const [packets, bytes, flows] = [r.u64(), r.u64(), r.u32()];
  r.skip(4);
  return { type: 'aggregate_reply', nxt, packets, bytes, flows };
}

export const flowStatsCodecs: Codecs = {
  flow_stats_request: {
    decode: (r, ctx) => ({
      type: 'flow_stats_request',
      nxt: ctx.kind === 'nx_request',
      request: decodeRequest(r, ctx, false),
    }),
    encode: (w, m, ctx) => encodeRequest(w, m.request, ctx),
  },
  aggregate_request: {
    decode: (r, ctx) => ({
      type: 'aggregate_request',
      nxt: ctx.kind === 'nx_request',
      request: decodeRequest(r, ctx, true),
    }),
    encode: (w, m, ctx) => encodeRequest(w, m.request, ctx),
  },
  flow_stats_reply: {
    decode: (r, ctx) => ({
      type: 'flow_stats_reply',
      nxt: ctx.kind === 'nx_reply',
      entries: readList(r, () => readEntry(r, ctx)),
      ...(ctx.more ? { more: true } : {}),
    }),
    encode: (w, m, ctx) => {
      for (const e of m.entries) {
        putEntrySafely(w, e, ctx);
        ctx.mark();
      }
    },
  },
  aggregate_reply: {
    decode: decodeAggregate,
    encode: (w, m, ctx) => {
      if (ctx.version >= 6) putOxs(w, { flows: m.flows, packets: m.packets, bytes: m.bytes });
      else w.u64(m.packets).u64(m.bytes).u32(m.flows).zeros(4);
    },
  },
};
