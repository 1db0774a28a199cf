// Security groups of virtual machines: two of our own vhost-user guests, with different rings and offloads, and a host
// behind a veth, under the flows of Neutron's firewall driver. Unfinished checksums and offloaded segments pass
// connection tracking as what they will be.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, before, test } from 'node:test';
import { Guest, guestFeatures } from '../../src/guest/guest.ts';
import { type GuestFrame, TestDriver } from '../../src/guest/testDriver.ts';
import { firewallFlows } from './firewallFlows.ts';
import { FirewallNet, type Host } from './firewallNet.ts';

interface Machine extends Host {
  address: string;
  guest: Guest;
  driver: TestDriver;
}

let net: FirewallNet;
let g1: Machine;
let g2: Machine;

const bytesOf = (text: string): number[] =>
  text.includes(':')
    ? text.split(':').map((part) => Number.parseInt(part, 16))
    : text.split('.').map(Number);

function sum(bytes: Uint8Array, start = 0): number {
  let total = start;
  for (let i = 0; i < bytes.length; i += 2) total += (bytes[i]! << 8) | (bytes[i + 1] ?? 0);
  while (total > 0xffff) total = (total & 0xffff) + (total >>> 16);
  return total;
}

/** Sum of the pseudo header and of what follows the IPv4 header: 0xffff if the checksum is right. */
function transportSum(frame: Uint8Array, withPayload: boolean): number {
  const pseudo = sum(frame.subarray(26, 34), frame[23]! + frame.length - 34);
  return withPayload ? sum(frame.subarray(34), pseudo) : pseudo;
}

interface Segment {
  ports: readonly [from: number, to: number];
  flags: number;
  seq?: number;
  ack?: number;
  payload?: number;
}

/** A TCP segment; the checksum is left to the device. */
function tcp(from: Machine, to: { mac: string; address: string }, segment: Segment): Uint8Array {
  const { ports, flags, seq = 0, ack = 0, payload = 0 } = segment;
  const frame = new Uint8Array(54 + payload);
  const view = new DataView(frame.buffer);
  frame.set([...bytesOf(to.mac), ...bytesOf(from.mac), 8, 0, 0x45, 0]);
  view.setUint16(16, 40 + payload);
  frame.set([64, 6], 22);
  frame.set([...bytesOf(from.address), ...bytesOf(to.address)], 26);
  view.setUint16(24, ~sum(frame.subarray(14, 34)) & 0xffff);
  view.setUint16(34, ports[0]);
  view.setUint16(36, ports[1]);
  view.setUint32(38, seq);
  view.setUint32(42, ack);
  frame.set([5 << 4, flags], 46);
  view.setUint16(48, 0xffff);
  for (let i = 54; i < frame.length; i++) frame[i] = i * 3;
  view.setUint16(50, transportSum(frame, false));
  return frame;
}

/** With a whole checksum, as a guest without offloads has to send it. */
function finished(frame: Uint8Array): Uint8Array {
  new DataView(frame.buffer).setUint16(50, 0);
  new DataView(frame.buffer).setUint16(50, ~transportSum(frame, true) & 0xffff);
  return frame;
}

const CSUM = { flags: 1, csumStart: 34, csumOffset: 16 };
const SYN = 0x02;
const ACK = 0x10;
const PSH = 0x18;

const isTcp = ({ frame }: GuestFrame): boolean =>
  frame[12] === 8 && frame[13] === 0 && frame[23] === 6;

/** TCP that comes to a guest; everything else (neighbour discovery of the host) is read and left. */
async function received(machine: Machine, count: number): Promise<Uint8Array[]> {
  const got: Uint8Array[] = [];
  const end = Date.now() + 10_000;
  while (got.length < count && Date.now() < end) {
    got.push(...(await machine.driver.expect(1, 200)).filter(isTcp).map(({ frame }) => frame));
  }
  return got;
}

async function nothing(machine: Machine): Promise<void> {
  const end = Date.now() + 500;
  while (Date.now() < end) {
    const got = await machine.driver.expect(1, 100);
    assert.equal(got.filter(isTcp).length, 0);
  }
}

/** Packets that the ingress rules of a port have dropped. */
function denied(port: number): number {
  const text = net.box.ofctl('dump-flows', 'br0', `table=82,reg5=${port}`);
  const drops = text.split('\n').filter((line) => line.endsWith('actions=drop'));
  return drops.reduce((total, line) => total + Number(/n_packets=(\d+)/.exec(line)![1]), 0);
}

async function boot(name: string, port: number, features: bigint): Promise<Machine> {
  const path = net.box.path(`${name}.sock`);
  const guest = new Guest({ path, mode: 'server', features, queueSize: 128 });
  guest.open();
  const row = ['set', 'interface', name, 'type=dpdkvhostuserclient', `ofport_request=${port}`];
  net.box.vsctl('add-port', 'br0', name, '--', ...row, `options:vhost-server-path=${path}`);
  await guest.connected();
  const driver = new TestDriver(guest);
  driver.fillReceiveRing();
  const mac = `02:00:00:00:00:0${port}`;
  return { name, namespace: '', port, mac, address: `10.0.0.${port}`, guest, driver };
}

before(async () => {
  net = await FirewallNet.create('xvio', [{ name: 'a', addresses: ['10.0.0.1/24'] }]);
  g1 = await boot('g1', 2, guestFeatures({ packed: true, eventIdx: true, offloads: true }));
  g2 = await boot('g2', 3, guestFeatures());
  for (const { address, mac } of [g1, g2]) {
    net.run('a', 'ip', 'neigh', 'replace', address, 'lladdr', mac, 'dev', 'eth0');
  }
  const group = (host: Host, address: string, ingress: string[]) => ({
    host,
    addresses: [address],
    ingress,
  });
  net.flows(
    firewallFlows([
      group(net.host('a'), '10.0.0.1', []),
      group(g1, g1.address, ['udp,tp_dst=53,nw_src=10.0.0.1']),
      group(g2, g2.address, ['tcp,tp_dst=80']),
    ]),
  );
  const up = () =>
    ['g1', 'g2'].every(
      (name) => net.box.vsctl('get', 'interface', name, 'link_state').trim() === 'up',
    );
  await net.box.until(up, 10_000, 'links');
});

