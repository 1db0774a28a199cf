// Flow-removed messages: OpenFlow 1.0.1 §5.4.3, 1.1 §A.4.2, 1.5.1 §7.4.3 (statistics as OXS); NXT_FLOW_REMOVED (14).

import type { Reader, Writer } from './buffer.ts';
import type { BodyContext, Codecs } from './codec.ts';
import { putDuration, readDuration } from './codec.ts';
import { pullOfp10Match, putOfp10Match } from './legacyMatch.ts';
import { pullMatch, pullNxMatch, putMatch, putNxMatch } from './match.ts';
import { putOxs, readOxs } from './oxs.ts';
import type { FlowRemoved } from './types.ts';
import { OfError } from './types.ts';

export const REMOVED_REASONS: readonly FlowRemoved['reason'][] = [
  'idle_timeout',
  'hard_timeout',
  'delete',
  'group_delete',
  'meter_delete',
  'eviction',
];

export function readRemovedReason(number: number): FlowRemoved['reason'] {
  const reason = REMOVED_REASONS[number];
  if (reason === undefined) throw new OfError('NXBRC_BAD_REASON');
  return reason;
}

/** Before OpenFlow 1.4 the end of a meter is a deletion like any other. */
export function removedReason(reason: FlowRemoved['reason'], version: number): number {
  return REMOVED_REASONS.indexOf(reason === 'meter_delete' && version < 5 ? 'delete' : reason);
}

function decode(r: Reader, ctx: BodyContext): FlowRemoved {
  const loose = { loose: true };
  if (ctx.kind === 'nx') {
    const cookie = r.u64();
    const priority = r.u16();
    const reason = readRemovedReason(r.u8());
    const table = r.u8();
    const durationMs = readDuration(r);
    const idleTimeout = r.u16();
    const matchLen = r.u16();
    const [packets, bytes] = [r.u64(), r.u64()];
    const { match } = pullNxMatch(r, matchLen, ctx, loose);
    return {
      match,
      cookie,
      priority,
      reason,
      // 0 = unknown
      table: table === 0 ? 0xff : table - 1,
      durationMs,
      idleTimeout,
      hardTimeout: 0,
      packets,
      bytes,
    };
  }
  if (ctx.version === 1) {
    const match = pullOfp10Match(r);
    const cookie = r.u64();
    const priority = r.u16();
    const reason = readRemovedReason(r.u8());
    r.skip(1);
    const durationMs = readDuration(r);
    const idleTimeout = r.u16();
    r.skip(2);
    return {
      match,
      cookie,
      priority,
      reason,
      table: 0xff,
      durationMs,
      idleTimeout,
      hardTimeout: 0,
      packets: r.u64(),
      bytes: r.u64(),
    };
  }
  if (ctx.version >= 6) {
    const table = r.u8();
    const reason = readRemovedReason(r.u8());
    const priority = r.u16();
    const [idleTimeout, hardTimeout] = [r.u16(), r.u16()];
    const cookie = r.u64();
    const match = pullMatch(r, ctx, loose);
    const s = readOxs(r);
    return {
      match,
      cookie,
      priority,
      reason,
      table,
      durationMs: s.durationMs ?? 0,
      idleTimeout,
      hardTimeout,
      packets: s.packets ?? 0n,
      bytes: s.bytes ?? 0n,
    };
  }
  const cookie = r.u64();
  const priority = r.u16();
  const reason = readRemovedReason(r.u8());
  const table = r.u8();
  const durationMs = readDuration(r);
  const [idleTimeout, hardTimeout] = [r.u16(), r.u16()];
  const [packets, bytes] = [r.u64(), r.u64()];
  const match = pullMatch(r, ctx, loose);
  return {
    match,
    cookie,
    priority,
    reason,
    table,
    durationMs,
    idleTimeout,
    hardTimeout,
    packets,
    bytes,
  };
}

function encode(w: Writer, f: FlowRemoved, ctx: BodyContext): void {
  const v = ctx.version;
  const reason = removedReason(f.reason, v);
  if (ctx.kind === 'nx') {
    w.u64(f.cookie)
      .u16(f.priority)
      .u8(reason)
      .u8(f.table + 1);
    putDuration(w, f.durationMs);
    w.u16(f.idleTimeout);
    const at = w.length;
    w.u16(0).u64(f.packets).u64(f.bytes);
    w.patch16(at, putNxMatch(w, f.match, ctx));
  } else if (v === 1) {
    putOfp10Match(w, f.match);
    w.u64(f.cookie).u16(f.priority).u8(reason).zeros(1);
    putDuration(w, f.durationMs);
    w.u16(f.idleTimeout).zeros(2).u64(f.packets).u64(f.bytes);
  } else if (v >= 6) {
    w.u8(f.table).u8(reason).u16(f.priority).u16(f.idleTimeout).u16(f.hardTimeout).u64(f.cookie);
    putMatch(w, f.match, ctx);
    putOxs(w, { durationMs: f.durationMs, packets: f.packets, bytes: f.bytes });
  } else {
    w.u64(f.cookie).u16(f.priority).u8(reason).u8(f.table);
    putDuration(w, f.durationMs);
    w.u16(f.idleTimeout).u16(f.hardTimeout).u64(f.packets).u64(f.bytes);
    putMatch(w, f.match, ctx);
  }
}

export const flowRemovedCodecs: Codecs = {
  flow_removed: {
    decode: (r, ctx) => ({
      type: 'flow_removed',
      nxt: ctx.kind === 'nx',
      flowRemoved: decode(r, ctx),
    }),
    encode: (w, m, ctx) => encode(w, m.flowRemoved, ctx),
  },
};
