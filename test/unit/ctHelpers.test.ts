// Helpers of connection tracking: FTP and TFTP control connections through the real data plane, message by message. What
// is expected, what the data connection inherits, how addresses are rewritten, and what hostile texts do not achieve.

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import {
  CS_DNAT,
  CS_EST,
  CS_INV,
  CS_NEW,
  CS_REL,
  CS_RPL,
  CS_SNAT,
  CS_TRK,
} from '../../contract/ct.ts';
import {
  ACK,
  CtRig,
  type CtSpec,
  FIN,
  hex,
  PSH,
  SYN,
  segment,
  type Tracked,
} from '../oracle/ctRig.ts';
import {
  be16,
  be32,
  bytes,
  ethernet,
  ipv4,
  ipv6,
  onesSum,
  pseudo6,
  udp,
} from '../oracle/frames.ts';
import { parseFrame } from '../oracle/parse.ts';

const CLIENT = [10, 1, 1, 1];
const SERVER = [10, 1, 1, 2];
const OUTSIDE = [10, 1, 1, 240];
const CLIENT6 = [0xfd, 0, ...new Array<number>(13).fill(0), 1];
const SERVER6 = [0xfd, 0, ...new Array<number>(13).fill(0), 2];
const OUTSIDE6 = [0xfd, 0, 0x12, 0x34, 0x56, 0x78, ...new Array<number>(9).fill(0), 0x24];
const EXPECTED = CS_TRK | CS_NEW | CS_REL;
const EST = CS_TRK | CS_EST;

let ct: CtRig;
beforeEach(async () => {
  ct = await CtRig.create();
});

interface Segment {
  from: readonly number[];
  to: readonly number[];
  sport: number;
  dport: number;
  flags?: number;
  seq: number;
  ack?: number;
  text?: string;
  options?: readonly number[];
}

function tcp(s: Segment): Uint8Array {
  const body = segment({
    src: s.sport,
    dst: s.dport,
    flags: s.flags ?? ACK | PSH,
    seq: s.seq,
    ack: s.ack ?? 0,
    window: 60000,
    options: s.options ?? [],
    payload: Buffer.from(s.text ?? '', 'latin1'),
  });
  return s.from.length === 4
    ? ethernet(0x0800, ipv4(6, body, { src: s.from, dst: s.to }))
    : ethernet(0x86dd, ipv6(6, body, { src: s.from, dst: s.to }));
}

/** Addresses, ports, numbers and text of a segment; checks lengths and checksums. */
function read(
  frame: Uint8Array,
): Required<Omit<Segment, 'flags' | 'options'>> & { options: Uint8Array } {
  const { key, l3, l4, l4Bytes } = parseFrame(frame, 1);
  const v4 = key[20] === 8;
  const view = new DataView(frame.buffer, frame.byteOffset);
  const data = frame.subarray(l4, l4 + l4Bytes);
  if (v4) assert.equal(onesSum(frame.subarray(l3, l4)), 0xffff, 'IP checksum');
  const [from, to] = v4
    ? [frame.subarray(l3 + 12, l3 + 16), frame.subarray(l3 + 16, l3 + 20)]
    : [frame.subarray(l3 + 8, l3 + 24), frame.subarray(l3 + 24, l3 + 40)];
  const pseudo = v4
    ? bytes([...from], [...to], 0, 6, be16(l4Bytes))
    : pseudo6([...from], [...to], 6, l4Bytes);
  assert.equal(onesSum(pseudo, data), 0xffff, 'TCP checksum');
  const header = (frame[l4 + 12]! >> 4) * 4;
  assert.equal(frame.length, l4 + l4Bytes, 'length');
  return {
    from: [...from],
    to: [...to],
    sport: view.getUint16(l4),
    dport: view.getUint16(l4 + 2),
    seq: view.getUint32(l4 + 4),
    ack: view.getUint32(l4 + 8),
    text: Buffer.from(data.subarray(header)).toString('latin1'),
    options: data.subarray(20, header),
  };
}

