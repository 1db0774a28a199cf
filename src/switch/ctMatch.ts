// Flushing of tracked connections by parts of their tuples: what dpctl/flush-conntrack and NXT_CT_FLUSH ask for, in text
// ("ct_nw_src=10.0.0.1,ct_nw_proto=6,ct_tp_dst=80", ovs-dpctl(8)) and in deed.

import type { Conntrack, CtConnection, CtTuple } from '../engine/conntrackTypes.ts';
import { formatIpv6 } from '../wire/openflow/address.ts';
import {
  anyTuple,
  type CtFlushMatch,
  type CtPartialTuple,
  familyOf,
  isAnyTuple,
} from '../wire/openflow/ctFlush.ts';
import { equal, IPPROTO_ICMP, IPPROTO_ICMPV6 } from './flow.ts';
import { parseIpv4, parseIpv6 } from './textAddress.ts';

/** Bad text; the message is what ovs-appctl shows. */
export class CtMatchError extends Error {}

function fail(text: string): never {
  throw new CtMatchError(text);
}

const isIcmp = (proto: number): boolean => proto === IPPROTO_ICMP || proto === IPPROTO_ICMPV6;

function number(key: string, value: string, max: number): number {
  const n = /^(0x[0-9a-f]+|\d+)$/i.test(value) ? Number(value) : Number.NaN;
  return n <= max ? n : fail(`failed to parse field ${key}`);
}

function setAddress(
  match: CtFlushMatch,
  tuple: CtPartialTuple,
  key: string,
  value: string,
  bytes: 4 | 16,
): void {
  const end = key.endsWith('src') ? 'src' : 'dst';
  const family = familyOf(match);
  if (family !== 0 && family !== (bytes === 4 ? 4 : 6)) {
    fail(`the L3 protocol does not match ${value}`);
  }
  if (tuple[end] !== undefined) fail(`${key} is set multiple times`);
  tuple[end] =
    (bytes === 4 ? parseIpv4(value) : parseIpv6(value)) ?? fail(`failed to parse field ${key}`);
}

const ICMP_FIELDS: ReadonlyMap<string, readonly ['icmpId' | 'icmpType' | 'icmpCode', number]> =
  new Map([
    ['icmp_id', ['icmpId', 0xffff]],
    ['icmp_type', ['icmpType', 0xff]],
    ['icmp_code', ['icmpCode', 0xff]],
  ]);

