// The data plane: what the host loop of a worker calls (src/engine/worker.ts).
//
//   poll:  receive → parse → look up → act → transmit, once for each queue of the worker: one breath
//
// The module is a function of (memory, time): it has no clock, no randomness and no allocation. Its single import,
// besides the memory, maps a chunk of a large guest (dataplane/host.ts).

import { DROP_RX_DISABLED, DROP_STP } from '../contract/drop.ts';
import {
  CONTROL_BASE,
  CTL_GENERATION,
  CTL_PATIENCE_US,
  WK_ACK,
  WK_BATCHES,
  WK_BUSY_NS,
  WK_BUSY_POLLS,
  WK_CALL_COUNT,
  WK_CLEAR,
  WK_CURRENT_RXQ,
  WK_FLUSH_COUNT,
  WK_IDLE_NS,
  WK_PACKETS,
  WK_POLLS,
  WK_RECIRC,
  WK_RXQ,
  WK_RXQ_COUNT,
  WK_SIMPLE_HITS,
  WK_SLEEPS,
  WK_STATE,
  WK_STOP,
  WK_UPCALLS_POSTED,
} from '../contract/memory.ts';
import {
  BURST_MAX,
  KEY_STRIDE,
  PKT_KEY,
  PKT_SIZE,
  POOL_MAX,
  PV_KEYS,
  PV_PACKETS,
} from '../contract/packet.ts';
import {
  PORT_NO_RX,
  PORT_UP,
  PT_FLAGS,
  PT_RELAY,
  PT_SIMPLE,
  portAddress,
  Q_BROKEN,
  Q_BUSY_NS,
  Q_KIND,
  Q_PORT,
  QUEUE_PACKED,
  QUEUE_SPLIT,
  queueAddress,
} from '../contract/port.ts';
import { resetAct } from './act.ts';
import { resetBatches } from './batch.ts';
import { resetGroups, runBurst } from './burst.ts';
import { flushConnection, flushTuple, sweepConnections } from './ct/control.ts';
import { freeSpent } from './ct/fragments.ts';
import { startTracking } from './ct/index.ts';
import { countDrop } from './drop.ts';
import { injectBurst, injectEmpty, injectedUpTo, injectHead } from './inject.ts';
import { parseBurst } from './parse.ts';
import { plainBurst } from './plain.ts';
import { heldBegin, prepareSleep, rxBurst, rxDone, txBurst, wake } from './port/index.ts';
import { S_BURST, S_BUSY } from './scratch.ts';
import { resetSimple, simpleBurst } from './simple.ts';
import { flowHash } from './table/flow.ts';
import { addStat, privateBase, setClock, setWorker, tick, workerRecord } from './worker.ts';

/** So few packets, and it pays to look again at once: what a breath costs besides is half of them. */
const FEW = 8;
/** Looks in a breath, and looks at single queues: for a microsecond or two the clock, the main thread and kernel devices wait. */
const LOOKS_MAX = 8;
const QUEUE_LOOKS_MAX: u32 = 32;
/**
 * A worker that has been awake for long waits longer for the next packet of a guest: this share of that time, up to so many times its
 * patience. To sleep costs the guest a system call and the packet that ends it 0.2 ms, and guests are stopped for that long, too.
 */
const PATIENCE_SHARE: f64 = 1 / 16;
const PATIENCE_TIMES: f64 = 20;
/** But not for a trickle, whose packets are further apart than its patience, in the mean of so many gaps: it would never sleep. */
const GAPS: f64 = 16;
/**
 * Of its patience, for a worker that has no guests: its devices wake it by themselves, for less than what it takes to look on, and the
 * processes behind them may need its core.
 */
const KERNEL_SHARE: f64 = 1 / 5;
/** Of what an empty look takes, as far as it can be the look's: interrupts are not. */
const EMPTY_LOOK_MAX_NS: f64 = 1000;

let lastNs: f64 = 0;
/** When the last packet came. */
let packetNs: f64 = 0;
/** What passes between breaths with packets, of late. */
let gapNs: f64 = 0;
/** The queue in which it came, and since when the worker is awake. */
let packetQueue: u32 = 0;
let awakeNs: f64 = 0;
let lastPackets: i32 = 0;
let busyQueues: u32 = 0;
// Looks of the last breath that found nothing, all its looks, and what an empty one takes in the long run.
let emptyLooks: i32 = 0;
let looks: i32 = 0;
let emptyLookNs: f64 = 0;
/** Just woken: the notifications of the queues are still on. */
let drowsy: bool = false;
// A generation that was seen, and the end of the inject ring at that time.
let seen: bool = false;
let seenGeneration: u32 = 0;
let seenHead: u32 = 0;

