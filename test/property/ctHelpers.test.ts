// Helpers of connection tracking under random conversations: with NAT, each end receives the other's stream without gap or
// overlap, addresses translated, however often the numbers have moved and segments are sent again, and hears its own
// numbers acknowledged. And under random texts: no trap, no expectation but for the two ends, frames stay well-formed.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { CS_INV, CS_NEW, CS_REL } from '../../contract/ct.ts';
import { ACK, CtRig, type CtSpec, PSH, SYN, segment } from '../oracle/ctRig.ts';
import { be16, bytes, ethernet, ipv4, onesSum } from '../oracle/frames.ts';

const CLIENT = [10, 0, 0, 1];
const SERVER = [10, 0, 0, 2];
const RUNS = Number(process.env.FUZZ_RUNS ?? 300);

interface End {
  ip: readonly number[];
  port: number;
}

function frame(from: End, to: End, flags: number, seq: number, ack: number, text = ''): Uint8Array {
  const body = segment({
    src: from.port,
    dst: to.port,
    flags,
    seq: seq >>> 0,
    ack: ack >>> 0,
    window: 60000,
    payload: Buffer.from(text, 'latin1'),
  });
  return ethernet(0x0800, ipv4(6, body, { src: from.ip, dst: to.ip }));
}

/** What a receiver sees; checks lengths and checksums. */
function read(data: Uint8Array): { seq: number; ack: number; text: string } {
  const view = new DataView(data.buffer, data.byteOffset);
  const length = view.getUint16(16);
  assert.equal(data.length, 14 + length, 'length of the frame');
  assert.equal(onesSum(data.subarray(14, 34)), 0xffff, 'IP checksum');
  const pseudo = bytes([...data.subarray(26, 34)], 0, 6, be16(length - 20));
  assert.equal(onesSum(pseudo, data.subarray(34)), 0xffff, 'TCP checksum');
  const header = 34 + (data[46]! >> 4) * 4;
  return {
    seq: view.getUint32(38),
    ack: view.getUint32(42),
    text: Buffer.from(data.subarray(header)).toString('latin1'),
  };
}

type Message =
  | { from: 'client' | 'server'; kind: 'text'; text: string; again: number }
  | { from: 'client' | 'server'; kind: 'announce'; port: number; again: number };

const from = fc.constantFrom('client' as const, 'server' as const);
const again = fc.constantFrom(0, 0, 0, 1, 2);
const line = fc.string({ maxLength: 40 }).map((s) => `${s.replace(/[^ -~]/g, '.')}\r\n`);
const message: fc.Arbitrary<Message> = fc.oneof(
  // Nothing that begins like an announcement.
  fc.record({
    from,
    kind: fc.constant('text' as const),
    text: line.map((s) => `x${s}`),
    again,
  }),
  fc.record({
    from,
    kind: fc.constant('announce' as const),
    port: fc.integer({ min: 1, max: 65535 }),
    again,
  }),
);
const address = fc
  .tuple(fc.integer({ min: 1, max: 223 }), fc.nat(255), fc.nat(255), fc.nat(255))
  .map((a): number[] => a);

