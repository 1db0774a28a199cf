// What the rest of the control plane sees of the data plane: the only door (ARCHITECTURE.md, "who writes what").

import type { Conntrack } from './conntrackTypes.ts';

/** Sum over all workers of the counters of one port; names after Open vSwitch's Interface.statistics. */
export interface PortCounters {
  rxPackets: number;
  rxBytes: number;
  txPackets: number;
  txBytes: number;
  rxMulticast: number;
  txMulticast: number;
  rxBroadcast: number;
  txBroadcast: number;
  rxGso: number;
  txSegmented: number;
  txChecksummed: number;
  interrupts: number;
  /** Times that a full ring of the guest was looked at again. */
  txRetries: number;
  /** 7 buckets: up to 64, 127, 255, 511, 1023, 1522 bytes, and more. */
  rxSizes: number[];
  txSizes: number[];
  /** Indexed by DROP_* (contract/drop.ts). */
  drops: number[];
}

export interface FlowStats {
  packets: number;
  bytes: number;
  /** Milliseconds of the engine's clock (Engine.nowMs) at the last packet, 0 = never. */
  usedMs: number;
  /** All TCP flags seen, or-ed. */
  tcpFlags: number;
}

/** Handle of a megaflow in the data plane. */
export type FlowId = number;

export interface Upcall {
  worker: number;
  /** UPCALL_* (contract/action.ts). */
  reason: number;
  cookie: number;
  inPort: number;
  /** KEY_SIZE bytes; valid only during the callback. */
  key: Uint8Array;
  /** The frame; valid only during the callback. */
  data: Uint8Array;
  /** Bytes on the wire. */
  packetLen: number;
  /** 8 bytes of virtio-net offload description: give them back on injection. */
  vnet: Uint8Array;
  hash: number;
}

export interface Injection {
  inPort: number;
  frame: Uint8Array;
  vnet?: Uint8Array;
  /** Metadata of the packet (KEY_SIZE bytes); default: only in_port set. */
  key?: Uint8Array;
  /** Program to run; absent: look the packet up as if it had been received. */
  actions?: Uint32Array;
  /** Worker that runs it (of an upcall: Upcall.worker); default: the one that polls the input port. */
  worker?: number;
}

export interface WorkerStats {
  worker: number;
  core: number;
  /** Polls only queues pinned to its core (pmd-rxq-affinity with pmd-rxq-isolate). */
  isolated: boolean;
  /** Time since the figures have been zero. Figures of sent packets begin then, too. */
  durationMs: number;
  /** Time asleep is in neither. */
  busyNs: number;
  idleNs: number;
  polls: number;
  busyPolls: number;
  packets: number;
  batches: number;
  simpleHits: number;
  cacheHits: number;
  flowHits: number;
  flowProbes: number;
  misses: number;
  lost: number;
  sleeps: number;
  recirculated: number;
  sent: number;
  queues: { queue: number; port: number; index: number; packets: number; busyNs: number }[];
}

export interface EngineOptions {
  /** One worker for each core given; default: one worker, unpinned. */
  cores?: readonly number[];
  /** Called in batches on the main thread. */
  onUpcall: (upcall: Upcall) => void;
  /** A receive or transmit ring was found invalid by a worker: `reason` is a DROP_* number. */
  onBrokenQueue?: (port: number, queue: number, reason: number) => void;
  /** What the workers have to say (crashes, cores that do not exist). */
  log?: (level: 'info' | 'warn' | 'err', text: string) => void;
  /** Runs the data plane with its assertions. */
  debug?: boolean;
  /** process.hrtime.bigint() at the zero of the engine's clock: that of a predecessor whose times go on to be valid. */
  originNs?: bigint;
  /** File of CT_SIZE bytes that holds the table of connections, so that another process can take it up; the caller's. */
  conntrackFd?: number;
}

export interface QueueSpec {
  direction: 'rx' | 'tx';
  index: number;
  /** QUEUE_* (contract/port.ts). */
  kind: number;
  /** Readable when the queue has work, -1 = none. */
  waitFd: number;
}

/** A range of a guest's file as the data plane reaches it: the fields RG_BASE, RG_CHUNK, RG_SKEW of contract/window.ts. */
export interface WindowRegion {
  /** Memory offset of the first byte if the range is mapped whole, else 0. */
  readonly base: number;
  readonly chunk: number;
  readonly skew: number;
}

/** The file of a mapping has lost pages: empty memory is there now, and the mapping of no use to anybody. */
export type MemoryLost = (reason: string) => void;

