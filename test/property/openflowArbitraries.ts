// Random OpenFlow values for property tests: matches, action lists and whole messages, restricted to what the given
// wire version can say, so that decode(encode(x)) has to equal x.

import fc from 'fast-check';
import { FLOW_SIZE, K_ETH_TYPE, K_TP_SRC, K_VLAN0_TCI } from '../../contract/key.ts';
import {
  emptyMatch,
  fieldIsMatched,
  matchField,
  toBytes,
} from '../../src/wire/openflow/fieldAccess.ts';
import type { Field } from '../../src/wire/openflow/fields.ts';
import { FIELDS, fieldByName, oxmIdFor } from '../../src/wire/openflow/fields.ts';
import { fitsOfp10Match, normalizeMatch } from '../../src/wire/openflow/legacyMatch.ts';
import { isValueValid } from '../../src/wire/openflow/match.ts';
import { get16, prereqOk, put16 } from '../../src/wire/openflow/prereq.ts';
import type { Action, FlowMod, Match, OfVersion, Subfield } from '../../src/wire/openflow/types.ts';

export const u8 = fc.integer({ min: 0, max: 0xff });
export const u16 = fc.integer({ min: 0, max: 0xffff });
export const u32 = fc.integer({ min: 0, max: 0xffffffff });
export const u64 = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n });
export const bytes = (min: number, max: number): fc.Arbitrary<Uint8Array> =>
  fc.uint8Array({ minLength: min, maxLength: max });
export const port = fc.oneof(
  fc.integer({ min: 0, max: 0xfeff }),
  fc.constantFrom(0xfffffff8, 0xfffffffa, 0xfffffffb, 0xfffffffc, 0xfffffffd, 0xfffffffe),
);

// ---- matches

/** Fields that lead to others, each with values that have consequences. */
const SELECTORS: readonly (readonly [string, readonly number[]])[] = [
  ['eth_type', [0x0800, 0x86dd, 0x0806, 0x8035, 0x8847, 0x1234]],
  ['nw_proto', [1, 6, 17, 58, 132, 200]],
  ['icmpv6_type', [135, 136, 1]],
  ['ct_state', [0x21, 0x25, 0x20]],
];

const SKIPPED = new Set(['packet_type', 'in_port', 'nw_tos', 'vlan_tci']);

const MATCHABLE: readonly Field[] = FIELDS.filter(
  (f) => f.oxm.length > 0 && f.tlvIndex === undefined && !SKIPPED.has(f.name),
);

interface FieldPick {
  field: number;
  value: bigint;
  mask: bigint;
  exact: boolean;
}

const pick: fc.Arbitrary<FieldPick> = fc.record({
  field: fc.nat(MATCHABLE.length - 1),
  value: fc.bigInt({ min: 0n, max: (1n << 128n) - 1n }),
  mask: fc.bigInt({ min: 0n, max: (1n << 128n) - 1n }),
  exact: fc.boolean(),
});

/** Matches that NXM and every OXM version can express. */
export const match: fc.Arbitrary<Match> = fc
  .record({
    selectors: fc.tuple(...SELECTORS.map(([, values]) => fc.option(fc.constantFrom(...values)))),
    picks: fc.array(pick, { maxLength: 12 }),
  })
  .map(({ selectors, picks }) => {
    const m = emptyMatch(FLOW_SIZE);
    const add = (f: Field, value: bigint, mask?: bigint): void => {
      if (!prereqOk(f.prereq, m.key, m.mask) || fieldIsMatched(m, f)) return;
      if (mask === 0n || !isValueValid(f, value)) return;
      // Of some fields of tunnels a text says no zeros: a value is its own mask.
      if (f.masksItself && (value & (mask ?? value)) === 0n) return;
      // A later fragment is a fragment, and has no ports.
      if (f.name === 'ip_frag' && ((value & 3n) === 2n || portsMatched(m))) return;
      // Neighbour discovery has code 0.
      const icmpType = get16(m.key, K_TP_SRC);
      if (f.name === 'icmpv6_code' && value !== 0n && icmpType === 0x87) return;
      if (f.name === 'icmpv6_code' && value !== 0n && icmpType === 0x88) return;
      // The original addresses of a connection are of the flow's IP version.
      const type = get16(m.key, K_ETH_TYPE);
      if (/^ct_nw_(src|dst)$/.test(f.name) && type !== 0x0800) return;
      if (f.name.startsWith('ct_ipv6') && type !== 0x86dd) return;
      matchField(m, f, value, mask);
    };
    for (const [i, value] of selectors.entries())
      if (value !== null) add(fieldByName(SELECTORS[i]![0]), BigInt(value));
    for (const p of picks) {
      const f = MATCHABLE[p.field]!;
      const width = (1n << BigInt(f.valueBits)) - 1n;
      let value = p.value & width;
      if (f.format === 'port11') value &= 0x7fffn;
      const masked = f.maskable && !p.exact;
      const mask = p.mask & width;
      add(f, masked ? value & mask : value, masked ? mask : undefined);
    }
    normalizeMatch(m);
    return m;
  });

