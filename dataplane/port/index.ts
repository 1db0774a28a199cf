// Ports as the rest of the data plane sees them: bursts in, bursts out, whatever kind of ring is behind.
//
//   rxBurst -> (parse, look up, act) -> txBurst ... -> rxDone
//
// One receive burst is in hand at a time: its payload stays with the guest or the device until rxDone().

import { DROP_RX_DISABLED } from '../../contract/drop.ts';
import { FQ_HEAD, FQ_TAKEN } from '../../contract/frame.ts';
import { BURST_MAX, PKT_GSO_TYPE, PKT_HEAD, PKT_LEN, PKT_SIZE } from '../../contract/packet.ts';
import {
  portAddress,
  Q_BROKEN,
  Q_ENABLED,
  Q_KIND,
  Q_PORT,
  QUEUE_FRAME,
  QUEUE_PACKED,
  QUEUE_SPLIT,
  QUEUE_XDP,
} from '../../contract/port.ts';
import { countDrop } from '../drop.ts';
import { countBegin, countFrame, countReceived } from './count.ts';
import { frameRxBurst, frameRxDone } from './frame.ts';
import { heldBegin, heldFinish, heldVisible } from './held.ts';
import { kicksOff, kicksOn } from './notify.ts';
import { packedReceive, packedReceiveDone } from './packed.ts';
import { splitReceive, splitReceiveDone } from './split.ts';
import { txBurst } from './transmit.ts';
import { windowOpen } from './window.ts';
import { xdpRxBurst, xdpRxDone } from './xdp.ts';

// (asc does not know `export … from` with an extension.)
export { heldBegin, txBurst };

/**
 * Receives up to `max` (at most BURST_MAX) packets from the queue whose record is at `q` into the packet records from
 * `first` on, PKT_SIZE apart; returns how many. Bad packets are counted as drops and are not among them. If it returns
 * more than 0, rxDone() must follow, after everything that needs the payload.
 */
export function rxBurst(q: u32, first: u32, max: i32): i32 {
  const kind = load<u32>(q, Q_KIND);
  if (kind === QUEUE_SPLIT || kind === QUEUE_PACKED) return virtqueueBurst(q, kind, first, max);
  let n: i32 = 0;
  if (kind === QUEUE_FRAME) n = frameRxBurst(q, first, max);
  else if (kind === QUEUE_XDP) n = xdpRxBurst(q, first, max);
  else return 0;
  if (n === 0) rxDone(q);
  else countBurst(q, first, n);
  return n;
}

function virtqueueBurst(q: u32, kind: u32, first: u32, max: i32): i32 {
  if (load<u32>(q, Q_BROKEN) !== 0) return 0;
  const port = load<u32>(q, Q_PORT);
  const limit = min<u32>(max, BURST_MAX);
  windowOpen(port, portAddress(port));
  let n = kind === QUEUE_SPLIT ? splitReceive(q, first, limit) : packedReceive(q, first, limit);
  if (atomic.load<u32>(q + Q_ENABLED) === 0 && n !== 0) {
    countDrop(port, DROP_RX_DISABLED, n);
    n = 0;
  }
  if (n === 0)
    rxDone(q); // chains without packets
  else kicksOff(q);
  return n;
}

/** Kinds of queue that leave counting to us. */
function countBurst(q: u32, first: u32, n: u32): void {
  let gso: u32 = 0;
  countBegin();
  const end = first + n * PKT_SIZE;
  for (let packet = first; packet < end; packet += PKT_SIZE) {
    gso += load<u8>(packet, PKT_GSO_TYPE) !== 0 ? 1 : 0;
    countFrame(load<u32>(packet, PKT_HEAD), load<u32>(packet, PKT_LEN));
  }
  countReceived(q, load<u32>(q, Q_PORT), gso);
}

/** Gives the buffers of the burst back to their owner, and tells it if it wants to know. */
export function rxDone(q: u32): void {
  const kind = load<u32>(q, Q_KIND);
  if (kind === QUEUE_SPLIT) splitReceiveDone(q);
  else if (kind === QUEUE_PACKED) packedReceiveDone(q);
  else {
    heldVisible();
    if (kind === QUEUE_FRAME) frameRxDone(q);
    else if (kind === QUEUE_XDP) xdpRxDone(q);
  }
  heldFinish(0);
}

/** Before the worker sleeps: asks for a wake-up and looks once more. True = nothing pending, it may sleep. */
export function prepareSleep(q: u32): boolean {
  const kind = load<u32>(q, Q_KIND);
  if (kind === QUEUE_SPLIT || kind === QUEUE_PACKED) return kicksOn(q);
  if (kind === QUEUE_FRAME) return atomic.load<u32>(q + FQ_HEAD) === load<u32>(q + FQ_TAKEN);
  return true; // the descriptors that the host loop waits on stay readable
}

/** After sleeping: no wake-ups needed while the worker polls. */
export function wake(q: u32): void {
  const kind = load<u32>(q, Q_KIND);
  if (kind !== QUEUE_SPLIT && kind !== QUEUE_PACKED) return;
  if (load<u32>(q, Q_BROKEN) === 0) kicksOff(q);
}
