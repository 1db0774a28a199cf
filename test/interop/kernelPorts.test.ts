// Ports on real kernel devices: taps, veths through AF_PACKET and through AF_XDP, with real traffic of the kernel's stack.
// Needs root, iproute2, ping, iperf3, ethtool. Everything happens in network namespaces of its own.

import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { openAfxdp } from '../../src/port/afxdp.ts';
import { openSystem } from '../../src/port/system.ts';
import { openInternal, openTap } from '../../src/port/tap.ts';
import type { Netdev, NetdevConfig, NetdevContext } from '../../src/port/types.ts';
import { newNetworkNamespace } from '../../src/sys/process.ts';
import { FakeEngine } from '../net/fakeEngine.ts';

/** Much longer than anything takes, also on a machine that has other things to do. */
const DEADLINE_MS = 30_000;
const PEER = `xvio-kp-${process.pid}`;
newNetworkNamespace();
const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' });
const peerIp = (...args: string[]): string => ip('-n', PEER, ...args);
const inPeer = (...args: string[]): string[] => ['ip', 'netns', 'exec', PEER, ...args];
ip('netns', 'add', PEER);
after(() => ip('netns', 'del', PEER));
ip('link', 'set', 'lo', 'up');

const messages: string[] = [];
const note = (text: string): void => {
  messages.push(text);
};
const engine = await FakeEngine.load();
const context: NetdevContext = {
  engine: engine.asEngine(),
  vhostSockDir: '/nonexistent',
  log: { info: note, warn: note, err: note, dbg: note },
};
const config = (name: string, more: Partial<NetdevConfig> = {}): NetdevConfig => ({
  name,
  type: '',
  options: {},
  otherConfig: {},
  ...more,
});

/** Lets the data plane run while `body` does. */
async function running<T>(body: () => Promise<T>): Promise<T> {
  let stop = false;
  const loop = (): void => {
    if (stop) return;
    for (let i = 0; i < 20; i++) engine.breathe();
    setImmediate(loop);
  };
  loop();
  try {
    return await body();
  } finally {
    stop = true;
    engine.inspect = undefined;
  }
}

function run(...command: string[]): Promise<{ status: number; output: string }> {
  return new Promise((resolve) => {
    const child = spawn('timeout', ['-s', 'KILL', '60', ...command]);
    let output = '';
    child.stdout.on('data', (data) => (output += data));
    child.stderr.on('data', (data) => (output += data));
    child.on('exit', (status) => resolve({ status: status ?? -1, output }));
  });
}

async function ping(...args: string[]): Promise<void> {
  // Neighbours may still be unknown, or the machine busy: what counts is that answers come.
  const end = performance.now() + DEADLINE_MS;
  for (;;) {
    const { status, output } = await run('ping', '-i', '0.1', '-W', '2', '-c', '3', ...args);
    if (status === 0) return;
    if (performance.now() > end) assert.fail(output);
    await sleep(100);
  }
}

/**
 * Bits per second of a TCP transfer of a second. The tests ask for 5 Mbit/s: no measure of speed, which a busy machine
 * spoils, but more than a connection gets whose segments or acknowledgements are wrong and have to be sent again.
 */
async function iperf(...args: string[]): Promise<number> {
  const server = run(...inPeer('iperf3', '-s', '-1'));
  await listening('sport = :5201', ...inPeer('ss', '-Hltn'));
  const { status, output } = await run('iperf3', '-J', '-t', '1', '-c', '10.9.0.2', ...args);
  await server;
  assert.equal(status, 0, output);
  return JSON.parse(output).end.sum_received.bits_per_second;
}

async function until(condition: () => boolean, what: string): Promise<void> {
  const end = performance.now() + DEADLINE_MS;
  while (!condition()) {
    if (performance.now() > end) assert.fail(`timed out: ${what}`);
    await sleep(10);
  }
}

