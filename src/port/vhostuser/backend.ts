// The vhost-user back-end as a pure state machine: step(state, message) → new state and answer, or a refusal.
//
// (vhost-user specification, "Communication" and "Front-end message types".) Nothing here touches a socket, a ring or
// memory. The driver (device.ts) does the work that plan.ts finds between the old and the new state, and answers.
// What real front-ends do differently from the specification is honoured here and said where.

import {
  decodeDeviceStateTransfer,
  decodeInflight,
  decodeLogBase,
  decodeMemoryTable,
  decodeMemReg,
  decodeU64,
  decodeVringAddr,
  decodeVringState,
  encodeU64,
} from '../../wire/vhostuser/codec.ts';
import { has, VHOST_USER_F_PROTOCOL_FEATURES } from '../../wire/vhostuser/features.ts';
import * as M from '../../wire/vhostuser/messages.ts';
import { checkInflight, inflightBytes } from './inflight.ts';
import {
  checkFileRange,
  checkRegion,
  isRunning,
  locateRing,
  logBytesFor,
  sameRegion,
} from './regions.ts';
import {
  type BackendState,
  type FdInfo,
  isPacked,
  type Region,
  RING_NONE,
  type Ring,
  structuralFeatures,
  wantsToRun,
} from './state.ts';

export interface Message {
  readonly request: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  readonly fds: readonly FdInfo[];
}

/** What the driver sends once the new state is in force. */
export type Answer =
  /** u64 0 if the front-end asked for an acknowledgement. */
  | { readonly kind: 'ack' }
  | { readonly kind: 'data'; readonly payload: Uint8Array }
  /** vring_state with the indices at which the ring stopped. */
  | { readonly kind: 'vringBase'; readonly index: number }
  /** Description of a fresh inflight region, with its descriptor. */
  | {
      readonly kind: 'inflight';
      readonly size: bigint;
      readonly numQueues: number;
      readonly queueSize: number;
    };

export type Outcome =
  | {
      readonly ok: true;
      readonly state: BackendState;
      readonly answer: Answer;
      /** Announce this address (6 bytes) as if the guest had sent a RARP. */
      readonly rarp?: Uint8Array;
    }
  | {
      readonly ok: false;
      readonly reason: string;
      /** Close even if an acknowledgement was asked for: a nack would make QEMU abort() during a migration. */
      readonly disconnect: boolean;
    };

class Refused extends Error {
  readonly disconnect: boolean;
  constructor(reason: string, disconnect = false) {
    super(reason);
    this.disconnect = disconnect;
  }
}

const MTU_MIN = 68n;
const MTU_MAX = 65535n;
const RING_MAX = 32768;
const NO_FD = 0x100n;

type Change = Partial<Omit<BackendState, 'options'>>;
interface Done {
  change?: Change;
  answer?: Answer;
  rarp?: Uint8Array;
}

/** Judges one message. Never throws. Descriptors that the new state does not hold are the driver's to close. */
export function step(state: BackendState, message: Message): Outcome {
  const rule = M.MESSAGES.get(message.request);
  const name = M.requestName(message.request);
  try {
    if (rule === undefined) throw new Refused('unknown');
    if (!rule.sizes.includes(message.payload.length)) {
      throw new Refused(`payload of ${message.payload.length} bytes`);
    }
    const { length } = message.fds;
    if (length < rule.minFds || length > rule.maxFds) throw new Refused(`${length} descriptors`);
    if (rule.protocol && !has(state.options.features, VHOST_USER_F_PROTOCOL_FEATURES)) {
      throw new Refused('protocol features are not offered');
    }
    if (rule.needs !== undefined && !has(state.protocolFeatures, rule.needs)) {
      throw new Refused(`protocol feature ${rule.needs} is not negotiated`);
    }
    const done = HANDLERS[message.request]!(state, message);
    const next = done.change === undefined ? state : { ...state, ...done.change };
    checkRings(state, next);
    return { ok: true, state: next, answer: done.answer ?? { kind: 'ack' }, rarp: done.rarp };
  } catch (thrown) {
    if (!(thrown instanceof Refused)) throw thrown;
    return { ok: false, reason: `${name}: ${thrown.message}`, disconnect: thrown.disconnect };
  }
}

