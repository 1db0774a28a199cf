// Fragments in connection tracking: held, tracked as the whole datagram, sent on as they came; refused where they lie.

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import { ACT_DROP, ACT_END, ACT_OUTPUT, ACT_PUSH_VLAN, ACT_RECIRC } from '../../contract/action.ts';
import { CS_DNAT, CS_EST, CS_INV, CS_NEW, CS_RPL, CS_SNAT, CS_TRK } from '../../contract/ct.ts';
import { FG_USED_SLOTS, FRAGMENTS_BASE } from '../../contract/ctFragments.ts';
import { DROP_FLOW_EXPLICIT, DROP_NONE, DROP_RECIRC_LIMIT } from '../../contract/drop.ts';
import { ipfCommandTable } from '../../src/switch/ipfCommands.ts';
import { CtRig, type CtSpec, ctAction, hex } from '../oracle/ctRig.ts';
import {
  ethernet,
  IP4_A,
  IP4_B,
  IP6_A,
  IP6_B,
  ipv4,
  ipv6,
  onesSum,
  udp,
} from '../oracle/frames.ts';
import { Rig } from '../oracle/rig.ts';

const NEW = CS_TRK | CS_NEW;
const INVALID = CS_TRK | CS_INV;
const END = ACT_END | (1 << 16);
const commit: CtSpec = { commit: true };

let ct: CtRig;
beforeEach(async () => {
  ct = await CtRig.create();
});

type Address = readonly number[];

/** A datagram of UDP in pieces of `size` bytes of payload; IPv6 if the addresses are. */
function pieces(
  src: Address,
  sport: number,
  dst: Address,
  dport: number,
  length = 4000,
  size = 1440,
): Uint8Array[] {
  const data = Uint8Array.from({ length }, (_, i) => i * 7);
  const v6 = src.length === 16;
  // A whole packet gives the datagram its checksum.
  const whole = (v6 ? ipv6 : ipv4)(17, udp(sport, dport, data), { src, dst });
  const body = whole.subarray(v6 ? 40 : 20);
  const out: Uint8Array[] = [];
  for (let at = 0; at < body.length; at += size) {
    const more = at + size < body.length;
    const part = body.subarray(at, at + size);
    const fragment = v6 ? at | Number(more) : (at >> 3) | (more ? 0x2000 : 0);
    if (v6) out.push(ethernet(0x86dd, raw6(part, { src, dst, fragment })));
    else out.push(ethernet(0x0800, raw4(part, { src, dst, fragment })));
  }
  return out;
}

/** The builders fill in the checksum of first fragments: put the datagram's own back. */
function raw4(part: Uint8Array, options: object): Uint8Array {
  const packet = ipv4(17, part, options);
  packet.set(part, packet.length - part.length);
  return packet;
}
function raw6(part: Uint8Array, options: object): Uint8Array {
  const packet = ipv6(17, part, options);
  packet.set(part, packet.length - part.length);
  return packet;
}

/** The datagram that fragments carry: pseudo header sum included, its checksum must be right. */
function assertDatagram4(frames: readonly Uint8Array[], src: Address, dst: Address): void {
  const parts = frames.map((frame) => {
    assert.equal(onesSum(frame.subarray(14, 34)), 0xffff);
    assert.deepEqual([...frame.subarray(26, 34)], [...src, ...dst]);
    return { at: (((frame[20]! << 8) | frame[21]!) & 0x1fff) * 8, body: frame.subarray(34) };
  });
  parts.sort((a, b) => a.at - b.at);
  const body = Uint8Array.from(parts.flatMap(({ body: bytes }) => [...bytes]));
  const pseudo = Uint8Array.from([...src, ...dst, 0, 17, body.length >> 8, body.length & 255]);
  assert.equal(onesSum(pseudo, body), 0xffff);
}

test('fragments in any order, in one burst or several, are tracked when all are there', () => {
  const [a, b, c] = pieces(IP4_A, 1000, IP4_B, 53) as [Uint8Array, Uint8Array, Uint8Array];
  assert.deepEqual(ct.run([c], [commit]), []);
  assert.deepEqual(ct.run([a], [commit]), []);
  assert.equal(ct.rig.conntrack.getFragments().waiting, 2);
  const out = ct.run([b], [commit]);
  assert.deepEqual(
    out.map(({ frame }) => hex(frame)),
    [c, a, b].map(hex),
    'as they came',
  );
  assert.deepEqual(
    out.map(({ state }) => state),
    [NEW, NEW, NEW],
  );
  assert.equal(out[0]!.original, `${hex(IP4_A)} ${hex(IP4_B)} 17 1000 53`);
  const back = ct.run(pieces(IP4_B, 53, IP4_A, 1000), [{}]);
  assert.deepEqual(
    back.map(({ state }) => state),
    new Array<number>(3).fill(CS_TRK | CS_EST | CS_RPL),
  );
  assert.equal(ct.rig.conntrack.count(), 1);
  const counters = ct.rig.conntrack.counters();
  assert.deepEqual([counters.fragments_v4_accepted, counters.fragments_reassembled], [6, 2]);
});

