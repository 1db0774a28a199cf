// The system calls of kernel ports, made by a worker's host loop: HostIo is the hands of the data plane.
//
// Works on the shared memory and descriptors alone, so any worker can serve any queue; queue records say which descriptor
// (contract/frame.ts, contract/xdp.ts). AF_PACKET moves a burst with one call; a tap has only readv and writev, one frame
// each, but their payload is never touched from here. Faults of a device are counted as drops, never thrown.

import { PC_DROPS, portCountersAddress } from '../../contract/counters.ts';
import {
  DROP_TX_GSO,
  DROP_TX_LINK_DOWN,
  DROP_TX_MTU,
  DROP_TX_NOT_READY,
  DROP_TX_RING_FULL,
} from '../../contract/drop.ts';
import {
  FQ_ENTRIES,
  FQ_EPOCH,
  FQ_FD,
  FQ_FLUSHING,
  FQ_HEAD,
  FQ_IOVS,
  FQ_MSGS,
  FQ_REAL,
  FQ_STYLE,
  FQ_TAIL,
  FQ_WATCH,
  FRAME_PACKET,
  IOV_SIZE,
  MMSG_FLAGS,
  MMSG_LEN,
  MMSG_SIZE,
  WATCH_NEVER,
  WATCH_NONE,
  WATCH_SET,
  WATCH_WANTED,
} from '../../contract/frame.ts';
import { CONTROL_BASE, CTL_WATCHES_WANTED } from '../../contract/memory.ts';
import {
  Q_DIR,
  Q_KIND,
  Q_PORT,
  QUEUE_FRAME,
  QUEUE_XDP,
  queueAddress,
} from '../../contract/port.ts';
import { XQ_CONSUMER, XQ_FD, XQ_PRODUCER } from '../../contract/xdp.ts';
import { c, EAGAIN, EBUSY, EINTR, EINVAL, EMSGSIZE, ENETDOWN, ENOBUFS, errno } from '../sys/ffi.ts';

const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const EIO = 5;

/**
 * A device that had nothing is asked again after this time, then after twice the time, and so on up to the longest: a
 * question costs a microsecond, in which a worker that is busy with other queues forwards dozens of packets.
 */
const EMPTY_WAIT_NS = 1000;
const EMPTY_WAIT_MAX_NS = 200_000;
/** So many questions with the longest wait, 100 ms awake, and somebody else is asked to wait for the device. */
const QUESTIONS_MAX = 500;
/** While somebody does: seldom, in case it is busy. */
const WATCHED_WAIT_NS = 2_000_000;
/**
 * Of the time 30 bits are compared, for differences of small integers are small integers, too. A worker that comes back after
 * a multiple of a second may take that for nothing, and leaves the device alone for one more wait.
 */
const TIME_MASK = 0x3fffffff;

/** What a host loop remembers of a queue, in the form that the calls need. */
interface Known {
  epoch: number;
  fd: number;
  packet: boolean;
  mask: number;
  messages: number;
  messagesReal: bigint;
  iovsReal: bigint;
  /** Addresses of the entries that were used so far, of messages or of iovs as the style is: made once, not with each frame. */
  addresses: bigint[];
  /** Word indices of FQ_HEAD and FQ_TAIL. */
  head: number;
  tail: number;
  /** The device had nothing at `sinceNs` and is left alone for `waitNs`. */
  silent: boolean;
  waitNs: number;
  sinceNs: number;
  /** Questions with the longest wait that nothing has come to. */
  questions: number;
  /** Word index of FQ_WATCH; whether the main thread has been seen to wait for the device. */
  watch: number;
  watched: boolean;
}

export class HostIo {
  private readonly words: Int32Array;
  private readonly counters: Float64Array;
  private readonly worker: number;
  private readonly clock: { readonly lowNs: number };
  private readonly known = new Map<number, Known>();

  /** For the host loop of `worker`, on its own thread, which looks at `clock` in each turn (src/sys/clock.ts). */
  constructor(memory: WebAssembly.Memory, worker: number, clock: { readonly lowNs: number }) {
    this.clock = clock;
    this.words = new Int32Array(memory.buffer);
    this.counters = new Float64Array(memory.buffer);
    this.worker = worker;
  }

  /**
   * Fetches what a receive queue's device has. Call it before each poll for every frame queue of the worker; cheap for
   * other kinds. A device that had nothing lately may be left alone, unless the caller insists. Returns the number of
   * frames that came in.
   */
  rxFrames(queue: number, insist = true): number {
    const q = this.lookUp(queue);
    if (q === undefined) return 0;
    if (!insist && q.silent && this.passed(q.sinceNs) < q.waitNs) {
      if (!q.watched || this.words[q.watch] === WATCH_SET) return 0;
      this.startOver(q);
    }
    const head = this.words[q.head]!;
    // Signed differences of counts modulo 2^32.
    const room = q.mask + 1 - ((head - Atomics.load(this.words, q.tail)) | 0);
    if (room <= 0) return 0;
    const received = q.packet ? this.receivePacket(q, head, room) : this.receiveTap(q, head, room);
    if (received === 0) {
      this.noteNothing(q);
      return 0;
    }
    this.startOver(q);
    q.silent = false;
    Atomics.store(this.words, q.head, (head + received) | 0);
    return received;
  }