function portsMatched(m: Match): boolean {
  return ['tcp_src', 'tcp_dst', 'tcp_flags'].some((name) => fieldIsMatched(m, fieldByName(name)));
}

/** Matches of OpenFlow 1.0 without extensions. */
export const match10: fc.Arbitrary<Match> = fc
  .tuple(match, fc.option(fc.integer({ min: 0, max: 4095 })), fc.option(fc.nat(7)))
  .map(([m, vid, pcp]) => {
    const out = emptyMatch(FLOW_SIZE);
    const keep = ['in_port_oxm', 'eth_src', 'eth_dst', 'eth_type', 'nw_proto', 'ip_dscp'];
    for (const name of [...keep, 'ip_src', 'ip_dst', 'tcp_src', 'tcp_dst']) {
      const f = fieldByName(name);
      const part = { key: out.key.slice(), mask: out.mask.slice() };
      part.key.set(m.key.subarray(f.offset, f.offset + f.size), f.offset);
      part.mask.set(m.mask.subarray(f.offset, f.offset + f.size), f.offset);
      if (name === 'ip_dscp') {
        part.key[f.offset]! &= 0xfc;
        part.mask[f.offset]! &= 0xfc;
      }
      if (!fitsOfp10Match(part)) continue;
      out.key.set(part.key);
      out.mask.set(part.mask);
    }
    put16(out.key, K_VLAN0_TCI, 0);
    put16(out.mask, K_VLAN0_TCI, 0);
    if (vid !== null) matchField(out, fieldByName('dl_vlan'), BigInt(vid));
    if (pcp !== null) matchField(out, fieldByName('dl_vlan_pcp'), BigInt(pcp));
    normalizeMatch(out);
    return out;
  });

export function matchFor(version: OfVersion): fc.Arbitrary<Match> {
  if (version === 1) return match10;
  // OpenFlow 1.1 looks into IPv4 only.
  if (version === 2) return match10.filter((m) => get16(m.key, K_ETH_TYPE) !== 0x86dd);
  return match.filter((m) => {
    // A priority without "there is a header" cannot be said in OXM.
    const tci = get16(m.mask, K_VLAN0_TCI);
    return (tci & 0xe000) === 0 || (get16(m.key, K_VLAN0_TCI) & 0x1000) !== 0;
  });
}

// ---- actions

const WRITABLE = MATCHABLE.filter(
  (f) => f.writable && f.name !== 'in_port_oxm' && !f.name.startsWith('ct_'),
);

export const subfield = (fields: readonly Field[]): fc.Arbitrary<Subfield> =>
  fc.tuple(fc.constantFrom(...fields), fc.nat(1000), fc.nat(1000)).map(([f, a, b]) => {
    const offset = a % f.bits;
    return { field: f.name, offset, bits: 1 + (b % Math.min(64, f.bits - offset)) };
  });

const NXM_FIELDS = MATCHABLE.filter((f) => (oxmIdFor(f, 0)?.oxmClass ?? 0xffff) !== 0xffff);
const NXM_WRITABLE = NXM_FIELDS.filter((f) => WRITABLE.includes(f));

const load: fc.Arbitrary<Action> = fc
  .tuple(subfield(NXM_WRITABLE), u64)
  .map(([dst, v]) => ({ type: 'load', dst, value: v & ((1n << BigInt(dst.bits)) - 1n) }));

const move: fc.Arbitrary<Action> = fc
  .tuple(subfield(NXM_FIELDS), subfield(NXM_WRITABLE))
  .map(([src, dst]) => {
    const bits = Math.min(src.bits, dst.bits);
    return { type: 'move', src: { ...src, bits }, dst: { ...dst, bits } };
  });

