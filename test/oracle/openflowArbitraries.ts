// Random flow tables and the packets that meet them: few values in few fields, so that rules, packets and actions
// have to do with each other often.

import fc from 'fast-check';
import { FLOW_SIZE } from '../../contract/key.ts';
import { matchField } from '../../src/wire/openflow/fieldAccess.ts';
import { fieldByName } from '../../src/wire/openflow/fields.ts';
import {
  type Action,
  type Match,
  OFPP_ALL,
  OFPP_CONTROLLER,
  OFPP_FLOOD,
  OFPP_IN_PORT,
  OFPP_NONE,
} from '../../src/wire/openflow/types.ts';
import {
  arp,
  ethernet,
  IP6_A,
  IP6_B,
  icmp,
  ipv4,
  ipv6,
  MAC_A,
  MAC_B,
  neighbour,
  tcp,
  udp,
} from './frames.ts';
import type { OracleGroup, OracleRule } from './openflow.ts';

const ADDRESSES = [
  [10, 0, 0, 1],
  [10, 0, 0, 2],
  [10, 128, 0, 1],
  [192, 168, 0, 1],
];
const ADDRESSES6 = [IP6_A, IP6_B, [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]];
const MACS = [MAC_A, MAC_B, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff]];
const PORTS = [53, 80, 443, 8080];

const number = (list: readonly number[]): bigint =>
  list.reduce((value, byte) => (value << 8n) | BigInt(byte), 0n);

const address = fc.constantFrom(...ADDRESSES);
const address6 = fc.constantFrom(...ADDRESSES6);
const mac = fc.constantFrom(...MACS);
const tp = fc.constantFrom(...PORTS);
const ttl = fc.constantFrom(0, 1, 2, 64);
const tos = fc.constantFrom(0, 1, 0xb8);

const none = new Uint8Array();

const payload4 = fc.oneof(
  fc.tuple(tp, tp).map(([s, d]) => [6, tcp(s, d, new Uint8Array(4))] as const),
  fc.tuple(tp, tp).map(([s, d]) => [17, udp(s, d, new Uint8Array(4))] as const),
  fc
    .tuple(fc.constantFrom(0, 8), fc.constantFrom(0, 1))
    .map(([t, c]) => [1, icmp(t, c, new Uint8Array(8))] as const),
  fc.constant([47, new Uint8Array(8)] as const),
  // Cut short: the ports (or type and code) are zero in the key, and actions leave them alone.
  fc.constantFrom([6, tcp(80, 53, none).slice(0, 16)], [17, udp(80, 53, none).slice(0, 4)]),
  fc.constantFrom([1, icmp(0, 0, none)], [1, icmp(8, 0, none)]),
) as fc.Arbitrary<readonly [number, Uint8Array]>;
const payload6 = fc.oneof(
  fc.tuple(tp, tp).map(([s, d]) => [6, tcp(s, d, new Uint8Array(4))] as const),
  fc.tuple(tp, tp).map(([s, d]) => [17, udp(s, d, new Uint8Array(4))] as const),
  fc.constantFrom(128, 129).map((t) => [58, icmp(t, 0, new Uint8Array(8))] as const),
  fc
    .tuple(fc.constantFrom(135, 136), address6, mac)
    .map(([t, target, m]) => [58, neighbour(t, target, [[t - 134, [...m]]])] as const),
  fc.constantFrom([6, tcp(80, 53, none).slice(0, 16)], [17, udp(80, 53, none).slice(0, 4)]),
  fc.constantFrom([58, icmp(128, 0, none)], [58, neighbour(135, IP6_A).slice(0, 20)]),
) as fc.Arbitrary<readonly [number, Uint8Array]>;

const body = fc.oneof(
  fc
    .tuple(payload4, address, address, ttl, tos, fc.constantFrom(0, 0, 0, 0x2000, 0x0010))
    .map(
      ([[proto, data], src, dst, ttl, tos, fragment]) =>
        [0x0800, ipv4(proto, data, { src, dst, ttl, tos, fragment })] as const,
    ),
  fc
    .tuple(payload6, address6, address6, ttl, tos, fc.constantFrom(0, 5))
    .map(
      ([[proto, data], src, dst, ttl, tos, label]) =>
        [0x86dd, ipv6(proto, data, { src, dst, ttl, tos, label })] as const,
    ),
  fc
    .tuple(fc.constantFrom(1, 2), mac, address, mac, address)
    .map(
      ([op, sha, spa, tha, tpa]) =>
        [0x0806, arp(op, [...sha], [...spa], [...tha], [...tpa])] as const,
    ),
  fc.constant([0x88b5, new Uint8Array(46)] as const),
);