/** A control connection between two ends; `commit` is what its first packet meets, `nat` what the others do. */
class Control {
  readonly ends: {
    client: readonly number[];
    server: readonly number[];
    seen: readonly number[];
    port: number;
  };
  readonly later: CtSpec;
  readonly sport: number;
  clientSeq = 1000;
  serverSeq = 5000;

  constructor(first: CtSpec, ends: Partial<Control['ends']> = {}, sport = 40000) {
    const v6 = ends.client?.length === 16;
    this.ends = {
      client: v6 ? CLIENT6 : CLIENT,
      server: v6 ? SERVER6 : SERVER,
      seen: v6 ? CLIENT6 : CLIENT,
      port: 21,
      ...ends,
    };
    this.later = first.nat ? { zone: first.zone, nat: {} } : { zone: first.zone };
    this.sport = sport;
    const { client, server, seen, port } = this.ends;
    const syn = ct.track(
      tcp({ from: client, to: server, sport, dport: port, flags: SYN, seq: this.clientSeq++ }),
      first,
    );
    assert.equal(syn.state & (CS_TRK | CS_NEW), CS_TRK | CS_NEW);
    const reply = {
      from: server,
      to: seen,
      sport: port,
      dport: sport,
      seq: this.serverSeq++,
      ack: this.clientSeq,
    };
    ct.track(tcp({ ...reply, flags: SYN | ACK }), this.later);
    this.fromClient('');
  }

  /** Numbers are those of the sender; it counts what it has sent. */
  fromClient(text: string, more: Partial<Segment> = {}): Tracked {
    const { client, server, port } = this.ends;
    const frame = tcp({
      from: client,
      to: server,
      sport: this.sport,
      dport: port,
      seq: this.clientSeq,
      ack: this.serverSeq,
      text,
      ...more,
    });
    if (more.seq === undefined) this.clientSeq += text.length;
    return ct.track(frame, this.later);
  }

  fromServer(text: string, more: Partial<Segment> = {}): Tracked {
    const { server, seen, port } = this.ends;
    const frame = tcp({
      from: server,
      to: seen,
      sport: port,
      dport: this.sport,
      seq: this.serverSeq,
      ack: this.clientSeq,
      text,
      ...more,
    });
    if (more.seq === undefined) this.serverSeq += text.length;
    return ct.track(frame, this.later);
  }
}

const ftp: CtSpec = { commit: true, alg: 'ftp' };
const syn = (
  from: readonly number[],
  sport: number,
  to: readonly number[],
  dport: number,
): Uint8Array => tcp({ from, to, sport, dport, flags: SYN, seq: 77 });
const counter = (name: string): number => ct.rig.conntrack.counters()[name]!;

test('PORT: the server may connect to the client, once announced', () => {
  const control = new Control(ftp);
  assert.equal(ct.track(syn(SERVER, 20, CLIENT, 51221), {}).state, CS_TRK | CS_NEW);
  assert.equal(control.fromClient('PORT 10,1,1,1,200,21\r\n').state, EST);
  const data = ct.track(syn(SERVER, 20, CLIENT, 51221), {});
  assert.equal(data.state, EXPECTED);
  assert.equal(data.original, `${hex(CLIENT)} ${hex(SERVER)} 6 40000 21`);
  // Another port, another server, the other direction: not expected.
  assert.equal(ct.track(syn(SERVER, 20, CLIENT, 51222), {}).state, CS_TRK | CS_NEW);
  assert.equal(ct.track(syn(OUTSIDE, 20, CLIENT, 51221), {}).state, CS_TRK | CS_NEW);
  assert.equal(ct.track(syn(CLIENT, 20, SERVER, 51221), {}).state, CS_TRK | CS_NEW);
  assert.equal(ct.track(syn(SERVER, 20, CLIENT, 51221), { zone: 1 }).state, CS_TRK | CS_NEW);
});

