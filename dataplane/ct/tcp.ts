// TCP in the connection table: states of both ends and their windows, as Open vSwitch tracks them after pf.
// The checks are those of van Rooij, "Real Stateful TCP Packet Filtering in IP Filter" (2001): a segment must lie in the
// window that the other end has opened, and acknowledge what has been sent. RFC 9293 (TCP), RFC 7323 (window scale).

import {
  CN_PEERS,
  CT_CONTROL,
  CT_TCP_CLOSED,
  CT_TCP_CLOSING,
  CT_TCP_ESTABLISHED,
  CT_TCP_FIN_WAIT_2,
  CT_TCP_SYN_SENT,
  CT_TCP_TIME_WAIT,
  CT_TM_TCP_CLOSED,
  CT_TM_TCP_CLOSING,
  CT_TM_TCP_ESTABLISHED,
  CT_TM_TCP_FIN_WAIT,
  CT_TM_TCP_FIRST_PACKET,
  CT_TM_TCP_OPENING,
  CTC_LIBERAL,
  PEER_MAX_WIN,
  PEER_SEQ_HI,
  PEER_SEQ_LO,
  PEER_SIZE,
  PEER_STATE,
  PEER_WSCALE,
  WSCALE_FLAG,
  WSCALE_MASK,
  WSCALE_UNKNOWN,
} from '../../contract/ct.ts';
import { PKT_HEAD, PKT_HEAD_LEN, PKT_L4 } from '../../contract/packet.ts';
import { ipEnd } from '../rewrite.ts';
import {
  setTimeoutKind,
  UPDATE_INVALID,
  UPDATE_NEW,
  UPDATE_VALID,
  UPDATE_VALID_NEW,
} from './timeout.ts';

const FIN: u32 = 1;
const SYN: u32 = 2;
const RST: u32 = 4;
const PSH: u32 = 8;
const ACK: u32 = 16;
const URG: u32 = 32;

const WSCALE_MAX: u32 = 14;
/** How far an acknowledgement may be off: a window without scale and a little more. */
const SLACK: i32 = 0xffff + 1500;

/** Combinations that no stack sends. */
function invalidFlags(flags: u32): bool {
  if (flags & SYN) {
    if (flags & (RST | FIN)) return true;
  } else if ((flags & (ACK | RST)) === 0) {
    return true;
  }
  return (flags & ACK) === 0 && (flags & (FIN | PSH | URG)) !== 0;
}

function flagsOf(tcp: u32): u32 {
  return load<u8>(tcp, 13);
}

/** Address of the TCP header. */
function tcpOf(pkt: u32): u32 {
  return load<u32>(pkt + PKT_HEAD) + load<u16>(pkt + PKT_L4);
}

function payloadBytes(pkt: u32, tcp: u32): u32 {
  return ipEnd(pkt) - load<u16>(pkt + PKT_L4) - ((<u32>(load<u8>(tcp, 12) >> 4)) << 2);
}

/** The window scale option of a SYN: scale | WSCALE_FLAG, 0 = none. */
function windowScale(pkt: u32, tcp: u32): u32 {
  let at = tcp + 20;
  const headEnd = load<u32>(pkt + PKT_HEAD) + load<u32>(pkt + PKT_HEAD_LEN);
  const end = min<u32>(tcp + ((<u32>(load<u8>(tcp, 12) >> 4)) << 2), headEnd);
  let scale: u32 = 0;
  while (at + 3 <= end) {
    const kind = load<u8>(at);
    if (kind === 0) break;
    if (kind === 1) {
      at++;
      continue;
    }
    if (kind === 3) scale = min<u32>(load<u8>(at, 2), WSCALE_MAX) | WSCALE_FLAG;
    at += max<u32>(load<u8>(at, 1), 2);
  }
  return scale;
}

function roundUpShift(value: u32, shift: u32): u32 {
  return (value + (1 << shift) - 1) >> shift;
}

/** a >= b in sequence space. */
function geq(a: u32, b: u32): bool {
  return <i32>(a - b) >= 0;
}

/** Whether the segment may begin a connection: SYN, or anything in mid-stream, but no SYN|ACK. */
export function tcpValidNew(pkt: u32): bool {
  const flags = flagsOf(tcpOf(pkt));
  return !invalidFlags(flags) && (flags & (SYN | ACK)) !== (SYN | ACK);
}