/** A message that starts a ring which cannot run is refused. Rings that lose their memory later only rest. */
function checkRings(before: BackendState, state: BackendState): void {
  if (before === state) return;
  for (const [index, ring] of state.rings.entries()) {
    const old = before.rings[index]!;
    if (!wantsToRun(state, ring) || (ring === old && wantsToRun(before, old))) continue;
    const packed = isPacked(state);
    if (!packed && (ring.num & (ring.num - 1)) !== 0) {
      throw new Refused(`ring ${index}: ${ring.num} entries, not a power of two`);
    }
    if (packed && (ring.base & 0x7fff) >= ring.num) {
      throw new Refused(`ring ${index}: base ${ring.base & 0x7fff} of ${ring.num} entries`);
    }
    if (!packed && ring.base > 0xffff) throw new Refused(`ring ${index}: base ${ring.base}`);
    const where = locateRing(state, ring);
    if (typeof where === 'string') throw new Refused(`ring ${index}: ${where}`);
  }
}

function data(payload: Uint8Array): Answer {
  return { kind: 'data', payload };
}

function u64(value: bigint | number): Answer {
  return data(encodeU64(BigInt(value)));
}

function ringAt(state: BackendState, index: number): Ring {
  const ring = state.rings[index];
  if (ring === undefined) throw new Refused(`ring ${index} of ${state.rings.length}`);
  return ring;
}

function withRing(state: BackendState, index: number, change: Partial<Ring>): Done {
  const ring = { ...ringAt(state, index), ...change };
  return { change: { rings: state.rings.with(index, ring) } };
}

function stopped(state: BackendState, index: number): Ring {
  const ring = ringAt(state, index);
  if (isRunning(state, ring)) throw new Refused(`ring ${index} is running`);
  return ring;
}

/** Index and descriptor of KICK, CALL and ERR. */
function ringFd(state: BackendState, message: Message): { index: number; fd: number } {
  const word = decodeU64(message.payload);
  if (word >> 9n !== 0n) throw new Refused(`ring ${word}`);
  const index = Number(word & 0xffn);
  ringAt(state, index);
  const [info] = message.fds;
  if ((word & NO_FD) !== 0n) {
    if (info) throw new Refused('descriptor in a message that announces none');
    return { index, fd: -1 };
  }
  if (!info) throw new Refused('descriptor missing');
  // Anything but an eventfd could block a worker, or keep it awake for ever.
  if (info.kind !== 'eventfd') throw new Refused('the descriptor is no eventfd');
  return { index, fd: info.fd };
}

function checkRegionChange(state: BackendState, regions: readonly Region[]): Change {
  if (regions.length > state.options.maxRegions) throw new Refused('no memory slot free');
  return { regions };
}

type Handler = (state: BackendState, message: Message) => Done;