const setField = (masked: boolean): fc.Arbitrary<Action> =>
  fc
    .tuple(
      fc.constantFrom(...WRITABLE),
      fc.bigInt({ min: 0n, max: (1n << 128n) - 1n }),
      fc.bigInt({ min: 0n, max: (1n << 128n) - 1n }),
    )
    .map(([f, v, m]) => {
      const width = (1n << BigInt(f.valueBits)) - 1n;
      const all = (1n << BigInt(8 * f.bytes)) - 1n;
      let mask = masked && f.maskable ? m & width : all;
      let value = v & width;
      if (f.name === 'vlan_vid') {
        value |= 0x1000n;
        mask |= 0x1000n;
      }
      if (mask === 0n) mask = all;
      return {
        type: 'set_field',
        field: f.name,
        value: toBytes(value & mask, f.bytes),
        mask: toBytes(mask, f.bytes),
      };
    });

const LEGACY: readonly (readonly [string, string])[] = [
  ['mod_dl_src', 'eth_src'],
  ['mod_dl_dst', 'eth_dst'],
  ['mod_nw_src', 'ip_src'],
  ['mod_nw_dst', 'ip_dst'],
  ['mod_nw_tos', 'ip_dscp'],
  ['set_mpls_label', 'mpls_label'],
  ['set_mpls_tc', 'mpls_tc'],
  ['set_mpls_ttl', 'mpls_ttl'],
  ['set_tunnel64', 'tun_id'],
];

const legacy: fc.Arbitrary<Action> = fc
  .tuple(fc.constantFrom(...LEGACY), u64)
  .map(([[name, field], v]) => {
    const f = fieldByName(field);
    const value = v & ((1n << BigInt(f.valueBits)) - 1n);
    const mask = new Uint8Array(f.bytes).fill(0xff);
    return { type: 'set_field', field, value: toBytes(value, f.bytes), mask, legacy: name };
  });

const nat: fc.Arbitrary<Action> = fc
  .record({
    flags: fc.constantFrom(1, 2, 5, 10, 18),
    v6: fc.boolean(),
    min: bytes(16, 16),
    max: fc.boolean(),
    portMin: fc.integer({ min: 0, max: 0x7fff }),
    portMax: fc.integer({ min: 0x8000, max: 0xffff }),
  })
  .map(({ flags, v6, min, max, portMin, portMax }) => {
    const addressMin = min.slice(0, v6 ? 16 : 4);
    addressMin[0] = 1;
    const addressMax = addressMin.slice();
    addressMax[0] = 2;
    return {
      type: 'nat',
      flags,
      addressMin,
      ...(max ? { addressMax } : {}),
      portMin,
      portMax: portMin === 0 ? 0 : portMax,
    };
  });

const ct: fc.Arbitrary<Action> = fc.record({
  type: fc.constant('ct' as const),
  flags: fc.constantFrom(1, 3),
  zone: fc.oneof(u16, fc.constant({ field: 'reg3', offset: 0, bits: 16 })),
  table: u8,
  alg: fc.constantFrom(0, 21, 69),
  actions: fc.tuple(nat).map((a) => a as Action[]),
});

const learn: fc.Arbitrary<Action> = fc
  .record({
    times: fc.tuple(u16, u16, u16, u16),
    priority: u16,
    cookie: u64,
    flags: fc.nat(3),
    table: fc.nat(254),
    limit: fc.oneof(fc.constant(0), u32),
    value: u16,
    src: subfield(NXM_FIELDS),
  })
  .map(({ times, src, value, ...rest }) => ({
    type: 'learn',
    idleTimeout: times[0],
    hardTimeout: times[1],
    finIdleTimeout: times[2],
    finHardTimeout: times[3],
    ...rest,
    specs: [
      {
        kind: 'match',
        bits: 16,
        src: BigInt(value),
        dst: { field: 'eth_type', offset: 0, bits: 16 },
      },
      { kind: 'match', bits: src.bits, src, dst: src },
      {
        kind: 'load',
        bits: 32,
        src: { field: 'reg1', offset: 0, bits: 32 },
        dst: { field: 'reg2', offset: 0, bits: 32 },
      },
      { kind: 'output', bits: 16, src: { field: 'in_port', offset: 0, bits: 16 } },
    ],
  }));