test('the data connection is related for life, and inherits mark, label and original tuple', () => {
  const label = new Array<number>(16).fill(0);
  label[15] = 9;
  const full = new Array<number>(16).fill(255);
  const control = new Control({ ...ftp, mark: [5, 0xffffffff], label: [label, full] });
  control.fromClient('PORT 10,1,1,1,200,21\r\n');
  const peek = ct.track(syn(SERVER, 20, CLIENT, 51221), {});
  assert.deepEqual([peek.mark, peek.label], [5, hex(label)]);
  // It keeps what it has inherited, whatever the action says.
  const data = ct.track(syn(SERVER, 20, CLIENT, 51221), {
    commit: true,
    mark: [8, 0xffffffff],
    label: [full, full],
  });
  assert.deepEqual([data.state, data.mark, data.label], [EXPECTED, 5, hex(label)]);
  const answer = ct.track(
    tcp({ from: CLIENT, to: SERVER, sport: 51221, dport: 20, flags: SYN | ACK, seq: 1, ack: 78 }),
    {},
  );
  assert.equal(answer.state, CS_TRK | CS_EST | CS_REL | CS_RPL);
  assert.equal(answer.original, `${hex(CLIENT)} ${hex(SERVER)} 6 40000 21`);
  const [first, second] = [...ct.rig.conntrack.dump()];
  assert.deepEqual([first!.helper, first!.parent], ['ftp', undefined]);
  assert.deepEqual([second!.helper, second!.parent?.dstPort], [undefined, 21]);
});

test('PASV: the client may connect to the server; the same over another port if the action says so', () => {
  const control = new Control(ftp);
  control.fromServer('227 Entering Passive Mode (10,1,1,2,156,64).\r\n');
  assert.equal(ct.track(syn(CLIENT, 45000, SERVER, 40000), {}).state, EXPECTED);
  const other = new Control(ftp, { port: 2121 }, 40001);
  other.fromServer('227 Entering Passive Mode (10,1,1,2,156,65).\r\n');
  assert.equal(ct.track(syn(CLIENT, 45001, SERVER, 40001), {}).state, CS_TRK | CS_NEW);
  const frame = tcp({
    from: SERVER,
    to: CLIENT,
    sport: 2121,
    dport: 40001,
    seq: other.serverSeq,
    ack: other.clientSeq,
    text: '227 (10,1,1,2,156,65)\r\n',
  });
  ct.track(frame, { alg: 'ftp' });
  assert.equal(ct.track(syn(CLIENT, 45001, SERVER, 40001), {}).state, EXPECTED);
});

test('EPRT and EPSV, both families', () => {
  const six = new Control(ftp, { client: CLIENT6 });
  six.fromClient('EPRT |2|fd00::1|51221|\r\n');
  assert.equal(ct.track(syn(SERVER6, 20, CLIENT6, 51221), {}).state, EXPECTED);
  six.fromServer('229 Entering Extended Passive Mode (|||40000|)\r\n');
  assert.equal(ct.track(syn(CLIENT6, 45000, SERVER6, 40000), {}).state, EXPECTED);
  const four = new Control(ftp);
  four.fromClient('EPRT |1|10.1.1.1|51221|\r\n');
  assert.equal(ct.track(syn(SERVER, 20, CLIENT, 51221), {}).state, EXPECTED);
  four.fromServer('229 Entering Extended Passive Mode (|||40000|)\r\n');
  assert.equal(ct.track(syn(CLIENT, 45000, SERVER, 40000), {}).state, EXPECTED);
});

test('without a helper, nothing is read', () => {
  const control = new Control({ commit: true });
  control.fromClient('PORT 10,1,1,1,200,21\r\n');
  assert.equal(ct.track(syn(SERVER, 20, CLIENT, 51221), {}).state, CS_TRK | CS_NEW);
  assert.equal(counter('expectations'), 0);
});

