// Multicast snooping: what is read from IGMP and MLD messages, what the table makes of it, and where packets go then.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { readMembership } from '../../src/switch/multicast/membership.ts';
import { McastSnooping, type SnoopingSettings } from '../../src/switch/multicast/snooping.ts';
import type { Bundle } from '../../src/switch/types.ts';

const bytes = (hex: string): Uint8Array =>
  Uint8Array.from(Buffer.from(hex.replace(/\s/g, ''), 'hex'));

/** Frames of real hosts and routers. */
const V2_REPORT = bytes(
  '01005e010101000c29a027a18100000108004500001c000100004002cbaeac10221ee001010112140ce9e0010101',
);
const V2_QUERY = bytes(
  '01005e010101000c29a027d18100000108004500001c000100004002cbcbac102201e00101011114eeeb00000000',
);
const V3_REPORT = bytes(
  '0101000c29a0aa55aa550001080046c00028000040000102d3494565eb4ae0000016940400002200f9020000000104000000e00000fb000000000000',
);
const MLD_REPORT = bytes(
  '3333ff0e4c67000c290e4c6786dd600000000020000100000000000000000000000000000000ff0200000000000000000001ff0e4c673a000502000001008300e7b800000000ff0200000000000000000001ff0e4c67',
);

const v4 = (...address: number[]): Uint8Array =>
  Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ...address);

/** An IGMPv3 report with these records, checksum and all. */
function v3Report(
  records: { type: number; sources: number; aux: number; group: number[] }[],
): Uint8Array {
  const body = records.flatMap(({ type, sources, aux, group }) => [
    ...[type, aux, 0, sources, ...group],
    ...new Array<number>(4 * (sources + aux)).fill(7),
  ]);
  const message = Uint8Array.of(0x22, 0, 0, 0, 0, 0, 0, records.length, ...body);
  let sum = 0;
  for (let i = 0; i < message.length; i += 2) sum += (message[i]! << 8) | message[i + 1]!;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  message[2] = (~sum >> 8) & 0xff;
  message[3] = ~sum & 0xff;
  const total = 20 + message.length;
  const ip = [
    0x45,
    0,
    total >> 8,
    total & 0xff,
    0,
    0,
    0,
    0,
    1,
    2,
    0,
    0,
    10,
    0,
    0,
    1,
    224,
    0,
    0,
    22,
  ];
  return Uint8Array.of(1, 0, 0x5e, 0, 0, 22, 2, 0, 0, 0, 0, 1, 8, 0, ...ip, ...message);
}

test('reports, leaves and queries are read; damaged ones are not', () => {
  assert.deepEqual(readMembership(V2_REPORT), {
    querier: false,
    changes: [{ join: true, group: v4(224, 1, 1, 1) }],
  });
  assert.deepEqual(readMembership(V2_QUERY), { querier: true, changes: [] });
  assert.deepEqual(readMembership(V3_REPORT), {
    querier: false,
    changes: [{ join: true, group: v4(224, 0, 0, 251) }],
  });
  const group = bytes('ff0200000000000000000001ff0e4c67');
  assert.deepEqual(readMembership(MLD_REPORT), {
    querier: false,
    changes: [{ join: true, group }],
  });
  for (const frame of [V2_REPORT, V2_QUERY, V3_REPORT, MLD_REPORT]) {
    const damaged = frame.slice();
    damaged[frame.length - 8]! ^= 0x10;
    assert.equal(readMembership(damaged), undefined);
  }
});

test('an IGMPv3 report: auxiliary data is skipped, an empty list of included sources is a leave', () => {
  const report = v3Report([
    { type: 4, sources: 0, aux: 2, group: [239, 0, 0, 1] },
    { type: 3, sources: 0, aux: 0, group: [239, 0, 0, 2] },
    { type: 3, sources: 2, aux: 1, group: [239, 0, 0, 3] },
    { type: 9, sources: 0, aux: 0, group: [239, 0, 0, 4] },
    { type: 2, sources: 0, aux: 0, group: [239, 0, 0, 5] },
  ]);
  const changes = readMembership(report)?.changes.map(({ join, group }) => [join, group[15]]);
  assert.deepEqual(changes, [
    [true, 1],
    [false, 2],
    [true, 3],
    [true, 5],
  ]);
});

