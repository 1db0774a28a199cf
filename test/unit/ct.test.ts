// Connection tracking, case by case: protocols, directions, NAT, ICMP errors, limits, timeouts, flushes.

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import {
  CN_LOCK,
  CS_DNAT,
  CS_EST,
  CS_INV,
  CS_NEW,
  CS_REL,
  CS_RPL,
  CS_SNAT,
  CS_TRK,
  CT_CONTROL,
  CT_DEFAULT_LIMIT,
  CT_LOCK_COUNT,
  CT_LOCKS,
  CT_TCP_ESTABLISHED,
  CT_TCP_SYN_SENT,
  CTC_POOL_LOCK,
  connectionAddress,
} from '../../contract/ct.ts';
import { EXC_LOCK, EXPECT_BASE } from '../../contract/ctExpect.ts';
import { FG_LOCK, FRAGMENTS_BASE } from '../../contract/ctFragments.ts';
import { ACK, CtRig, type CtSpec, FIN, hex, RST, SYN, segment } from '../oracle/ctRig.ts';
import {
  be16,
  bytes,
  ethernet,
  IP4_A,
  IP4_B,
  IP6_A,
  IP6_B,
  icmp,
  ipv4,
  ipv6,
  onesSum,
  pseudo6,
  sctp,
  udp,
} from '../oracle/frames.ts';
import { parseFrame } from '../oracle/parse.ts';

const NEW = CS_TRK | CS_NEW;
const EST = CS_TRK | CS_EST;
const REPLY = CS_TRK | CS_EST | CS_RPL;
const INVALID = CS_TRK | CS_INV;
const commit: CtSpec = { commit: true };
const PAYLOAD = new Uint8Array(20).fill(7);

let ct: CtRig;
beforeEach(async () => {
  ct = await CtRig.create();
});

type Address = readonly number[];
const v4 = (proto: number, src: Address, dst: Address, body: Uint8Array): Uint8Array =>
  ethernet(0x0800, ipv4(proto, body, { src, dst }));
const v6 = (proto: number, src: Address, dst: Address, body: Uint8Array): Uint8Array =>
  ethernet(0x86dd, ipv6(proto, body, { src, dst }));
const udp4 = (src: Address, sport: number, dst: Address, dport: number): Uint8Array =>
  v4(17, src, dst, udp(sport, dport, PAYLOAD));
const fields = (frame: Uint8Array): string => {
  const { key } = parseFrame(frame, 1);
  return `${key.subarray(40, 44).join('.')}:${(key[34]! << 8) | key[35]!}>${key
    .subarray(44, 48)
    .join('.')}:${(key[36]! << 8) | key[37]!}`;
};
/** Whether the checksums of IP and transport header are right. */
function assertSums(frame: Uint8Array): void {
  const { key, l3, l4, l4Bytes } = parseFrame(frame, 1);
  const proto = key[30]!;
  const data = frame.subarray(l4, l4 + l4Bytes);
  if (key[20] === 8) {
    assert.equal(onesSum(frame.subarray(l3, l4)), 0xffff, 'IP checksum');
    const pseudo = bytes([...frame.subarray(l3 + 12, l3 + 20)], 0, proto, be16(l4Bytes));
    if (proto === 1) assert.equal(onesSum(data), 0xffff, 'ICMP checksum');
    else assert.equal(onesSum(pseudo, data), 0xffff, 'transport checksum');
  } else {
    const source = [...frame.subarray(l3 + 8, l3 + 24)];
    const destination = [...frame.subarray(l3 + 24, l3 + 40)];
    assert.equal(onesSum(pseudo6(source, destination, proto, l4Bytes), data), 0xffff);
  }
}

test('a packet that is not committed leaves nothing behind', () => {
  const packet = udp4(IP4_A, 1000, IP4_B, 53);
  const first = ct.track(packet, {});
  assert.equal(first.state, NEW);
  assert.equal(first.original, `${hex(IP4_A)} ${hex(IP4_B)} 17 1000 53`);
  assert.equal(ct.track(packet, {}).state, NEW);
  assert.equal(ct.rig.conntrack.count(), 0);
});