for (const [name, client, server, outside, command, expected] of [
  [
    'IPv4, longer',
    CLIENT,
    SERVER,
    OUTSIDE,
    'PORT 10,1,1,1,200,21\r\n',
    'PORT 10,1,1,240,200,21\r\n',
  ],
  [
    'IPv4, shorter',
    [10, 111, 111, 111],
    SERVER,
    [1, 2, 3, 4],
    'PORT 10,111,111,111,200,21\r\n',
    'PORT 1,2,3,4,200,21\r\n',
  ],
  [
    'IPv4, extended',
    CLIENT,
    SERVER,
    OUTSIDE,
    'EPRT |1|10.1.1.1|51221|\r\n',
    'EPRT |1|10.1.1.240|51221|\r\n',
  ],
  [
    'IPv6',
    CLIENT6,
    SERVER6,
    OUTSIDE6,
    'EPRT |2|fd00::1|51221|\r\n',
    'EPRT |2|fd00:1234:5678::24|51221|\r\n',
  ],
] as const) {
  test(`active with SNAT: address, sequence numbers, acknowledgements (${name})`, () => {
    const nat = { side: 'src', low: outside } as const;
    const control = new Control({ ...ftp, nat }, { client, server, seen: outside });
    const delta = expected.length - command.length;
    const before = control.clientSeq;
    const port = read(control.fromClient(command).frame);
    assert.deepEqual([port.text, port.seq, port.from], [expected, before, [...outside]]);
    // Sent again: the same again.
    const again = read(control.fromClient(command, { seq: before }).frame);
    assert.deepEqual([again.text, again.seq], [expected, before]);
    // The server acknowledges what it has seen; the client hears of what it has sent.
    const reply = control.fromServer('200 ok\r\n', {
      ack: before + expected.length,
      seq: control.serverSeq,
    });
    control.serverSeq += 8;
    assert.equal(reply.state & ~CS_DNAT, CS_TRK | CS_EST | CS_RPL);
    assert.equal(read(reply.frame).ack, before + command.length);
    // From now on the client's numbers are off, and selective acknowledgements too.
    const next = read(control.fromClient('LIST\r\n').frame);
    assert.deepEqual([next.text, next.seq], ['LIST\r\n', before + command.length + delta]);
    const low = before + expected.length;
    const sack = [1, 5, 10, ...be32(low), ...be32(low + 6), 1];
    const selective = read(control.fromServer('', { ack: low, options: sack }).frame);
    assert.deepEqual(
      [...selective.options],
      [1, 5, 10, ...be32(low - delta), ...be32(low + 6 - delta), 1],
    );
    // The data connection reaches the client.
    const data = ct.track(syn(server, 20, outside, 51221), { commit: true, nat: {} });
    assert.equal(data.state, EXPECTED | CS_DNAT);
    assert.deepEqual(read(data.frame).to, [...client]);
    // A second command moves the numbers once more.
    const at = control.clientSeq;
    const second = read(control.fromClient(command).frame);
    assert.deepEqual([second.text, second.seq], [expected, at + delta]);
    const after = read(control.fromClient('QUIT\r\n').frame);
    assert.equal(after.seq, at + command.length + 2 * delta);
  });
}

test('passive with DNAT: the reply names the address that the client knows', () => {
  const nat = { side: 'dst', low: [192, 168, 100, 200] } as const;
  ct.track(syn(CLIENT, 40000, SERVER, 21), { ...ftp, nat });
  const inside = [192, 168, 100, 200];
  const back = { from: inside, to: CLIENT, sport: 21, dport: 40000 };
  ct.track(tcp({ ...back, flags: SYN | ACK, seq: 5000, ack: 78 }), { nat: {} });
  const text = '227 Entering Passive Mode (192,168,100,200,156,64).\r\n';
  const reply = read(ct.track(tcp({ ...back, seq: 5001, ack: 78, text }), { nat: {} }).frame);
  assert.equal(reply.text, '227 Entering Passive Mode (10,1,1,2,156,64).\r\n');
  assert.deepEqual(reply.from, SERVER);
  const ack = { from: CLIENT, to: SERVER, sport: 40000, dport: 21, seq: 78, flags: ACK };
  const heard = read(ct.track(tcp({ ...ack, ack: 5001 + reply.text.length }), { nat: {} }).frame);
  assert.equal(heard.ack, 5001 + text.length);
  const data = ct.track(syn(CLIENT, 45000, SERVER, 40000), { commit: true, nat: {} });
  assert.equal(data.state, EXPECTED | CS_DNAT);
  assert.deepEqual(read(data.frame).to, inside);
});