test('slots come back', () => {
  for (let i = 0; i < 400; i++) {
    assert.equal(ct.run(pieces(IP4_A, 1000 + (i % 7), IP4_B, 53), [commit]).length, 3);
  }
  ct.rig.poll();
  assert.ok(ct.rig.memory.get(FRAGMENTS_BASE + FG_USED_SLOTS) <= 6);
});

test('translated fragments, IPv4 and back', () => {
  const address = [192, 0, 2, 1];
  const nat: CtSpec = { commit: true, nat: { side: 'src', low: address, ports: [5000, 5000] } };
  const out = ct.run(pieces(IP4_A, 1000, IP4_B, 53), [nat]);
  assert.deepEqual(
    out.map(({ state }) => state),
    new Array<number>(3).fill(NEW | CS_SNAT),
  );
  assertDatagram4(
    out.map(({ frame }) => frame),
    address,
    IP4_B,
  );
  assert.deepEqual([...out[0]!.frame.subarray(34, 38)], [5000 >> 8, 5000 & 255, 0, 53]);
  const back = ct.run(pieces(IP4_B, 53, address, 5000), [{ nat: {} }]);
  assert.equal(back[0]!.state, CS_TRK | CS_EST | CS_RPL | CS_DNAT);
  assertDatagram4(
    back.map(({ frame }) => frame),
    IP4_B,
    IP4_A,
  );
});

test('IPv6, through two zones in one program', () => {
  const frames = pieces(IP6_A, 1000, IP6_B, 53);
  const out = ct.run(frames, [commit, { commit: true, zone: 5 }]);
  assert.deepEqual(
    out.map(({ frame, state, zone }) => [hex(frame), state, zone]),
    frames.map((frame) => [hex(frame), NEW, 5]),
  );
  assert.equal(out[0]!.original, `${hex(IP6_A)} ${hex(IP6_B)} 17 1000 53`);
  assert.equal(ct.rig.conntrack.count(), 2);
});

test('a wrong checksum of the whole makes all fragments invalid', () => {
  const frames = pieces(IP4_A, 1000, IP4_B, 53);
  frames[1]![100]! ^= 1;
  assert.deepEqual(
    ct.run(frames, [commit]).map(({ state }) => state),
    [INVALID, INVALID, INVALID],
  );
  assert.equal(ct.rig.conntrack.counters().invalid_l4_checksum, 1);
});

test('headers that reach beyond what a head holds, tags pushed before: invalid', () => {
  const options = [60, [23, ...new Array<number>(190).fill(0)]] as const;
  const body = ipv6(17, udp(1000, 53, new Uint8Array(3000).fill(7))).subarray(40);
  const frames = [body.subarray(0, 1504), body.subarray(1504)].map((part, i) => {
    const fragment = i === 0 ? 1 : 1504;
    return ethernet(0x86dd, raw6(part, { extensions: [options], fragment }));
  });
  const pushVlan = [ACT_PUSH_VLAN | (2 << 16), 0x00058100];
  const out = ct.run(frames, [commit], [...pushVlan, ...pushVlan, ...pushVlan]);
  assert.deepEqual(
    out.map(({ state }) => state),
    [INVALID, INVALID],
  );
  assert.equal(ct.rig.conntrack.counters().fragments_v6_accepted, 0);
  assert.ok(ct.run(frames, [commit]).every(({ state }) => state === NEW));
});

test('overlapping, small, too many and switched off: invalid at once', () => {
  const [a, b, c] = pieces(IP4_A, 1000, IP4_B, 53) as [Uint8Array, Uint8Array, Uint8Array];
  assert.deepEqual(ct.run([a], [commit]), []);
  assert.equal(ct.track(a, commit).state, INVALID, 'twice the same');
  const small = pieces(IP4_A, 1001, IP4_B, 53, 3000, 800);
  assert.deepEqual(
    ct.run(small.slice(0, 2), [commit]).map(({ state }) => state),
    [INVALID, INVALID],
  );
  const { conntrack } = ct.rig;
  assert.equal(conntrack.setFragments({ minV4: 399 }), false);
  assert.equal(conntrack.setFragments({ max: 1 }), true);
  assert.equal(ct.track(b, commit).state, INVALID, 'no room');
  conntrack.setFragments({ max: 1000, enabledV4: false });
  assert.equal(ct.track(c, commit).state, INVALID, 'switched off');
  conntrack.setFragments({ enabledV4: true });
  assert.equal(ct.run([b, c], [commit]).length, 3);
});

