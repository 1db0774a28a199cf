// Front-ends and guests that misbehave against the real data plane: the cases of docs/hostile-guests.md that need running
// workers, time, or sockets. Whatever they do, no worker traps, and an honest port beside them works.

import assert from 'node:assert/strict';
import { closeSync, openSync, readdirSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { Attacker } from '../../src/guest/attacker.ts';
import { NackError } from '../../src/guest/frontend.ts';
import { Guest, guestFeatures } from '../../src/guest/guest.ts';
import { TestDriver } from '../../src/guest/testDriver.ts';
import type { Netdev } from '../../src/port/types.ts';
import { closeFd } from '../../src/sys/fd.ts';
import { memfdCreate } from '../../src/sys/memory.ts';
import { packetPair, unixAccept, unixListen } from '../../src/sys/unix.ts';
import * as C from '../../src/wire/vhostuser/codec.ts';
import * as M from '../../src/wire/vhostuser/messages.ts';
import { createTestSwitch, type TestSwitch, until } from './vhostHarness.ts';

const BYTES = 4 << 20;
const FRAME = new Uint8Array(200).fill(7);

interface Arena {
  sw: TestSwitch;
  /** The attacker's port; what it sends goes to `witness`. */
  port: Netdev;
  witness: TestDriver;
  attack(options?: { packed?: boolean; fd?: number }): Promise<Attacker>;
}

async function arena(use: (arena: Arena) => Promise<void>): Promise<void> {
  await using sw = createTestSwitch();
  const [port, to] = [await sw.addServer('x'), await sw.addServer('w')];
  sw.forward(port, to);
  sw.forward(to, port);
  const guest = new Guest({ path: join(sw.directory, 'w'), mode: 'client' });
  guest.open();
  await guest.connected();
  const attackers: Attacker[] = [];
  try {
    await use({
      sw,
      port,
      witness: new TestDriver(guest),
      attack: async ({ packed = false, fd = memfdCreate('x', BYTES) } = {}) => {
        const features = guestFeatures({ packed });
        const attacker = new Attacker(join(sw.directory, 'x'), { fd, bytes: BYTES, features });
        attackers.push(attacker);
        await attacker.handshake();
        await until(() => port.status().linkUp, 'link');
        return attacker;
      },
    });
    assert.deepEqual(
      sw.log.filter((line) => /trapped|died|taking the guest away/.test(line)),
      [],
    );
  } finally {
    for (const attacker of attackers) attacker[Symbol.dispose]();
    guest.close();
  }
}

/** A frame of the attacker reaches the witness: the port works. */
async function works({ witness }: Arena, attacker: Attacker): Promise<void> {
  attacker.offer(1, [attacker.honest(1, FRAME)]);
  const got = await witness.expect(1);
  assert.equal(got.length, 1, 'the port does not work any more');
  assert.equal(Buffer.compare(got[0]!.frame, FRAME), 0);
}

describe('memory tables', () => {
  for (const packed of [false, true]) {
    it(`F13 exchanged under ${packed ? 'packed' : 'split'} rings in use`, async () => {
      await arena(async (a) => {
        const attacker = await a.attack({ packed });
        const fds = readdirSync('/proc/self/fd').length;
        for (let round = 0; round < 40; round++) {
          for (let i = 0; i < 20; i++) attacker.offer(1, [attacker.honest(1, FRAME)]);
          const other = {
            ...attacker.region(),
            guestAddress: 0x1_0000_0000n,
            userAddress: 0x1000n,
          };
          const table =
            round % 2 === 0
              ? C.encodeMemoryTable([attacker.region(), other])
              : C.encodeMemoryTable([attacker.region()]);
          const files = round % 2 === 0 ? [attacker.fd, attacker.fd] : [attacker.fd];
          await attacker.frontend.tell(M.SET_MEM_TABLE, table, files);
          assert.equal((await a.witness.expect(20)).length, 20, `round ${round}`);
        }
        await works(a, attacker);
        // Those of tables that are not in force any more are closed a moment later.
        await until(() => readdirSync('/proc/self/fd').length <= fds + 1, 'end of descriptors');
      });
    });
  }

  it('F13 taken away under rings in use: they rest, and go on when it is back', async () => {
    await arena(async (a) => {
      const attacker = await a.attack();
      await works(a, attacker);
      await attacker.frontend.tell(M.REM_MEM_REG, C.encodeMemReg(attacker.region()));
      attacker.offer(1, [attacker.honest(1, FRAME)]);
      assert.equal((await a.witness.expect(1, 100)).length, 0);
      await attacker.frontend.tell(M.ADD_MEM_REG, C.encodeMemReg(attacker.region()), [attacker.fd]);
      attacker.kick(1);
      assert.equal((await a.witness.expect(1)).length, 1);
    });
  });

  it('F14 the second of two mappings fails: the old table stays in force', async () => {
    await arena(async (a) => {
      const attacker = await a.attack();
      const path = join(a.sw.directory, 'read-only');
      const writable = openSync(path, 'w');
      writeSync(writable, new Uint8Array(BYTES));
      closeSync(writable);
      const readOnly = openSync(path, 'r');
      const second = { ...attacker.region(), guestAddress: 0x1_0000_0000n, userAddress: 0x1000n };
      const more = memfdCreate('more', BYTES);
      try {
        const third = { ...second, guestAddress: 0x2_0000_0000n, userAddress: 0x1000000n };
        const table = C.encodeMemoryTable([attacker.region(), third, second]);
        await assert.rejects(
          attacker.frontend.tell(M.SET_MEM_TABLE, table, [attacker.fd, more, readOnly]),
        );
        await until(() => attacker.frontend.closed, 'disconnected');
        assert.match(a.port.status().error!, /SET_MEM_TABLE: mmap: Permission denied/);
        assert.doesNotMatch(readFileSync('/proc/self/maps', 'utf8'), /memfd:more/, 'not undone');
      } finally {
        closeSync(readOnly);
        closeFd(more);
        rmSync(path);
      }
      await works(a, await a.attack());
    });
  });
});

describe('messages', () => {
  it('F4 in pieces, two at once; more descriptors than fit end the connection', async () => {
    await arena(async (a) => {
      const attacker = await a.attack();
      const { frontend } = attacker;
      const ask = C.encodeMessage(M.GET_FEATURES, 0, new Uint8Array(0));
      const enable = C.encodeMessage(
        M.SET_VRING_ENABLE,
        0,
        C.encodeVringState({ index: 1, num: 1 }),
      );
      for (const byte of enable) {
        frontend.sendRaw(Uint8Array.of(byte));
        await new Promise((resolve) => setImmediate(resolve));
      }
      frontend.sendRaw(Buffer.concat([enable, enable, enable]));
      assert.equal(await frontend.askU64(M.GET_FEATURES), frontend.offered);
      await works(a, attacker);
      const fds = Array.from({ length: 200 }, () => attacker.fd);
      frontend.sendRaw(ask, fds);
      await until(() => frontend.closed, 'disconnected');
      assert.match(a.port.status().error!, /more than 8 file descriptors/);
      // A message that ends in the middle.
      const cut = await a.attack();
      cut.frontend.sendRaw(ask.subarray(0, 5));
      cut.frontend.close();
      await until(() => /truncated message/.test(a.port.status().error ?? ''), 'named');
      await works(a, await a.attack());
    });
  });

  it('F20 F24 of features that are not there (postcopy, IOTLB, config, crypto): nacked', async () => {
    await arena(async (a) => {
      const attacker = await a.attack();
      // POSTCOPY_ADVISE, POSTCOPY_LISTEN, POSTCOPY_END, IOTLB_MSG, GET_CONFIG, SET_CONFIG, CREATE and CLOSE of a
      // crypto session, VRING_KICK in band, GPU_SET_SOCKET
      for (const [request, bytes] of [
        [28, 0],
        [29, 0],
        [30, 0],
        [22, 32],
        [24, 268],
        [25, 268],
        [26, 64],
        [27, 8],
        [35, 8],
        [33, 0],
      ] as const) {
        await assert.rejects(
          attacker.frontend.tell(request, new Uint8Array(bytes).fill(255)),
          NackError,
          `request ${request}`,
        );
      }
      await works(a, attacker);
    });
  });

  it('F25 exactly one answer, whatever the flags', async () => {
    await arena(async (a) => {
      const { frontend } = await a.attack();
      const nothing = new Uint8Array(0);
      for (let i = 0; i < 3; i++) {
        // An answer too many would be taken for that of the next request, which is another one.
        const first = frontend.ask(M.GET_FEATURES, nothing, [], M.FLAG_NEED_REPLY);
        const second = frontend.ask(M.GET_QUEUE_NUM, nothing, [], M.FLAG_NEED_REPLY);
        assert.equal(C.decodeU64((await first).payload), frontend.offered);
        assert.equal(C.decodeU64((await second).payload), BigInt(frontend.maxPairs));
      }
    });
  });

  it('F19 a back-end channel that is closed, or that nobody reads', async () => {
    await arena(async (a) => {
      const attacker = await a.attack();
      for (const closed of [true, false]) {
        const [ours, theirs] = packetPair();
        await attacker.frontend.tell(M.SET_BACKEND_REQ_FD, new Uint8Array(0), [theirs]);
        closeFd(theirs);
        if (closed) closeFd(ours);
        // Whatever makes the port want to tell: its state changes, back and forth.
        for (let i = 0; i < 50; i++) {
          a.port.setAdminUp(i % 2 === 0);
          const state = C.encodeVringState({ index: 1, num: i % 2 });
          await attacker.frontend.tell(M.SET_VRING_ENABLE, state);
        }
        a.port.setAdminUp(true);
        await attacker.frontend.tell(M.SET_VRING_ENABLE, C.encodeVringState({ index: 1, num: 1 }));
        await works(a, attacker);
        if (!closed) closeFd(ours);
      }
    });
  });

  it('F18 servers that are absent, do not accept, or stay silent hold up nobody', async () => {
    await arena(async (a) => {
      const quiet = unixListen(join(a.sw.directory, 'silent.sock'));
      const full = unixListen(join(a.sw.directory, 'full.sock'), 0);
      const ports = await Promise.all(
        ['absent', 'silent', 'full'].map((name) => a.sw.addClient(name)),
      );
      let accepted = -1;
      await until(() => {
        accepted = unixAccept(quiet);
        return accepted >= 0;
      }, 'connection');
      await works(a, await a.attack());
      assert.ok(a.sw.log.some((line) => /absent\.sock: .*: will reconnect/.test(line)));
      const late = new Guest({ path: join(a.sw.directory, 'absent.sock'), mode: 'server' });
      late.open();
      await late.connected();
      await until(() => ports[0]!.status().linkUp, 'link to the server that came late');
      late.close();
      await until(() => !ports[0]!.status().linkUp, 'link down');
      for (const port of ports) {
        assert.equal(port.status().linkUp, false);
        await port.close();
      }
      for (const fd of [accepted, quiet, full]) closeFd(fd);
    });
  });
});

describe('guests', () => {
  for (const packed of [false, true]) {
    it(`G11 G22 ${packed ? 'packed' : 'split'}: what changes while it is read`, async () => {
      await arena(async (a) => {
        let attacker = await a.attack({ packed });
        let [rounds, passed] = [0, 0];
        const end = performance.now() + 1500;
        while (performance.now() < end) {
          if (attacker.frontend.closed) attacker = await a.attack({ packed });
          const slot = attacker.next[1]! % attacker.size;
          const descriptor = attacker.honest(1, FRAME);
          const table = attacker.buffer(1, slot + 100);
          const isIndirect = rounds % 2 === 1;
          attacker.put(table, 0, descriptor);
          const head = isIndirect
            ? { address: BigInt(table), length: 16, flags: 4, next: slot }
            : descriptor;
          attacker.offer(1, [head]);
          const at = attacker.descriptors(1) + slot * 16;
          for (let i = 0; i < 300; i++) {
            attacker.view.setUint32(at + 8, i & 1 ? 0xfffffff0 : head.length, true);
            attacker.view.setUint32(table + 4, i & 2 ? 0xffffffff : 0, true);
            attacker.view.setUint32(table + 8, i & 4 ? 0x7fffffff : descriptor.length, true);
          }
          rounds++;
          for (const { frame } of a.witness.receive()) {
            assert.ok(frame.length <= 65535);
            passed++;
          }
          await new Promise((resolve) => setImmediate(resolve));
        }
        assert.ok(rounds > 200, `${rounds} rounds`);
        // Both values of a length were met: frames came through, and others were dropped for what was read of them.
        const { rx_bad_descriptor = 0, rx_too_long = 0, ...other } = a.sw.drops(a.port);
        assert.deepEqual(other, {});
        assert.ok(rx_bad_descriptor + rx_too_long > 0 && passed > 0, 'nothing was changed in time');
        attacker.frontend.close();
        await until(() => !a.port.status().linkUp, 'link down');
        a.witness.receive();
        await works(a, await a.attack());
      });
    });
  }

  it('G32 a storm of kicks, and a call descriptor that is full', async () => {
    await arena(async (a) => {
      const attacker = await a.attack();
      // One less than the counter holds: the next signal would block a blocking writer.
      const full = Buffer.alloc(8);
      full.writeBigUInt64LE(0xffff_ffff_ffff_fffen);
      for (const call of attacker.calls) writeSync(call, full);
      for (let i = 0; i < 64; i++) attacker.offer(0, [attacker.honest(0)]);
      for (let i = 0; i < 20_000; i++) attacker.kick(i & 1);
      for (let i = 0; i < 10; i++) assert.ok(a.witness.send(FRAME));
      await until(() => (a.port.statistics().tx_packets ?? 0) >= 10, 'frames for the attacker');
      await works(a, attacker);
    });
  });
});