/** Waits for somebody who listens: `where` is an expression of ss(8), `ss` the command in its network namespace. */
async function listening(where: string, ...ss: string[]): Promise<void> {
  const [command, ...args] = [...ss, where];
  await until(() => spawnSync(command!, args).stdout.length > 0, `listener, ${where}`);
}

function addVeth(): void {
  ip('link', 'add', 'v0', 'type', 'veth', 'peer', 'name', 'v1', 'netns', PEER);
  ip('link', 'set', 'v0', 'up');
  peerIp('addr', 'add', '10.9.0.2/24', 'dev', 'v1');
  peerIp('addr', 'add', 'fd09::2/64', 'dev', 'v1', 'nodad');
  peerIp('link', 'set', 'v1', 'up');
}

const DATAGRAM_RECEIVER = `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('10.9.0.1', 9999))
s.settimeout(30)
print([len(s.recv(65535)) for _ in range(6)])
`;
const DATAGRAM_SENDER = `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(17, 103, 1000)
s.sendto(bytes(5500), ('10.9.0.1', 9999))
`;

/** Sends a tagged frame on v1 and prints tag, type and text of the one that comes back. */
const TAGGED_ECHO = `
import socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(('v1', 0))
s.setsockopt(263, 8, 1)
s.settimeout(30)
s.send(bytes.fromhex('020000000001' '020000000002' '8100' '8005' '88b5') + b'hello' + bytes(50))
while True:
    data, control, flags, address = s.recvmsg(2000, 100)
    if address[2] != 4 and data[12:14] == b'\\x88\\xb5':
        print(hex(struct.unpack('IIIHHHH', control[0][2])[5]), data[12:14].hex(), data[14:19].decode())
        break
`;

/** br0 with an address in this namespace, wired to `other`. */
async function addBridgePort(other: Netdev): Promise<Netdev> {
  const tap = await openInternal(config('br0'), context);
  engine.wires.set(other.port, tap.port);
  engine.wires.set(tap.port, other.port);
  ip('addr', 'add', '10.9.0.1/24', 'dev', 'br0');
  ip('addr', 'add', 'fd09::1/64', 'dev', 'br0', 'nodad');
  ip('link', 'set', 'br0', 'up');
  return tap;
}

test('internal and tap: columns, MTU, Ethernet address, admin state, life of the device', async () => {
  const changes: string[] = [];
  const mac = '02:00:00:00:00:09';
  const device = await openInternal(config('i0', { mac, mtuRequest: 9000 }), context);
  device.onChange = () => changes.push('change');
  const { ifindex, ...status } = device.status();
  assert.ok(ifindex > 0);
  assert.deepEqual(status, {
    adminUp: false,
    linkUp: false,
    linkResets: 0,
    mac,
    mtu: 9000,
    linkSpeed: 10_000_000_000,
    duplex: 'full',
    status: { driver_name: 'tun', driver_version: '1.6', firmware_version: '' },
  });
  device.setAdminUp(true);
  assert.equal(device.status().adminUp, true);
  await until(() => device.status().linkUp && changes.length > 0, 'link up');
  assert.equal(
    device.reconfigure(config('i0', { mac: '02:00:00:00:00:0a', mtuRequest: 1400 })),
    true,
  );
  assert.match(ip('link', 'show', 'i0'), /mtu 1400 .* 02:00:00:00:00:0a/s);
  assert.equal(device.reconfigure(config('i0', { mtuRequest: 10 })), true); // refused by the kernel
  assert.match(messages.at(-1)!, /^i0: failed to set MTU to 10 \(Invalid argument\)$/);

  // As with ovs-vswitchd: a tap's Ethernet address is not ours to set; a device survives the daemon, not its port.
  const tap = await openTap(config('t0', { mac }), context);
  assert.notEqual(tap.status().mac, mac);
  await tap.close(true);
  assert.match(ip('link', 'show', 't0'), /t0/);
  const again = await openTap(config('t0'), context);
  await again.close();
  await device.close();

  const long = await openTap(config('aveeeeryverylongtap'), context);
  assert.equal(long.name, 'aveeeeryverylongtap');
  assert.match(ip('link', 'show', 'aveeeeryverylon'), /aveeeeryverylon/);
  await long.close();
  assert.equal(spawnSync('ip', ['link', 'show', 't0']).status, 1);
  assert.equal(spawnSync('ip', ['link', 'show', 'i0']).status, 1);
});

