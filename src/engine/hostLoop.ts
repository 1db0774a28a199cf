// The host loop of a worker: calls the data plane's poll, makes the system calls that it asks for, sleeps when there
// is nothing to do. All that it shares with the main thread are words of the worker record (contract/memory.ts).
//
//   frames in → poll → eventfds, frames out, bell of the main thread → poll → … → (patience) → poll(2) → …
//
// While packets come it never enters the kernel except for its queues' own needs. After `patience` without a packet
// it turns the notifications of its queues on and sleeps until one of them, or its bell, becomes readable.
//
// Nothing in a turn without system calls allocates, not even before V8 has compiled it: a scavenge is 70 to 140 µs in which
// packets wait (docs/benchmarks.md). So all numbers here are small integers, the time is the data plane's (src/sys/clock.ts),
// and iterators stay out.

import {
  CONTROL_BASE,
  CTL_GENERATION,
  CTL_STARVED,
  CTL_UPCALL_ARMED,
  UPCALL_BASE,
  WK_ACK,
  WK_CACHE_HITS,
  WK_CALL,
  WK_CALL_COUNT,
  WK_FLOW_HITS,
  WK_FLUSH,
  WK_FLUSH_COUNT,
  WK_LOST,
  WK_MISSES,
  WK_RXQ,
  WK_RXQ_COUNT,
  WK_SIMPLE_HITS,
  WK_STOP,
  WK_UPCALLS_POSTED,
  WORKER_BASE,
  WORKER_SIZE,
} from '../../contract/memory.ts';
import {
  Q_BROKEN,
  Q_KIND,
  Q_WAIT_FD,
  QUEUE_FRAME,
  QUEUE_PACKED,
  QUEUE_SPLIT,
  queueAddress,
} from '../../contract/port.ts';
import { RING_HEAD, RING_TAIL, UPCALL_RING_SIZE } from '../../contract/ring.ts';
import type { SteadyClock } from '../sys/clock.ts';
import { eventfdSignal, eventfdTake } from '../sys/eventfd.ts';
import { pollRaw } from '../sys/fd.ts';
import { NativeBuffer } from '../sys/ffi.ts';
import type { HostIo } from './hostio.ts';
import { KnownRate } from './knownRate.ts';

/** What the data plane module exports (dataplane/index.ts). */
export interface DataPlane {
  start(worker: number, nowNs: number, lowNs: number): void;
  setTime(nowNs: number, lowNs: number): void;
  poll(lowNs: number): number;
  sleep(): number;
  wakeUp(lowNs: number): void;
  abandon(queue: number): void;
  hashOf(key: number, subtable: number): number;
  // Connection tracking, for the main thread's instance (dataplane/ct/control.ts).
  ctAttach(holder: number): void;
  ctSweep(first: number, records: number, nowMs: number): number;
  ctFlush(connection: number, revision: number): number;
  ctFlushTuple(nowMs: number): number;
}

const POLLIN = 1;
const POLLFD_SIZE = 8;
/** The bell wakes a sleeper at once; this only bounds what a lost notification of a broken peer could cost. */
const SLEEP_MAX_MS = 1000;
/** For so long a descriptor is left alone that reports nothing but errors. */
const FAULTY_FD_MS = 100;
/**
 * Turns behind a sleep in which the low half of the clock has to do: the packet that ended it waits, and code that has not run
 * for a while is slow. Sleeps are shorter than an overflow; if the process was stopped, the time is late for so long. Devices
 * are asked in the second one, so that is the shortest time awake.
 */
const HURRIED_TURNS = 2;
/** Upcalls that may wait before a worker without other work pauses: about 110, for which the main thread takes longer than the pause. */
const BACKLOG_BYTES = 64 * 1024;
const BACKLOG_WAIT_MS = 0.25;

export interface HostLoopOptions {
  words: Int32Array;
  worker: number;
  bellFd: number;
  /** Rings the main thread: upcalls, acknowledgements. */
  mainFd: number;
  io: HostIo;
  /** With the origin of the engine's clock. */
  clock: SteadyClock;
}

export class HostLoop {
  private readonly words: Int32Array;
  private readonly record: number;
  private readonly options: HostLoopOptions;
  private pollfds = new NativeBuffer(64 * POLLFD_SIZE);
  /** The same, as words: descriptor; events | revents << 16. */
  private pollWords = new Int32Array(this.pollfds.buffer);
  private pollfdRoom = 64;
  private polled = 0;
  /** Queue of each entry: the list may be another one by the time that poll(2) returns. */
  private polledQueues = new Int32Array(64);
  /** Eventfds whose counters have to be taken before the next sleep: `bells` of them. */
  private bellFds = new Int32Array(64);
  private bells = 0;
  private frameQueues: number[] = [];
  private readonly faulty = new Set<number>();
  /** Since when, by the low half of the clock. */
  private faultySinceNs = 0;
  private acknowledged = -1;
  private sleptGeneration = -1;
  private readonly stats: Float64Array;
  private readonly upcallRing: number;
  /** [0]: packets that met a megaflow, [1]: those that did not, when last looked. */
  private readonly met = new Float64Array(2);
  private readonly known = new KnownRate();