/** VLAN tags without the DEI bit, which actions on VLANs do not keep. */
const tag = fc
  .tuple(fc.constantFrom(0, 1, 2), fc.constantFrom(0, 5))
  .map(([vid, pcp]) => (pcp << 13) | vid);

/** A frame of the small world. */
export const worldFrame: fc.Arbitrary<Uint8Array> = fc
  .tuple(mac, mac, fc.array(tag, { maxLength: 2 }), body)
  .map(([dst, src, tags, [type, data]]) =>
    ethernet(type, data, { dst, src, tags: tags.map((tci) => [0x8100, tci] as [number, number]) }),
  );

// ---- matches

/** A field, its values, and what has to be matched first. */
const MATCHES: readonly { name: string; values: readonly bigint[]; pre: [string, bigint][] }[] = [
  { name: 'eth_dst', values: MACS.map(number), pre: [] },
  { name: 'eth_src', values: MACS.map(number), pre: [] },
  { name: 'vlan_tci', values: [0n, 0x1000n, 0x1001n, 0x1002n, 0xb001n], pre: [] },
  { name: 'eth_type', values: [0x0800n, 0x86ddn, 0x0806n], pre: [] },
  { name: 'reg0', values: [0n, 1n, 2n], pre: [] },
  { name: 'reg1', values: [0n, 80n], pre: [] },
  { name: 'metadata', values: [0n, 1n, 0xffn], pre: [] },
  { name: 'in_port_oxm', values: [1n, 2n, 3n], pre: [] },
  { name: 'ip_src', values: ADDRESSES.map(number), pre: [['eth_type', 0x0800n]] },
  { name: 'ip_dst', values: ADDRESSES.map(number), pre: [['eth_type', 0x0800n]] },
  { name: 'nw_proto', values: [6n, 17n, 1n], pre: [['eth_type', 0x0800n]] },
  { name: 'nw_tos', values: [0n, 0xb8n], pre: [['eth_type', 0x0800n]] },
  { name: 'nw_ttl', values: [1n, 64n], pre: [['eth_type', 0x0800n]] },
  { name: 'ip_frag', values: [0n, 1n, 3n], pre: [['eth_type', 0x0800n]] },
  { name: 'ipv6_dst', values: ADDRESSES6.map(number), pre: [['eth_type', 0x86ddn]] },
  { name: 'ipv6_label', values: [0n, 5n], pre: [['eth_type', 0x86ddn]] },
  { name: 'arp_op', values: [1n, 2n], pre: [['eth_type', 0x0806n]] },
  { name: 'arp_spa', values: ADDRESSES.map(number), pre: [['eth_type', 0x0806n]] },
  {
    name: 'tcp_dst',
    values: PORTS.map(BigInt),
    pre: [
      ['eth_type', 0x0800n],
      ['nw_proto', 6n],
    ],
  },
  {
    name: 'udp_src',
    values: PORTS.map(BigInt),
    pre: [
      ['eth_type', 0x0800n],
      ['nw_proto', 17n],
    ],
  },
  {
    name: 'icmp_type',
    values: [0n, 8n],
    pre: [
      ['eth_type', 0x0800n],
      ['nw_proto', 1n],
    ],
  },
  {
    name: 'tcp_src',
    values: PORTS.map(BigInt),
    pre: [
      ['eth_type', 0x86ddn],
      ['nw_proto', 6n],
    ],
  },
];

export const worldMatch: fc.Arbitrary<Match> = fc
  .array(
    fc.tuple(
      fc.nat(MATCHES.length - 1),
      fc.nat(9),
      fc.constantFrom('exact', 'exact', 'prefix', 'bits'),
      fc.nat(127),
    ),
    { maxLength: 3 },
  )
  .map((choices) => {
    const match: Match = { key: new Uint8Array(FLOW_SIZE), mask: new Uint8Array(FLOW_SIZE) };
    const given = new Map<string, bigint>();
    for (const [index, valueIndex, kind, bits] of choices) {
      const { name, values, pre } = MATCHES[index]!;
      // Contradicting prerequisites would make a match that no decoder lets through.
      if (pre.some(([f, v]) => (given.get(f) ?? v) !== v)) continue;
      if (name === 'eth_type' && given.has('eth_type')) continue;
      if (name === 'nw_proto' && given.has('nw_proto')) continue;
      for (const [f, v] of pre) {
        given.set(f, v);
        matchField(match, fieldByName(f), v);
      }
      const f = fieldByName(name);
      const value = values[valueIndex % values.length]!;
      given.set(name, value);
      const ones = (1n << BigInt(f.valueBits)) - 1n;
      let mask: bigint | undefined;
      if (f.maskable && kind === 'prefix') mask = ones - (ones >> BigInt((bits % f.valueBits) + 1));
      if (f.maskable && kind === 'bits') mask = (0x5an * 0x0101010101n) & ones;
      if (mask === 0n) continue;
      matchField(match, f, value, mask);
    }
    return match;
  });