test('devices that cannot be opened say why, in the words of ovs-vswitchd', async () => {
  const message = (name: string, text: string) => ({
    message: `could not open network device ${name} (${text})`,
  });
  await assert.rejects(openSystem(config('nonex0'), context), message('nonex0', 'No such device'));
  await assert.rejects(openAfxdp(config('nonex0'), context), message('nonex0', 'No such device'));
  const long = 'averyveryverylongname';
  await assert.rejects(openSystem(config(long), context), message(long, 'No such device'));
  await assert.rejects(openSystem(config('lo'), context), {
    message: 'could not add network device lo to ofproto (Invalid argument)',
  });
  ip('link', 'add', 'd0', 'type', 'veth', 'peer', 'name', 'd1');
  await assert.rejects(openTap(config('d0'), context), message('d0', 'Invalid argument'));
  await assert.rejects(openAfxdp(config('d0', { options: { n_rxq: 'x' } }), context), {
    message: 'd0: could not set configuration (Invalid argument)',
  });
  await assert.rejects(openAfxdp(config('d0', { options: { 'xdp-mode': 'fast' } }), context), {
    message: 'd0: could not set configuration (Invalid argument)',
  });
  const many = config('d0', { options: { n_rxq: '9' } }); // more queues than the device has
  await assert.rejects(openAfxdp(many, context), message('d0', 'Invalid argument'));
  ip('link', 'del', 'd0');
  // The kernel would choose a number, and nobody find the device again.
  await assert.rejects(openTap(config('t%d'), context), message('t%d', 'No such device'));
  assert.equal(spawnSync('ip', ['link', 'show', 't0']).status, 1);
  const busy = await openTap(config('t1'), context);
  await assert.rejects(openTap(config('t1'), context), message('t1', 'Device or resource busy'));
  await busy.close();
  assert.equal(engine.ports.size, 0, 'no port leaked');
});