  private noteNothing(q: Known): void {
    q.sinceNs = this.clock.lowNs;
    q.silent = true;
    q.watched = this.words[q.watch] === WATCH_SET;
    if (q.watched) {
      q.waitNs = WATCHED_WAIT_NS;
      return;
    }
    if (q.waitNs < EMPTY_WAIT_MAX_NS) q.waitNs = Math.min(q.waitNs * 2, EMPTY_WAIT_MAX_NS);
    else if (++q.questions === QUESTIONS_MAX && this.words[q.watch] === WATCH_NONE) {
      Atomics.store(this.words, q.watch, WATCH_WANTED);
      // Nobody is rung for it: that takes 0.1 ms, in which packets wait. The main thread looks now and then.
      Atomics.store(this.words, (CONTROL_BASE + CTL_WATCHES_WANTED) >> 2, 1);
    }
  }

  /** The device has something, or may have: it is no silent one any more, and nobody has to wait for it. */
  private startOver(q: Known): void {
    q.waitNs = EMPTY_WAIT_NS;
    q.questions = 0;
    q.watched = false;
    const watch = this.words[q.watch]!;
    if (watch !== WATCH_NONE && watch !== WATCH_NEVER)
      Atomics.store(this.words, q.watch, WATCH_NONE);
  }

  /** The device is known to have nothing now: it is asked again after its wait. */
  leaveAlone(queue: number): void {
    const q = this.lookUp(queue);
    if (q === undefined) return;
    q.sinceNs = this.clock.lowNs;
    q.silent = true;
  }

  /** The device is known to have something. */
  askNow(queue: number): void {
    const q = this.lookUp(queue);
    if (q !== undefined) q.silent = false;
  }

  private passed(sinceNs: number): number {
    return ((this.clock.lowNs & TIME_MASK) - (sinceNs & TIME_MASK)) & TIME_MASK;
  }

  private receivePacket(q: Known, head: number, room: number): number {
    let received = 0;
    while (received < room) {
      const entry = (head + received) & q.mask;
      const contiguous = Math.min(room - received, q.mask + 1 - entry);
      const n = c.recvmmsg(q.fd, addressOf(q, entry), contiguous, MSG_DONTWAIT, 0n);
      if (n <= 0) break; // EAGAIN; or ENETDOWN and the like, told once: the control plane hears it by netlink
      received += n;
      if (n < contiguous) break;
    }
    return received;
  }

  private receiveTap(q: Known, head: number, room: number): number {
    let received = 0;
    for (; received < room; received++) {
      const entry = (head + received) & q.mask;
      const n = c.readv(q.fd, addressOf(q, entry), 1);
      if (n < 0) break;
      const message = q.messages + entry * MMSG_SIZE;
      this.words[(message + MMSG_LEN) >> 2] = n;
      this.words[(message + MMSG_FLAGS) >> 2] = 0;
    }
    return received;
  }

  /**
   * Makes the system calls of a queue that the data plane has listed in WK_FLUSH: sends what is in a transmit ring, or
   * wakes the kernel's side of an AF_XDP socket. Afterwards a frame ring is empty: what the kernel does not take now is
   * dropped and counted.
   */
  flush(queue: number): void {
    const record = queueAddress(queue) >> 2;
    const kind = this.words[record + (Q_KIND >> 2)];
    if (kind === QUEUE_XDP) this.wakeXdp(record);
    if (kind !== QUEUE_FRAME || this.words[record + (Q_DIR >> 2)] !== 1) return;
    // Several workers may want it flushed at once: the first does it for all of them.
    const flushing = record + (FQ_FLUSHING >> 2);
    if (Atomics.add(this.words, flushing, 1) !== 0) return;
    let wanted = 1;
    do {
      wanted = Atomics.load(this.words, flushing);
      const q = this.lookUp(queue);
      if (q !== undefined) this.send(queue, q);
    } while (Atomics.sub(this.words, flushing, wanted) !== wanted);
  }