test('active with DNAT: the data connection comes from the address that the client knows', () => {
  const nat = { side: 'dst', low: OUTSIDE } as const;
  ct.track(syn(CLIENT, 40000, SERVER, 21), { ...ftp, nat });
  ct.track(
    tcp({
      from: OUTSIDE,
      to: CLIENT,
      sport: 21,
      dport: 40000,
      flags: SYN | ACK,
      seq: 5000,
      ack: 78,
    }),
    { nat: {} },
  );
  const control = { from: CLIENT, to: SERVER, sport: 40000, dport: 21, seq: 78, ack: 5001 };
  const sent = ct.track(tcp({ ...control, text: 'PORT 10,1,1,1,200,21\r\n' }), { nat: {} });
  assert.equal(read(sent.frame).text, 'PORT 10,1,1,1,200,21\r\n');
  const data = ct.track(syn(OUTSIDE, 20, CLIENT, 51221), { commit: true, nat: {} });
  assert.equal(data.state, EXPECTED | CS_SNAT);
  assert.deepEqual(read(data.frame).from, SERVER);
});

test('TFTP: the server answers from any port, through SNAT of address and port', () => {
  const request = (sport: number): Uint8Array =>
    ethernet(
      0x0800,
      ipv4(17, udp(sport, 69, Buffer.from('\0\x01file\0octet\0')), { src: CLIENT, dst: SERVER }),
    );
  const answer = (to: readonly number[], dport: number): Uint8Array =>
    ethernet(0x0800, ipv4(17, udp(33000, dport, new Uint8Array(20)), { src: SERVER, dst: to }));
  assert.equal(ct.track(request(1234), { commit: true, alg: 'tftp' }).state, CS_TRK | CS_NEW);
  assert.equal(ct.track(answer(CLIENT, 1234), {}).state, EXPECTED);
  assert.equal(ct.track(answer(CLIENT, 1235), {}).state, CS_TRK | CS_NEW);
  const nat = { side: 'src', low: OUTSIDE, ports: [7000, 7000] } as const;
  ct.track(request(1300), { commit: true, alg: 'tftp', nat });
  const data = ct.track(answer(OUTSIDE, 7000), { commit: true, nat: {} });
  assert.equal(data.state, EXPECTED | CS_DNAT);
  const { key } = parseFrame(data.frame, 1);
  assert.deepEqual([...key.subarray(44, 48)], CLIENT);
  assert.equal((key[36]! << 8) | key[37]!, 1300);
});

test('an expectation ends with its control connection, and by itself after five minutes', () => {
  const control = new Control(ftp);
  control.fromClient('PORT 10,1,1,1,200,21\r\n');
  assert.equal(ct.rig.conntrack.flush(), 1);
  assert.equal(ct.track(syn(SERVER, 20, CLIENT, 51221), {}).state, CS_TRK | CS_NEW);
  const second = new Control(ftp);
  second.fromClient('PORT 10,1,1,1,200,21\r\n');
  ct.advance(299_000);
  assert.equal(ct.track(syn(SERVER, 20, CLIENT, 51221), {}).state, EXPECTED);
  ct.advance(2_000);
  assert.equal(ct.track(syn(SERVER, 20, CLIENT, 51221), {}).state, CS_TRK | CS_NEW);
  ct.rig.conntrack.sweep(100);
  assert.equal(counter('expectations_expired'), 1);
  assert.equal(ct.rig.conntrack.count(), 1);
});