const HANDLERS: Readonly<Record<number, Handler>> = {
  [M.GET_FEATURES]: (state) => ({ answer: u64(state.options.features) }),

  [M.SET_FEATURES]: (state, message) => {
    const features = decodeU64(message.payload);
    const unknown = features & ~state.options.features;
    if (unknown !== 0n) throw new Refused(`features 0x${unknown.toString(16)} were never offered`);
    const running = state.rings.some((ring) => isRunning(state, ring));
    if (running && structuralFeatures(features) !== structuralFeatures(state.features ?? 0n)) {
      throw new Refused('only LOG_ALL may change while rings run');
    }
    return { change: { features } };
  },

  [M.SET_OWNER]: () => ({}),
  // Deprecated; older front-ends send it at the end. Rings are stopped by GET_VRING_BASE anyway.
  [M.RESET_OWNER]: () => ({}),

  [M.SET_MEM_TABLE]: (state, message) => {
    const wanted = decodeMemoryTable(message.payload);
    if (wanted === undefined) throw new Refused('count and size of the table disagree');
    if (wanted.length !== message.fds.length) {
      throw new Refused(`${wanted.length} regions with ${message.fds.length} descriptors`);
    }
    const regions: Region[] = [];
    for (const [i, region] of wanted.entries()) {
      const checked = checkRegion(region, message.fds[i]!, regions);
      if (typeof checked === 'string') throw new Refused(`region ${i}: ${checked}`);
      regions.push(checked);
    }
    // A region that is there already keeps its descriptor and mapping; an identical table is no change at all.
    const merged = regions.map((r) => state.regions.find((old) => sameRegion(old, r)) ?? r);
    const same =
      merged.length === state.regions.length && merged.every((r, i) => r === state.regions[i]);
    return same ? {} : { change: { ...checkRegionChange(state, merged), repeated: [] } };
  },

  [M.ADD_MEM_REG]: (state, message) => {
    const wanted = decodeMemReg(message.payload);
    const file = message.fds[0]!;
    const known = state.regions.find((old) => sameRegion(old, { ...wanted, file }));
    if (known) {
      if (state.repeated.length >= state.options.maxPairs * state.options.maxRegions) {
        throw new Refused('region announced too often');
      }
      return { change: { repeated: [...state.repeated, known] } };
    }
    const region = checkRegion(wanted, file, state.regions);
    if (typeof region === 'string') throw new Refused(region);
    return { change: checkRegionChange(state, [...state.regions, region]) };
  },

  [M.REM_MEM_REG]: (state, message) => {
    const gone = decodeMemReg(message.payload);
    const isGone = (region: Region): boolean =>
      region.guestAddress === gone.guestAddress &&
      region.userAddress === gone.userAddress &&
      region.size === gone.size;
    const repeated = state.repeated.findIndex(isGone);
    if (repeated >= 0) return { change: { repeated: state.repeated.toSpliced(repeated, 1) } };
    const left = state.regions.filter((region) => !isGone(region));
    if (left.length === state.regions.length) throw new Refused('no such region');
    return { change: { regions: left } };
  },

  [M.GET_MAX_MEM_SLOTS]: (state) => ({ answer: u64(state.options.maxRegions) }),

  [M.SET_LOG_BASE]: (state, message) => {
    const { size, offset } = decodeLogBase(message.payload);
    const file = message.fds[0]!;
    const bad =
      checkFileRange(file, offset, size) ??
      (size < logBytesFor(state.regions) ? 'smaller than the memory needs' : undefined) ??
      (size > 1n << 30n ? 'larger than 1 GiB' : undefined);
    if (bad !== undefined) throw new Refused(bad, true);
    // 16 bytes: rust-vmm waits for them, QEMU takes any size; no answer at all would hang the migration.
    return { change: { log: { file, size, offset } }, answer: data(message.payload) };
  },

  // An eventfd that tells the front-end about log writes. Nobody reads it; it is closed.
  [M.SET_LOG_FD]: () => ({}),

  [M.SET_VRING_NUM]: (state, message) => {
    const { index, num } = decodeVringState(message.payload);
    stopped(state, index);
    if (num < 1 || num > RING_MAX) throw new Refused(`${num} entries`);
    if (state.features !== undefined && !isPacked(state) && (num & (num - 1)) !== 0) {
      throw new Refused(`${num} entries, not a power of two`);
    }
    if (state.inflight && num > state.inflight.queueSize) {
      throw new Refused(`${num} entries, the inflight region has ${state.inflight.queueSize}`);
    }
    return withRing(state, index, { num });
  },

  [M.SET_VRING_ADDR]: (state, message) => {
    const { index, flags, desc, used, avail, logAddress } = decodeVringAddr(message.payload);
    const ring = ringAt(state, index);
    const logged = (flags & M.VRING_ADDR_LOG) !== 0;
    const enabling = logged || ring.addresses?.logged === true;
    if (ring.num === 0) throw new Refused('before SET_VRING_NUM', enabling);
    if (state.regions.length === 0) throw new Refused('before the memory table', enabling);
    const addresses = { desc, avail, used, logged, logAddress };
    const old = ring.addresses;
    if (
      isRunning(state, ring) &&
      (old?.desc !== desc || old.avail !== avail || old.used !== used)
    ) {
      throw new Refused(`ring ${index} is running at other addresses`, enabling);
    }
    const where = locateRing(state, { ...ring, addresses });
    if (typeof where === 'string') throw new Refused(`ring ${index}: ${where}`, enabling);
    return withRing(state, index, { addresses });
  },

  [M.SET_VRING_BASE]: (state, message) => {
    const { index, num } = decodeVringState(message.payload);
    stopped(state, index);
    return withRing(state, index, { base: num });
  },

  // Stops the ring; its addresses and doorbells are forgotten, as the peers expect. Legal for a ring that never ran.
  [M.GET_VRING_BASE]: (state, message) => {
    const { index } = decodeVringState(message.payload);
    const done = withRing(state, index, {
      started: false,
      addresses: undefined,
      kick: -1,
      call: -1,
    });
    return { ...done, answer: { kind: 'vringBase', index } };
  },

  [M.SET_VRING_KICK]: (state, message) => {
    const { index, fd } = ringFd(state, message);
    return withRing(state, index, { kick: fd, started: true });
  },

  [M.SET_VRING_CALL]: (state, message) => {
    const { index, fd } = ringFd(state, message);
    return withRing(state, index, { call: fd });
  },

  [M.SET_VRING_ERR]: (state, message) => {
    const { index, fd } = ringFd(state, message);
    return withRing(state, index, { err: fd });
  },

  [M.GET_PROTOCOL_FEATURES]: (state) => ({ answer: u64(state.options.protocolFeatures) }),

  [M.SET_PROTOCOL_FEATURES]: (state, message) => {
    const protocolFeatures = decodeU64(message.payload);
    const unknown = protocolFeatures & ~state.options.protocolFeatures;
    if (unknown !== 0n) throw new Refused(`bits 0x${unknown.toString(16)} were never offered`);
    return { change: { protocolFeatures } };
  },

  [M.GET_QUEUE_NUM]: (state) => ({ answer: u64(state.options.maxPairs) }),

  // QEMU enables before it sets features; rings that were never set up may be enabled and disabled, too.
  [M.SET_VRING_ENABLE]: (state, message) => {
    const { index, num } = decodeVringState(message.payload);
    if (num > 1) throw new Refused(`ring ${index}: enable ${num}`);
    return withRing(state, index, { enabled: num === 1 });
  },

  [M.SEND_RARP]: (_state, message) => ({ rarp: message.payload.slice(0, 6) }),

  [M.NET_SET_MTU]: (_state, message) => {
    const mtu = decodeU64(message.payload);
    if (mtu < MTU_MIN || mtu > MTU_MAX) throw new Refused(`${mtu}`);
    return { change: { mtu: Number(mtu) } };
  },

  [M.SET_BACKEND_REQ_FD]: (_state, message) => ({ change: { channel: message.fds[0]!.fd } }),

  [M.GET_INFLIGHT_FD]: (state, message) => {
    const { numQueues, queueSize } = decodeInflight(message.payload);
    const size = inflightBytes(state, numQueues, queueSize);
    if (typeof size === 'string') throw new Refused(size);
    return { answer: { kind: 'inflight', size, numQueues, queueSize } };
  },

  [M.SET_INFLIGHT_FD]: (state, message) => {
    const file = message.fds[0]!;
    const inflight = { ...decodeInflight(message.payload), file };
    const bad = checkInflight(state, inflight);
    if (bad !== undefined) throw new Refused(bad);
    return { change: { inflight } };
  },

  // Back to the state before feature negotiation; connection, memory and protocol features stay.
  [M.RESET_DEVICE]: (state) => ({
    change: {
      features: undefined,
      status: undefined,
      mtu: 0,
      rings: state.rings.map((ring) => ({ ...RING_NONE, err: ring.err })),
    },
  }),

  [M.SET_STATUS]: (_state, message) => {
    const status = decodeU64(message.payload);
    if (status > 0xffn) throw new Refused(`0x${status.toString(16)}`);
    return { change: { status: Number(status) } };
  },
  [M.GET_STATUS]: (state) => ({ answer: u64(state.status ?? 0) }),

  // A net back-end has no state beyond the indices: nothing is written, and what is read must be nothing. Bit 8 of
  // the answer: no descriptor of ours, yours is used.
  [M.SET_DEVICE_STATE_FD]: (_state, message) => {
    const { direction, phase } = decodeDeviceStateTransfer(message.payload);
    if (direction > 1 || phase !== 0) return { answer: u64(0x101) };
    return { answer: u64(0x100) };
  },
  [M.CHECK_DEVICE_STATE]: () => ({ answer: u64(0) }),
};

/** The indices at which rings stopped, kept for GET_VRING_BASE and for a later start. */
export function withBases(state: BackendState, bases: ReadonlyMap<number, number>): BackendState {
  if (bases.size === 0) return state;
  const rings = state.rings.map((ring, index) => {
    const base = bases.get(index);
    return base === undefined ? ring : { ...ring, base };
  });
  return { ...state, rings };
}
