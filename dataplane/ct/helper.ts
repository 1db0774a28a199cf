// Helpers (ct with alg=ftp or alg=tftp): they read the messages of a control connection, expect the data connections that
// these announce, and rewrite the announced address where the connection is translated. What they accept is what Open
// vSwitch's userspace conntrack accepts, but for this: a client announces with PORT and EPRT alone, a server with replies
// 227 and 229 at the start of a segment, so that nobody can make the other end open its ports by having it quote a text;
// EPRT and EPSV work over IPv4, too; and a connection that was itself expected announces nothing.

import { CT_ALG_FTP, CT_ALG_TFTP } from '../../contract/action.ts';
import {
  CN_DST,
  CN_FLAGS,
  CN_META,
  CN_PORTS,
  CN_REPLY_DST,
  CN_REPLY_PORTS,
  CN_REPLY_SRC,
  CN_SRC,
  CNF_EXPECTED,
  CNF_FTP,
  CNF_TFTP,
  CTK_INV_HELPER,
  CTK_INV_REWRITE,
} from '../../contract/ct.ts';
import {
  PKT_HEAD,
  PKT_HEAD_LEN,
  PKT_L4,
  PKT_LEN,
  PKT_SEG_COUNT,
  PKT_SEGS,
} from '../../contract/packet.ts';
import { ipEnd, PROTO_TCP, PROTO_UDP } from '../rewrite.ts';
import { lengthChanged } from './adjust.ts';
import { expect } from './expect.ts';
import {
  ACTIVE,
  addressAt,
  addressBytes,
  ftpPort,
  MALFORMED,
  MESSAGE_MAX,
  OTHER,
  readFtp,
  withCommas,
  writeAddress,
} from './ftpText.ts';
import { count, scratch } from './lock.ts';
import { replaceText } from './replace.ts';
import { isV6, protoOf } from './tuple.ts';

/** In the scratch: the message and zeros behind it, the address that it names, the text that replaces it. */
const MESSAGE: u32 = 0xf400;
const ADDRESS: u32 = 0xf4c0;
const TEXT: u32 = 0xf4e0;

const BE_FTP: u32 = 0x1500;
const BE_TFTP: u32 = 0x4500;
const COMMA: u32 = 44;
const DOT: u32 = 46;

/** The flag of the helper that a new connection gets, 0 = none. `flags`: of the action. */
export function helperFor(meta: u32, flags: u32): u32 {
  const proto = protoOf(meta);
  if ((flags & CT_ALG_FTP) !== 0 && proto === PROTO_TCP) return CNF_FTP;
  return (flags & CT_ALG_TFTP) !== 0 && proto === PROTO_UDP ? CNF_TFTP : 0;
}

/**
 * The helper that has to read this packet of a connection (CNF_*), 0 = none. It stands on the ports that the packet came
 * with: those of the protocol, or any if the action itself names the helper.
 */
export function helperOf(conn: u32, pkt: u32, flags: u32): u32 {
  const own = load<u32>(conn, CN_FLAGS) & (CNF_FTP | CNF_TFTP | CNF_EXPECTED);
  if (own === 0 || (own & CNF_EXPECTED) !== 0) return 0;
  if ((flags & (CT_ALG_FTP | CT_ALG_TFTP)) !== 0) return own;
  const ports = load<u32>(load<u32>(pkt + PKT_HEAD) + load<u16>(pkt + PKT_L4));
  if (own === CNF_TFTP) return ports >> 16 === BE_TFTP ? own : 0;
  return ports >> 16 === BE_FTP || (ports & 0xffff) === BE_FTP ? own : 0;
}

/**
 * Reads the packet, whose connection is locked. `seq`: the TCP sequence number that its sender gave it; `rewrite`: the
 * action translates. False: the packet is invalid, and counted.
 */
export function help(pkt: u32, conn: u32, reply: bool, helper: u32, seq: u32, rewrite: bool): bool {
  if (helper === CNF_FTP) return helpFtp(pkt, conn, reply, seq, rewrite);
  // TFTP (RFC 1350): the server answers each request from a port of its own.
  if (!reply) expect(conn, false, load<u32>(conn, CN_REPLY_PORTS) >> 16, load<u16>(conn, CN_PORTS));
  return true;
}

function helpFtp(pkt: u32, conn: u32, reply: bool, seq: u32, rewrite: bool): bool {
  const head = load<u32>(pkt + PKT_HEAD);
  const l4: u32 = load<u16>(pkt + PKT_L4);
  const payload = l4 + ((<u32>(load<u8>(head + l4, 12) >> 4)) << 2);
  const end = min<u32>(ipEnd(pkt), load<u32>(pkt + PKT_LEN));
  if (payload >= end) return true;
  const message = scratch + MESSAGE;
  copyMessage(pkt, payload, min<u32>(end - payload, MESSAGE_MAX), message);
  const v6 = isV6(load<u32>(conn, CN_META));
  const address = scratch + ADDRESS;
  const kind = readFtp(message, !reply, v6, address);
  if (kind === OTHER) return true;
  // Who announces is seen at this address by the other end, and names this one or its own.
  const seen = conn + (kind === ACTIVE ? CN_REPLY_DST : CN_DST);
  const own = conn + (kind === ACTIVE ? CN_SRC : CN_REPLY_SRC);
  const named = addressBytes !== 0;
  const honest = !named || sameAddress(address, seen) || sameAddress(address, own);
  if (kind === MALFORMED || !honest) {
    count(CTK_INV_HELPER);
    return false;
  }
  const port: u32 = bswap<u16>(<u16>ftpPort);
  if (named && rewrite && !sameAddress(address, seen)) {
    const text = scratch + TEXT;
    const bytes = writeAddress(text, seen, v6, withCommas ? COMMA : DOT);
    const delta = <i32>(bytes - addressBytes);
    if (!replaceText(pkt, payload + addressAt, addressBytes, text, bytes)) {
      count(CTK_INV_REWRITE);
      return false;
    }
    if (delta !== 0) lengthChanged(conn, reply, seq, delta);
  }
  expect(conn, reply, port, 0);
  return true;
}

function sameAddress(a: u32, b: u32): bool {
  return !v128.any_true(v128.xor(v128.load(a), v128.load(b)));
}

/** Copies `bytes` bytes of the frame from offset `from`, and zeros behind them. */
function copyMessage(pkt: u32, from: u32, bytes: u32, to: u32): void {
  memory.fill(to, 0, MESSAGE_MAX + 16);
  const headBytes = load<u32>(pkt + PKT_HEAD_LEN);
  const end = pkt + PKT_SEGS + load<u32>(pkt + PKT_SEG_COUNT) * 8;
  let segment = pkt + PKT_SEGS;
  let skip = from;
  let left = bytes;
  if (from < headBytes) {
    const n = min<u32>(headBytes - from, left);
    memory.copy(to, load<u32>(pkt + PKT_HEAD) + from, n);
    to += n;
    left -= n;
    skip = headBytes;
  }
  skip -= headBytes;
  for (; segment < end && left !== 0; segment += 8) {
    const size = load<u32>(segment, 4);
    if (skip >= size) {
      skip -= size;
      continue;
    }
    const n = min<u32>(size - skip, left);
    memory.copy(to, load<u32>(segment) + skip, n);
    to += n;
    left -= n;
    skip = 0;
  }
}