/** Windows on the files of guests. All calls on the main thread; nothing unmapped while a worker may use it. */
export interface Windows {
  /**
   * Makes a range of a file reachable: whole if there is room, else by chunks on demand. `fileOffset` is page aligned.
   * The descriptor stays the caller's and stays open until unmapRegion. Throws SysError and leaves nothing behind.
   * The file is sealed against shrinking, if it knows seals; of others `onLost` tells when they have.
   */
  mapRegion(fd: number, fileOffset: bigint, bytes: bigint, onLost?: MemoryLost): WindowRegion;
  unmapRegion(region: WindowRegion): void;
  /** Maps a small range contiguously and for good (rings, dirty logs): its memory offset. Any alignment. Throws SysError. */
  mapRange(fd: number, fileOffset: bigint, bytes: number, onLost?: MemoryLost): number;
  unmapRange(address: number): void;
  /**
   * Writes the region records of a port (guest physical addresses): only while no queue of it is attached, except that
   * regions may be appended to an unchanged list at any moment (records first, then the count).
   */
  setRegions(
    port: number,
    regions: readonly { guestAddress: bigint; bytes: bigint; window: WindowRegion }[],
  ): void;
}

export interface Engine {
  readonly windows: Windows;
  readonly conntrack: Conntrack;
  /** The whole shared memory, for rings and windows. Only src/engine and src/port write here. */
  readonly memory: WebAssembly.Memory;
  /** Real address of byte 0 of the memory. */
  readonly base: bigint;
  /** Milliseconds since start: the clock of FlowStats.usedMs. */
  nowMs(): number;

  // ---- ports
  /** Reserves a datapath port number (0 … MAX_PORTS-1), `wanted` if free; throws when all are in use. */
  addPort(wanted?: number): number;
  /** Releases port and queues after the workers have let go of them. */
  removePort(port: number): Promise<void>;
  setPort(
    port: number,
    set: {
      flags?: number;
      mtu?: number;
      offloads?: number;
      usableTxQueues?: number;
      /** Port to which all packets of this one go unparsed and unchanged; -1 = none. */
      relay?: number;
      /** How often a burst looks again at a full ring of a guest that has taken some of it. */
      txRetries?: number;
    },
  ): void;
  /** Makes a queue record and returns its number; the caller writes the part of its kind, then attaches it. */
  addQueue(port: number, spec: QueueSpec): number;
  /** Lets workers use the queue (assigns a receive queue to a worker). */
  attachQueue(queue: number): void;
  /** Takes it away; resolves when no worker uses it any more, so rings may be unmapped. The record stays. */
  detachQueue(queue: number): Promise<void>;
  removeQueue(queue: number): void;
  /** Bytes of the control plane's arena, aligned; freed with freeArena. */
  allocArena(bytes: number, align: number): number;
  freeArena(address: number): void;
  /** How much of the arena is free, 0 … 1: who can do with less takes less of what is left. */
  arenaFree(): number;
  portCounters(port: number): PortCounters;

  // ---- megaflows. Key and mask have KEY_SIZE bytes; in_port and recirc_id are always matched exactly.
  /** Inserts the megaflow of this key and mask; one that is there gets the program, unless it shall `keep` its own. -1 = table full. */
  putFlow(key: Uint8Array, mask: Uint8Array, actions: Uint32Array, keep?: boolean): FlowId;
  /** The megaflow of this key and mask, -1 = there is none. */
  findFlow(key: Uint8Array, mask: Uint8Array): FlowId;
  /** New program, same counters. */
  setFlowActions(flow: FlowId, actions: Uint32Array): void;
  /** Out of the table at once; the number is reused after the workers have let go. Returns the final statistics then. */
  deleteFlow(flow: FlowId): Promise<FlowStats>;
  flowStats(flow: FlowId): FlowStats;
  flowCount(): number;
  maskCount(): number;

  // ---- packets
  /** Runs a program on a frame, or looks it up. False = ring full (counted). */
  inject(injection: Injection): boolean;

  // ---- time
  /** Raises the generation; resolves when every worker has seen all changes made before the call. */
  quiesce(): Promise<number>;
  /** Sets the cores; restarts or moves workers and queues without losing flows. */
  setCores(cores: readonly number[]): Promise<void>;
  /** Pins a receive queue of a port to a core (pmd-rxq-affinity); undefined = automatic. */
  setAffinity(port: number, queueIndex: number, core: number | undefined): void;
  /** Whether a core with pinned queues polls no others (pmd-rxq-isolate, default true). */
  setIsolation(isolate: boolean): void;
  /** One of n lookups is put into the microflow cache; 0 = it is neither filled nor asked. */
  setCacheInsertInvProb(n: number): void;
  setVlanLimit(n: number): void;
  /** How long a worker polls empty queues before it sleeps. */
  setPatience(us: number): void;
  workerStats(): WorkerStats[];
  clearWorkerStats(): void;
  close(): Promise<void>;
}
