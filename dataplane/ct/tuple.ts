// Tuples (TU_*, contract/ct.ts): what connections are looked up by. Reversal, hash, comparison with a record.

import {
  CN_DST,
  CN_META,
  CN_PORTS,
  CN_REPLY_DST,
  CN_REPLY_PORTS,
  CN_REPLY_SRC,
  CN_SRC,
  CT_CONTROL,
  CTC_SEED,
  TU_DST,
  TU_FLAGS,
  TU_HASH,
  TU_META,
  TU_PORTS,
  TU_SRC,
} from '../../contract/ct.ts';
import { PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP } from '../rewrite.ts';

/** TU_FLAGS: the tuple is that of the packet inside an ICMP error. */
export const RELATED: u32 = 1;

export function protoOf(meta: u32): u32 {
  return (meta >> 16) & 0xff;
}

export function isV6(meta: u32): bool {
  return meta >> 24 === 6;
}

export function hasPorts(meta: u32): bool {
  const proto = protoOf(meta);
  return proto === PROTO_TCP || proto === PROTO_UDP;
}

/** The type of the message that answers an ICMP query; types without one stay. */
function reverseIcmp(meta: u32, type: u32): u32 {
  if (isV6(meta)) return type === 128 ? 129 : type === 129 ? 128 : type;
  if (type === 8 || type === 0) return 8 - type; // echo
  if (type >= 13 && type <= 16) return ((type - 13) ^ 1) + 13; // timestamp, information
  return type;
}

/** Ports of the other direction. ICMP keeps its id and exchanges the type (contract/ct.ts, CN_PORTS). */
function reversePorts(meta: u32, ports: u32): u32 {
  const proto = protoOf(meta);
  if (proto === (isV6(meta) ? PROTO_ICMPV6 : PROTO_ICMP)) {
    return (ports & 0xff00ffff) | (reverseIcmp(meta, (ports >> 16) & 0xff) << 16);
  }
  return rotl<u32>(ports, 16);
}

/** Writes the tuple of the other direction of `from` to `to`, which may be the same; the hash as well. */
export function reverseTuple(to: u32, from: u32): void {
  const source = v128.load(from, TU_SRC);
  const destination = v128.load(from, TU_DST);
  const meta = load<u32>(from, TU_META);
  v128.store(to, destination, TU_SRC);
  v128.store(to, source, TU_DST);
  store<u32>(to, reversePorts(meta, load<u32>(from, TU_PORTS)), TU_PORTS);
  store<u32>(to, meta, TU_META);
  store<u32>(to, load<u32>(from, TU_FLAGS), TU_FLAGS);
  hashTuple(to);
}

/** Copies the tuple of one direction of a connection. */
export function tupleOf(to: u32, conn: u32, reply: bool): void {
  v128.store(to, v128.load(conn + (reply ? CN_REPLY_SRC : CN_SRC)), TU_SRC);
  v128.store(to, v128.load(conn + (reply ? CN_REPLY_DST : CN_DST)), TU_DST);
  store<u32>(to, load<u32>(conn + (reply ? CN_REPLY_PORTS : CN_PORTS)), TU_PORTS);
  store<u32>(to, load<u32>(conn, CN_META), TU_META);
  hashTuple(to);
}

function product(a: u32, b: u32): u64 {
  return <u64>a * <u64>b;
}

export function sameTuple(a: u32, b: u32): bool {
  if (load<u32>(a, TU_PORTS) !== load<u32>(b, TU_PORTS)) return false;
  if (load<u32>(a, TU_META) !== load<u32>(b, TU_META)) return false;
  const source = v128.xor(v128.load(a, TU_SRC), v128.load(b, TU_SRC));
  const destination = v128.xor(v128.load(a, TU_DST), v128.load(b, TU_DST));
  return !v128.any_true(v128.or(source, destination));
}

/** A keyed hash of the NH family: whoever does not know the keys cannot choose tuples that collide. */
export function hashTuple(tuple: u32): void {
  const keys = CT_CONTROL + CTC_SEED;
  const meta = load<u32>(tuple, TU_META);
  let h = product(load<u32>(tuple, TU_PORTS) + load<u32>(keys), meta + load<u32>(keys, 4));
  h += product(
    load<u32>(tuple, TU_SRC) + load<u32>(keys, 8),
    load<u32>(tuple, TU_DST) + load<u32>(keys, 12),
  );
  if (isV6(meta)) {
    for (let i: u32 = 4; i < 16; i += 4) {
      h += product(
        load<u32>(tuple + i, TU_SRC) + load<u32>(keys + (i << 1), 8),
        load<u32>(tuple + i, TU_DST) + load<u32>(keys + (i << 1), 12),
      );
    }
  }
  h = (h ^ (h >> 32)) * 0xd6e8feb86659fd93;
  store<u32>(tuple, <u32>(h ^ (h >> 32)), TU_HASH);
}

/** Whether packets of this direction of the connection have the tuple. */
export function matches(conn: u32, reply: bool, tuple: u32): bool {
  if (load<u32>(conn, CN_META) !== load<u32>(tuple, TU_META)) return false;
  const ports = load<u32>(conn + (reply ? CN_REPLY_PORTS : CN_PORTS));
  if (ports !== load<u32>(tuple, TU_PORTS)) return false;
  const source = v128.load(conn + (reply ? CN_REPLY_SRC : CN_SRC));
  const destination = v128.load(conn + (reply ? CN_REPLY_DST : CN_DST));
  return !v128.any_true(
    v128.or(
      v128.xor(source, v128.load(tuple, TU_SRC)),
      v128.xor(destination, v128.load(tuple, TU_DST)),
    ),
  );
}
