// The vhost-user back-end without sockets: framing, and what the state machine accepts and refuses (cases F1-F25 of
// the list of hostile front-ends).

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { step } from '../../src/port/vhostuser/backend.ts';
import { packedPosition } from '../../src/port/vhostuser/packedPosition.ts';
import { findTear, mendTear } from '../../src/port/vhostuser/packedTear.ts';
import { plan } from '../../src/port/vhostuser/plan.ts';
import { isRunning } from '../../src/port/vhostuser/regions.ts';
import {
  type BackendState,
  type FdInfo,
  heldFds,
  initialState,
} from '../../src/port/vhostuser/state.ts';
import * as C from '../../src/wire/vhostuser/codec.ts';
import {
  bits,
  maskFeatures,
  OFFERED_FEATURES,
  OFFERED_PROTOCOL_FEATURES,
} from '../../src/wire/vhostuser/features.ts';
import * as M from '../../src/wire/vhostuser/messages.ts';
import { FramingError, Splitter } from '../../src/wire/vhostuser/splitter.ts';

const NONE = new Uint8Array(0);
const MiB = 1n << 20n;
let nextFd = 100;

function file(size: bigint, id = `f${nextFd}`): FdInfo {
  return { fd: nextFd++, kind: 'file', size, id };
}
function event(): FdInfo {
  return { fd: nextFd++, kind: 'eventfd', size: 0n, id: 'e' };
}

function send(
  state: BackendState,
  request: number,
  payload: Uint8Array = NONE,
  fds: readonly FdInfo[] = [],
) {
  return step(state, { request, flags: M.FLAG_VERSION, payload, fds });
}
/** Sends a message that must be accepted. */
function ok(
  state: BackendState,
  request: number,
  payload: Uint8Array = NONE,
  fds: readonly FdInfo[] = [],
): BackendState {
  const outcome = send(state, request, payload, fds);
  assert.ok(outcome.ok, outcome.ok ? '' : outcome.reason);
  return outcome.state;
}
/** Sends a message that must be refused with a reason that matches. */
function refused(
  state: BackendState,
  request: number,
  payload: Uint8Array,
  fds: readonly FdInfo[],
  reason: RegExp,
): { disconnect: boolean } {
  const outcome = send(state, request, payload, fds);
  assert.ok(!outcome.ok, `${M.requestName(request)} was accepted`);
  assert.match(outcome.reason, reason);
  return outcome;
}

const u64 = (value: bigint | number) => C.encodeU64(BigInt(value));
const ring = (index: number, num: number) => C.encodeVringState({ index, num });
const region = (guestAddress: bigint, size: bigint, userAddress: bigint, mmapOffset = 0n) => ({
  guestAddress,
  size,
  userAddress,
  mmapOffset,
});
const USER = 0x7f0000000000n;
const addr = (index: number, base = USER, flags = 0) =>
  C.encodeVringAddr({
    index,
    flags,
    desc: base,
    avail: base + 0x1000n,
    used: base + 0x2000n,
    logAddress: 0x2000n,
  });

function negotiated(features = bits(30, 32)): BackendState {
  let state = ok(initialState(), M.SET_PROTOCOL_FEATURES, u64(OFFERED_PROTOCOL_FEATURES));
  state = ok(state, M.SET_FEATURES, u64(features));
  return ok(state, M.SET_MEM_TABLE, C.encodeMemoryTable([region(0n, 16n * MiB, USER)]), [
    file(16n * MiB),
  ]);
}
function running(index = 0, features = bits(30, 32)): BackendState {
  let state = negotiated(features);
  state = ok(state, M.SET_VRING_NUM, ring(index, 256));
  state = ok(state, M.SET_VRING_BASE, ring(index, (features >> 34n) & 1n ? 0x8000 : 0));
  state = ok(state, M.SET_VRING_ADDR, addr(index));
  state = ok(state, M.SET_VRING_KICK, u64(index), [event()]);
  state = ok(state, M.SET_VRING_ENABLE, ring(index, 1));
  assert.ok(isRunning(state, state.rings[index]!));
  return state;
}

