// The rtnetlink codec, against bytes written by hand, and the real kernel's answers (which need no privilege).

import assert from 'node:assert/strict';
import { networkInterfaces } from 'node:os';
import { test } from 'node:test';
import fc from 'fast-check';
import { driverInfo, linkSettings } from '../../src/sys/ethtool.ts';
import { RouteSocket } from '../../src/sys/netlink.ts';
import {
  decodeMessages,
  encodeLinkRequest,
  IFF_LOOPBACK,
  IFF_UP,
  NLM_F_ACK,
  parseMac,
  RTM_NEWLINK,
  RTM_SETLINK,
} from '../../src/wire/rtnetlink.ts';

function attribute(type: number, payload: Buffer): Buffer {
  const bytes = Buffer.alloc((4 + payload.length + 3) & ~3);
  bytes.writeUInt16LE(4 + payload.length, 0);
  bytes.writeUInt16LE(type, 2);
  payload.copy(bytes, 4);
  return bytes;
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function message(type: number, family: number, attributes: Buffer[]): Buffer {
  const header = Buffer.alloc(32);
  const body = Buffer.concat(attributes);
  header.writeUInt32LE(32 + body.length, 0);
  header.writeUInt16LE(type, 4);
  header.writeUInt32LE(77, 8);
  header[16] = family;
  header.writeInt32LE(5, 20);
  header.writeUInt32LE(0x11043, 24);
  return Buffer.concat([header, body]);
}

const stats = Buffer.alloc(200);
for (let i = 0; i < 25; i++) stats.writeBigUInt64LE(BigInt(i + 1), i * 8);
const newLink = message(RTM_NEWLINK, 0, [
  attribute(3, Buffer.from('veth0\0')),
  attribute(4, u32(1450)),
  attribute(1, Buffer.from([2, 0, 0, 0, 0, 0xab])),
  attribute(33, Buffer.from([0])),
  attribute(18, attribute(1, Buffer.from('veth\0'))),
  attribute(23, stats),
]);

test('a link message becomes a Link', () => {
  const [decoded, ...more] = decodeMessages(newLink);
  assert.equal(more.length, 0);
  assert.equal(decoded!.sequence, 77);
  const { stats: counters, ...link } = decoded!.link!;
  assert.deepEqual(link, {
    index: 5,
    name: 'veth0',
    flags: 0x11043,
    mtu: 1450,
    maxMtu: 0,
    mac: '02:00:00:00:00:ab',
    carrier: false,
    rxQueues: 1,
    kind: 'veth',
  });
  assert.equal(counters!.rxPackets, 1);
  assert.equal(counters!.txBytes, 4);
  assert.equal(counters!.collisions, 10);
  assert.equal(counters!.rxMissedErrors, 16);
});

test('messages about other families are no links; several messages in one datagram; errors', () => {
  const error = Buffer.alloc(36);
  error.writeUInt32LE(36, 0);
  error.writeUInt16LE(2, 4);
  error.writeInt32LE(-19, 16);
  const all = decodeMessages(Buffer.concat([message(RTM_NEWLINK, 7, []), newLink, error]));
  assert.deepEqual(
    all.map((m) => [m.type, m.link?.name, m.error]),
    [
      [16, undefined, 0],
      [16, 'veth0', 0],
      [2, undefined, 19],
    ],
  );
});

test('any datagram decodes to something, whatever is cut or changed', () => {
  fc.assert(
    fc.property(
      fc.nat(newLink.length),
      fc.array(fc.tuple(fc.nat(newLink.length - 1), fc.nat(255))),
      (cut, edits) => {
        const bytes = Buffer.from(newLink);
        for (const [at, value] of edits) bytes[at] = value;
        assert.ok(decodeMessages(bytes.subarray(0, cut)).length <= newLink.length / 16);
      },
    ),
  );
});

test('requests', () => {
  const bytes = Buffer.from(
    encodeLinkRequest({
      type: RTM_SETLINK,
      flags: NLM_F_ACK,
      sequence: 3,
      index: 9,
      set: IFF_UP,
      change: IFF_UP,
      mtu: 9000,
      mac: parseMac('02:00:00:00:00:01')!,
    }),
  );
  assert.equal(
    bytes.toString('hex'),
    `${'34000000' + '1300' + '0500' + '03000000' + '00000000'}${'00000000' + '09000000' + '01000000' + '01000000'}` +
      `${'0800' + '0400' + '28230000'}${'0a00' + '0100' + '020000000001' + '0000'}`,
  );
});

test('Ethernet addresses', () => {
  assert.deepEqual([...parseMac('02:0:aB:00:00:ff')!], [2, 0, 0xab, 0, 0, 255]);
  for (const wrong of [
    '',
    '02:00:00:00:00',
    '02:00:00:00:00:00:00',
    '02:00:00:00:00:0g',
    '020000000000',
  ]) {
    assert.equal(parseMac(wrong), undefined);
  }
});

test('the kernel tells about its devices', () => {
  using route = new RouteSocket();
  const lo = route.getLink('lo')!;
  assert.equal(lo.index, 1);
  assert.ok(lo.flags & IFF_LOOPBACK);
  assert.ok(lo.stats !== undefined);
  assert.equal(route.getLink(1)!.name, 'lo');
  assert.equal(route.getLink('nosuchdevice'), undefined);
  assert.equal(route.getLink('a name that no device can have'), undefined);
  const names = route.links().map((link) => link.name);
  for (const name of Object.keys(networkInterfaces())) assert.ok(names.includes(name), name);
  assert.equal(driverInfo('nosuchdevice'), undefined);
  assert.equal(linkSettings('nosuchdevice'), undefined);
});