/** Prepares this instance to be worker `id`. The time as for setTime(). */
export function start(id: u32, nowNs: f64, lowNs: u32): void {
  setWorker(id);
  setClock(nowNs, lowNs);
  resetBatches();
  resetAct();
  resetGroups();
  resetSimple();
  startTracking(id);
  memory.fill(privateBase + PV_KEYS, 0, POOL_MAX * KEY_STRIDE);
  lastNs = nowNs;
  packetNs = nowNs;
  packetQueue = 0;
  gapNs = 0;
  awakeNs = nowNs;
  lastPackets = 0;
  busyQueues = 0;
  drowsy = false;
  seen = false;
  const packets = privateBase + PV_PACKETS;
  for (let i: u32 = 0; i < <u32>BURST_MAX; i++) {
    store<u32>(packets + i * PKT_SIZE + PKT_KEY, privateBase + PV_KEYS + i * KEY_STRIDE);
  }
  store<u32>(workerRecord + WK_CURRENT_RXQ, ~0);
  atomic.store<u32>(workerRecord + WK_STATE, 1);
}

/**
 * The engine's clock (without the skew of a test), and the low half of the clock that poll() is called with. Before 2^32 ns
 * have passed since the last call of anything that takes a time, and whenever they may have.
 */
export function setTime(nowNs: f64, lowNs: u32): void {
  setClock(nowNs, lowNs);
}

/**
 * One breath. Returns the number of packets received or injected; -1 if there have been none for so long that the worker
 * should go to sleep.
 */
export function poll(lowNs: u32): i32 {
  const nowNs = tick(lowNs);
  acknowledge();
  account(nowNs);
  freeSpent();
  let total = injectBurst();
  // Not with system calls for injected packets still to be made: their descriptors may be closed from then on.
  if (seen && !owesCalls()) acknowledge();
  total += lookRepeatedly();
  lastPackets = total;
  if (drowsy) notificationsOff();
  if (total > 0) {
    gapNs += (nowNs - packetNs - gapNs) / GAPS;
    packetNs = nowNs;
  } else if (nowNs - packetNs > patienceNs()) return -1;
  return total;
}

/**
 * Until there are many packets, or calls to make, for a while: a turn of the host loop takes as long as several looks, in which a
 * packet that comes alone would wait. That none are left behind some says little of the next look. Returns the number of packets.
 */
function lookRepeatedly(): i32 {
  const queues = atomic.load<u32>(workerRecord + WK_RXQ_COUNT);
  const most = drowsy ? 1 : min<i32>(LOOKS_MAX, <i32>(QUEUE_LOOKS_MAX / max<u32>(queues, 1)));
  let total = 0;
  emptyLooks = 0;
  looks = 0;
  do {
    const n = lookAtQueues();
    looks++;
    if (n === 0) {
      emptyLooks++;
    } else {
      total += n;
      if (n > FEW || owesAnything()) break;
      freeSpent();
    }
  } while (looks < most);
  return total;
}

/** Once through all queues of the worker. Returns how many packets have come. */
function lookAtQueues(): i32 {
  const queues = atomic.load<u32>(workerRecord + WK_RXQ_COUNT);
  let total = 0;
  for (let i: u32 = 0; i < queues; i++) {
    const queue = load<u32>(workerRecord + WK_RXQ + i * 4);
    const n = receive(queue);
    if (n === 0) continue;
    total += n;
    noteBusy(queue, n);
  }
  return total;
}

/** Of each queue, in a breath of several looks, too, there is one entry. */
function noteBusy(queue: u32, n: u32): void {
  let at = privateBase + S_BUSY;
  for (const end = at + busyQueues * 8; at < end; at += 8) {
    if (load<u32>(at) !== queue) continue;
    store<u32>(at, load<u32>(at, 4) + n, 4);
    return;
  }
  store<u32>(at, queue);
  store<u32>(at, n, 4);
  busyQueues++;
}