test('UDP: new until a reply, established after it', () => {
  const packet = udp4(IP4_A, 1000, IP4_B, 53);
  const answer = udp4(IP4_B, 53, IP4_A, 1000);
  assert.equal(ct.track(packet, commit).state, NEW);
  assert.equal(ct.track(packet, {}).state, NEW);
  const reply = ct.track(answer, {});
  assert.equal(reply.state, REPLY);
  assert.equal(reply.original, `${hex(IP4_A)} ${hex(IP4_B)} 17 1000 53`);
  assert.equal(ct.track(packet, {}).state, EST);
  assert.equal(ct.track(packet, { zone: 5 }).state, NEW, 'another zone');
  const [connection, ...others] = [...ct.rig.conntrack.dump()];
  assert.equal(others.length, 0);
  assert.equal(connection!.timeoutSeconds, 30);
  assert.deepEqual(
    [connection!.reply.srcPort, connection!.reply.dstPort, connection!.zone],
    [53, 1000, 0],
  );
});

test('IPv6, SCTP and other protocols are tracked', () => {
  assert.equal(ct.track(v6(17, IP6_A, IP6_B, udp(7, 8, PAYLOAD)), commit).state, NEW);
  const reply = ct.track(v6(17, IP6_B, IP6_A, udp(8, 7, PAYLOAD)), {});
  assert.equal(reply.state, REPLY);
  assert.equal(reply.original, `${hex(IP6_A)} ${hex(IP6_B)} 17 7 8`);
  assert.equal(ct.track(v4(132, IP4_A, IP4_B, sctp(7, 8, PAYLOAD)), commit).state, NEW);
  assert.equal(ct.track(v4(132, IP4_B, IP4_A, sctp(8, 7, PAYLOAD)), {}).state, REPLY);
  assert.equal(ct.track(v4(47, IP4_A, IP4_B, PAYLOAD), commit).state, NEW);
  assert.equal(ct.track(v4(47, IP4_B, IP4_A, PAYLOAD), {}).state, REPLY);
  assert.equal(ct.rig.conntrack.count(), 3);
});

function conversation(): {
  client: (flags: number, seq: number, ack: number, more?: object) => Uint8Array;
  server: (flags: number, seq: number, ack: number, more?: object) => Uint8Array;
} {
  const one =
    (src: Address, sport: number, dst: Address, dport: number) =>
    (flags: number, seq: number, ack: number, more: object = {}): Uint8Array =>
      v4(6, src, dst, segment({ src: sport, dst: dport, flags, seq, ack, ...more }));
  return { client: one(IP4_A, 4000, IP4_B, 80), server: one(IP4_B, 80, IP4_A, 4000) };
}

test('TCP: handshake, data, end, and again with the same ports', () => {
  const { client, server } = conversation();
  assert.equal(ct.track(client(SYN, 100, 0), commit).state, NEW);
  assert.equal(ct.track(client(SYN, 100, 0), {}).state, NEW, 'a repeated SYN');
  assert.equal(ct.track(server(SYN | ACK, 500, 101), {}).state, REPLY);
  assert.equal(ct.track(client(ACK, 101, 501), {}).state, EST);
  const states = (): number[] =>
    [...ct.rig.conntrack.dump()].flatMap((c) => c.tcp!.map((p) => p.state));
  assert.deepEqual(states(), [CT_TCP_ESTABLISHED, CT_TCP_ESTABLISHED]);
  assert.equal([...ct.rig.conntrack.dump()][0]!.timeoutSeconds, 86400);
  assert.equal(ct.track(client(ACK, 101, 501, { payload: 100 }), {}).state, EST);
  assert.equal(ct.track(client(ACK, 101 + 5_000_000, 501, { payload: 10 }), {}).state, INVALID);
  assert.equal(ct.track(client(FIN | ACK, 201, 501), {}).state, EST);
  assert.equal(ct.track(server(FIN | ACK, 501, 202), {}).state, REPLY);
  assert.equal(ct.track(client(ACK, 202, 502), {}).state, EST);
  assert.equal([...ct.rig.conntrack.dump()][0]!.timeoutSeconds, 30);
  assert.equal(ct.track(client(SYN, 9000, 0), commit).state, NEW, 'the same ports again');
  assert.equal(states()[0], CT_TCP_SYN_SENT);
  assert.equal(ct.rig.conntrack.count(), 1);
});