/** Fills in the peers of a new connection whose first segment this is. */
export function tcpBegin(conn: u32, pkt: u32): void {
  const tcp = tcpOf(pkt);
  const flags = flagsOf(tcp);
  const src = conn + CN_PEERS;
  const dst = src + PEER_SIZE;
  const seq = bswap<u32>(load<u32>(tcp, 4));
  let high = seq + payloadBytes(pkt, tcp) + 1;
  let scale = WSCALE_UNKNOWN;
  let otherScale = WSCALE_UNKNOWN;
  if (flags & SYN) {
    high++;
    scale = windowScale(pkt, tcp);
    otherScale = 0;
  }
  if (flags & FIN) high++;
  let window = max<u32>(bswap<u16>(load<u16>(tcp, 14)), 1);
  if (scale & WSCALE_MASK) window = roundUpShift(window, scale & WSCALE_MASK);
  setPeer(src, seq, high, window, scale, CT_TCP_SYN_SENT);
  setPeer(dst, 0, 1, 1, otherScale, CT_TCP_CLOSED);
  setTimeoutKind(conn, CT_TM_TCP_FIRST_PACKET);
}

function setPeer(peer: u32, low: u32, high: u32, window: u32, scale: u32, state: u32): void {
  store<u32>(peer, low, PEER_SEQ_LO);
  store<u32>(peer, high, PEER_SEQ_HI);
  store<u16>(peer, <u16>window, PEER_MAX_WIN);
  store<u8>(peer, <u8>scale, PEER_WSCALE);
  store<u8>(peer, <u8>state, PEER_STATE);
}

function stateOf(peer: u32): i32 {
  return load<u8>(peer, PEER_STATE);
}

function setState(peer: u32, state: i32): void {
  store<u8>(peer, <u8>state, PEER_STATE);
}

function windowOf(peer: u32): u32 {
  return load<u16>(peer, PEER_MAX_WIN);
}