describe('framing', () => {
  const first = C.encodeMessage(M.SET_FEATURES, 0, u64(5));
  const second = C.encodeMessage(M.SET_OWNER, M.FLAG_NEED_REPLY, NONE);

  it('reassembles messages split anywhere, and several in one read', () => {
    const stream = Buffer.concat([first, second]);
    for (let cut = 0; cut <= stream.length; cut++) {
      const splitter = new Splitter();
      const got = [
        ...splitter.push(stream.subarray(0, cut)),
        ...splitter.push(stream.subarray(cut)),
      ];
      assert.deepEqual(
        got.map((m) => [m.request, m.flags, m.payload.length]),
        [
          [M.SET_FEATURES, 1, 8],
          [M.SET_OWNER, 9, 0],
        ],
      );
      assert.equal(splitter.partial, false);
    }
  });

  it('gives descriptors to the message whose bytes they came with', () => {
    const splitter = new Splitter();
    assert.equal(splitter.wanted(), 12);
    assert.deepEqual(splitter.push(first.subarray(0, 12), [7]), []);
    assert.equal(splitter.wanted(), 8);
    assert.deepEqual(splitter.push(first.subarray(12))[0]!.fds, [7]);
    assert.deepEqual(splitter.push(second)[0]!.fds, []);
  });

  it('refuses wrong versions, replies, giant payloads and floods of descriptors', () => {
    const broken = (patch: (v: DataView) => void) => {
      const bytes = first.slice();
      patch(new DataView(bytes.buffer));
      return () => new Splitter().push(bytes);
    };
    assert.throws(
      broken((v) => v.setUint32(4, 2, true)),
      FramingError,
    );
    assert.throws(
      broken((v) => v.setUint32(4, 5, true)),
      FramingError,
    );
    assert.throws(
      broken((v) => v.setUint32(8, 0xffffffff, true)),
      FramingError,
    );
    const splitter = new Splitter();
    assert.throws(
      () => splitter.push(first.subarray(0, 4), [1, 2, 3, 4, 5, 6, 7, 8, 9]),
      FramingError,
    );
    assert.deepEqual(splitter.abandon(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });
});

describe('negotiation', () => {
  it('offers what the contract says and refuses anything else (F11, F12)', () => {
    const state = initialState();
    const features = send(state, M.GET_FEATURES);
    assert.ok(features.ok && features.answer.kind === 'data');
    assert.equal(C.decodeU64(features.answer.payload), OFFERED_FEATURES);
    refused(state, M.SET_FEATURES, u64(bits(32, 33)), [], /never offered/);
    refused(state, M.SET_PROTOCOL_FEATURES, u64(bits(9)), [], /never offered/);
    refused(state, M.GET_QUEUE_NUM, NONE, [], /feature 0 is not negotiated/);
    refused(state, 24, new Uint8Array(12), [], /request 24: unknown/);
  });

  it('takes ENABLE and CALL before SET_FEATURES, as QEMU and DPDK send them', () => {
    let state = ok(initialState(), M.SET_VRING_ENABLE, ring(1, 1));
    state = ok(state, M.SET_VRING_CALL, u64(3), [event()]);
    assert.equal(state.rings[1]!.enabled, true);
    assert.ok(state.rings[3]!.call >= 0);
  });

  it('allows only LOG_ALL to change while rings run (F11)', () => {
    const state = running();
    refused(state, M.SET_FEATURES, u64(bits(30, 32, 15)), [], /LOG_ALL/);
    const logging = ok(state, M.SET_FEATURES, u64(bits(30, 32, 26)));
    assert.deepEqual(plan(state, logging), {
      stop: [],
      start: [],
      update: [0],
      memory: false,
      log: false,
      port: true,
    });
  });

  it('keeps indices and log when the status becomes 0', () => {
    let state = running();
    state = ok(state, M.SET_LOG_BASE, C.encodeLogBase({ size: 4096n, offset: 0n }), [file(4096n)]);
    state = ok(state, M.SET_STATUS, u64(15));
    const stopped = ok(state, M.SET_STATUS, u64(0));
    assert.deepEqual(plan(state, stopped).stop, [0]);
    assert.ok(stopped.log);
    assert.equal(stopped.rings[0]!.num, 256);
    const based = send(stopped, M.GET_VRING_BASE, ring(0, 0));
    assert.ok(based.ok && based.answer.kind === 'vringBase');
  });

  it('masks features together with those that depend on them', () => {
    const left = maskFeatures(OFFERED_FEATURES, bits(0));
    assert.equal(left & bits(11, 12, 13, 14), 0n);
    assert.equal(maskFeatures(OFFERED_FEATURES, bits(7, 8)) & bits(9), 0n);
  });

  it('checks the MTU (F21)', () => {
    const state = negotiated();
    for (const mtu of [0, 67, 65536, 1n << 63n]) {
      refused(state, M.NET_SET_MTU, u64(mtu), [], /NET_SET_MTU/);
    }
    assert.equal(ok(state, M.NET_SET_MTU, u64(9000)).mtu, 9000);
  });
});

describe('memory tables', () => {
  const table = (...regions: C.MemoryRegion[]) => C.encodeMemoryTable(regions);
  const state = ok(initialState(), M.SET_PROTOCOL_FEATURES, u64(OFFERED_PROTOCOL_FEATURES));

  it('refuses counts that disagree with size or descriptors (F1, F3)', () => {
    const one = table(region(0n, MiB, USER));
    const lying = one.slice();
    new DataView(lying.buffer).setUint32(0, 0xffffffff, true);
    refused(state, M.SET_MEM_TABLE, lying, [file(MiB)], /disagree/);
    refused(state, M.SET_MEM_TABLE, one, [], /1 regions with 0/);
    refused(state, M.SET_MEM_TABLE, one, [file(MiB), file(MiB)], /1 regions with 2/);
    refused(state, M.SET_MEM_TABLE, one.subarray(0, 39), [file(MiB)], /payload of 39/);
    refused(state, M.SET_OWNER, NONE, [file(MiB)], /1 descriptors/);
  });

  it('refuses ranges outside the file, overflows and overlaps (F2)', () => {
    const top = (1n << 64n) - 4096n;
    const bad = (regions: C.MemoryRegion[], reason: RegExp, files = regions.map(() => file(MiB))) =>
      refused(state, M.SET_MEM_TABLE, table(...regions), files, reason);
    bad([region(0n, 0n, USER)], /size 0/);
    bad([region(0n, 2n * MiB, USER)], /beyond the end/);
    bad([region(0n, MiB, USER, 4096n)], /beyond the end/);
    bad([region(0n, MiB, USER, top)], /overflows/);
    bad([region(top, MiB, USER)], /guest address/);
    bad([region(0n, MiB, top)], /user address/);
    bad([region(0n, 4096n, USER, 17n)], /page size/);
    bad([region(0n, MiB, USER)], /no file/, [event()]);
    bad([region(0n, MiB, USER), region(MiB - 1n, MiB, USER * 2n)], /guest addresses overlap/);
    bad([region(0n, MiB, USER), region(MiB, MiB, USER + MiB - 1n)], /user addresses overlap/);
  });

  it('ignores an identical table, keeps what stays and drops the rest', () => {
    const before = running();
    const [old] = before.regions;
    const again = ok(before, M.SET_MEM_TABLE, table(region(0n, 16n * MiB, USER)), [
      { ...file(16n * MiB), id: old!.file.id },
    ]);
    assert.equal(again, before);
    const other = ok(before, M.SET_MEM_TABLE, table(region(0n, 16n * MiB, USER)), [
      file(16n * MiB),
    ]);
    const steps = plan(before, other);
    assert.deepEqual([steps.stop, steps.start, steps.memory], [[0], [0], true]);
    assert.ok(!heldFds(other).has(old!.file.fd));
    const away = ok(before, M.SET_MEM_TABLE, table(region(0n, MiB, USER * 2n)), [file(MiB)]);
    assert.deepEqual([plan(before, away).stop, plan(before, away).start], [[0], []]);
  });

  it('takes a region as often as the queue pairs of QEMU announce it', () => {
    const more = C.encodeMemReg(region(1n << 32n, MiB, USER * 2n));
    const dimm = file(MiB);
    const once = ok(running(), M.ADD_MEM_REG, more, [dimm]);
    const twice = ok(once, M.ADD_MEM_REG, more, [dimm]);
    assert.deepEqual([plan(once, twice).stop, plan(once, twice).memory], [[], false]);
    const left = ok(twice, M.REM_MEM_REG, more);
    assert.equal(left.regions.length, 2);
    assert.equal(ok(left, M.REM_MEM_REG, more).regions.length, 1);
  });

  it('adds and removes single regions; a running ring notices neither (F23)', () => {
    const before = running();
    const more = C.encodeMemReg(region(1n << 32n, MiB, USER * 2n));
    const after = ok(before, M.ADD_MEM_REG, more, [file(MiB)]);
    assert.deepEqual([plan(before, after).stop, plan(before, after).memory], [[], true]);
    const other = { ...file(MiB), id: 'another file' };
    refused(after, M.ADD_MEM_REG, more, [other], /overlap/);
    assert.equal(ok(after, M.REM_MEM_REG, more, [file(1n)]).regions.length, 1);
    refused(before, M.REM_MEM_REG, more, [], /no such region/);
    const only = C.encodeMemReg(region(0n, 16n * MiB, USER));
    const gone = ok(before, M.REM_MEM_REG, only);
    assert.deepEqual(plan(before, gone).stop, [0]);
    assert.deepEqual(plan(gone, ok(gone, M.ADD_MEM_REG, only, [file(16n * MiB)])).start, [0]);
    let full: BackendState = before;
    for (let i = 1; i < 64; i++) {
      const next = C.encodeMemReg(region(BigInt(i) << 32n, MiB, USER + (BigInt(i) << 32n)));
      full = ok(full, M.ADD_MEM_REG, next, [file(MiB)]);
    }
    refused(full, M.ADD_MEM_REG, C.encodeMemReg(region(1n << 50n, MiB, 0n)), [file(MiB)], /slot/);
  });
});

describe('rings', () => {
  it('refuses indices that do not exist in every message (F5)', () => {
    const state = negotiated();
    for (const request of [
      M.SET_VRING_NUM,
      M.SET_VRING_BASE,
      M.GET_VRING_BASE,
      M.SET_VRING_ENABLE,
    ]) {
      for (const index of [64, 256, 65536, 0xffffffff]) {
        refused(state, request, ring(index, 1), [], /ring \d+ of 64/);
      }
    }
    refused(state, M.SET_VRING_ADDR, addr(64), [], /of 64/);
    for (const request of [M.SET_VRING_KICK, M.SET_VRING_CALL, M.SET_VRING_ERR]) {
      for (const word of [64, 0x200, 1n << 40n])
        refused(state, request, u64(word), [event()], /ring/);
    }
  });

  it('checks sizes (F6)', () => {
    const state = negotiated();
    for (const num of [0, 3, 255, 32769, 65536]) {
      refused(state, M.SET_VRING_NUM, ring(0, num), [], /entries/);
    }
    assert.equal(
      ok(negotiated(bits(30, 32, 34)), M.SET_VRING_NUM, ring(0, 255)).rings[0]!.num,
      255,
    );
    refused(running(), M.SET_VRING_NUM, ring(0, 256), [], /running/);
  });

  it('checks addresses (F7)', () => {
    let state = negotiated();
    refused(state, M.SET_VRING_ADDR, addr(0), [], /before SET_VRING_NUM/);
    state = ok(state, M.SET_VRING_NUM, ring(0, 256));
    refused(state, M.SET_VRING_ADDR, addr(0, USER - 0x10000n), [], /outside/);
    refused(state, M.SET_VRING_ADDR, addr(0, USER + 16n * MiB - 0x2000n), [], /outside/);
    refused(state, M.SET_VRING_ADDR, addr(0, USER + 1n), [], /aligned/);
    refused({ ...state, regions: [] }, M.SET_VRING_ADDR, addr(0), [], /before the memory table/);
    const run = running();
    refused(run, M.SET_VRING_ADDR, addr(0, USER + 0x10000n), [], /running at other/);
    const logged = ok(run, M.SET_VRING_ADDR, addr(0, USER, 1));
    assert.deepEqual(plan(run, logged).update, [0]);
  });

  it('wants eventfds as doorbells, and the flag to agree with them (F3, F16)', () => {
    const state = negotiated();
    refused(state, M.SET_VRING_KICK, u64(0), [file(1n)], /the descriptor is no eventfd/);
    refused(state, M.SET_VRING_CALL, u64(0), [], /descriptor missing/);
    refused(state, M.SET_VRING_CALL, u64(0x100), [event()], /announces none/);
    assert.equal(ok(state, M.SET_VRING_KICK, u64(0x101)).rings[1]!.started, true);
  });

  it('stops at GET_VRING_BASE, twice and on rings that never were (F15, F22)', () => {
    const before = running();
    const after = ok(before, M.GET_VRING_BASE, ring(0, 0));
    assert.deepEqual(plan(before, after).stop, [0]);
    assert.equal(after.rings[0]!.addresses, undefined);
    assert.ok(!heldFds(after).has(before.rings[0]!.kick));
    ok(ok(after, M.GET_VRING_BASE, ring(0, 0)), M.GET_VRING_BASE, ring(63, 0));
    const other = ok(after, M.SET_VRING_ENABLE, ring(62, 1));
    assert.deepEqual([plan(after, other).start, plan(after, other).stop], [[], []]);
    refused(after, M.SET_VRING_ENABLE, ring(0, 2), [], /enable 2/);
  });

  it('refuses a base outside a packed ring', () => {
    let state = negotiated(bits(30, 32, 34));
    state = ok(state, M.SET_VRING_NUM, ring(0, 100));
    state = ok(state, M.SET_VRING_BASE, ring(0, 100));
    state = ok(state, M.SET_VRING_ADDR, addr(0));
    refused(state, M.SET_VRING_KICK, u64(0), [event()], /base 100/);
  });
});

describe('log and inflight', () => {
  it('answers SET_LOG_BASE with 16 bytes and disconnects rather than nacks (F8)', () => {
    const state = negotiated();
    const log = (size: bigint, offset = 0n) => C.encodeLogBase({ size, offset });
    const good = send(state, M.SET_LOG_BASE, log(4096n), [file(4096n)]);
    assert.ok(good.ok && good.answer.kind === 'data');
    assert.equal(good.answer.payload.length, 16);
    for (const [size, offset, bytes] of [
      [0n, 0n, 4096n],
      [(1n << 64n) - 1n, 4096n, 4096n],
      [4096n, 4096n, 4096n],
      [8192n, 0n, 4096n],
      [64n, 0n, 4096n],
    ] as const) {
      const outcome = refused(
        state,
        M.SET_LOG_BASE,
        log(size, offset),
        [file(bytes)],
        /SET_LOG_BASE/,
      );
      assert.equal(outcome.disconnect, true);
    }
    refused(state, M.SET_LOG_BASE, log(4096n), [], /0 descriptors/);
  });

  it('checks inflight regions (F9)', () => {
    const state = ok(negotiated(), M.SET_VRING_NUM, ring(0, 256));
    const get = (numQueues: number, queueSize: number) =>
      C.encodeInflight({ size: 0n, offset: 0n, numQueues, queueSize });
    const answer = send(state, M.GET_INFLIGHT_FD, get(2, 256));
    assert.ok(answer.ok && answer.answer.kind === 'inflight');
    assert.equal(answer.answer.size, 2n * 4160n);
    refused(state, M.GET_INFLIGHT_FD, get(65, 256), [], /65 queues/);
    refused(state, M.GET_INFLIGHT_FD, get(2, 0), [], /queue size 0/);
    const set = (size: bigint, queueSize = 256, offset = 0n) =>
      C.encodeInflight({ size, offset, numQueues: 2, queueSize });
    refused(state, M.SET_INFLIGHT_FD, set(100n), [file(MiB)], /100 bytes/);
    refused(state, M.SET_INFLIGHT_FD, set(8320n, 256, MiB), [file(MiB)], /beyond/);
    refused(state, M.SET_INFLIGHT_FD, set(8320n, 128), [file(MiB)], /ring 0 has 256/);
    assert.ok(ok(state, M.SET_INFLIGHT_FD, set(8320n), [file(MiB)]).inflight);
  });
});

describe('position of a packed ring', () => {
  /** A device and a driver that both go round a ring of `size` one-descriptor chains. */
  function ringAfter(size: number, given: number, returned: number): DataView {
    const view = new DataView(new ArrayBuffer(size * 16));
    const wrap = (at: number) => (Math.floor(at / size) & 1) === 0;
    for (let at = 0; at < given; at++) {
      const flags = wrap(at) ? 0x80 : 0x8000;
      view.setUint16((at % size) * 16 + 14, flags, true);
      // The device gives back at once what the driver will need again.
      if (at < returned) view.setUint16((at % size) * 16 + 14, wrap(at) ? 0x8080 : 0, true);
    }
    return view;
  }

  it('is found in every state of rings of up to 5 descriptors', () => {
    for (let size = 1; size <= 5; size++) {
      for (let returned = 0; returned <= size * 5; returned++) {
        for (let given = returned; given <= returned + size; given++) {
          const expected =
            (returned % size) | ((Math.floor(returned / size) & 1) === 0 ? 0x8000 : 0);
          const found = packedPosition(ringAfter(size, given, returned), 0, size);
          assert.equal(found, expected, `size ${size}, ${given} given, ${returned} returned`);
        }
      }
    }
  });

  /** ringAfter(), and a device that had written `rest` used descriptors of its next burst, all but the first `lead`. */
  function torn(size: number, given: number, returned: number, lead: number, rest: number) {
    const view = ringAfter(size, given, returned);
    for (let at = returned; at < given; at++) view.setUint32((at % size) * 16 + 8, 1526, true);
    for (let at = returned + lead; at < returned + lead + rest; at++) {
      view.setUint32((at % size) * 16 + 8, 72, true);
      view.setUint16((at % size) * 16 + 14, (Math.floor(at / size) & 1) === 0 ? 0x8080 : 0, true);
    }
    return view;
  }

  it('a burst that was being given back is finished or taken back, in every state of small rings', () => {
    let tears = 0;
    for (let size = 2; size <= 6; size++) {
      for (let returned = 0; returned <= size * 3; returned++) {
        for (let given = returned; given <= returned + size; given++) {
          assert.equal(findTear(ringAfter(size, given, returned), size), undefined);
          for (let burst = 2; burst <= given - returned; burst++) {
            for (let lead = 1; lead < burst; lead++) {
              const state = `size ${size}, ${given} given, ${returned} returned, ${lead} of ${burst}`;
              for (const receives of [false, true]) {
                const view = torn(size, given, returned, lead, burst - lead);
                const tear = findTear(view, size);
                assert.ok(tear, state);
                const mend = mendTear(view, size, tear, receives);
                for (const { offset, bytes } of mend.writes) {
                  new Uint8Array(view.buffer).set(bytes, offset);
                }
                const stands = receives ? returned : returned + burst;
                const lap = (Math.floor(stands / size) & 1) === 0 ? 0x8000 : 0;
                assert.equal(mend.position, (stands % size) | lap, state);
                assert.equal(findTear(view, size), undefined, state);
                assert.equal(packedPosition(view, 0, size), mend.position, state);
                for (let at = stands; at < given; at++) {
                  assert.equal(view.getUint32((at % size) * 16 + 8, true), 1526, state);
                }
                tears++;
              }
            }
          }
        }
      }
    }
    assert.ok(tears > 1000, `${tears}`);
  });

  it('is found while the driver is in the middle of a batch, and is another one in a torn ring', () => {
    for (let size = 2; size <= 6; size++) {
      for (let returned = 0; returned <= size * 2; returned++) {
        for (let given = returned; given <= returned + size; given++) {
          for (let batch = 1; given + batch <= returned + size || batch === 1; batch++) {
            const view = ringAfter(size, given, returned);
            // Visible with the first of them, which is written last.
            for (let at = given + 1; at < given + batch; at++) {
              const flags = (Math.floor(at / size) & 1) === 0 ? 0x80 : 0x8000;
              view.setUint16((at % size) * 16 + 14, flags, true);
            }
            const stands =
              (returned % size) | ((Math.floor(returned / size) & 1) === 0 ? 0x8000 : 0);
            const state = `size ${size}, ${given} given, ${returned} returned, batch of ${batch}`;
            assert.equal(packedPosition(view, 0, size), stands, state);
            if (batch > 1) continue;
            for (let burst = 2; burst <= given - returned; burst++) {
              for (let lead = 1; lead < burst; lead++) {
                const ring = torn(size, given, returned, lead, burst - lead);
                // Or it would not be mended: a front-end may know where it stands.
                assert.notEqual(packedPosition(ring, 0, size), stands, `${state}, torn`);
              }
            }
          }
        }
      }
    }
  });

  it('lengths that differ stay, tables of the driver are given back empty', () => {
    const mixed = torn(8, 8, 0, 2, 3);
    mixed.setUint32(7 * 16 + 8, 1000, true);
    const kept = mendTear(mixed, 8, findTear(mixed, 8)!, true);
    assert.deepEqual(
      kept.writes.map(({ offset, bytes }) => [offset, bytes.length]),
      [2, 3, 4].map((slot) => [slot * 16 + 14, 2]),
    );
    const tables = torn(8, 8, 0, 2, 3);
    for (const slot of [0, 1, 5, 6, 7]) tables.setUint16(slot * 16 + 14, 0x80 | 4, true);
    const { writes, position } = mendTear(tables, 8, findTear(tables, 8)!, true);
    assert.equal(position, 0x8005);
    // The driver looks at the first: it comes last.
    assert.deepEqual(
      writes.map(({ offset, bytes }) => [offset, ...bytes]),
      [1, 0].flatMap((slot) => [
        [slot * 16 + 8, 0, 0, 0, 0],
        [slot * 16 + 14, 0x80, 0x80],
      ]),
    );
  });

  it('is unknown with chains of several descriptors', () => {
    const view = ringAfter(4, 2, 0);
    view.setUint16(14, view.getUint16(14, true) | 1, true);
    assert.equal(packedPosition(view, 0, 4), undefined);
    assert.equal(findTear(view, 4), undefined);
  });
});