for (const side of ['src', 'dst'] as const) {
  test(`streams through ${side === 'src' ? 'SNAT' : 'DNAT'}`, async () => {
    const ct = await CtRig.create(true);
    fc.assert(
      fc.property(
        address,
        fc.array(message, { minLength: 1, maxLength: 12 }),
        fc.nat(0xffffffff),
        fc.nat(0xffffffff),
        (outside, messages, clientStart, serverStart) => {
          fc.pre(outside.join() !== CLIENT.join() && outside.join() !== SERVER.join());
          ct.rig.conntrack.flush();
          const client: End = { ip: CLIENT, port: 40000 };
          const server: End = { ip: SERVER, port: 21 };
          // How each end knows the other.
          const seenClient = side === 'src' ? { ip: outside, port: 40000 } : client;
          const seenServer = side === 'dst' ? { ip: outside, port: 21 } : server;
          const low = side === 'src' ? outside : SERVER;
          const open: CtSpec = { commit: true, alg: 'ftp', nat: { side, low } };
          const nat: CtSpec = { nat: {} };
          ct.track(frame(client, seenServer, SYN, clientStart, 0), open);
          ct.track(frame(server, seenClient, SYN | ACK, serverStart, clientStart + 1), nat);
          // sent: what the sender has sent; heard: what the receiver has, in its own count.
          const ends = {
            client: { sent: clientStart + 1, heard: clientStart + 1, text: PORT(CLIENT) },
            server: { sent: serverStart + 1, heard: serverStart + 1, text: PASV(SERVER) },
          };
          const names = {
            client: side === 'src' ? outside : CLIENT,
            server: side === 'dst' ? outside : SERVER,
          };
          for (const m of messages) {
            const mine = ends[m.from];
            const other = ends[m.from === 'client' ? 'server' : 'client'];
            const [a, b] = m.from === 'client' ? [client, seenServer] : [server, seenClient];
            const say = m.from === 'client' ? PORT : PASV;
            const own = m.from === 'client' ? CLIENT : SERVER;
            const text = m.kind === 'text' ? m.text : say(own)(m.port);
            const expected = m.kind === 'text' ? m.text : say(names[m.from])(m.port);
            const sent = frame(a, b, ACK | PSH, mine.sent, other.heard, text);
            for (let i = 0; i <= m.again; i++) {
              const out = ct.track(sent, nat);
              assert.equal(out.state & CS_INV, 0);
              const got = read(out.frame);
              assert.equal(got.text, expected);
              assert.equal(got.seq, mine.heard >>> 0, 'sequence number');
              assert.equal(got.ack, other.sent >>> 0, 'acknowledgement');
            }
            mine.sent += text.length;
            mine.heard += expected.length;
            // The receiver acknowledges all of it, in its own count.
            const [c, d] = m.from === 'client' ? [server, seenClient] : [client, seenServer];
            const back = ct.track(frame(c, d, ACK, other.sent, mine.heard), nat);
            assert.equal(back.state & CS_INV, 0);
            assert.equal(read(back.frame).ack, mine.sent >>> 0, 'what has arrived');
          }
        },
      ),
      { numRuns: RUNS },
    );
  });
}

function PORT(ip: readonly number[]): (port: number) => string {
  return (port) => `PORT ${ip.join()},${port >> 8},${port & 255}\r\n`;
}
function PASV(ip: readonly number[]): (port: number) => string {
  return (port) => `227 Entering Passive Mode (${ip.join()},${port >> 8},${port & 255}).\r\n`;
}

const word = fc.constantFrom(
  ...[
    'PORT ',
    'port ',
    'EPRT ',
    '227 ',
    '229 ',
    '(',
    ')',
    '|',
    '|1|',
    '|2|',
    '|||',
    ',',
    '.',
    '::',
  ],
  ...[
    '10,0,0,1',
    '10.0.0.1',
    '10,0,0,2',
    '0',
    '255',
    '256',
    '65535',
    '99999999999',
    '1',
    '\r\n',
    '\0',
    ' ',
  ],
);
const text = fc.oneof(
  fc.array(word, { maxLength: 14 }).map((words) => words.join('')),
  fc.string({ maxLength: 300 }),
);

test('any text: no trap, no expectation but between the two ends', async () => {
  const ct = await CtRig.create(true);
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.boolean(), text), { minLength: 1, maxLength: 8 }),
      fc.boolean(),
      (messages, translated) => {
        ct.rig.conntrack.flush();
        const client: End = { ip: CLIENT, port: 40000 };
        const server: End = { ip: SERVER, port: 21 };
        const outside = { ip: translated ? [10, 0, 0, 240] : CLIENT, port: 40000 };
        const nat = translated ? { side: 'src' as const, low: outside.ip } : undefined;
        ct.track(frame(client, server, SYN, 0, 0), {
          commit: true,
          alg: 'ftp',
          ...(nat && { nat }),
        });
        const later: CtSpec = translated ? { nat: {} } : {};
        for (const [fromClient, words] of messages) {
          const sent = fromClient
            ? frame(client, server, ACK, 1, 1, words)
            : frame(server, outside, ACK, 1, 1, words);
          read(ct.track(sent, later).frame);
        }
        // A third host is never expected, nor expects.
        for (const port of [1, 255, 256, 65535]) {
          for (const [a, b] of [
            [[10, 0, 0, 3], outside.ip],
            [[10, 0, 0, 3], SERVER],
            [SERVER, [10, 0, 0, 3]],
            [CLIENT, [10, 0, 0, 3]],
          ] as const) {
            const probe = frame({ ip: a, port: 20 }, { ip: b, port }, SYN, 0, 0);
            assert.equal(ct.track(probe, {}).state & (CS_NEW | CS_REL), CS_NEW);
          }
        }
      },
    ),
    { numRuns: RUNS },
  );
});