test('TCP: what cannot begin a connection, and what can in mid-stream', () => {
  const { client, server } = conversation();
  assert.equal(ct.track(client(SYN | ACK, 1, 1), commit).state, INVALID);
  assert.equal(ct.track(client(SYN | FIN, 1, 1), commit).state, INVALID);
  assert.equal(ct.track(client(0, 1, 1), commit).state, INVALID);
  assert.equal(ct.rig.conntrack.count(), 0);
  assert.equal(ct.track(client(ACK, 700, 900, { payload: 10 }), commit).state, NEW);
  assert.equal(ct.track(server(ACK, 900, 710), {}).state, REPLY);
  assert.equal(ct.track(client(ACK, 710, 900), {}).state, EST);
});

test('TCP: a reset in the middle of the window is not believed; without sequence check it is', () => {
  const { client, server } = conversation();
  ct.track(client(SYN, 100, 0), commit);
  ct.track(server(SYN | ACK, 500, 101), {});
  ct.track(client(ACK, 101, 501), {});
  assert.equal(ct.track(server(RST, 600, 0), {}).state, INVALID);
  ct.rig.conntrack.setTcpSeqChk(false);
  assert.equal(ct.track(server(RST, 600, 0), {}).state, REPLY);
  assert.equal(ct.rig.conntrack.counters().invalid_tcp, 1);
});

test('ICMP queries: id makes the connection; an answer cannot begin one', () => {
  const echo = (type: number, id: number, src: Address, dst: Address): Uint8Array =>
    v4(1, src, dst, icmp(type, 0, bytes(be16(id), be16(1), PAYLOAD)));
  assert.equal(ct.track(echo(0, 5, IP4_A, IP4_B), commit).state, INVALID);
  const request = ct.track(echo(8, 5, IP4_A, IP4_B), commit);
  assert.equal(request.state, NEW);
  assert.equal(request.original, `${hex(IP4_A)} ${hex(IP4_B)} 1 8 0`);
  assert.equal(ct.track(echo(0, 5, IP4_B, IP4_A), {}).state, REPLY);
  assert.equal(ct.track(echo(0, 6, IP4_B, IP4_A), {}).state, INVALID);
  assert.equal(ct.track(echo(8, 5, IP4_A, IP4_B), {}).state, EST);
  const [connection] = [...ct.rig.conntrack.dump()];
  assert.deepEqual(
    [connection!.orig.icmpId, connection!.orig.icmpType, connection!.reply.icmpType],
    [5, 8, 0],
  );
});

test('SNAT: forward, reply, and an ICMP error about the translated packet', () => {
  const public1 = [192, 0, 2, 1];
  const nat: CtSpec = { commit: true, nat: { side: 'src', low: public1, ports: [5000, 5000] } };
  const out = ct.track(udp4(IP4_A, 1000, IP4_B, 53), nat);
  assert.equal(out.state, NEW | CS_SNAT);
  assert.equal(fields(out.frame), '192.0.2.1:5000>10.0.0.2:53');
  assertSums(out.frame);
  const back = ct.track(udp4(IP4_B, 53, public1, 5000), { nat: {} });
  assert.equal(back.state, REPLY | CS_DNAT);
  assert.equal(fields(back.frame), '10.0.0.2:53>10.0.0.1:1000');
  assertSums(back.frame);
  // A router says that the translated packet did not arrive.
  const router = [203, 0, 113, 9];
  const quoted = out.frame.subarray(14, 14 + 28);
  const error = v4(1, router, public1, icmp(3, 1, bytes([0, 0, 0, 0], quoted)));
  const told = ct.track(error, { nat: {} });
  assert.equal(told.state, CS_TRK | CS_REL | CS_RPL | CS_DNAT);
  assertSums(told.frame);
  const inner = told.frame.subarray(14 + 28);
  assert.deepEqual([...told.frame.subarray(26, 34)], [...router, ...IP4_A]);
  assert.deepEqual([...inner.subarray(12, 20)], [...IP4_A, ...IP4_B]);
  assert.deepEqual([...inner.subarray(20, 24)], [...be16(1000), ...be16(53)]);
  assert.equal(onesSum(inner.subarray(0, 20)), 0xffff);
  // The port is taken now.
  const refused = ct.track(udp4(IP4_A, 1001, IP4_B, 53), nat);
  assert.equal(refused.state, NEW);
  assert.equal(ct.rig.conntrack.counters().refused_nat_exhausted, 1);
});