test('every fragment that finds no record is counted', () => {
  const { rig, input } = ct;
  const { key, mask } = Rig.matchPort(input);
  const recirculate = [ACT_RECIRC | (2 << 16), 77];
  const program = [...recirculate, ...recirculate, ...recirculate, ...ctAction(commit)];
  rig.flows.put(key, mask, Uint32Array.from([...program, END]));
  const again = Rig.matchPort(input, 77);
  rig.flows.put(again.key, again.mask, Uint32Array.from([ACT_DROP | (2 << 16), DROP_NONE, END]));
  const other = ethernet(0x0800, ipv4(17, udp(1, 2, new Uint8Array(10))));
  const fragments = pieces(IP4_A, 1000, IP4_B, 53);
  const burst = [...new Array<Uint8Array>(256 - fragments.length).fill(other), ...fragments];
  for (const frame of burst) rig.send(input, frame);
  rig.poll(); // all 768 records are taken
  assert.equal(rig.counters(input).drops[DROP_RECIRC_LIMIT], fragments.length);
  assert.equal(rig.conntrack.count(), 1);
});

test('fragments that have been sent before they were tracked are no drops at the end', () => {
  const { rig, input } = ct;
  const { key, mask } = Rig.matchPort(input);
  const program = [ACT_OUTPUT | (2 << 16), input, ...ctAction(commit), END];
  rig.flows.put(key, mask, Uint32Array.from(program));
  for (const frame of pieces(IP4_A, 1000, IP4_B, 53)) rig.send(input, frame);
  rig.poll();
  assert.equal(rig.sent(input).length, 3);
  assert.equal(rig.conntrack.count(), 1);
  assert.equal(rig.counters(input).drops[DROP_FLOW_EXPLICIT], 0);
});

test('what does not complete is dropped after its time', () => {
  const [a, b] = pieces(IP4_A, 1000, IP4_B, 53) as [Uint8Array, Uint8Array];
  ct.run([a, b], [commit]);
  ct.advance(14000);
  ct.rig.conntrack.sweep(1);
  assert.equal(ct.rig.conntrack.getFragments().waiting, 2);
  ct.advance(2000);
  ct.rig.conntrack.sweep(1);
  assert.equal(ct.rig.conntrack.getFragments().waiting, 0);
  assert.equal(ct.rig.conntrack.counters().fragments_v4_purged, 2);
});

test('dpctl/ipf-get-status: counters by family, and what waits', () => {
  const [a, b] = pieces(IP4_A, 1000, IP4_B, 53) as [Uint8Array, Uint8Array];
  ct.run([a, a, b], [{ commit: true, zone: 5 }]);
  ct.run(pieces(IP6_A, 1000, IP6_B, 53), [commit]);
  ct.run(pieces(IP6_A, 1001, IP6_B, 53, 3000, 800), [commit]);
  const commands = ipfCommandTable(() => ct.rig.conntrack);
  const status = commands.find(({ name }) => name === 'dpctl/ipf-get-status')!;
  const text = String(status.run(['-m']));
  const line = (name: string): string =>
    new RegExp(`^        ${name}: (\\d+)$`, 'm').exec(text)?.[1] ?? '';
  assert.deepEqual(
    ['num frag', 'v4 frags accepted', 'v4 frags completed', 'v4 frags overlapped'].map(line),
    ['3', '2', '0', '1'], // the last piece of the small ones waits, too
  );
  assert.deepEqual(
    ['v6 frags accepted', 'v6 frags completed', 'v6 frags too small', 'v6 frags purged'].map(line),
    ['4', '3', '3', '0'],
  );
  const waiting = text.slice(text.indexOf('Fragment Lists:')).split('\n').slice(2);
  assert.match(
    waiting[0]!,
    /^\(src=10\.0\.0\.1,dst=10\.0\.0\.2,recirc_id=0,ip_id=\d+,dl_type=0x800,zone=5,nw_proto=17,num_fragments=2,state=first frag\)$/,
  );
});
