// State of a vhost-user back-end for one connection: what the front-end has told us, immutable.
//
// A message gives a new state (backend.ts) and the difference between two states gives the work to do (plan.ts). So a
// message that is refused, or whose effects fail, leaves nothing half-applied: the old state simply stays.

import {
  bits,
  has,
  OFFERED_FEATURES,
  OFFERED_PROTOCOL_FEATURES,
  PROTOCOL_F_STATUS,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VIRTIO_F_RING_PACKED,
} from '../../wire/vhostuser/features.ts';
import { STATUS_DRIVER_OK } from '../../wire/vhostuser/messages.ts';

/** A file descriptor that came with a message, looked at before the message is judged. */
export interface FdInfo {
  readonly fd: number;
  readonly kind: 'file' | 'eventfd' | 'other';
  /** Bytes of a file, 0 for anything else. */
  readonly size: bigint;
  /** Identity of the file (device and inode). */
  readonly id: string;
}

/** One region of guest memory, checked: file range inside the file, no overflow, no overlap. */
export interface Region {
  readonly guestAddress: bigint;
  readonly size: bigint;
  readonly userAddress: bigint;
  readonly mmapOffset: bigint;
  readonly file: FdInfo;
}

export interface RingAddresses {
  /** User addresses of the front-end. */
  readonly desc: bigint;
  readonly avail: bigint;
  readonly used: bigint;
  /** Writes to the used ring are logged, from this guest physical address on. */
  readonly logged: boolean;
  readonly logAddress: bigint;
}

export interface Ring {
  /** Entries, 0 = not told. */
  readonly num: number;
  /** As in SET_VRING_BASE: split = avail index; packed = index and wrap bit of avail, the same of used << 16. */
  readonly base: number;
  readonly addresses: RingAddresses | undefined;
  /** Set by SET_VRING_KICK, cleared by GET_VRING_BASE. */
  readonly started: boolean;
  readonly enabled: boolean;
  /** Descriptors, -1 = none (polled, or not told). */
  readonly kick: number;
  readonly call: number;
  readonly err: number;
}

export interface DirtyLog {
  readonly file: FdInfo;
  readonly size: bigint;
  readonly offset: bigint;
}

export interface InflightRegion {
  readonly file: FdInfo;
  readonly size: bigint;
  readonly offset: bigint;
  readonly numQueues: number;
  readonly queueSize: number;
}

export interface BackendOptions {
  readonly features: bigint;
  readonly protocolFeatures: bigint;
  /** Queue pairs. */
  readonly maxPairs: number;
  readonly maxRegions: number;
}

export interface BackendState {
  readonly options: BackendOptions;
  /** Features that the guest took, undefined before SET_FEATURES. */
  readonly features: bigint | undefined;
  readonly protocolFeatures: bigint;
  /** Device status, undefined until the front-end has sent one. */
  readonly status: number | undefined;
  readonly regions: readonly Region[];
  /**
   * Regions announced more than once by ADD_MEM_REG, once for each further time: QEMU 7.2 has a device per queue pair on
   * one socket, and each adds and removes all memory.
   */
  readonly repeated: readonly Region[];
  /** 2 x maxPairs: even = guest receives, odd = guest transmits. */
  readonly rings: readonly Ring[];
  readonly log: DirtyLog | undefined;
  readonly inflight: InflightRegion | undefined;
  /** Socket for our own requests, -1 = none. */
  readonly channel: number;
  /** MTU of the guest by NET_SET_MTU, 0 = not told. */
  readonly mtu: number;
}

export const RING_NONE: Ring = {
  num: 0,
  base: 0,
  addresses: undefined,
  started: false,
  enabled: false,
  kick: -1,
  call: -1,
  err: -1,
};

export const DEFAULT_OPTIONS: BackendOptions = {
  features: OFFERED_FEATURES,
  protocolFeatures: OFFERED_PROTOCOL_FEATURES,
  maxPairs: 32,
  maxRegions: 64,
};

export function initialState(options: BackendOptions = DEFAULT_OPTIONS): BackendState {
  return {
    options,
    features: undefined,
    protocolFeatures: 0n,
    status: undefined,
    regions: [],
    repeated: [],
    rings: Array.from({ length: options.maxPairs * 2 }, () => RING_NONE),
    log: undefined,
    inflight: undefined,
    channel: -1,
    mtu: 0,
  };
}

/** Every descriptor that the state holds. What is in no state any more gets closed. */
export function heldFds(state: BackendState): Set<number> {
  const fds = new Set<number>();
  for (const region of state.regions) fds.add(region.file.fd);
  for (const ring of state.rings) for (const fd of [ring.kick, ring.call, ring.err]) fds.add(fd);
  if (state.log) fds.add(state.log.file.fd);
  if (state.inflight) fds.add(state.inflight.file.fd);
  fds.add(state.channel);
  fds.delete(-1);
  return fds;
}

export function isPacked(state: BackendState): boolean {
  return has(state.features ?? 0n, VIRTIO_F_RING_PACKED);
}

/**
 * Should the data plane work on this ring? It has to be kicked and described, features must be known, and the driver
 * ready if the front-end tells us the status at all. Status 0 only stops the work: indices and log stay, because QEMU
 * sends it before it asks the last pair for its indices. Whether the ring lies in memory: isRunning (regions.ts).
 */
export function wantsToRun(state: BackendState, ring: Ring): boolean {
  if (!ring.started || ring.num === 0 || ring.addresses === undefined) return false;
  if (state.features === undefined) return false;
  if (state.status !== undefined && has(state.protocolFeatures, PROTOCOL_F_STATUS)) {
    return (state.status & STATUS_DRIVER_OK) !== 0;
  }
  return true;
}

/** Without bit 30 there is no SET_VRING_ENABLE, and rings start enabled. */
export function isEnabled(state: BackendState, ring: Ring): boolean {
  return ring.enabled || !has(state.features ?? 0n, VHOST_USER_F_PROTOCOL_FEATURES);
}

/** Features that decide how a ring is laid out and read; LOG_ALL may change while it runs. */
export function structuralFeatures(features: bigint): bigint {
  return features & ~bits(26);
}