test('too many announcements: the oldest gives way, other connections keep theirs', () => {
  const victim = new Control(ftp, {}, 39999);
  victim.fromClient('PORT 10,1,1,1,1,1\r\n');
  const control = new Control(ftp);
  for (let n = 0; n < 100; n++) control.fromClient(`PORT 10,1,1,1,200,${n}\r\n`);
  assert.equal(counter('expectations_replaced'), 84);
  const state = (port: number): number => ct.track(syn(SERVER, 20, CLIENT, port), {}).state;
  assert.equal(state(51200 + 83), CS_TRK | CS_NEW);
  assert.equal(state(51200 + 84), EXPECTED);
  assert.equal(state(51200 + 99), EXPECTED);
  assert.equal(state(257), EXPECTED);
});

test('hostile and broken messages are invalid, counted, and announce nothing', () => {
  const control = new Control(ftp);
  const bad = [
    'PORT 10,1,1,9,200,21\r\n', // somebody else's address
    'PORT 10,1,1,1,200\r\n',
    'PORT 10,1,1,1,200,21', // no end: more digits may follow
    'PORT 10,1,1,1,256,21\r\n',
    'PORT 10,1,1,1,0,0\r\n',
    'PORT 10,1,1,1,99999999999999999999,1\r\n',
    `PORT ${'1'.repeat(400)}\r\n`,
    `PORT ${' '.repeat(300)}10,1,1,1,200,21\r\n`,
    'PORT \0\0\0\r\n',
    'EPRT |2|fd00::1|51221|\r\n', // the other family
    'EPRT |1|10.1.1.1|0|\r\n',
    'EPRT 1',
    'EPRT |1|10.1.1.1.1|51221|\r\n',
  ];
  for (const text of bad) {
    const { state } = control.fromClient(text, { seq: control.clientSeq });
    assert.equal(state & CS_INV, CS_INV, JSON.stringify(text));
  }
  for (const text of [
    '227 (10,1,1,9,1,1)\r\n',
    '227 nothing\r\n',
    '229 (|||70000|)\r\n',
    '229 (|||)\r\n',
  ]) {
    const { state } = control.fromServer(text, { seq: control.serverSeq });
    assert.equal(state & CS_INV, CS_INV, JSON.stringify(text));
  }
  assert.equal(counter('invalid_helper_message'), bad.length + 4);
  // What a server quotes, or a client sends in a server's words, is nothing.
  for (const text of ['550 /227 (10,1,1,2,0,22)\r\n', 'EXTENDED PASSIVE (|||22|)\r\n']) {
    assert.equal(control.fromServer(text, { seq: control.serverSeq }).state, EST | CS_RPL);
  }
  assert.equal(
    control.fromClient('227 (10,1,1,1,0,22)\r\n', { seq: control.clientSeq }).state,
    EST,
  );
  assert.equal(counter('expectations'), 0);
  assert.equal(control.fromClient('PORT 10,1,1,1,200,21\r\n').state, EST);
  assert.equal(counter('expectations'), 1);
});

test('a control connection that ends and begins anew starts with nothing', () => {
  const control = new Control({ ...ftp, nat: { side: 'src', low: OUTSIDE } }, { seen: OUTSIDE });
  control.fromClient('PORT 10,1,1,1,200,21\r\n');
  control.fromClient('', { flags: FIN | ACK });
  ct.rig.conntrack.flush();
  const again = new Control({ ...ftp, nat: { side: 'src', low: OUTSIDE } }, { seen: OUTSIDE });
  const seq = again.clientSeq;
  assert.equal(read(again.fromClient('NOOP\r\n').frame).seq, seq);
  assert.equal(counter('expectations'), 1);
});