// ---- actions

const output: fc.Arbitrary<Action> = fc
  .constantFrom(1, 2, 3, 4, 99, OFPP_IN_PORT, OFPP_ALL, OFPP_FLOOD, OFPP_CONTROLLER)
  .map((port) => ({ type: 'output', port, maxLen: port === OFPP_CONTROLLER ? 0xffff : 0 }));

const SETS: readonly [string, readonly bigint[]][] = [
  ['eth_dst', MACS.map(number)],
  ['eth_src', MACS.map(number)],
  ['reg0', [0n, 1n, 2n]],
  ['metadata', [0n, 1n]],
  ['ip_src', ADDRESSES.map(number)],
  ['ip_dst', ADDRESSES.map(number)],
  ['ip_dscp', [0n, 46n]],
  ['nw_ecn', [0n, 1n]],
  ['nw_ttl', [1n, 9n]],
  ['ipv6_src', ADDRESSES6.map(number)],
  ['ipv6_dst', ADDRESSES6.map(number)],
  ['ipv6_label', [0n, 7n]],
  ['arp_op', [1n, 2n]],
  ['arp_sha', MACS.map(number)],
  ['arp_tpa', ADDRESSES.map(number)],
  ['tcp_dst', PORTS.map(BigInt)],
  ['tcp_src', PORTS.map(BigInt)],
  ['udp_dst', PORTS.map(BigInt)],
  ['icmp_type', [0n, 8n]],
  ['nd_target', ADDRESSES6.map(number)],
  ['nd_sll', MACS.map(number)],
  ['vlan_vid', [0x1001n, 0x1002n]],
  ['vlan_pcp', [0n, 5n]],
];

function bytesOf(value: bigint, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = length - 1; i >= 0; i--) {
    bytes[i] = Number(value & 0xffn);
    value >>= 8n;
  }
  return bytes;
}

const setField: fc.Arbitrary<Action> = fc
  .tuple(fc.nat(SETS.length - 1), fc.nat(9), fc.boolean())
  .map(([index, valueIndex, masked]) => {
    const [field, values] = SETS[index]!;
    const f = fieldByName(field);
    const value = values[valueIndex % values.length]!;
    const ones = (1n << BigInt(f.valueBits)) - 1n;
    const mask = masked && f.maskable && field !== 'vlan_vid' ? ones & 0x0fn : ones;
    return {
      type: 'set_field',
      field,
      value: bytesOf(value & mask, f.bytes),
      mask: bytesOf(mask, f.bytes),
    };
  });

const MOVES: readonly [src: string, dst: string, bits: number][] = [
  ['tcp_dst', 'reg1', 16],
  ['ip_src', 'reg0', 32],
  ['ip_src', 'ip_dst', 32],
  ['eth_src', 'eth_dst', 48],
  ['reg0', 'nw_ttl', 8],
  ['nw_tos', 'reg0', 8],
  ['in_port_oxm', 'reg0', 16],
  ['arp_spa', 'arp_tpa', 32],
  ['vlan_tci', 'reg0', 12],
];

const simple: fc.Arbitrary<Action> = fc.oneof(
  { weight: 4, arbitrary: output },
  { weight: 5, arbitrary: setField },
  {
    weight: 1,
    arbitrary: fc.constantFrom(...MOVES).map(([src, dst, bits]) => ({
      type: 'move' as const,
      src: { field: src, offset: 0, bits },
      dst: { field: dst, offset: 0, bits },
    })),
  },
  fc.constantFrom<Action[]>(
    { type: 'strip_vlan' },
    { type: 'push_vlan', ethertype: 0x8100 },
    { type: 'push_vlan', ethertype: 0x88a8 },
    { type: 'dec_ttl', controllerIds: [0] },
    { type: 'set_vlan_vid', vid: 2, pushIfNeeded: true },
    { type: 'set_vlan_pcp', pcp: 3, pushIfNeeded: false },
    { type: 'load', dst: { field: 'reg0', offset: 4, bits: 8 }, value: 5n },
    { type: 'note', data: new Uint8Array(2) },
  ),
);