const controller: fc.Arbitrary<Action> = fc
  .record({
    maxLen: u16,
    controllerId: u16,
    reason: fc.constantFrom(0, 1, 2),
    userdata: fc.option(bytes(1, 20)),
    pause: fc.boolean(),
    meterId: fc.option(fc.integer({ min: 1, max: 1000 })),
  })
  .map(({ userdata, pause, meterId, ...a }) => ({
    type: 'controller',
    ...a,
    ...(userdata === null ? {} : { userdata }),
    ...(pause ? { pause } : {}),
    ...(meterId === null ? {} : { meterId }),
  }));

/** Actions that every version sends and receives unchanged. */
const common: fc.Arbitrary<Action> = fc.oneof(
  fc.record({ type: fc.constant('output' as const), port, maxLen: u16 }),
  fc.record({
    type: fc.constant('output_reg' as const),
    source: subfield(NXM_FIELDS),
    maxLen: u16,
  }),
  fc.record({
    type: fc.constant('output_trunc' as const),
    port,
    maxLen: fc.integer({ min: 14, max: 0xffffffff }),
  }),
  controller,
  fc.record({ type: fc.constant('set_queue' as const), queue: u32 }),
  fc.record({ type: fc.constant('group' as const), group: u32 }),
  fc.record({ type: fc.constant('resubmit' as const), inPort: port, table: u8 }),
  fc.record({
    type: fc.constant('resubmit' as const),
    inPort: port,
    table: u8,
    withCt: fc.constant(true),
  }),
  fc.constantFrom<Action>(
    { type: 'pop_queue' },
    { type: 'exit' },
    { type: 'ct_clear' },
    { type: 'dec_mpls_ttl' },
    { type: 'dec_ttl', controllerIds: [0] },
    { type: 'dec_ttl', controllerIds: [1, 2, 3, 4], explicitIds: true },
    { type: 'push_mpls', ethertype: 0x8847 },
    { type: 'pop_mpls', ethertype: 0x0800 },
    { type: 'clone', actions: [{ type: 'output', port: 3, maxLen: 0 }, { type: 'ct_clear' }] },
    { type: 'check_pkt_larger', pktLen: 1500, dst: { field: 'reg0', offset: 7, bits: 1 } },
    { type: 'stack_push', subfield: { field: 'reg2', offset: 3, bits: 10 } },
    { type: 'stack_pop', subfield: { field: 'metadata', offset: 3, bits: 40 } },
  ),
  fc
    .nat(5)
    .chain((n) => bytes(6 + 8 * n, 6 + 8 * n).map((data) => ({ type: 'note', data }) as const)),
  fc.record({ type: fc.constant('fin_timeout' as const), idleTimeout: u16, hardTimeout: u16 }),
  fc.record({
    type: fc.constant('sample' as const),
    probability: fc.integer({ min: 1, max: 0xffff }),
    collectorSetId: u32,
    obsDomainId: u32,
    obsPointId: u32,
    samplingPort: fc.oneof(fc.constant(0xffffffff), fc.nat(0xfeff)),
    direction: fc.nat(2),
  }),
  fc.record({
    type: fc.constant('multipath' as const),
    fields: fc.nat(6),
    basis: u16,
    algorithm: fc.nat(3),
    maxLink: fc.nat(100),
    arg: u32,
    dst: fc.constant({ field: 'reg5', offset: 0, bits: 16 }),
  }),
  fc.record({
    type: fc.constant('bundle' as const),
    fields: fc.nat(6),
    basis: u16,
    algorithm: fc.nat(1),
    members: fc.array(fc.nat(0xfeff), { maxLength: 9 }),
  }),
  ct,
  learn,
);