  private send(queue: number, q: Known): void {
    const head = Atomics.load(this.words, q.head);
    let tail = this.words[q.tail]!;
    while (tail !== head) {
      const entry = tail & q.mask;
      const left = (head - tail) | 0;
      const contiguous = q.packet ? Math.min(left, q.mask + 1 - entry) : 1;
      const sent = q.packet
        ? c.sendmmsg(q.fd, addressOf(q, entry), contiguous, MSG_DONTWAIT | MSG_NOSIGNAL)
        : Math.min(c.writev(q.fd, addressOf(q, entry), 1), 1);
      if (sent > 0) {
        tail = (tail + sent) | 0;
      } else {
        const number = sent < 0 ? errno() : EIO;
        if (number === EINTR) continue;
        // What concerns one frame costs one frame; a full or dead device costs all that wait.
        const one = number === EMSGSIZE || number === EINVAL || number === ENOBUFS;
        const lost = one ? 1 : left;
        this.drop(queue, reasonOf(number), lost);
        tail = (tail + lost) | 0;
      }
      Atomics.store(this.words, q.tail, tail);
    }
  }

  /** need-wakeup of AF_XDP: tells the kernel to look at the tx ring, or at the fill ring. */
  private wakeXdp(record: number): void {
    const fd = this.words[record + (XQ_FD >> 2)]!;
    if (this.words[record + (Q_DIR >> 2)] === 0) {
      c.recvfrom(fd, 0n, 0n, MSG_DONTWAIT, 0n, 0n);
      return;
    }
    const producer = this.words[record + (XQ_PRODUCER >> 2)]! >>> 2;
    const consumer = this.words[record + (XQ_CONSUMER >> 2)]! >>> 2;
    // In copy mode the kernel sends a limited number (32) at a call and says EAGAIN while there are more.
    for (;;) {
      const before = Atomics.load(this.words, consumer);
      if (before === Atomics.load(this.words, producer)) return;
      const result = c.sendto(fd, 0n, 0n, MSG_DONTWAIT, 0n, 0);
      if (result < 0) {
        const number = errno();
        if (number !== EAGAIN && number !== EBUSY && number !== ENOBUFS && number !== EINTR) return;
      }
      if (Atomics.load(this.words, consumer) === before) return; // no progress: completions first
    }
  }

  private drop(queue: number, reason: number, count: number): void {
    const port = this.words[(queueAddress(queue) + Q_PORT) >> 2]!;
    const at = (portCountersAddress(this.worker, port) + PC_DROPS + reason * 8) >> 3;
    this.counters[at]! += count;
  }

  private lookUp(queue: number): Known | undefined {
    const record = queueAddress(queue) >> 2;
    if (this.words[record + (Q_KIND >> 2)] !== QUEUE_FRAME) return undefined;
    const epoch = this.words[record + (FQ_EPOCH >> 2)]!;
    const known = this.known.get(queue);
    if (known !== undefined && known.epoch === epoch) return known;
    return this.describe(queue, record, epoch);
  }

  /** Not part of lookUp: the closure would cost that 48 bytes on the heap each time. */
  private describe(queue: number, record: number, epoch: number): Known {
    const word = (offset: number): number => this.words[record + (offset >> 2)]! >>> 0;
    const real = BigInt(word(FQ_REAL)) | (BigInt(word(FQ_REAL + 4)) << 32n);
    const made: Known = {
      epoch,
      fd: word(FQ_FD) | 0,
      packet: word(FQ_STYLE) === FRAME_PACKET,
      mask: word(FQ_ENTRIES) - 1,
      messages: word(FQ_MSGS),
      messagesReal: real + BigInt(word(FQ_MSGS)),
      iovsReal: real + BigInt(word(FQ_IOVS)),
      addresses: [],
      head: record + (FQ_HEAD >> 2),
      tail: record + (FQ_TAIL >> 2),
      silent: false,
      waitNs: EMPTY_WAIT_NS,
      sinceNs: 0,
      questions: 0,
      watch: record + (FQ_WATCH >> 2),
      watched: false,
    };
    this.known.set(queue, made);
    return made;
  }
}

/** Address of what the system call wants of an entry: its message (AF_PACKET) or its iov (tap). */
function addressOf(q: Known, entry: number): bigint {
  const known = q.addresses[entry];
  if (known !== undefined) return known;
  const made = q.packet
    ? q.messagesReal + BigInt(entry * MMSG_SIZE)
    : q.iovsReal + BigInt(entry * IOV_SIZE);
  q.addresses[entry] = made;
  return made;
}

/** Name of the drop for an errno of a send. */
function reasonOf(number: number): number {
  switch (number) {
    case EMSGSIZE:
      return DROP_TX_MTU;
    case EINVAL:
      return DROP_TX_GSO; // the kernel understands the headers differently than their offload description
    case EIO: // a tap whose interface is down
    case ENETDOWN:
      return DROP_TX_LINK_DOWN;
    case EAGAIN:
    case ENOBUFS:
      return DROP_TX_RING_FULL;
    default: // ENXIO, EBADFD: the device is gone
      return DROP_TX_NOT_READY;
  }
}
