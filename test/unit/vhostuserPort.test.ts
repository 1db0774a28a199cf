// vhost-user ports over real sockets with our own front-end, on an engine without workers: connections, link state,
// columns, descriptors.

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, readFileSync, readSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { QUEUE_PACKED, QUEUE_SPLIT, queueAddress } from '../../contract/port.ts';
import * as VQ from '../../contract/virtqueue.ts';
import type { Engine, Injection, QueueSpec } from '../../src/engine/types.ts';
import * as L from '../../src/guest/driver/layout.ts';
import { Frontend } from '../../src/guest/frontend.ts';
import { Guest, guestFeatures } from '../../src/guest/guest.ts';
import type { Netdev, NetdevConfig, NetdevContext } from '../../src/port/types.ts';
import { inspectFd } from '../../src/port/vhostuser/connection.ts';
import { limitedLog } from '../../src/port/vhostuser/limitedLog.ts';
import { openVhostUser, openVhostUserClient } from '../../src/port/vhostuser/port.ts';
import { eventfdCreate } from '../../src/sys/eventfd.ts';
import { closeFd, setNonBlocking } from '../../src/sys/fd.ts';
import type { SysError } from '../../src/sys/ffi.ts';
import { mapAnonymous, mapFixed, memfdCreate, memoryBase } from '../../src/sys/memory.ts';
import { unixConnect } from '../../src/sys/unix.ts';
import * as C from '../../src/wire/vhostuser/codec.ts';
import { bits } from '../../src/wire/vhostuser/features.ts';
import * as M from '../../src/wire/vhostuser/messages.ts';

const directory = mkdtempSync(join(tmpdir(), 'xvio-vhost-'));
after(() => rmSync(directory, { recursive: true }));

const WINDOW = 0x40000000;

/** The part of the engine that a port talks to, without workers: queues are only written down. */
function fakeEngine() {
  const memory = new WebAssembly.Memory({ initial: 65536, maximum: 65536, shared: true });
  const base = memoryBase(memory);
  const attached = new Map<number, QueueSpec>();
  const specs = new Map<number, QueueSpec>();
  const injected: Injection[] = [];
  const mapped = new Map<number, number>();
  let nextQueue = 0;
  let top = WINDOW;
  const map = (fd: number, offset: bigint, bytes: number): number => {
    const skew = Number(offset % 4096n);
    const length = (bytes + skew + 4095) & ~4095;
    const address = top;
    mapFixed(base + BigInt(address), fd, offset - BigInt(skew), length);
    top += (length + 0x1fffff) & ~0x1fffff;
    mapped.set(address + skew, length);
    return address + skew;
  };
  const unmap = (address: number): void => {
    assert.ok(mapped.has(address), 'unmapped twice');
    mapAnonymous(base + BigInt(address & ~4095), mapped.get(address)!);
    mapped.delete(address);
    if (mapped.size === 0) top = WINDOW;
  };
  const port: Record<string, number> = {};
  const hooks: { quiesce?: () => void } = {};
  const part = {
    memory,
    base,
    addPort: () => 7,
    removePort: async () => {},
    setPort: (_port: number, set: Record<string, number>) => Object.assign(port, set),
    addQueue: (_port: number, spec: QueueSpec) => {
      specs.set(nextQueue, spec);
      return nextQueue++;
    },
    attachQueue: (queue: number) => attached.set(queue, specs.get(queue)!),
    detachQueue: async (queue: number) => {
      await new Promise((resolve) => setImmediate(resolve));
      attached.delete(queue);
    },
    removeQueue: () => {},
    quiesce: async () => {
      hooks.quiesce?.();
      return 0;
    },
    inject: (injection: Injection) => injected.push(injection) > 0,
    portCounters: () => ({ rxSizes: [], txSizes: [], drops: [] }),
    windows: {
      mapRegion: (fd: number, offset: bigint, bytes: bigint) => ({
        base: map(fd, offset, Number(bytes)),
        chunk: 0,
        skew: 0,
      }),
      unmapRegion: (region: { base: number }) => unmap(region.base),
      mapRange: map,
      unmapRange: unmap,
      setRegions: () => {},
    },
  };
  return { engine: part as unknown as Engine, attached, injected, mapped, port, hooks };
}

type Fake = ReturnType<typeof fakeEngine>;

function contextOf(fake: Fake, lines: string[] = []): NetdevContext {
  const log = (text: string) => lines.push(text);
  return {
    engine: fake.engine,
    vhostSockDir: directory,
    log: { info: log, warn: log, err: log, dbg: () => {} },
  };
}