  constructor(options: HostLoopOptions) {
    this.options = options;
    this.words = options.words;
    this.stats = new Float64Array(options.words.buffer);
    this.upcallRing = UPCALL_BASE + options.worker * UPCALL_RING_SIZE;
    this.record = (WORKER_BASE + options.worker * WORKER_SIZE) >> 2;
  }

  private look(dataPlane: DataPlane): void {
    const { clock } = this.options;
    // A few times a second.
    if (clock.look()) dataPlane.setTime(clock.readWhole(), clock.lowNs);
  }

  /** Runs until WK_STOP. Throws what the data plane throws (a trap). */
  run(dataPlane: DataPlane): void {
    const { words, record } = this;
    const { clock } = this.options;
    dataPlane.setTime(clock.readWhole(), clock.lowNs);
    let turnsAwake = HURRIED_TURNS;
    let ready = 0;
    while (Atomics.load(words, record + (WK_STOP >> 2)) === 0) {
      if (turnsAwake >= HURRIED_TURNS) this.look(dataPlane);
      else clock.look();
      if (turnsAwake > 0) this.receiveFrames();
      const packets = dataPlane.poll(clock.lowNs);
      this.afterPoll();
      if (turnsAwake === 0) this.noteReady(ready);
      if (turnsAwake < HURRIED_TURNS) turnsAwake++;
      if (packets > 0) {
        this.letMainCatchUp();
      } else if (packets < 0 && turnsAwake === HURRIED_TURNS) {
        this.look(dataPlane);
        // Before the notifications are turned on: what is taken here has been seen, or will be seen by the look behind that.
        this.takeBells();
        if (dataPlane.sleep() !== 0) {
          ready = this.wait();
          turnsAwake = 0;
          clock.look();
          dataPlane.wakeUp(clock.lowNs);
        }
        // Re-arming may have owed a notification.
        this.afterPoll();
      }
    }
  }

  private receiveFrames(): void {
    const { frameQueues } = this;
    for (let i = 0; i < frameQueues.length; i++) {
      this.options.io.rxFrames(frameQueues[i]!, false);
    }
  }

  /**
   * With upcalls piling up, and after a breath in which no packet met a megaflow, the worker has nothing to do but to fill the
   * ring faster: it leaves the core to the main thread for a moment. Packets wait in their rings meanwhile. If the main
   * thread is known to lack a core, it does so as well with a few packets of known flows.
   */
  private letMainCatchUp(): void {
    const { words, stats, record, met } = this;
    const { clock } = this.options;
    const head = words[(this.upcallRing + RING_HEAD) >> 2]!;
    const backlog = (head - Atomics.load(words, (this.upcallRing + RING_TAIL) >> 2)) | 0;
    // Seldom more than that: doubles are looked at only then, for they are allocated until the compiler has been here.
    if (backlog <= BACKLOG_BYTES) return;
    const at = record >> 1;
    const hits =
      stats[at + (WK_CACHE_HITS >> 3)]! +
      stats[at + (WK_FLOW_HITS >> 3)]! +
      stats[at + (WK_SIMPLE_HITS >> 3)]!;
    const misses = stats[at + (WK_MISSES >> 3)]! + stats[at + (WK_LOST >> 3)]!;
    const onlyMisses = hits === met[0] && misses !== met[1];
    met[0] = hits;
    met[1] = misses;
    if (onlyMisses || (this.control(CTL_STARVED) !== 0 && this.known.areFew(hits, clock.lowNs))) {
      Atomics.wait(words, (this.upcallRing + RING_HEAD) >> 2, head, BACKLOG_WAIT_MS);
    }
  }

  private control(offset: number): number {
    return Atomics.load(this.words, (CONTROL_BASE + offset) >> 2);
  }

  /** The system calls that the poll has asked for. */
  afterPoll(): void {
    const { words, record } = this;
    const flushes = words[record + (WK_FLUSH_COUNT >> 2)]!;
    if (flushes > 0) {
      for (let i = 0; i < flushes; i++) this.options.io.flush(words[record + (WK_FLUSH >> 2) + i]!);
      words[record + (WK_FLUSH_COUNT >> 2)] = 0;
    }
    const calls = words[record + (WK_CALL_COUNT >> 2)]!;
    if (calls > 0) {
      for (let i = 0; i < calls; i++) eventfdSignal(words[record + (WK_CALL >> 2) + i]!);
      words[record + (WK_CALL_COUNT >> 2)] = 0;
    }
    let ring = false;
    if (words[record + (WK_UPCALLS_POSTED >> 2)] !== 0) {
      words[record + (WK_UPCALLS_POSTED >> 2)] = 0;
      ring = Atomics.exchange(words, (CONTROL_BASE + CTL_UPCALL_ARMED) >> 2, 0) === 1;
    }
    const acknowledged = words[record + (WK_ACK >> 2)]!;
    if (acknowledged !== this.acknowledged) {
      this.acknowledged = acknowledged;
      this.findFrameQueues();
      // Descriptors may be other files from now on; bells that were not taken wake once more.
      this.bells = 0;
      ring = true;
    }
    if (ring) eventfdSignal(this.options.mainFd);
  }

