// Notifications between driver and device, in both directions and for both ring layouts.
//
// Interrupts ("call"): after a burst became visible, does the driver want to be told? (virtio 1.2, 2.7.7, 2.7.10,
// 2.8.10.) The used index is stored with a sequentially consistent atomic before the driver's wish is read: without
// that store-load barrier, both sides could miss each other.
//
// Kicks: while a worker polls, drivers are told to keep quiet; before it sleeps they are told to speak, and the ring
// is looked at once more. Queues that we fill never want kicks.

import { PC_INTERRUPTS } from '../../contract/counters.ts';
import { MAX_CALLS, WK_CALL_COUNT } from '../../contract/memory.ts';
import { Q_BROKEN, Q_DIR, Q_KIND, Q_PORT, Q_WAIT_FD, QUEUE_SPLIT } from '../../contract/port.ts';
import {
  AVAIL_F_NO_INTERRUPT,
  EVENT_DESC,
  EVENT_DISABLE,
  EVENT_ENABLE,
  NOTIFY_OFF,
  NOTIFY_ON,
  PACKED_FLAGS,
  USED_F_NO_NOTIFY,
  VF_EVENT_IDX,
  VQ_AVAIL,
  VQ_CALL_FD,
  VQ_CALL_PENDING,
  VQ_DESC,
  VQ_FEATURES,
  VQ_INTERRUPTS,
  VQ_LAST_AVAIL,
  VQ_NOTIFY,
  VQ_SIZE,
  VQ_USED,
} from '../../contract/virtqueue.ts';
import { ring, workerRecord } from '../worker.ts';
import { countOne } from './count.ts';
import { isLogging, logUsed } from './dirty.ts';

/** Interrupts the driver; owed (VQ_CALL_PENDING) if the list of doorbells is full. */
export function call(q: u32): void {
  const fd = atomic.load<i32>(q + VQ_CALL_FD);
  if (fd < 0) {
    store<u32>(q, 0, VQ_CALL_PENDING);
    return;
  }
  const full = load<u32>(workerRecord, WK_CALL_COUNT) >= <u32>MAX_CALLS;
  store<u32>(q, full ? 1 : 0, VQ_CALL_PENDING);
  if (full) return;
  ring(fd);
  store<f64>(q, load<f64>(q, VQ_INTERRUPTS) + 1, VQ_INTERRUPTS);
  countOne(load<u32>(q, Q_PORT), PC_INTERRUPTS, 1);
}

/** After the used index of a split ring moved from `before` to `after` (16-bit indices). */
export function splitCall(q: u32, before: u32, after: u32): void {
  const avail = load<u32>(q, VQ_AVAIL);
  let wanted: bool;
  if ((load<u32>(q, VQ_FEATURES) & VF_EVENT_IDX) !== 0) {
    const event = <u32>atomic.load<u16>(avail + 4 + load<u32>(q, VQ_SIZE) * 2);
    wanted = ((after - event - 1) & 0xffff) < ((after - before) & 0xffff);
  } else {
    wanted = (atomic.load<u16>(avail) & AVAIL_F_NO_INTERRUPT) === 0;
  }
  if (wanted || load<u32>(q, VQ_CALL_PENDING) !== 0) call(q);
}

/** After `moved` descriptors of a packed ring became used; `position` is the new one, with wrap bit 15. */
export function packedCall(q: u32, moved: u32, position: u32): void {
  const words = atomic.load<u32>(load<u32>(q, VQ_AVAIL));
  const flags = (words >> 16) & 3;
  let wanted: bool = flags !== EVENT_DISABLE;
  if (flags === EVENT_DESC && (load<u32>(q, VQ_FEATURES) & VF_EVENT_IDX) !== 0) {
    let event = words & 0x7fff;
    if ((words & 0x8000) !== (position & 0x8000)) event -= load<u32>(q, VQ_SIZE);
    wanted = (((position & 0x7fff) - event - 1) & 0xffff) < moved;
  }
  if (wanted || load<u32>(q, VQ_CALL_PENDING) !== 0) call(q);
}

/** Tells the driver not to kick, if it has not been told yet. */
export function kicksOff(q: u32): void {
  if (load<u32>(q, VQ_NOTIFY) !== NOTIFY_OFF) setKicks(q, false);
}

/**
 * Before sleeping: asks for a kick, then looks again. True if the ring is empty, so that a kick will come for
 * whatever is added from now on.
 */
export function kicksOn(q: u32): boolean {
  if (load<u32>(q, Q_BROKEN) !== 0 || load<u32>(q, VQ_SIZE) === 0) return true;
  if (load<u32>(q, VQ_CALL_PENDING) !== 0) call(q);
  if (load<u32>(q, Q_DIR) !== 0) return true;
  // A front-end without a kick descriptor wants to be polled (vhost-user, VHOST_USER_SET_VRING_KICK).
  if (load<i32>(q, Q_WAIT_FD) < 0) return false;
  setKicks(q, true);
  const position = load<u32>(q, VQ_LAST_AVAIL);
  if (load<u32>(q, Q_KIND) === QUEUE_SPLIT) {
    return <u32>atomic.load<u16>(load<u32>(q, VQ_AVAIL) + 2) === (position & 0xffff);
  }
  const at = load<u32>(q, VQ_DESC) + (position & 0x7fff) * 16 + PACKED_FLAGS;
  return !packedAvailable(atomic.load<u16>(at), position);
}

/** Has the driver made the descriptor with these flags available in the lap of this position (wrap bit 15)? */
export function packedAvailable(flags: u32, position: u32): boolean {
  const wrap = position >> 15;
  return ((flags >> 7) & 1) === wrap && flags >> 15 !== wrap;
}

function setKicks(q: u32, on: bool): void {
  const used = load<u32>(q, VQ_USED);
  if (load<u32>(q, Q_KIND) !== QUEUE_SPLIT) {
    atomic.store<u16>(used + 2, <u16>(on ? EVENT_ENABLE : EVENT_DISABLE));
    if (isLogging(q)) logUsed(q, 0, 4);
  } else if ((load<u32>(q, VQ_FEATURES) & VF_EVENT_IDX) !== 0) {
    // The driver kicks when its index passes the event: "behind us" means 65 536 entries of silence.
    const event = load<u32>(q, VQ_LAST_AVAIL) - (on ? 0 : 1);
    const offset = 4 + load<u32>(q, VQ_SIZE) * 8;
    atomic.store<u16>(used + offset, <u16>event);
    if (isLogging(q)) logUsed(q, offset, 2);
  } else {
    atomic.store<u16>(used, <u16>(on ? 0 : USED_F_NO_NOTIFY));
    if (isLogging(q)) logUsed(q, 0, 2);
  }
  store<u32>(q, on ? NOTIFY_ON : NOTIFY_OFF, VQ_NOTIFY);
}
