// Tables: statistics, features, descriptions, table-mod; and the description of the switch. OpenFlow 1.0.1 §5.3.5,
// 1.1 §A.3.5.3, 1.2 §A.3.5.3, 1.3 §7.3.5.4-5, 1.4.1 §7.3.5.6-7. What every table can do is in tableCapabilities.ts.

import type { Reader, Writer } from './buffer.ts';
import type { Codecs, MessageOf } from './codec.ts';
import { empty, readList } from './codec.ts';
import type { TableDesc, TableFeatures, TableStats, VacancyThresholds } from './messages.ts';
import { putProp, readProps } from './prop.ts';
import { putTableProperties, putTableStats11, putTableStats12 } from './tableCapabilities.ts';
import { OfError } from './types.ts';

/** All fields of OpenFlow 1.0 may be wildcarded. */
const WILDCARDS10 = 0x3fffff;

const DESC_LEN = 256;
const SERIAL_LEN = 32;
const NAME_LEN = 32;

function putStats(w: Writer, s: TableStats, version: number): void {
  if (version >= 4) {
    w.u8(s.table).zeros(3).u32(s.activeCount).u64(s.lookupCount).u64(s.matchedCount);
    return;
  }
  if (version === 1) {
    w.u8(s.table).zeros(3).text(s.name, NAME_LEN).u32(WILDCARDS10);
    w.u32(s.maxEntries).u32(s.activeCount).u64(s.lookupCount).u64(s.matchedCount);
    return;
  }
  w.u8(s.table).zeros(7).text(s.name, NAME_LEN);
  if (version === 2) putTableStats11(w, s.table);
  else putTableStats12(w, s.table);
  w.u32(s.maxEntries).u32(s.activeCount).u64(s.lookupCount).u64(s.matchedCount);
}

/** Bytes between name and max_entries. */
const STATS_SKIP = [0, 4, 24, 64] as const;

function readStats(r: Reader, version: number): TableStats {
  const table = r.u8();
  if (version >= 4) {
    r.skip(3);
    const activeCount = r.u32();
    const [lookupCount, matchedCount] = [r.u64(), r.u64()];
    return { table, name: '', maxEntries: 0, activeCount, lookupCount, matchedCount };
  }
  r.skip(version === 1 ? 3 : 7);
  const name = r.text(NAME_LEN);
  r.skip(STATS_SKIP[version as 1 | 2 | 3]);
  const [maxEntries, activeCount] = [r.u32(), r.u32()];
  return { table, name, maxEntries, activeCount, lookupCount: r.u64(), matchedCount: r.u64() };
}

// ---- features

const EVICTION = 4;
const VACANCY = 8;

function putFeatures(w: Writer, f: TableFeatures, version: number): void {
  const start = w.length;
  w.u16(0).u8(f.table).zeros(5).text(f.name, NAME_LEN);
  w.u64(f.metadataMatch).u64(f.metadataWrite);
  const caps = (f.eviction ? EVICTION : 0) | (f.vacancyEvents ? VACANCY : 0);
  w.u32(version >= 5 ? caps : 0).u32(f.maxEntries);
  putTableProperties(w, f, version);
  w.patchLength(start, start);
}

const NEXT_TABLES = 2;

function readFeatures(r: Reader, version: number): TableFeatures {
  const start = r.offset;
  const length = r.u16();
  if (length < 64 || length % 8 !== 0 || length - 2 > r.left) throw new OfError('OFPBPC_BAD_LEN');
  const table = r.u8();
  if (version >= 6 && r.bytes[r.offset]! > 3) throw new OfError('OFPTFFC_BAD_COMMAND');
  if (table === 0xff) throw new OfError('OFPTFFC_BAD_TABLE');
  r.skip(5);
  const name = r.text(NAME_LEN);
  const [metadataMatch, metadataWrite] = [r.u64(), r.u64()];
  const caps = r.u32();
  const maxEntries = r.u32();
  let last = table;
  const seen = new Set<number>();
  for (const p of readProps(r.sub(start + length - r.offset))) {
    if (p.type < 32 && seen.has(p.type)) throw new OfError('OFPTFFC_BAD_FEATURES');
    seen.add(p.type);
    if (p.type === NEXT_TABLES) for (const t of p.body.rest()) last = Math.max(last, t);
  }
  return {
    table,
    name,
    maxEntries,
    metadataMatch,
    metadataWrite,
    nTables: last + 1,
    eviction: version >= 5 && (caps & EVICTION) !== 0,
    vacancyEvents: version >= 5 && (caps & VACANCY) !== 0,
    missConfig: 0,
  };
}

// ---- description

const PROP_EVICTION = 2;
const PROP_VACANCY = 3;

function readTableDesc(all: Reader): TableDesc {
  const length = all.u16();
  if (length < 8 || length - 2 > all.left) throw new OfError('OFPBRC_BAD_LEN');
  const r = all.sub(length - 2);
  const table = r.u8();
  r.skip(1);
  const config = r.u32();
  let evictionFlags = 0xffffffff;
  let vacancy = { downPercent: 0, upPercent: 0, nowPercent: 0 };
  for (const { type, body } of readProps(r)) {
    if (type === PROP_EVICTION) evictionFlags = body.u32();
    else if (type === PROP_VACANCY) vacancy = readVacancy(body);
  }
  return {
    table,
    eviction: (config & EVICTION) !== 0,
    evictionFlags,
    vacancy: config & VACANCY ? vacancy : undefined,
  };
}