export function actionFor(version: OfVersion): fc.Arbitrary<Action> {
  const arbs: fc.Arbitrary<Action>[] = [common];
  if (version < 6)
    arbs.push(
      load,
      setField(true).map((a) => ({ ...a, load2: true }) as Action),
    );
  // A field without a plain NXM header cannot be moved before OpenFlow 1.5; `move` avoids those.
  arbs.push(move);
  if (version <= 2) arbs.push(legacy);
  if (version >= 3) arbs.push(setField(version >= 6));
  if (version === 1) {
    arbs.push(
      fc.record({
        type: fc.constant('enqueue' as const),
        port: fc.nat(0xfeff),
        queue: u32,
      }),
      fc.constantFrom<Action>(
        { type: 'strip_vlan', legacy: true },
        { type: 'set_vlan_vid', vid: 17, pushIfNeeded: true },
        { type: 'set_vlan_pcp', pcp: 5, pushIfNeeded: true },
      ),
    );
  } else {
    arbs.push(
      fc.constantFrom<Action>(
        { type: 'strip_vlan' },
        { type: 'push_vlan', ethertype: 0x8100 },
        { type: 'push_vlan', ethertype: 0x88a8 },
      ),
    );
  }
  if (version >= 6) arbs.push(fc.record({ type: fc.constant('meter' as const), meterId: u32 }));
  return fc.oneof(...arbs);
}

const IN_SET = new Set(['output', 'group', 'set_field', 'move', 'push_mpls', 'set_queue']);

/** Whole lists, with instructions where the version has them. */
export function actionsFor(version: OfVersion): fc.Arbitrary<Action[]> {
  const apply = fc.array(actionFor(version), { maxLength: 6 });
  if (version === 1) return apply;
  const set = fc.array(
    actionFor(version).filter((a) => IN_SET.has(a.type)),
    { minLength: 1, maxLength: 3 },
  );
  return fc
    .record({
      meter: fc.option(u32),
      apply,
      clear: fc.boolean(),
      write: fc.option(set),
      metadata: fc.option(fc.tuple(u64, u64)),
      goto: fc.option(fc.nat(254)),
    })
    .map((i) => {
      const list: Action[] = [...i.apply];
      if (i.meter !== null && (version === 4 || version === 5))
        list.unshift({ type: 'meter', meterId: i.meter });
      if (i.clear) list.push({ type: 'clear_actions' });
      if (i.write !== null) list.push({ type: 'write_actions', actions: i.write });
      if (i.metadata !== null)
        list.push({ type: 'write_metadata', metadata: i.metadata[0], mask: i.metadata[1] });
      if (i.goto !== null) list.push({ type: 'goto_table', table: i.goto });
      return list;
    });
}

// ---- flow-mods

export function flowModFor(version: OfVersion, nxt = false): fc.Arbitrary<FlowMod> {
  const flag = (since: number): fc.Arbitrary<boolean> =>
    version >= since ? fc.boolean() : fc.constant(false);
  return fc
    .record({
      command: fc.constantFrom(
        'add' as const,
        'modify' as const,
        'modify_strict' as const,
        'delete' as const,
        'delete_strict' as const,
      ),
      table: version === 1 ? fc.constant(0xff) : fc.nat(254),
      match: nxt ? matchFor(3) : matchFor(version),
      // OpenFlow 1.0 raises exact matches to 65535.
      priority: version === 1 && !nxt ? fc.constant(0xffff) : u16,
      cookie: u64,
      cookieMask: u64,
      idleTimeout: u16,
      hardTimeout: u16,
      importance: version >= 5 ? u16 : fc.constant(0),
      bufferId: u32,
      outPort: port,
      outGroup: version === 1 ? fc.constant(0xffffffff) : u32,
      flags: fc.record({
        sendFlowRem: fc.boolean(),
        checkOverlap: fc.boolean(),
        resetCounts: flag(3),
        noPktCounts: flag(4),
        noBytCounts: flag(4),
      }),
      actions: actionsFor(version),
    })
    .map((m) => {
      const isAdd = m.command === 'add';
      const isDelete = m.command === 'delete' || m.command === 'delete_strict';
      const oldCookie = version === 1 || (version === 2 && !isDelete && m.cookieMask === 0n);
      const sets = isAdd || oldCookie;
      const none = (1n << 64n) - 1n;
      const newCookie = nxt || sets ? m.cookie & ~1n : none;
      const choose = nxt ? !isAdd : !sets;
      return {
        ...m,
        cookie: choose ? (nxt ? m.cookie & m.cookieMask : m.cookie) : 0n,
        cookieMask: choose ? m.cookieMask : 0n,
        newCookie,
        modifyCookie: version === 1,
        importance: isAdd ? m.importance : 0,
        outGroup: isDelete ? m.outGroup : 0xffffffff,
        flags: { ...m.flags, resetCounts: version < 3 ? isAdd : m.flags.resetCounts },
      };
    });
}
