// Sequence numbers of a control connection whose messages a helper has made longer or shorter: from there on, what one
// end sends counts differently from what the other end receives. Sequence numbers are adjusted on their way there,
// acknowledgements (RFC 9293) and selective ones (RFC 2018) on the way back. The connection's own record of windows
// always counts as the sender does.

import {
  AD_AFTER,
  AD_BEFORE,
  AD_PLACE,
  ADJUST_SIZE,
  CN_ADJUST,
  CN_FLAGS,
  CNF_ADJUST,
} from '../../contract/ct.ts';
import { PKT_HEAD, PKT_HEAD_LEN, PKT_L4 } from '../../contract/packet.ts';
import { fold } from '../port/checksum.ts';
import { delta32, fixTransport, PROTO_TCP } from '../rewrite.ts';

const ACK: u32 = 16;
const KIND_SACK: u32 = 5;

function adjustOf(conn: u32, reply: bool): u32 {
  return conn + CN_ADJUST + (reply ? ADJUST_SIZE : 0);
}

/** By how much a number is off, as the sender counts it. */
function offsetAt(adjust: u32, number: u32): u32 {
  const after = <i32>(number - load<u32>(adjust, AD_PLACE)) > 0;
  return load<u32>(adjust + (after ? AD_AFTER : AD_BEFORE));
}

/** The same for a number as the receiver counts it. */
function offsetBack(adjust: u32, number: u32): u32 {
  return offsetAt(adjust, number - load<u32>(adjust, AD_BEFORE));
}

/** The segment of direction `reply` with sequence number `seq` has become `delta` bytes longer: once, however often it is sent. */
export function lengthChanged(conn: u32, reply: bool, seq: u32, delta: i32): void {
  const flags = load<u32>(conn, CN_FLAGS);
  if ((flags & CNF_ADJUST) === 0) {
    memory.fill(conn + CN_ADJUST, 0, 2 * ADJUST_SIZE);
    store<u32>(conn, flags | CNF_ADJUST, CN_FLAGS);
  }
  const at = adjustOf(conn, reply);
  const before = load<u32>(at, AD_BEFORE);
  const after = load<u32>(at, AD_AFTER);
  if (before !== after && <i32>(seq - load<u32>(at, AD_PLACE)) <= 0) return;
  store<u32>(at, seq, AD_PLACE);
  store<u32>(at, after, AD_BEFORE);
  store<u32>(at, after + delta, AD_AFTER);
}

function tcpOf(pkt: u32): u32 {
  return load<u32>(pkt + PKT_HEAD) + load<u16>(pkt + PKT_L4);
}

/** Rewrites a number at `at`; one that begins at an odd place counts in the checksum with its bytes exchanged. */
function setNumber(pkt: u32, tcp: u32, at: u32, value: u32): void {
  const before = load<u32>(at);
  const after = bswap<u32>(value);
  if (before === after) return;
  store<u32>(at, after);
  let delta = delta32(before, after);
  if ((at - tcp) & 1) {
    const sum = fold(delta);
    delta = ((sum & 0xff) << 8) | (sum >> 8);
  }
  fixTransport(pkt, tcp + 16, PROTO_TCP, delta);
}

/** On its way in: what the packet of direction `reply` acknowledges becomes what the other end has sent. */
export function adjustAcknowledgement(pkt: u32, conn: u32, reply: bool): void {
  const tcp = tcpOf(pkt);
  if ((<u32>load<u8>(tcp, 13) & ACK) === 0) return;
  const adjust = adjustOf(conn, !reply);
  const ack = bswap<u32>(load<u32>(tcp, 8));
  setNumber(pkt, tcp, tcp + 8, ack - offsetBack(adjust, ack));
  const headEnd = load<u32>(pkt + PKT_HEAD) + load<u32>(pkt + PKT_HEAD_LEN);
  const end = min<u32>(tcp + ((<u32>(load<u8>(tcp, 12) >> 4)) << 2), headEnd);
  let option = tcp + 20;
  while (option + 2 <= end) {
    const kind: u32 = load<u8>(option);
    if (kind === 0) return;
    if (kind === 1) {
      option++;
      continue;
    }
    const next = option + max<u32>(load<u8>(option, 1), 2);
    if (kind === KIND_SACK) {
      for (let edge = option + 2; edge + 4 <= min<u32>(next, end); edge += 4) {
        const number = bswap<u32>(load<u32>(edge));
        setNumber(pkt, tcp, edge, number - offsetBack(adjust, number));
      }
    }
    option = next;
  }
}

/** On its way out: the sequence number becomes that which the receiver expects. */
export function adjustSequence(pkt: u32, conn: u32, reply: bool): void {
  const tcp = tcpOf(pkt);
  const seq = bswap<u32>(load<u32>(tcp, 4));
  setNumber(pkt, tcp, tcp + 4, seq + offsetAt(adjustOf(conn, reply), seq));
}