function readVacancy(r: Reader): { downPercent: number; upPercent: number; nowPercent: number } {
  if (r.left !== 4) throw new OfError('OFPBPC_BAD_LEN');
  return { downPercent: r.u8(), upPercent: r.u8(), nowPercent: r.u8() };
}

function putVacancy(w: Writer, { downPercent, upPercent }: VacancyThresholds, now: number): void {
  putProp(w, PROP_VACANCY, () => w.u8(downPercent).u8(upPercent).u8(now).zeros(1));
}

function putTableDesc(w: Writer, d: TableDesc): void {
  const start = w.length;
  w.u16(0).u8(d.table).zeros(1);
  w.u32((d.eviction ? EVICTION : 0) | (d.vacancy ? VACANCY : 0));
  if (d.evictionFlags !== 0xffffffff) putProp(w, PROP_EVICTION, () => w.u32(d.evictionFlags));
  if (d.vacancy) putVacancy(w, d.vacancy, d.vacancy.nowPercent);
  w.patchLength(start, start);
}

function readTableMod(r: Reader, version: number): MessageOf<'table_mod'> {
  const table = r.u8();
  r.skip(3);
  const config = r.u32();
  const mod = { type: 'table_mod', table, config } as const;
  if (version < 5) return { ...mod, evictionFlags: undefined, vacancy: undefined };
  let evictionFlags: number | undefined;
  let vacancy: VacancyThresholds = { downPercent: 0, upPercent: 0 };
  for (const { type, body } of readProps(r)) {
    if (type === PROP_EVICTION) {
      if (body.left !== 4) throw new OfError('OFPBPC_BAD_LEN');
      evictionFlags = body.u32();
    } else if (type === PROP_VACANCY) {
      const { downPercent, upPercent, nowPercent } = readVacancy(body);
      if (downPercent > upPercent || upPercent > 100 || nowPercent !== 0)
        throw new OfError('OFPBPC_BAD_VALUE');
      vacancy = { downPercent, upPercent };
    } else throw new OfError('OFPBRC_BAD_TYPE');
  }
  return { ...mod, evictionFlags, vacancy: config & VACANCY ? vacancy : undefined };
}

function putTableMod(w: Writer, m: MessageOf<'table_mod'>, version: number): void {
  w.u8(m.table).zeros(3).u32(m.config);
  if (version < 5) return;
  const { evictionFlags, vacancy } = m;
  if (evictionFlags !== undefined) putProp(w, PROP_EVICTION, () => w.u32(evictionFlags));
  if (vacancy !== undefined) putVacancy(w, vacancy, 0);
}

const STATUS_REASONS = { 3: 'down', 4: 'up' } as const;
const STATUS_NUMBERS = { down: 3, up: 4 } as const;

function readTableStatus(r: Reader): MessageOf<'table_status'> {
  const reason = STATUS_REASONS[r.u8() as 3 | 4] as 'down' | 'up' | undefined;
  if (reason === undefined) throw new OfError('OFPBPC_BAD_VALUE');
  r.skip(7);
  return { type: 'table_status', reason, desc: readTableDesc(r) };
}

export const tableCodecs: Codecs = {
  desc_request: empty({ type: 'desc_request' }),
  desc_reply: {
    decode: (r) => ({
      type: 'desc_reply',
      mfr: r.text(DESC_LEN),
      hw: r.text(DESC_LEN),
      sw: r.text(DESC_LEN),
      serial: r.text(SERIAL_LEN),
      dp: r.text(DESC_LEN),
    }),
    encode: (w, m) =>
      void w
        .text(m.mfr, DESC_LEN)
        .text(m.hw, DESC_LEN)
        .text(m.sw, DESC_LEN)
        .text(m.serial, SERIAL_LEN)
        .text(m.dp, DESC_LEN),
  },
  table_mod: {
    decode: (r, ctx) => readTableMod(r, ctx.version),
    encode: (w, m, ctx) => putTableMod(w, m, ctx.version),
  },
  table_status: {
    decode: readTableStatus,
    encode: (w, m) => putTableDesc(w.u8(STATUS_NUMBERS[m.reason]).zeros(7), m.desc),
  },
  table_stats_request: empty({ type: 'table_stats_request' }),
  table_stats_reply: {
    decode: (r, ctx) => ({
      type: 'table_stats_reply',
      tables: readList(r, () => readStats(r, ctx.version)),
    }),
    encode: (w, m, ctx) => {
      for (const s of m.tables) {
        putStats(w, s, ctx.version);
        ctx.mark();
      }
    },
  },
  table_features_request: {
    decode: (r, ctx) => {
      const tables = readList(r, () => readFeatures(r, ctx.version));
      const setsFeatures = tables.length > 0;
      return { type: 'table_features_request', setsFeatures, tables, more: ctx.more };
    },
    encode: () => undefined,
  },
  table_features_reply: {
    decode: (r, ctx) => ({
      type: 'table_features_reply',
      tables: readList(r, () => readFeatures(r, ctx.version)),
    }),
    encode: (w, m, ctx) => {
      for (const f of m.tables) {
        putFeatures(w, f, ctx.version);
        ctx.mark();
      }
    },
  },
  table_desc_request: empty({ type: 'table_desc_request' }),
  table_desc_reply: {
    decode: (r) => ({ type: 'table_desc_reply', tables: readList(r, readTableDesc) }),
    encode: (w, m, ctx) => {
      for (const d of m.tables) {
        putTableDesc(w, d);
        ctx.mark();
      }
    },
  },
};