test('whatever comes, reading ends without an exception', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(V2_REPORT, V2_QUERY, V3_REPORT, MLD_REPORT),
      fc.array(fc.tuple(fc.nat(90), fc.nat(255)), { maxLength: 4 }),
      fc.nat(100),
      (frame, changes, length) => {
        const mutated = frame.slice(0, length);
        for (const [at, byte] of changes) if (at < mutated.length) mutated[at] = byte;
        readMembership(mutated);
      },
    ),
    { numRuns: 2000 },
  );
});

const SETTINGS: SnoopingSettings = {
  agingMs: 300_000,
  maxEntries: 10,
  floodUnregistered: true,
  floodPorts: new Set(),
  reportPorts: new Set(),
};
const bundle = (name: string): Bundle => ({ name, ports: [] }) as unknown as Bundle;
const join = (...groups: Uint8Array[]) => ({
  querier: false,
  changes: groups.map((group) => ({ join: true, group })),
});
const leave = (group: Uint8Array) => ({ querier: false, changes: [{ join: false, group }] });

function table(settings: Partial<SnoopingSettings> = {}) {
  const clock = { ms: 0, changes: 0 };
  const snooping = new McastSnooping(
    { ...SETTINGS, ...settings },
    () => clock.ms,
    () => clock.changes++,
  );
  const members = (group: Uint8Array, vlan = 0): string[] =>
    [...(snooping.lookup(group, vlan)?.members.keys() ?? [])].map(({ name }) => name);
  return { clock, snooping, members };
}

const G = v4(239, 1, 1, 1);

test('members join and leave per VLAN, age, and are renewed without a change', () => {
  const { clock, snooping, members } = table();
  const [p1, p2] = [bundle('p1'), bundle('p2')];
  snooping.hear(join(G), 0, p1);
  snooping.hear(join(G), 0, p2);
  assert.deepEqual(members(G), ['p1', 'p2']);
  assert.deepEqual(members(G, 5), []);
  const before = clock.changes;
  clock.ms = 200_000;
  assert.equal(snooping.hear(join(G), 0, p2), false);
  assert.equal(clock.changes, before);
  clock.ms = 300_000;
  snooping.expire();
  assert.deepEqual(members(G), ['p2']);
  snooping.hear(leave(G), 0, p2);
  assert.equal(snooping.lookup(G, 0), undefined);
  assert.ok(snooping.isEmpty);
});

test('a router is remembered for three minutes, and is no member besides', () => {
  const { clock, snooping, members } = table();
  const p1 = bundle('p1');
  snooping.hear({ querier: true, changes: [] }, 0, p1);
  snooping.hear(join(G), 0, p1);
  assert.deepEqual(members(G), []);
  assert.equal(snooping.routers.length, 1);
  clock.ms = 180_000;
  snooping.expire();
  assert.equal(snooping.routers.length, 0);
});

test('flood ports are not learned, report ports do not leave, the table has its limit', () => {
  const { snooping, members } = table({ floodPorts: new Set(['f']), reportPorts: new Set(['r']) });
  assert.equal(snooping.hear(join(G), 0, bundle('f')), false);
  const r = bundle('r');
  snooping.hear(join(G), 0, r);
  assert.equal(snooping.hear(leave(G), 0, r), false);
  assert.deepEqual(members(G), ['r']);
  for (let i = 0; i < 30; i++) snooping.hear(join(v4(239, 2, 2, i)), 0, r);
  assert.equal([...snooping.groups].length, 10);
  assert.deepEqual(members(G), [], 'the least recently used goes first');
  snooping.flushBundle(r);
  assert.ok(snooping.isEmpty);
});