/** A segment of the connection: UPDATE_*. */
export function tcpUpdate(conn: u32, pkt: u32, reply: bool): i32 {
  const tcp = tcpOf(pkt);
  const flags = flagsOf(tcp);
  const src = conn + CN_PEERS + (reply ? PEER_SIZE : 0);
  const dst = conn + CN_PEERS + (reply ? 0 : PEER_SIZE);
  if (invalidFlags(flags)) return UPDATE_INVALID;
  if ((flags & (SYN | ACK)) === SYN) {
    if (stateOf(dst) >= CT_TCP_FIN_WAIT_2 && stateOf(src) >= CT_TCP_FIN_WAIT_2) {
      setState(src, CT_TCP_CLOSED);
      setState(dst, CT_TCP_CLOSED);
      return UPDATE_NEW; // the same ports again, after the end
    }
    if (stateOf(src) <= CT_TCP_SYN_SENT) {
      setState(src, CT_TCP_SYN_SENT);
      setTimeoutKind(conn, CT_TM_TCP_FIRST_PACKET);
      return UPDATE_VALID_NEW;
    }
  }
  const srcScale: u32 = load<u8>(src, PEER_WSCALE);
  const dstScale: u32 = load<u8>(dst, PEER_WSCALE);
  let sws: u32 = 0;
  let dws: u32 = 0;
  if ((flags & SYN) === 0) {
    if (srcScale & dstScale & WSCALE_FLAG) {
      sws = srcScale & WSCALE_MASK;
      dws = dstScale & WSCALE_MASK;
    } else if (srcScale & dstScale & WSCALE_UNKNOWN) {
      sws = WSCALE_MAX;
      dws = WSCALE_MAX;
    }
  }
  let window: u32 = bswap<u16>(load<u16>(tcp, 14));
  const first = bswap<u32>(load<u32>(tcp, 4));
  let seq = first;
  let ack = bswap<u32>(load<u32>(tcp, 8));
  let end = seq + payloadBytes(pkt, tcp);
  if (flags & SYN) end++;
  if (flags & FIN) end++;
  let checkAck = true;
  if (stateOf(src) < CT_TCP_SYN_SENT) {
    // The first segment from this end.
    if ((flags & SYN) !== 0 && (dstScale & WSCALE_FLAG) !== 0) {
      const scale = windowScale(pkt, tcp);
      store<u8>(src, <u8>scale, PEER_WSCALE);
      if (scale & WSCALE_FLAG) {
        sws = scale & WSCALE_MASK;
        window = roundUpShift(window, sws);
        dws = dstScale & WSCALE_MASK;
      } else {
        // Only one end scales, so none does: the window taken from the SYN was none that had been scaled.
        store<u16>(dst, <u16>(windowOf(dst) << (dstScale & WSCALE_MASK)), PEER_MAX_WIN);
        store<u8>(dst, 0, PEER_WSCALE);
      }
    }
    store<u32>(src, seq, PEER_SEQ_LO);
    setState(src, CT_TCP_SYN_SENT);
    const high = end + max<u32>(1, windowOf(dst) << dws);
    const before = load<u32>(src, PEER_SEQ_HI);
    if (before === 1 || geq(high, before)) {
      store<u32>(src, high, PEER_SEQ_HI);
      checkAck = false; // just picked up: nothing is known to compare with
    }
    if (window > windowOf(src)) store<u16>(src, <u16>window, PEER_MAX_WIN);
  }
  const srcLow = load<u32>(src, PEER_SEQ_LO);
  const dstLow = load<u32>(dst, PEER_SEQ_LO);
  // No acknowledgement, or that of a stack that answers a time-out: passes.
  if ((flags & ACK) === 0 || (ack === 0 && (flags & RST) !== 0)) ack = dstLow;
  if (seq === end) {
    seq = srcLow; // carries nothing: its number does not matter
    end = seq;
  }
  const skew = checkAck ? <i32>(dstLow - ack) : 0;
  const srcHigh = load<u32>(src, PEER_SEQ_HI);
  const inWindow =
    geq(srcHigh, end) &&
    geq(seq, srcLow - (windowOf(dst) << dws)) &&
    skew >= -SLACK &&
    skew <= SLACK << (<i32>sws) &&
    ((flags & RST) === 0 || first === srcLow || first === srcLow + 1 || first + 1 === srcLow);
  if (inWindow || load<u32>(CT_CONTROL + CTC_LIBERAL) !== 0) {
    slide(src, dst, window, end, ack, sws);
    if ((flags & FIN) !== 0 && stateOf(src) < CT_TCP_CLOSING) setState(src, CT_TCP_CLOSING);
    if (flags & ACK) {
      if (stateOf(dst) === CT_TCP_SYN_SENT) setState(dst, CT_TCP_ESTABLISHED);
      else if (stateOf(dst) === CT_TCP_CLOSING) setState(dst, CT_TCP_FIN_WAIT_2);
    }
    if (flags & RST) {
      setState(src, CT_TCP_TIME_WAIT);
      setState(dst, CT_TCP_TIME_WAIT);
    }
    setTimeoutKind(conn, timeoutOf(stateOf(src), stateOf(dst)));
    return UPDATE_VALID;
  }
  // SYNs that cross, a connection picked up in the middle, stragglers after the end: let through if near the window,
  // but they do not prolong the connection.
  const loose =
    stateOf(dst) < CT_TCP_SYN_SENT ||
    stateOf(dst) >= CT_TCP_FIN_WAIT_2 ||
    stateOf(src) >= CT_TCP_FIN_WAIT_2;
  if (!loose || !geq(srcHigh + SLACK, end) || !geq(seq, srcLow - SLACK)) return UPDATE_INVALID;
  slide(src, dst, window, end, ack, sws);
  if ((flags & FIN) !== 0 && stateOf(src) < CT_TCP_CLOSING) setState(src, CT_TCP_CLOSING);
  if (flags & RST) {
    setState(src, CT_TCP_TIME_WAIT);
    setState(dst, CT_TCP_TIME_WAIT);
  }
  return UPDATE_VALID;
}

/** What the segment says about the sender's position and about the window that it opens for the other end. */
function slide(src: u32, dst: u32, window: u32, end: u32, ack: u32, sws: u32): void {
  if (windowOf(src) < window) store<u16>(src, <u16>window, PEER_MAX_WIN);
  if (<i32>(end - load<u32>(src, PEER_SEQ_LO)) > 0) store<u32>(src, end, PEER_SEQ_LO);
  const opened = window << sws;
  if (geq(ack + opened, load<u32>(dst, PEER_SEQ_HI))) {
    store<u32>(dst, ack + max<u32>(opened, 1), PEER_SEQ_HI);
  }
}

function timeoutOf(a: i32, b: i32): u32 {
  if (a >= CT_TCP_FIN_WAIT_2 && b >= CT_TCP_FIN_WAIT_2) return CT_TM_TCP_CLOSED;
  if (a >= CT_TCP_CLOSING && b >= CT_TCP_CLOSING) return CT_TM_TCP_FIN_WAIT;
  if (a < CT_TCP_ESTABLISHED || b < CT_TCP_ESTABLISHED) return CT_TM_TCP_OPENING;
  if (a >= CT_TCP_CLOSING || b >= CT_TCP_CLOSING) return CT_TM_TCP_CLOSING;
  return CT_TM_TCP_ESTABLISHED;
}