  private findFrameQueues(): void {
    const { words, record } = this;
    this.frameQueues = [];
    this.faulty.clear();
    const count = Atomics.load(words, record + (WK_RXQ_COUNT >> 2));
    for (let i = 0; i < count; i++) {
      const queue = words[record + (WK_RXQ >> 2) + i]!;
      if (words[(queueAddress(queue) + Q_KIND) >> 2] === QUEUE_FRAME) this.frameQueues.push(queue);
    }
  }

  /** poll(2) on the bell and on the descriptors of all queues. Returns how many are ready. */
  private wait(): number {
    const { words, record } = this;
    this.sleptGeneration = words[record + (WK_ACK >> 2)]!;
    // Main may have raised the generation just before this worker's state said "asleep": then it waits for a bell.
    if (this.control(CTL_GENERATION) !== this.sleptGeneration) {
      eventfdSignal(this.options.mainFd);
    }
    const queues = Atomics.load(words, record + (WK_RXQ_COUNT >> 2));
    if (queues + 1 > this.pollfdRoom) {
      this.pollfdRoom = queues + 64;
      this.pollfds = new NativeBuffer(this.pollfdRoom * POLLFD_SIZE);
      this.pollWords = new Int32Array(this.pollfds.buffer);
      this.bellFds = new Int32Array(this.pollfdRoom);
      this.polledQueues = new Int32Array(this.pollfdRoom);
    }
    // Others may wake this worker so often that it never sleeps for so long.
    if (this.faulty.size > 0) {
      const passedNs = (this.options.clock.lowNs - this.faultySinceNs) >>> 0;
      if (passedNs >= FAULTY_FD_MS * 1e6) this.faulty.clear();
    }
    this.setPollfd(0, this.options.bellFd);
    for (let i = 0; i < queues; i++) {
      const queue = words[record + (WK_RXQ >> 2) + i]!;
      const fd = words[(queueAddress(queue) + Q_WAIT_FD) >> 2]!;
      // A broken queue is not served: its descriptor would stay readable.
      const isBroken = words[(queueAddress(queue) + Q_BROKEN) >> 2] !== 0;
      this.polledQueues[i + 1] = queue;
      this.setPollfd(i + 1, isBroken || this.faulty.has(fd) ? -1 : fd);
    }
    this.polled = queues + 1;
    const timeoutMs = this.faulty.size > 0 ? FAULTY_FD_MS : SLEEP_MAX_MS;
    return pollRaw(this.pollfds.address, queues + 1, timeoutMs);
  }

  /**
   * Behind the first breath: which bells have rung, to be taken before the next sleep; which devices have frames: the others are
   * not asked.
   */
  private noteReady(ready: number): void {
    const { words, pollWords, frameQueues } = this;
    const { io } = this.options;
    if (ready === 0) this.faulty.clear();
    let left = ready;
    if (left > 0 && pollWords[1]! >>> 16 !== 0) {
      this.bellFds[this.bells++] = this.options.bellFd;
      left--;
    }
    // A sleeper keeps nobody waiting: descriptors may have been closed meanwhile, and their numbers be other files'. This
    // worker is awake by now: if no generation was raised, none is closed before it has acknowledged it.
    if (this.control(CTL_GENERATION) !== this.sleptGeneration) {
      this.findFrameQueues();
      return;
    }
    for (let i = 0; i < frameQueues.length; i++) io.leaveAlone(frameQueues[i]!);
    for (let i = 1; i < this.polled && left > 0; i++) {
      const events = pollWords[i * 2 + 1]! >>> 16;
      if (events === 0) continue;
      left--;
      const fd = pollWords[i * 2]!;
      const queue = this.polledQueues[i]!;
      const kind = words[(queueAddress(queue) + Q_KIND) >> 2];
      if ((events & POLLIN) === 0) this.setFaulty(fd);
      else if (kind === QUEUE_SPLIT || kind === QUEUE_PACKED) this.bellFds[this.bells++] = fd;
      else if (kind === QUEUE_FRAME) io.askNow(queue);
    }
  }

  private takeBells(): void {
    for (let i = 0; i < this.bells; i++) this.takeKick(this.bellFds[i]!);
    this.bells = 0;
  }

  /** A front-end may have sent anything as its kick descriptor. */
  private takeKick(fd: number): void {
    try {
      eventfdTake(fd);
    } catch {
      this.setFaulty(fd);
    }
  }

  private setFaulty(fd: number): void {
    if (this.faulty.size === 0) this.faultySinceNs = this.options.clock.lowNs;
    this.faulty.add(fd);
  }

  private setPollfd(index: number, fd: number): void {
    this.pollWords[index * 2] = fd;
    this.pollWords[index * 2 + 1] = POLLIN; // and no events yet
  }
}