function patienceNs(): f64 {
  const least = <f64>atomic.load<u32>(CONTROL_BASE + CTL_PATIENCE_US) * 1000;
  if (packetQueue === 0) return least;
  if (!isGuests(packetQueue)) return hasGuests() ? least : least * KERNEL_SHARE;
  if (gapNs > least) return least;
  return least + min<f64>(least * PATIENCE_TIMES, (packetNs - awakeNs) * PATIENCE_SHARE);
}

function isGuests(q: u32): bool {
  const kind = load<u32>(q + Q_KIND);
  return kind === QUEUE_SPLIT || kind === QUEUE_PACKED;
}

/** Among the queues of the worker. */
function hasGuests(): bool {
  const queues = atomic.load<u32>(workerRecord + WK_RXQ_COUNT);
  for (let i: u32 = 0; i < queues; i++) {
    if (isGuests(queueAddress(load<u32>(workerRecord + WK_RXQ + i * 4)))) return true;
  }
  return false;
}

/** A worker that polls needs none. After the first breath, since whoever has woken it waits for that. */
function notificationsOff(): void {
  drowsy = false;
  const queues = atomic.load<u32>(workerRecord + WK_RXQ_COUNT);
  for (let i: u32 = 0; i < queues; i++) {
    wake(queueAddress(load<u32>(workerRecord + WK_RXQ + i * 4)));
  }
}

/**
 * To be called when no packet is in hand: what was unlinked before the acknowledged generation cannot be met any more.
 * Injected packets bring their programs with them, so those that were in the ring when the generation was seen
 * come first, however many bursts they are.
 */
function acknowledge(): void {
  if (!seen) {
    const generation = atomic.load<u32>(CONTROL_BASE + CTL_GENERATION);
    if (generation === load<u32>(workerRecord + WK_ACK)) return;
    seen = true;
    seenGeneration = generation;
    seenHead = injectHead();
  }
  if (!injectedUpTo(seenHead)) return;
  seen = false;
  atomic.store<u32>(workerRecord + WK_ACK, seenGeneration);
}

/** Has the host loop system calls to make? */
function owesCalls(): bool {
  return (load<u32>(workerRecord, WK_CALL_COUNT) | load<u32>(workerRecord, WK_FLUSH_COUNT)) !== 0;
}

/** The same, or upcalls of which the main thread has to be told. */
function owesAnything(): bool {
  return owesCalls() || load<u32>(workerRecord, WK_UPCALLS_POSTED) !== 0;
}

function receive(queue: u32): i32 {
  const q = queueAddress(queue);
  if (load<u32>(q + Q_BROKEN) !== 0) return 0;
  const packets = privateBase + PV_PACKETS;
  store<u32>(workerRecord + WK_CURRENT_RXQ, queue);
  const n = rxBurst(q, packets, BURST_MAX);
  if (n > 0) {
    packetQueue = q;
    heldBegin();
    const port = load<u32>(q + Q_PORT);
    const flags = load<u32>(portAddress(port) + PT_FLAGS);
    if ((flags & (PORT_UP | PORT_NO_RX)) === PORT_UP) {
      const burst = privateBase + S_BURST;
      for (let i = 0; i < n; i++) store<u32>(burst + (i << 2), packets + i * PKT_SIZE);
      const relay = load<u32>(portAddress(port) + PT_RELAY);
      if (relay !== 0) {
        txBurst(relay - 1, burst, n);
      } else if (load<u32>(portAddress(port) + PT_SIMPLE) !== 0) {
        simpleBurst(packets, n, port);
      } else if (!plainBurst(q, packets, n, port)) {
        parseBurst(packets, n);
        runBurst(n);
      }
    } else {
      countDrop(port, (flags & PORT_UP) === 0 ? DROP_RX_DISABLED : DROP_STP, n);
    }
    rxDone(q);
    addStat(WK_BATCHES, 1);
    addStat(WK_PACKETS, <f64>n);
  }
  store<u32>(workerRecord + WK_CURRENT_RXQ, ~0);
  return n;
}

/**
 * The time since the last call is what the last poll took: busy if it found packets, but for its empty looks, shared among
 * their queues.
 */