test('DNAT of TCP over IPv6, with errors', () => {
  const service = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
  const nat: CtSpec = { commit: true, nat: { side: 'dst', low: IP6_B, ports: [8080, 8080] } };
  const syn = v6(6, IP6_A, service, segment({ src: 4000, dst: 80, flags: SYN, seq: 1 }));
  const out = ct.track(syn, nat);
  assert.equal(out.state, NEW | CS_DNAT);
  assertSums(out.frame);
  assert.deepEqual([...out.frame.subarray(38, 54)], IP6_B);
  const answer = segment({ src: 8080, dst: 4000, flags: SYN | ACK, seq: 7, ack: 2 });
  const back = ct.track(v6(6, IP6_B, IP6_A, answer), { nat: {} });
  assert.equal(back.state, REPLY | CS_SNAT);
  assertSums(back.frame);
  assert.deepEqual([...back.frame.subarray(22, 38)], service);
  const error = v6(58, IP6_B, IP6_A, icmp(1, 4, bytes([0, 0, 0, 0], out.frame.subarray(14))));
  const told = ct.track(error, { nat: {} });
  assert.equal(told.state, CS_TRK | CS_REL | CS_RPL | CS_SNAT);
  assertSums(told.frame);
  assert.deepEqual([...told.frame.subarray(22, 38)], service);
  assert.deepEqual([...told.frame.subarray(62 + 24, 62 + 40)], service);
});

test('mark and label: set under masks, shown to both directions', () => {
  const label = new Array<number>(16).fill(0xab);
  const half = [...new Array<number>(8).fill(0xff), ...new Array<number>(8).fill(0)];
  const packet = udp4(IP4_A, 1000, IP4_B, 53);
  const set = ct.track(packet, { commit: true, mark: [0x1200, 0xff00], label: [label, half] });
  assert.equal(set.mark, 0x1200);
  assert.equal(set.label, 'ab'.repeat(8) + '00'.repeat(8));
  ct.track(packet, { commit: true, mark: [0x34, 0xff] });
  const reply = ct.track(udp4(IP4_B, 53, IP4_A, 1000), {});
  assert.equal(reply.mark, 0x1234);
  assert.equal(reply.label, set.label);
  const cleared = ct.track(packet, {}, { clear: true });
  assert.deepEqual([cleared.state, cleared.mark, cleared.label], [0, 0, '00'.repeat(16)]);
});

test('force: the packet turns the connection round', () => {
  ct.track(udp4(IP4_A, 1000, IP4_B, 53), commit);
  const answer = udp4(IP4_B, 53, IP4_A, 1000);
  assert.equal(ct.track(answer, commit).state, REPLY);
  assert.equal(ct.track(answer, { force: true }).state, NEW);
  assert.equal(ct.rig.conntrack.count(), 1);
  assert.equal([...ct.rig.conntrack.dump()][0]!.orig.srcPort, 53);
});