test('without privileges: the kernel says no, and so do we', () => {
  const url = (path: string): string => JSON.stringify(new URL(path, import.meta.url).href);
  const script = `
    const { FakeEngine } = await import(${url('../net/fakeEngine.ts')});
    const { openSystem } = await import(${url('../../src/port/system.ts')});
    const { openTap } = await import(${url('../../src/port/tap.ts')});
    const engine = await FakeEngine.load();
    process.setgid(65534); process.setuid(65534);
    const context = { engine: engine.asEngine(), vhostSockDir: '', log: {} };
    const config = (name) => ({ name, type: '', options: {}, otherConfig: {} });
    for (const open of [openTap(config('u0'), context), openSystem(config('v0'), context)]) {
      await open.catch((e) => console.log(e.message));
    }`;
  ip('link', 'add', 'v0', 'type', 'veth', 'peer', 'name', 'v1');
  const args = ['--disable-warning=ExperimentalWarning', '--input-type=module', '-e', script];
  const { stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  ip('link', 'del', 'v0');
  assert.equal(stderr, '');
  assert.equal(
    stdout,
    'could not open network device u0 (Operation not permitted)\n' +
      'could not open network device v0 (Operation not permitted)\n',
  );
});

test('system: traffic with GSO and unfinished checksums both ways, VLANs, counters', async () => {
  addVeth();
  const device = await openSystem(config('v0'), context);
  assert.equal(device.status().status.driver_name, 'veth');
  const bridge = await addBridgePort(device);
  await running(async () => {
    await ping('10.9.0.2');
    await ping('fd09::2');
    await ping('-s', '1472', '-M', 'do', '10.9.0.2');
    const seen = { gso: 0, unfinished: 0 };
    engine.inspect = (packet) => {
      if (packet.gsoType !== 0) seen.gso++;
      if (packet.needsCsum) seen.unfinished++;
    };
    assert.ok((await iperf()) > 5e6);
    assert.ok((await iperf('-R')) > 5e6);
    assert.ok(seen.gso > 100 && seen.unfinished > 100, JSON.stringify(seen));

    // Datagrams that the peer's kernel leaves in one piece (UDP_SEGMENT) arrive as datagrams.
    const receiver = run('python3', '-c', DATAGRAM_RECEIVER);
    await listening('sport = :9999', 'ss', '-Hlun');
    await run(...inPeer('python3', '-c', DATAGRAM_SENDER));
    assert.equal((await receiver).output, '[1000, 1000, 1000, 1000, 1000, 500]\n');

    // The kernel keeps the tag beside the frame: it has to come back, and go out again.
    engine.wires.set(device.port, device.port);
    const tags: string[] = [];
    engine.inspect = ({ frame }) => tags.push(frame.subarray(12, 18).toString('hex'));
    const { output } = await run(...inPeer('python3', '-c', TAGGED_ECHO));
    assert.equal(output, '0x8005 88b5 hello\n');
    assert.ok(tags.includes('8100800588b5'), tags.join(' '));
  });
  const statistics = device.statistics();
  assert.ok(statistics.rx_packets! > 100 && statistics.tx_packets! > 100);
  assert.ok(bridge.statistics().rx_bytes! > 1e6, 'a tap counts from our side');
  await bridge.close();
  await device.close();
  ip('link', 'del', 'v0');
});

test('system: the device vanishes and comes back; the peer goes down; MTU is watched', async () => {
  addVeth();
  const device = await openSystem(config('v0', { mtuRequest: 1450 }), context);
  const bridge = await addBridgePort(device);
  await running(async () => {
    assert.equal(device.status().mtu, 1450);
    await ping('10.9.0.2');
    ip('link', 'del', 'v0');
    await until(() => device.status().ifindex === 0, 'device gone');
    assert.deepEqual(device.status(), {
      adminUp: false,
      linkUp: false,
      linkResets: 1,
      ifindex: 0,
      status: {},
    });
    assert.deepEqual(device.statistics(), {});
    addVeth();
    await until(() => device.status().linkUp && device.status().mtu === 1450, 'device back');
    ip('neigh', 'flush', 'all');
    await ping('10.9.0.2');
    const resets = device.status().linkResets;
    peerIp('link', 'set', 'v1', 'down');
    await until(() => !device.status().linkUp, 'carrier lost');
    assert.equal(device.status().adminUp, true);
    assert.equal(device.status().linkResets, resets + 1);
    peerIp('link', 'set', 'v1', 'up');
    await until(() => device.status().linkUp, 'carrier back');
    device.setAdminUp(false);
    assert.match(ip('link', 'show', 'v0'), /state DOWN/);
  });
  await bridge.close();
  await device.close();
  ip('link', 'del', 'v0');
});

test('a tap deleted under us is noticed and opened anew; one that moves away goes on working', async () => {
  const tap = await openTap(config('t2'), context);
  ip('link', 'set', 't2', 'up');
  ip('link', 'del', 't2');
  await until(() => tap.status().ifindex === 0, 'tap gone');
  assert.equal(tap.reconfigure(config('t2')), false);
  await tap.close();

  const a = await openTap(config('t3'), context);
  const b = await openInternal(config('t4'), context);
  engine.wires.set(a.port, b.port);
  engine.wires.set(b.port, a.port);
  ip('link', 'set', 't3', 'netns', PEER);
  peerIp('addr', 'add', '10.8.0.2/24', 'dev', 't3');
  peerIp('link', 'set', 't3', 'up');
  ip('addr', 'add', '10.8.0.1/24', 'dev', 't4');
  ip('link', 'set', 't4', 'up');
  await until(() => a.status().ifindex === 0, 'tap moved');
  assert.equal(a.reconfigure(config('t3')), true);
  await running(() => ping('10.8.0.2'));
  await a.close();
  await b.close();
});

for (const mode of ['best-effort', 'native', 'generic'] as const) {
  test(`afxdp, xdp-mode=${mode}: traffic with unfinished checksums${mode === 'generic' ? ' and GSO' : ''}`, async () => {
    addVeth();
    const options = { 'xdp-mode': mode };
    const device = await openAfxdp(config('v0', { options }), context);
    const used = mode === 'best-effort' ? 'native' : mode;
    assert.equal(device.status().status['xdp-mode'], used);
    assert.match(ip('link', 'show', 'v0'), used === 'native' ? /xdp\/id|prog\/xdp/ : /xdpgeneric/);
    const bridge = await addBridgePort(device);
    await running(async () => {
      await ping('10.9.0.2');
      await ping('fd09::2');
      const seen = { gso: 0, unfinished: 0 };
      engine.inspect = ({ inPort, gsoType, needsCsum }) => {
        if (inPort !== device.port) return;
        if (gsoType !== 0) seen.gso++;
        if (needsCsum) seen.unfinished++;
      };
      assert.ok((await iperf()) > 5e6);
      assert.ok((await iperf('-R')) > 5e6);
      assert.ok(seen.unfinished > 100, JSON.stringify(seen));
      if (mode === 'generic') assert.ok(seen.gso > 100, JSON.stringify(seen));
      else assert.equal(seen.gso, 0); // native XDP makes the peer segment
    });
    const statistics = device.statistics();
    assert.ok(statistics.rx_packets! > 100);
    assert.ok(statistics.xsk_queue_0_rx_ring_full! < statistics.rx_packets! / 10);
    assert.equal(device.reconfigure(config('v0', { options })), true);
    assert.equal(device.reconfigure(config('v0', { options: { n_rxq: '2' } })), false);
    assert.equal(device.reconfigure(config('v0', { options: { n_rxq: '0' } })), false);
    await bridge.close();
    await device.close();
    assert.doesNotMatch(ip('link', 'show', 'v0'), /xdp/, 'the program goes with the port');
    ip('link', 'del', 'v0');
  });
}

test('afxdp: two queues, each with its socket', async () => {
  const two = ['numrxqueues', '2', 'numtxqueues', '2'];
  ip('link', 'add', 'v0', ...two, 'type', 'veth', 'peer', 'name', 'v1', ...two, 'netns', PEER);
  ip('link', 'set', 'v0', 'up');
  peerIp('addr', 'add', '10.9.0.2/24', 'dev', 'v1');
  peerIp('link', 'set', 'v1', 'up');
  const options = { n_rxq: '2', 'use-need-wakeup': 'false' };
  const device = await openAfxdp(config('v0', { options }), context);
  const bridge = await addBridgePort(device);
  await running(async () => {
    await ping('10.9.0.2');
    assert.ok((await iperf('-R', '-P', '4')) > 5e6);
  });
  const statistics = device.statistics();
  assert.equal(statistics.xsk_queue_1_rx_invalid_descs, 0);
  assert.equal(engine.ports.get(device.port)!.rx.length, 2);
  await bridge.close();
  await device.close();
  ip('link', 'del', 'v0');
});

test('afxdp: the device vanishes and comes back', async () => {
  addVeth();
  const device = await openAfxdp(config('v0'), context);
  const bridge = await addBridgePort(device);
  await running(async () => {
    await ping('10.9.0.2');
    ip('link', 'del', 'v0');
    await until(() => device.status().ifindex === 0, 'device gone');
    addVeth();
    await until(
      () => device.status().linkUp && 'xdp-mode' in device.status().status,
      'device back',
    );
    ip('neigh', 'flush', 'all');
    await ping('10.9.0.2');
  });
  await bridge.close();
  await device.close();
  ip('link', 'del', 'v0');
});