/** Buckets of the groups that the world's actions name; 9 does not exist. */
export const WORLD_GROUPS: ReadonlyMap<number, OracleGroup> = new Map([
  [
    1,
    {
      first: false,
      buckets: [
        {
          watchPort: OFPP_NONE,
          actions: [
            { type: 'output', port: 2, maxLen: 0 },
            {
              type: 'set_field',
              field: 'eth_dst',
              value: Uint8Array.from(MAC_B),
              mask: new Uint8Array(6).fill(0xff),
            },
            { type: 'dec_ttl', controllerIds: [0] },
          ],
        },
        {
          watchPort: OFPP_NONE,
          actions: [{ type: 'output', port: OFPP_CONTROLLER, maxLen: 0xffff }],
        },
        { watchPort: OFPP_NONE, actions: [{ type: 'strip_vlan' }] },
      ],
    },
  ],
  [
    2,
    {
      first: false,
      buckets: [
        {
          watchPort: OFPP_NONE,
          actions: [{ type: 'resubmit', inPort: OFPP_IN_PORT, table: 3 }],
        },
      ],
    },
  ],
  [
    3,
    {
      first: true,
      buckets: [
        { watchPort: 99, actions: [{ type: 'output', port: 1, maxLen: 0 }] },
        { watchPort: 4, actions: [{ type: 'group', group: 1 }] },
      ],
    },
  ],
]);

const group: fc.Arbitrary<Action> = fc
  .constantFrom(1, 2, 3, 9)
  .map((id) => ({ type: 'group', group: id }));

const STACKED: readonly [string, number, number][] = [
  ['reg0', 0, 32],
  ['reg1', 4, 8],
  ['in_port_oxm', 0, 16],
  ['eth_src', 0, 48],
];
const stacking: fc.Arbitrary<Action> = fc
  .tuple(fc.constantFrom(...STACKED), fc.boolean())
  .map(([[field, offset, bits], push]) => ({
    type: push || field === 'in_port_oxm' ? ('stack_push' as const) : ('stack_pop' as const),
    subfield: { field, offset, bits },
  }));

function control(table: number): fc.Arbitrary<Action> {
  return fc.oneof(
    fc
      .tuple(fc.constantFrom(0, 1, 2, 3, 255), fc.constantFrom(OFPP_IN_PORT, 1, 2))
      .map(([t, inPort]) => ({ type: 'resubmit' as const, inPort, table: t })),
    fc.constantFrom<Action[]>(
      { type: 'exit' },
      { type: 'write_metadata', metadata: 1n, mask: 1n },
      { type: 'goto_table', table: Math.min(table + 1, 3) },
      { type: 'clear_actions' },
    ),
    group,
    stacking,
    stacking,
    fc
      .array(fc.oneof(simple, group, stacking), { minLength: 1, maxLength: 3 })
      .map((actions) => ({ type: 'clone' as const, actions })),
    fc
      .array(fc.oneof(setField, output, group), { minLength: 1, maxLength: 2 })
      .map((actions) => ({ type: 'write_actions' as const, actions })),
  );
}

export const worldActions = (table: number): fc.Arbitrary<Action[]> =>
  fc
    .array(fc.oneof({ weight: 5, arbitrary: simple }, { weight: 1, arbitrary: control(table) }), {
      maxLength: 6,
    })
    // goto_table backwards is refused; it ends an instruction list anyhow.
    .map((actions) => actions.filter((a) => a.type !== 'goto_table' || a.table > table));

/** Flow tables 0 … 3, priorities distinct in each. */
export const worldRules: fc.Arbitrary<OracleRule[]> = fc
  .array(
    fc
      .constantFrom(0, 0, 0, 1, 1, 2, 3)
      .chain((table) =>
        fc.record({ table: fc.constant(table), match: worldMatch, actions: worldActions(table) }),
      ),
    { minLength: 1, maxLength: 14 },
  )
  .map((list) =>
    list.map(({ table, match, actions }, i) => ({
      table,
      priority: (i * 37) % 101,
      key: match.key,
      mask: match.mask,
      actions,
    })),
  );