test('bad packets are invalid, each under its name', () => {
  const check = (name: string, frame: Uint8Array): void => {
    const before = ct.rig.conntrack.counters()[name]!;
    assert.equal(ct.track(frame, commit).state, INVALID, name);
    assert.equal(ct.rig.conntrack.counters()[name], before + 1, name);
  };
  const good = udp4(IP4_A, 1000, IP4_B, 53);
  const broken = (at: number): Uint8Array => {
    const copy = good.slice();
    copy[at]! ^= 1;
    return copy;
  };
  check('invalid_l3_checksum', broken(24));
  check('invalid_l4_checksum', broken(41));
  check('invalid_l4_checksum', broken(50));
  check('invalid_l4', udp4(IP4_A, 0, IP4_B, 53));
  check('invalid_not_ip', ethernet(0x0806, new Uint8Array(28)));
  const fragment = ipv4(17, udp(1, 2, PAYLOAD), { fragment: 0x2000 });
  check('invalid_fragment', ethernet(0x0800, fragment));
  check(
    'invalid_icmp_error',
    v4(1, IP4_B, IP4_A, icmp(3, 1, bytes([0, 0, 0, 0], good.subarray(14)))),
  );
  const partial = { frame: broken(41), flags: 1, csumStart: 34, csumOffset: 6 };
  assert.equal(ct.track(partial, commit).state, NEW, 'checksum not yet computed');
});

test('datagrams and segments of all lengths are good', () => {
  for (let length = 0; length < 1460; length++) {
    const payload = new Uint8Array(length).fill(length & 0xff);
    const datagram = v4(17, IP4_A, IP4_B, udp(1000, 53, payload));
    assert.notEqual(ct.track(datagram, commit).state & INVALID, INVALID, `UDP, ${length} bytes`);
    const six = v6(17, IP6_A, IP6_B, udp(1000, 53, payload));
    assert.notEqual(ct.track(six, commit).state & INVALID, INVALID, `UDP, IPv6, ${length} bytes`);
  }
  const { invalid_l4_checksum } = ct.rig.conntrack.counters();
  assert.equal(invalid_l4_checksum, 0);
});

test('limits: of all connections, of a zone, of zones without their own', () => {
  const table = ct.rig.conntrack;
  const send = (port: number, zone: number): number =>
    ct.track(udp4(IP4_A, port, IP4_B, 53), { commit: true, zone }).state;
  assert.equal(table.getMax(), CT_DEFAULT_LIMIT);
  table.setMax(0xffffffff);
  table.setZoneLimit(7, 0xffffffff);
  table.setDefaultLimit(0xffffffff);
  assert.equal(send(9, 6), NEW);
  assert.equal(send(9, 7), NEW);
  assert.equal(table.getMax(), 0xffffffff);
  assert.equal(table.getDefaultLimit(), 0xffffffff);
  assert.deepEqual(table.zoneLimits(), [{ zone: 7, limit: 0xffffffff, count: 1 }]);
  table.flush();
  table.setDefaultLimit(undefined);
  table.setZoneLimit(7, 2);
  for (const port of [1, 2, 3]) assert.equal(send(port, 7), NEW);
  assert.equal(table.zoneCount(7), 2);
  assert.deepEqual(table.zoneLimits(), [{ zone: 7, limit: 2, count: 2 }]);
  assert.equal(table.counters().refused_zone_full, 1);
  table.setDefaultLimit(1);
  for (const port of [1, 2]) send(port, 8);
  assert.equal(table.zoneCount(8), 1);
  table.deleteZoneLimit(7);
  send(4, 7);
  assert.equal(table.zoneCount(7), 2);
  table.setDefaultLimit(undefined);
  table.setMax(4);
  for (const port of [1, 2, 3]) send(port, 9);
  assert.equal(table.count(), 4);
  assert.equal(table.counters().refused_full, 2);
});