const config = (name: string, type: string, options: Record<string, string> = {}) => ({
  name,
  type,
  options,
  otherConfig: {},
});

async function until(condition: () => boolean, what: string, timeoutMs = 10_000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!condition()) {
    if (performance.now() > deadline) assert.fail(`timeout: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** The queue of a listening socket may be full on a busy machine. */
async function connectWhenThereIsRoom(path: string): Promise<Frontend> {
  for (;;) {
    try {
      return new Frontend(unixConnect(path));
    } catch (thrown) {
      if ((thrown as SysError).code !== 'EAGAIN') throw thrown;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
}

function openFds(): number {
  return readdirSync('/proc/self/fd').length;
}

/** Runs a test with a port of type dpdkvhostuser, and asserts that it leaves no descriptor and no mapping. */
async function withServerPort(
  name: string,
  use: (port: Netdev, path: string, fake: Fake, lines: string[]) => Promise<void>,
  more: Partial<NetdevConfig> = {},
): Promise<void> {
  const fake = fakeEngine();
  const lines: string[] = [];
  const before = openFds();
  const port = await openVhostUser(
    { ...config(name, 'dpdkvhostuser'), ...more },
    contextOf(fake, lines),
  );
  try {
    await use(port, join(directory, name), fake, lines);
  } finally {
    await port.close();
  }
  await until(() => openFds() === before, `descriptors: ${openFds()} instead of ${before}`);
  assert.equal(fake.mapped.size, 0, 'mappings left');
  assert.equal(fake.attached.size, 0, 'queues left');
  assert.ok(!existsSync(join(directory, name)), 'socket file left');
}

describe('ports of both modes', () => {
  it('serves a guest: link, columns, queues, and everything away at the end', async () => {
    await withServerPort('vhost0', async (port, path, fake) => {
      assert.deepEqual(port.status().status, { mode: 'server', status: 'disconnected' });
      let changes = 0;
      port.onChange = () => changes++;
      const guest = new Guest({
        path,
        mode: 'client',
        pairs: 2,
        mtu: 9000,
        features: guestFeatures() | bits(3),
      });
      guest.open();
      await guest.connected();
      await until(() => port.status().linkUp, 'link up');
      assert.ok(changes > 0);
      const { status, linkResets } = port.status();
      assert.equal(linkResets, 1);
      assert.deepEqual(
        { ...status, numa: '0' },
        {
          mode: 'server',
          status: 'connected',
          socket: path,
          features_offered: '0x0000000d7c60ffcb',
          features: `0x${guest.features.toString(16).padStart(16, '0')}`,
          mtu: '9000',
          numa: '0',
          num_of_vrings: '4',
          vring_0_size: '256',
          vring_1_size: '256',
          vring_2_size: '256',
          vring_3_size: '256',
        },
      );
      assert.deepEqual([...fake.attached.values()].map((q) => `${q.direction}${q.index}`).sort(), [
        'rx0',
        'rx1',
        'tx0',
        'tx1',
      ]);
      assert.equal(fake.port.usableTxQueues, 2);
      await guest.enableRing(2, false);
      assert.equal(fake.port.usableTxQueues, 1);
      guest.close();
      await until(() => !port.status().linkUp, 'link down');
    });
  });

  it('connects to a guest, and again each time that it comes back', async () => {
    const path = join(directory, 'guest.sock');
    const fake = fakeEngine();
    const port = await openVhostUserClient(
      config('vhost1', 'dpdkvhostuserclient', { 'vhost-server-path': path }),
      contextOf(fake),
    );
    for (let round = 0; round < 3; round++) {
      const guest = new Guest({ path, mode: 'server' });
      guest.open();
      await guest.connected();
      await until(() => port.status().linkUp, 'link up');
      guest.close();
      await until(() => !port.status().linkUp, 'link down');
    }
    assert.equal(port.status().linkResets, 6);
    await port.close();
  });

  it('starts rings where their used index says, and tells where they stopped', async () => {
    await withServerPort('vhost2', async (_port, path, fake) => {
      for (const packed of [false, true]) {
        const guest = new Guest({ path, mode: 'client', features: guestFeatures({ packed }) });
        guest.open();
        await guest.connected();
        const queue = [...fake.attached].find(([, spec]) => spec.direction === 'rx')!;
        assert.equal(queue[1].kind, packed ? QUEUE_PACKED : QUEUE_SPLIT);
        const view = new DataView(fake.engine.memory.buffer);
        const q = queueAddress(queue[0]);
        assert.equal(view.getUint32(q + VQ.VQ_LAST_AVAIL, true), packed ? 0x8000 : 0);
        const desc = view.getUint32(q + VQ.VQ_DESC, true);
        guest.view.setUint32(guest.view.getUint32(guest.ringRecord(1) + 8, true), 0xabcd1234, true);
        assert.equal(view.getUint32(desc, true), 0xabcd1234, 'the ring is not the guest’s');
        view.setUint32(q + VQ.VQ_LAST_AVAIL, 17, true);
        view.setUint32(q + VQ.VQ_LAST_USED, 17, true);
        const state = C.encodeVringState({ index: 1, num: 0 });
        const { payload } = await guest.frontend!.ask(M.GET_VRING_BASE, state);
        assert.equal(C.decodeVringState(payload).num, packed ? 17 | (17 << 16) : 17);
        const again = await guest.frontend!.ask(M.GET_VRING_BASE, state);
        assert.deepEqual(again.payload, payload);
        guest.close();
        await until(() => fake.mapped.size === 0, 'guest memory unmapped');
      }
    });
  });

  it('refuses a second front-end and a name with a slash', async () => {
    await withServerPort('vhost3', async (port, path, _fake, lines) => {
      const guest = new Guest({ path, mode: 'client' });
      guest.open();
      await guest.connected();
      const second = new Frontend(unixConnect(path));
      await assert.rejects(second.askU64(M.GET_FEATURES), /closed/);
      assert.ok(lines.some((line) => /second front-end on '.*vhost3' refused/.test(line)));
      assert.ok(port.status().linkUp);
      guest.close();
    });
    await assert.rejects(
      openVhostUser(config('a/b', 'dpdkvhostuser'), contextOf(fakeEngine())),
      /could not open network device a\/b \(Invalid argument\)/,
    );
  });

  it('waits for a path, and offers less when told so', async () => {
    const fake = fakeEngine();
    const lines: string[] = [];
    const nowhere = config('vhost5', 'dpdkvhostuserclient');
    const port = await openVhostUserClient(nowhere, contextOf(fake, lines));
    assert.deepEqual(port.status().status, { mode: 'client', status: 'disconnected' });
    assert.ok(lines.some((line) => line.includes('vhost-server-path is missing')));
    assert.equal(port.reconfigure({ ...nowhere, mtuRequest: 9000 }), true);
    assert.equal(port.status().mtu, 9000);
    assert.equal(fake.port.mtu, 9000);
    const path = join(directory, 'later.sock');
    assert.equal(port.reconfigure({ ...nowhere, options: { 'vhost-server-path': path } }), false);
    await port.close();
    const options = { 'vhost-server-path': path, 'xvio-features-mask': '0x400000000' };
    const masked = await openVhostUserClient({ ...nowhere, options }, contextOf(fake));
    const features = guestFeatures({ packed: true });
    const guest = new Guest({ path, mode: 'server', features });
    guest.open();
    await guest.connected();
    assert.equal(guest.features, features & ~bits(34));
    guest.close();
    await masked.close();
  });

  it('offers what the poorest host has: of its own, or else that of all ports', async () => {
    const path = join(directory, 'poor.sock');
    const port = config('poor', 'dpdkvhostuserclient');
    const offered = async (all: string | undefined, own: string | undefined): Promise<bigint> => {
      const options = { 'vhost-server-path': path, ...(own ? { 'xvio-features': own } : {}) };
      const context = { ...contextOf(fakeEngine()), vhostFeatures: all };
      const opened = await openVhostUserClient({ ...port, options }, context);
      const guest = new Guest({ path, mode: 'server', features: guestFeatures({ packed: true }) });
      guest.open();
      await guest.connected();
      const { features_offered: text } = opened.status().status;
      guest.close();
      await opened.close();
      return BigInt(text!);
    };
    const everything = await offered(undefined, undefined);
    const packed = bits(34);
    assert.equal(everything & packed, packed);
    assert.equal((await offered('vhost-net', undefined)) & packed, 0n);
    assert.equal((await offered('vhost-net', 'all')) & packed, packed);
    assert.equal(await offered('ovs-dpdk', undefined), await offered(undefined, 'ovs-dpdk'));
  });

  it('acknowledges the eventfd for writes to the log, and closes it', async () => {
    await withServerPort('vhost6', async (_port, path) => {
      const guest = new Guest({ path, mode: 'client' });
      guest.open();
      await guest.connected();
      const eventfd = eventfdCreate();
      const before = openFds();
      for (let i = 0; i < 3; i++) {
        await guest.frontend!.tell(M.SET_LOG_FD, new Uint8Array(0), [eventfd]);
      }
      assert.equal(openFds(), before);
      // The front-end goes on as before.
      await guest.frontend!.ask(M.GET_FEATURES);
      closeFd(eventfd);
      guest.close();
    });
  });

  it('injects the announcement of a moved guest', async () => {
    await withServerPort('vhost4', async (_port, path, fake) => {
      const guest = new Guest({ path, mode: 'client' });
      guest.open();
      await guest.connected();
      await guest.frontend!.tell(M.SEND_RARP, Uint8Array.of(2, 0, 0, 1, 2, 3, 0, 0));
      const [injection] = fake.injected;
      assert.equal(injection!.inPort, 7);
      assert.equal(
        Buffer.from(injection!.frame).toString('hex', 0, 42),
        'ffffffffffff02000001020380350001080006040003020000010203000000000200000102030000' + '0000',
      );
      guest.close();
    });
  });
});

describe('a guest that comes from another host', () => {
  it('is announced by the address that the orchestrator has told, a fresh one is not', async () => {
    for (const packed of [false, true]) {
      const name = `arrives${packed}`;
      const features = guestFeatures({ packed });
      const config = { attachedMac: '02:00:00:0a:0b:0c' };
      await withServerPort(
        name,
        async (_port, path, fake) => {
          const fresh = new Guest({ path, mode: 'client', features });
          fresh.open();
          await fresh.connected();
          await new Promise((resolve) => setTimeout(resolve, 100));
          assert.equal(fake.injected.length, 0);
          fresh.close();
          const arrived = new Guest({ path, mode: 'client', features });
          // Indices of rings that have been used: four packets received, one sent.
          const word = (index: number) =>
            packed ? (index | 0x8000 | ((index | 0x8000) << 16)) >>> 0 : index;
          arrived.prepare(features);
          if (!packed) {
            for (const [ring, index] of [4, 1].entries()) {
              const used = arrived.view.getUint32(arrived.ringRecord(ring) + L.GR_USED, true);
              arrived.view.setUint16(used + 2, index, true);
            }
          }
          arrived.arrive(features, new Map([4, 1].map((index, ring) => [ring, word(index)])));
          arrived.open();
          await arrived.connected();
          await new Promise((resolve) => setTimeout(resolve, 800));
          assert.equal(fake.injected.length, 4);
          for (const { frame, inPort } of fake.injected) {
            assert.equal(inPort, 7);
            assert.equal(Buffer.from(frame).toString('hex', 6, 14), '0200000a0b0c8035');
          }
          arrived.close();
        },
        config,
      );
    }
  });
});

describe('a packed ring that starts while its driver is in the middle of a batch', () => {
  it('goes on where the front-end says, and nothing in it is mended', async () => {
    for (const inOrder of [false, true]) {
      await withServerPort(`batch${inOrder}`, async (_port, path, fake) => {
        const features = guestFeatures({ packed: true, inOrder });
        const guest = new Guest({ path, mode: 'client', features });
        guest.prepare(features);
        const desc = guest.view.getUint32(guest.ringRecord(0) + L.GR_DESC, true);
        const { queueSize } = guest.options;
        // All buffers of the ring, visible with the first, whose flags are not written yet.
        for (let slot = 0; slot < queueSize; slot++) {
          guest.view.setUint32(desc + slot * 16 + 8, 2048, true);
          guest.view.setUint16(desc + slot * 16 + 12, slot, true);
          if (slot > 0) guest.view.setUint16(desc + slot * 16 + 14, 0x82, true);
        }
        const written = guest.bytes.slice(desc, desc + queueSize * 16);
        guest.arrive(features, new Map([0, 1].map((ring) => [ring, 0x80008000])));
        guest.open();
        await guest.connected();
        const view = new DataView(fake.engine.memory.buffer);
        for (const [queue] of fake.attached) {
          assert.equal(view.getUint32(queueAddress(queue) + VQ.VQ_LAST_AVAIL, true), 0x8000);
        }
        assert.equal(fake.attached.size, 2);
        assert.deepEqual(guest.bytes.slice(desc, desc + queueSize * 16), written);
        guest.close();
      });
    }
  });
});

describe('a dirty log that another one follows while rings run', () => {
  it('is written to until the other one is: workers never find none, nor a log beyond its end', async () => {
    await withServerPort('log0', async (_port, path, fake) => {
      const guest = new Guest({ path, mode: 'client' });
      guest.open();
      await guest.connected();
      const frontend = guest.frontend!;
      const setLog = async (size: number): Promise<void> => {
        const fd = memfdCreate('vhost-log', size);
        const base = C.encodeLogBase({ size: BigInt(size), offset: 0n });
        await frontend.ask(M.SET_LOG_BASE, base, [fd]);
        closeFd(fd);
      };
      const view = new DataView(fake.engine.memory.buffer);
      const word = (queue: number, at: number) => view.getUint32(queueAddress(queue) + at, true);
      let [looks, log] = [0, 0];
      const look = (): void => {
        for (const [queue] of fake.attached) {
          assert.notEqual(word(queue, VQ.VQ_FEATURES) & VQ.VF_LOG_ALL, 0, 'not logging');
          log = word(queue, VQ.VQ_LOG);
          assert.ok(word(queue, VQ.VQ_LOG_BYTES) >= 4096, 'pages of the guest are not logged');
          assert.ok(word(queue, VQ.VQ_LOG_BYTES) <= fake.mapped.get(log)!, 'beyond the end');
          looks++;
        }
      };
      await setLog(4096);
      await frontend.tell(M.SET_FEATURES, C.encodeU64(guest.features | bits(26)));
      look();
      for (const size of [8192, 4096]) {
        const before = log;
        fake.hooks.quiesce = look;
        await setLog(size);
        fake.hooks.quiesce = undefined;
        look();
        assert.notEqual(log, before);
        for (const [queue] of fake.attached) assert.equal(word(queue, VQ.VQ_LOG_BYTES), size);
      }
      assert.ok(looks >= 10, `${looks}`);
      // Who has looked before that goes on writing to the log, not to address 0.
      await frontend.tell(M.SET_FEATURES, C.encodeU64(guest.features));
      for (const [queue] of fake.attached) {
        assert.equal(word(queue, VQ.VQ_FEATURES) & VQ.VF_LOG_ALL, 0);
        assert.equal(word(queue, VQ.VQ_LOG), log);
      }
      guest.close();
    });
  });
});

describe('what front-ends rarely ask for', () => {
  it('inflight regions: made, taken back, kept honest, never piled up (F10)', async () => {
    await withServerPort('odd0', async (_port, path) => {
      const guest = new Guest({ path, mode: 'client' });
      guest.open();
      await guest.connected();
      const frontend = guest.frontend!;
      const want = C.encodeInflight({ size: 0n, offset: 0n, numQueues: 2, queueSize: 256 });
      const before = openFds();
      for (let i = 0; i < 20; i++) {
        const { fds } = await frontend.ask(M.GET_INFLIGHT_FD, want);
        assert.equal(fds.length, 1);
        closeFd(fds[0]!);
      }
      assert.equal(openFds(), before);
      const { payload, fds } = await frontend.ask(M.GET_INFLIGHT_FD, want);
      const described = C.decodeInflight(payload);
      assert.equal(described.size, 2n * 4160n);
      await frontend.tell(M.SET_INFLIGHT_FD, C.encodeInflight(described), fds);
      await frontend.ask(M.GET_VRING_BASE, C.encodeVringState({ index: 1, num: 0 }));
      const header = Buffer.alloc(16);
      readSync(fds[0]!, header, 0, 16, 4160);
      assert.deepEqual([header.readUInt16LE(8), header.readUInt16LE(10)], [1, 256]);
      closeFd(fds[0]!);
      guest.close();
    });
  });

  it('no protocol features at all: rings are enabled from the start', async () => {
    await withServerPort('odd1', async (port, path) => {
      const guest = new Guest({
        path,
        mode: 'client',
        features: bits(32),
        protocolFeatures: 0n,
      });
      guest.open();
      await guest.connected();
      await until(() => port.status().linkUp, 'link up');
      guest.close();
    });
  });

  it('blocking doorbells are made non-blocking (F16)', () => {
    const fd = eventfdCreate();
    setNonBlocking(fd, false);
    assert.equal(inspectFd(fd).kind, 'eventfd');
    assert.match(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'), /flags:\s+0*2004002/);
    closeFd(fd);
  });
});

describe('misbehaving front-ends', () => {
  it('get a nack if they ask for an answer, and stay connected', async () => {
    await withServerPort('bad0', async (port, path) => {
      const guest = new Guest({ path, mode: 'client' });
      guest.open();
      await guest.connected();
      await assert.rejects(guest.frontend!.tell(M.NET_SET_MTU, C.encodeU64(1n)), /refused/);
      await assert.rejects(guest.frontend!.tell(77), /refused/);
      assert.ok(port.status().linkUp);
      guest.close();
    });
  });

  it('are disconnected otherwise, with the reason in log and columns', async () => {
    await withServerPort('bad1', async (port, path, _fake, lines) => {
      const frontend = new Frontend(unixConnect(path));
      frontend.sendRaw(C.encodeMessage(M.SET_FEATURES, 0, C.encodeU64(1n << 63n)));
      await until(() => frontend.closed, 'disconnected');
      assert.match(port.status().error!, /SET_FEATURES: features 0x8000000000000000 were never/);
      assert.ok(lines.some((line) => line.includes('never offered')));
      const guest = new Guest({ path, mode: 'client' });
      guest.open();
      await guest.connected();
      await until(() => port.status().linkUp, 'next guest');
      assert.equal(port.status().error, undefined);
      guest.close();
    });
  });

  it('leave no descriptor behind, wherever they stop (F3, F17)', async () => {
    await withServerPort('bad2', async (_port, path) => {
      const fd = eventfdCreate();
      const memfd = memfdCreate('test', 1 << 20);
      const region = { guestAddress: 0n, size: 1n << 20n, userAddress: 0n, mmapOffset: 0n };
      const table = C.encodeMessage(M.SET_MEM_TABLE, 0, C.encodeMemoryTable([region]));
      const stray: [Uint8Array, number[]][] = [
        [C.encodeMessage(M.SET_VRING_CALL, 0, C.encodeU64(0n)), [fd, fd, fd]],
        [C.encodeMessage(M.SET_OWNER, 0, new Uint8Array(0)), [fd]],
        [C.encodeMessage(M.SET_VRING_KICK, 0, C.encodeU64(0n)), [memfd]],
        [table, [memfd, memfd]],
        [table, []],
        [table.subarray(0, 20), [memfd]],
        [table, Array.from({ length: 30 }, () => memfd)],
        [Buffer.concat([table, table.subarray(0, 3)]), [memfd]],
        [new Uint8Array(12), [fd]],
      ];
      for (const [bytes, fds] of stray) {
        const frontend = new Frontend(unixConnect(path));
        frontend.sendRaw(bytes, fds);
        if (bytes.length > table.length || bytes.length === 20) frontend.close();
        await until(() => frontend.closed, 'disconnected');
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      closeFd(fd);
      closeFd(memfd);
    });
  });

  it('may come and go in a storm', async () => {
    await withServerPort('bad3', async (port, path) => {
      for (let i = 0; i < 200; i++) {
        const frontend = await connectWhenThereIsRoom(path);
        if (i % 3 === 0) frontend.sendRaw(C.encodeMessage(M.SET_OWNER, 0, new Uint8Array(0)));
        if (i % 2 === 0) await new Promise((resolve) => setImmediate(resolve));
        frontend.close();
        if (i % 50 === 49) await new Promise((resolve) => setTimeout(resolve, 20));
      }
      const guest = new Guest({ path, mode: 'client' });
      guest.open();
      await guest.connected();
      await until(() => port.status().linkUp, 'link up');
      guest.close();
    });
  });

  it('cannot flood the log', () => {
    const lines: string[] = [];
    let now = 0;
    const say = (text: string) => lines.push(text);
    const log = limitedLog({ info: say, warn: say, err: say, dbg: say }, () => now);
    for (let i = 0; i < 1000; i++) log.warn(`fault ${i}`);
    assert.equal(lines.length, 30);
    now += 2000;
    log.info('later');
    assert.match(lines.at(-1)!, /^later \(dropped 970 log messages/);
  });

  it('lose the connection when a ring is broken, and hear of it', async () => {
    await withServerPort('bad4', async (port, path, fake) => {
      const guest = new Guest({ path, mode: 'client' });
      guest.open();
      await guest.connected();
      const [queue] = [...fake.attached.keys()];
      port.brokenQueue!(queue!, 3);
      await until(() => !port.status().linkUp, 'link down');
      assert.match(port.status().error!, /ring \d is broken \(rx_bad_descriptor\)/);
      guest.close();
    });
  });
});