function account(nowNs: f64): void {
  let passed = nowNs - lastNs;
  lastNs = nowNs;
  if (atomic.load<u32>(workerRecord + WK_CLEAR) !== 0) {
    memory.fill(workerRecord + WK_BUSY_NS, 0, WK_RECIRC + 8 - WK_BUSY_NS);
    store<f64>(workerRecord + WK_SIMPLE_HITS, 0);
    store<f64>(workerRecord + WK_BUSY_POLLS, 0);
    atomic.store<u32>(workerRecord + WK_CLEAR, 0);
  }
  addStat(WK_POLLS, 1);
  if (lastPackets === 0) {
    addStat(WK_IDLE_NS, passed);
    if (looks === 0) return;
    const each = passed / <f64>looks;
    if (each < EMPTY_LOOK_MAX_NS) emptyLookNs += (each - emptyLookNs) / 16;
    return;
  }
  const idle = min<f64>(<f64>emptyLooks * emptyLookNs, passed);
  addStat(WK_IDLE_NS, idle);
  passed -= idle;
  addStat(WK_BUSY_NS, passed);
  addStat(WK_BUSY_POLLS, 1);
  for (let i: u32 = 0; i < busyQueues; i++) {
    const at = privateBase + S_BUSY + i * 8;
    const busy = queueAddress(load<u32>(at)) + Q_BUSY_NS;
    const share = (passed * <f64>load<u32>(at, 4)) / <f64>lastPackets;
    store<f64>(busy, load<f64>(busy) + share);
  }
  busyQueues = 0;
}

/**
 * Turns the notifications of all queues on. Returns true when the worker may go to sleep: nothing was pending on any
 * queue, and anything that comes from now on makes a descriptor readable. Otherwise everything is as before.
 */
export function sleep(): bool {
  const queues = load<u32>(workerRecord + WK_RXQ_COUNT);
  let quiet = true;
  let i: u32 = 0;
  while (i < queues && quiet) {
    const q = queueAddress(load<u32>(workerRecord + WK_RXQ + i * 4));
    quiet = load<u32>(q + Q_BROKEN) !== 0 || prepareSleep(q);
    i++;
  }
  // The main thread closes descriptors of sleepers: nobody falls asleep who has still a doorbell to ring.
  if (owesCalls()) quiet = false;
  if (quiet) {
    // From here on the main thread rings the worker's bell after an injection or a change; what it did before is
    // seen by the looks behind the store. The end is one of them: its bell may have been taken with one before.
    atomic.store<u32>(workerRecord + WK_STATE, 2);
    if (
      injectEmpty() &&
      atomic.load<u32>(workerRecord + WK_STOP) === 0 &&
      atomic.load<u32>(workerRecord + WK_CLEAR) === 0 &&
      atomic.load<u32>(workerRecord + WK_RXQ_COUNT) === queues &&
      atomic.load<u32>(CONTROL_BASE + CTL_GENERATION) === load<u32>(workerRecord + WK_ACK)
    ) {
      addStat(WK_SLEEPS, 1);
      return true;
    }
    atomic.store<u32>(workerRecord + WK_STATE, 1);
  }
  while (i > 0) {
    i--;
    wake(queueAddress(load<u32>(workerRecord + WK_RXQ + i * 4)));
  }
  return false;
}

/**
 * Back to polling, after sleep() returned true. The time asleep is neither busy nor idle. What has woken the worker may take a
 * moment to arrive: one patience from here.
 */
export function wakeUp(lowNs: u32): void {
  atomic.store<u32>(workerRecord + WK_STATE, 1);
  drowsy = true;
  lastNs = tick(lowNs);
  packetNs = lastNs;
  awakeNs = lastNs;
  lastPackets = 0;
  busyQueues = 0;
}

/** After a crash in another instance of this worker: gives the packets of the burst back unsent. */
export function abandon(queue: u32): void {
  rxDone(queueAddress(queue));
}

/** For the main thread's instance, which writes the table: the hash of a key under a subtable's mask. */
export function hashOf(key: u32, subtable: u32): u32 {
  return flowHash(key, subtable);
}

// For the main thread's instance: connection tracking (dataplane/ct/control.ts).

export function ctAttach(holder: u32): void {
  startTracking(holder);
}

export function ctSweep(first: u32, n: u32, nowMs: f64): u32 {
  return sweepConnections(first, n, nowMs);
}

export function ctFlush(n: u32, revision: u32): bool {
  return flushConnection(n, revision);
}

export function ctFlushTuple(nowMs: f64): bool {
  return flushTuple(nowMs);
}