test('timeouts: of the policy, ended by packets and by the sweep', () => {
  const table = ct.rig.conntrack;
  table.setTimeoutPolicy(3, { udp_first: 5 });
  ct.track(udp4(IP4_A, 1, IP4_B, 53), { commit: true, policy: 3 });
  ct.track(udp4(IP4_A, 2, IP4_B, 53), commit);
  assert.deepEqual(
    [...table.dump()].map((c) => c.timeoutSeconds),
    [5, 60],
  );
  ct.advance(6000);
  assert.equal([...table.dump()].length, 1);
  assert.equal(table.count(), 2);
  assert.equal(table.sweep(1000), true);
  assert.equal(table.count(), 1);
  ct.advance(60000);
  assert.equal(ct.track(udp4(IP4_A, 2, IP4_B, 53), {}).state, NEW);
  assert.equal(table.count(), 0);
  assert.equal(table.counters().expired, 2);
});

test('flush: all, a zone, a tuple', () => {
  const table = ct.rig.conntrack;
  const send = (zone: number): void => {
    ct.track(udp4(IP4_A, 1, IP4_B, 53), { commit: true, zone });
  };
  for (const zone of [1, 2, 3]) send(zone);
  assert.equal(table.flush(2), 1);
  assert.equal(table.count(), 2);
  const { orig, reply } = [...table.dump(1)][0]!;
  assert.equal(table.flushTuple(orig, 2), false);
  assert.equal(table.flushTuple(orig, 1), true);
  assert.equal(table.flushTuple(reply, 3), true, 'without translation, replies name it too');
  for (const zone of [1, 2, 3]) send(zone);
  assert.equal(table.flush(), 3);
  assert.equal(table.count(), 0);
});

test('a burst of one connection: each packet meets what the one before has left', () => {
  const { client, server } = conversation();
  const frames = [
    client(SYN, 100, 0),
    server(SYN | ACK, 500, 101, { window: 60000 }),
    client(ACK, 101, 501),
    ...Array.from({ length: 200 }, (_, i) => client(ACK, 101 + i * 10, 501, { payload: 10 })),
  ];
  const states = ct.run(frames, [commit]).map(({ state }) => state);
  assert.deepEqual(states, [NEW, REPLY, EST, ...new Array<number>(200).fill(EST)]);
  assert.equal(ct.rig.conntrack.count(), 1);
});

test('many connections: records come back, chains stay whole', () => {
  const table = ct.rig.conntrack;
  for (let round = 0; round < 3; round++) {
    for (let base = 0; base < 20; base++) {
      const frames = Array.from({ length: 200 }, (_, i) => udp4([10, 1, base, i], 5, IP4_B, 53));
      ct.run(frames, [commit]);
    }
    assert.equal(table.count(), 4000);
    const found = ct.run(
      Array.from({ length: 200 }, (_, i) => udp4(IP4_B, 53, [10, 1, i % 20, i], 5)),
      [{}],
    );
    assert.ok(found.every(({ state }) => state === REPLY));
    assert.equal(table.flush(), 4000);
  }
});

test('a full table: established connections go on, new ones are let through untracked and counted', () => {
  const table = ct.rig.conntrack;
  const packet = udp4(IP4_A, 1000, IP4_B, 53);
  ct.track(packet, commit);
  table.setMax(1);
  const flood = Array.from({ length: 250 }, (_, i) => udp4([10, 9, 0, i], 1, IP4_B, 53));
  assert.ok(ct.run(flood, [commit]).every(({ state, mark }) => state === NEW && mark === 0));
  assert.equal(table.counters().refused_full, 250);
  assert.equal(ct.track(udp4(IP4_B, 53, IP4_A, 1000), {}).state, REPLY);
  assert.equal(ct.track(packet, {}).state, EST);
  assert.equal(table.count(), 1);
});

/** All kinds of locks. */
const LOCKS = [
  ...Array.from({ length: CT_LOCK_COUNT }, (_, i) => CT_LOCKS + i * 4),
  CT_CONTROL + CTC_POOL_LOCK,
  FRAGMENTS_BASE + FG_LOCK,
  EXPECT_BASE + EXC_LOCK,
  connectionAddress(0) + CN_LOCK,
];