/** Adds the text of one tuple to a match. Throws CtMatchError. */
export function parseCtTuple(match: CtFlushMatch, tuple: CtPartialTuple, text: string): void {
  for (const item of text.split(/[\s,]+/).filter((part) => part !== '')) {
    const [, key = item, value = ''] = /^([^=(:]*)[=(:]?(.*?)\)?$/.exec(item) ?? [];
    if (value === '') fail(`field ${key} missing value`);
    const icmp = ICMP_FIELDS.get(key);
    if (key === 'ct_nw_src' || key === 'ct_nw_dst') {
      setAddress(match, tuple, key, value, 4);
    } else if (key === 'ct_ipv6_src' || key === 'ct_ipv6_dst') {
      setAddress(match, tuple, key, value, 16);
    } else if (key === 'ct_nw_proto') {
      match.proto = number(key, value, 0xff);
    } else if (key === 'ct_tp_src') {
      tuple.srcPort = number(key, value, 0xffff);
    } else if (key === 'ct_tp_dst') {
      tuple.dstPort = number(key, value, 0xffff);
    } else if (icmp !== undefined) {
      if (!isIcmp(match.proto)) fail('invalid L4 fields');
      tuple[icmp[0]] = number(key, value, icmp[1]);
    } else {
      fail(`invalid conntrack tuple field: ${key}`);
    }
  }
  if (match.proto === 0 && (tuple.srcPort | tuple.dstPort) !== 0) {
    fail('port is set without protocol');
  }
}

/** A match from the texts of the original and the reply tuple. Throws CtMatchError. */
export function parseCtMatch(orig: string, reply = ''): CtFlushMatch {
  const match: CtFlushMatch = { proto: 0, orig: anyTuple(), reply: anyTuple() };
  parseCtTuple(match, match.orig, orig);
  parseCtTuple(match, match.reply, reply);
  return match;
}

function addressFits(wanted: Uint8Array | undefined, address: Uint8Array): boolean {
  if (wanted === undefined) return true;
  return wanted.length === address.length && equal(wanted, address, 0, wanted.length);
}

function tupleFits(wanted: CtPartialTuple, tuple: CtTuple, proto: number): boolean {
  if (!addressFits(wanted.src, tuple.src) || !addressFits(wanted.dst, tuple.dst)) return false;
  if (isIcmp(proto)) {
    return (
      wanted.icmpId === tuple.icmpId &&
      wanted.icmpType === tuple.icmpType &&
      wanted.icmpCode === tuple.icmpCode
    );
  }
  return (
    (wanted.srcPort === 0 || wanted.srcPort === tuple.srcPort) &&
    (wanted.dstPort === 0 || wanted.dstPort === tuple.dstPort)
  );
}

export function connectionFits(match: CtFlushMatch, connection: CtConnection): boolean {
  const { orig, reply } = connection;
  const family = familyOf(match);
  if (family !== 0 && orig.src.length !== (family === 4 ? 4 : 16)) return false;
  if (match.proto !== 0 && match.proto !== orig.proto) return false;
  return tupleFits(match.orig, orig, match.proto) && tupleFits(match.reply, reply, match.proto);
}

/** The tuple, if the match names a whole one of the original direction and nothing else. */
function wholeTuple({ proto, orig, reply }: CtFlushMatch): CtTuple | undefined {
  const { src, dst } = orig;
  if (src === undefined || dst === undefined || !isAnyTuple(reply)) return undefined;
  if (!isIcmp(proto) && (orig.srcPort === 0 || orig.dstPort === 0)) return undefined;
  return { ...orig, src, dst, proto };
}

/**
 * Ends the connections that the match describes (all without one), of a zone (or all). False: the match names one
 * connection by its whole tuple, and it does not exist. That parts of a tuple fit none is no failure.
 */
export function flushConnections(
  conntrack: Conntrack,
  zone: number | undefined,
  match: CtFlushMatch | undefined,
): boolean {
  if (match === undefined) {
    conntrack.flush(zone);
    return true;
  }
  const tuple = wholeTuple(match);
  // Without a zone Open vSwitch means zone 0 here.
  if (tuple !== undefined) return conntrack.flushTuple(tuple, zone ?? 0);
  const found = [...conntrack.dump(zone)].filter((connection) => connectionFits(match, connection));
  for (const connection of found) conntrack.flushTuple(connection.orig, connection.zone);
  return true;
}

function tupleText(tuple: CtPartialTuple, proto: number, family: 0 | 4 | 6): string {
  const [source, destination] =
    family === 4 ? ['ct_nw_src', 'ct_nw_dst'] : ['ct_ipv6_src', 'ct_ipv6_dst'];
  const address = (bytes: Uint8Array | undefined): string =>
    bytes === undefined ? '::' : bytes.length === 4 ? bytes.join('.') : formatIpv6(bytes);
  const { src, dst, srcPort, dstPort, icmpId, icmpType, icmpCode } = tuple;
  const ports = isIcmp(proto)
    ? `icmp_id=${icmpId},icmp_type=${icmpType},icmp_code=${icmpCode}`
    : `ct_tp_src=${srcPort},ct_tp_dst=${dstPort}`;
  return `${source}=${address(src)},${destination}=${address(dst)},${ports}`;
}

/** What a flush is about, for the log. */
export function ctFlushText(zone: number | undefined, match: CtFlushMatch | undefined): string {
  if (match === undefined) return zone === undefined ? '<all>' : `zone ${zone}`;
  const { proto, orig, reply } = match;
  const family = familyOf(match);
  const [first, second] = [orig, reply].map((tuple) => tupleText(tuple, proto, family));
  return `zone=${zone ?? 0} '${first},ct_nw_proto=${proto}' '${second}'`;
}