after(async () => {
  g1?.guest.close();
  g2?.guest.close();
  await net?.stop();
});

test('a guest reaches the service of another, which may answer', async () => {
  const ports = [40_000, 80] as const;
  const back = [80, 40_000] as const;
  assert.ok(g1.driver.send(tcp(g1, g2, { ports, flags: SYN, seq: 99 }), { header: CSUM }));
  const [syn] = await received(g2, 1);
  assert.ok(syn, 'no SYN');
  assert.equal(
    transportSum(syn, true),
    0xffff,
    'the checksum is finished for a guest that wants it so',
  );
  assert.ok(
    g2.driver.send(finished(tcp(g2, g1, { ports: back, flags: SYN | ACK, seq: 499, ack: 100 }))),
  );
  assert.equal((await received(g1, 1)).length, 1, 'no SYN, ACK');
  assert.ok(
    g1.driver.send(tcp(g1, g2, { ports, flags: ACK, seq: 100, ack: 500 }), { header: CSUM }),
  );
  assert.equal((await received(g2, 1)).length, 1, 'no ACK');

  // Segmentation left to the device: 20 000 bytes in one go.
  const big = tcp(g1, g2, { ports, flags: PSH, seq: 100, ack: 500, payload: 20_000 });
  const header = { ...CSUM, gsoType: 1, hdrLen: 54, gsoSize: 1448 };
  assert.ok(g1.driver.send(big, { header }));
  const segments = await received(g2, 14);
  assert.equal(segments.length, 14);
  for (const segment of segments) assert.equal(transportSum(segment, true), 0xffff);
  const payload = Buffer.concat(segments.map((segment) => segment.subarray(54)));
  assert.equal(Buffer.compare(payload, big.subarray(54)), 0);
  // The acknowledgement lies in the window that connection tracking has followed over the segments.
  const ack = { ports: back, flags: ACK, seq: 500, ack: 20_100 };
  assert.ok(g2.driver.send(finished(tcp(g2, g1, ack))));
  assert.equal((await received(g1, 1)).length, 1, 'no ACK of the data');
  const lines = net.connections('zone=1').filter((line) => line.includes('sport=40000'));
  assert.equal(lines.length, 1);
  assert.match(lines[0]!, /^tcp,orig=\(src=10\.0\.0\.2,dst=10\.0\.0\.3,.*ESTABLISHED/);
});

test('what no rule allows is dropped, and counted', async () => {
  const before = denied(g2.port);
  const syn = tcp(g1, g2, { ports: [40_001, 81], flags: SYN });
  assert.ok(g1.driver.send(syn, { header: CSUM }));
  await nothing(g2);
  assert.equal(denied(g2.port), before + 1);
  // Nobody may connect to g1; an answer to nothing is no answer; and a guest cannot be somebody else.
  assert.ok(g2.driver.send(finished(tcp(g2, g1, { ports: [40_002, 80], flags: SYN }))));
  assert.ok(g2.driver.send(finished(tcp(g2, g1, { ports: [80, 40_009], flags: SYN | ACK }))));
  const forged = { ...g2, address: '10.0.0.1' };
  assert.ok(g2.driver.send(finished(tcp(forged, g1, { ports: [80, 40_000], flags: ACK }))));
  await nothing(g1);
  assert.equal(net.connections('zone=1').filter((line) => /sport=4000[129]/.test(line)).length, 0);
});

test('a wrong checksum is no packet of any connection', async () => {
  const wrong = finished(tcp(g2, g1, { ports: [80, 40_000], flags: ACK, seq: 500, ack: 20_100 }));
  wrong[50]! ^= 0x55;
  assert.ok(g2.driver.send(wrong));
  await nothing(g1);
  assert.ok(
    g2.driver.send(
      finished(tcp(g2, g1, { ports: [80, 40_000], flags: ACK, seq: 500, ack: 20_100 })),
    ),
  );
  assert.equal((await received(g1, 1)).length, 1, 'the connection goes on');
});

test('a host asks a guest', async () => {
  const args = [net.box.path('peer.py'), 'ask', 'udp', '6001', g1.address, '53', '10'];
  const child = spawn('ip', ['netns', 'exec', net.host('a').namespace, 'python3', ...args]);
  let answer = '';
  child.stdout.on('data', (text) => {
    answer += text;
  });
  const end = new Promise((resolve) => child.once('close', resolve));
  // The guest's echo: the same datagram the other way round, whose sums stay what they are.
  for (let i = 0; i < 100 && child.exitCode === null; i++) {
    for (const { frame } of await g1.driver.expect(1, 100)) {
      if (frame[12] !== 8 || frame[13] !== 0 || frame[23] !== 17) continue;
      const reply = Uint8Array.from(frame);
      const swap = (at: number, bytes: number): void => {
        reply.set(frame.subarray(at + bytes, at + 2 * bytes), at);
        reply.set(frame.subarray(at, at + bytes), at + bytes);
      };
      swap(0, 6);
      swap(26, 4);
      swap(34, 2);
      assert.ok(g1.driver.send(reply));
    }
  }
  await end;
  assert.equal(answer.trim(), 'ok');
  assert.equal(net.ask('a', 'udp', 6002, g1.address, 54), 'timeout', 'not allowed');
});