test('what a worker that trapped has locked is free when it starts again', () => {
  const packet = udp4(IP4_A, 1000, IP4_B, 53);
  ct.track(packet, commit);
  const { memory } = ct.rig;
  for (const word of LOCKS) memory.set(word, 1); // worker 0
  memory.set(CT_LOCKS + 4, 9); // another one is at work: its lock stays
  ct.rig.restart();
  assert.deepEqual(
    LOCKS.filter((word) => memory.get(word) !== 0),
    [CT_LOCKS + 4],
  );
  memory.set(CT_LOCKS + 4, 0);
  assert.equal(ct.track(udp4(IP4_B, 53, IP4_A, 1000), {}).state, REPLY);
});

test('whatever a crashed daemon has locked is free in its successor', () => {
  ct.track(udp4(IP4_A, 1000, IP4_B, 53), commit);
  const { memory, conntrack } = ct.rig;
  for (const word of LOCKS) memory.set(word, 1 + (word % 17));
  conntrack.unlockAll();
  assert.deepEqual(
    LOCKS.filter((word) => memory.get(word) !== 0),
    [],
  );
});

test('ICMPv6 echo, and an error that quotes an answer', () => {
  const echo = (type: number, src: Address, dst: Address): Uint8Array =>
    v6(58, src, dst, icmp(type, 0, bytes(be16(5), be16(1), PAYLOAD)));
  const request = echo(128, IP6_A, IP6_B);
  assert.equal(ct.track(request, commit).state, NEW);
  const answer = echo(129, IP6_B, IP6_A);
  assert.equal(ct.track(answer, {}).state, REPLY);
  const quoteAnswer = icmp(3, 0, bytes([0, 0, 0, 0], answer.subarray(14)));
  assert.equal(ct.track(v6(58, IP6_A, IP6_B, quoteAnswer), {}).state, CS_TRK | CS_REL);
  const quoteRequest = icmp(1, 0, bytes([0, 0, 0, 0], request.subarray(14)));
  assert.equal(ct.track(v6(58, IP6_B, IP6_A, quoteRequest), {}).state, CS_TRK | CS_REL | CS_RPL);
});

test('SNAT without addresses: the port changes only when it is taken; addresses persist for a client', () => {
  const keep: CtSpec = { commit: true, nat: { side: 'src' } };
  const hide: CtSpec = {
    commit: true,
    zone: 3,
    nat: { side: 'src', low: [192, 0, 2, 1], high: [192, 0, 2, 200], persistent: true },
  };
  const out = ct.track(udp4(IP4_A, 2000, IP4_B, 53), keep);
  assert.equal(fields(out.frame), '10.0.0.1:2000>10.0.0.2:53');
  // Another connection has the tuple that this one's replies would have.
  ct.track(udp4(IP4_B, 53, [10, 0, 0, 77], 3000), commit);
  const clash = ct.track(udp4([10, 0, 0, 77], 3001, IP4_B, 53), {
    commit: true,
    nat: { side: 'src', ports: [3000, 3001] },
  });
  assert.equal(fields(clash.frame), '10.0.0.77:3001>10.0.0.2:53');
  const addresses = new Set<string>();
  for (let port = 4000; port < 4040; port++) {
    addresses.add(fields(ct.track(udp4(IP4_A, port, IP4_B, 53), hide).frame).split(':')[0]!);
  }
  assert.equal(addresses.size, 1);
});

test('segments and datagrams of every length have a checksum that is right', () => {
  for (let bytes = 0; bytes < 600; bytes++) {
    const payload = new Uint8Array(bytes).fill(bytes);
    const tcp = segment({ src: 1000, dst: 80, flags: SYN, payload });
    for (const frame of [
      v4(6, IP4_A, IP4_B, tcp),
      v6(6, IP6_A, IP6_B, tcp),
      v4(17, IP4_A, IP4_B, udp(1000, 53, payload)),
      v6(17, IP6_A, IP6_B, udp(1000, 53, payload)),
    ]) {
      assert.equal(ct.track(frame, {}).state, NEW, `${bytes} bytes`);
    }
  }
});
