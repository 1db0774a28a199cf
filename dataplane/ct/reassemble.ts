// A datagram whose fragments are all there: the packet record that stands for the whole while it is tracked, and the
// fragments that go on afterwards with what tracking has said (dataplane/ct/fragments.ts).

import {
  SL_BYTES,
  SL_CUT,
  SL_FRAME,
  SL_IN_PORT,
  SL_KEY,
  SL_L3,
  SL_LENGTH,
  SL_NEXT,
  SL_OFFSET,
  SL_PAYLOAD,
  SL_RXQ,
} from '../../contract/ctFragments.ts';
import { DROP_RECIRC_LIMIT } from '../../contract/drop.ts';
import {
  KEY_STRIDE,
  PKT_HEAD,
  PKT_HEAD_COPY,
  PKT_HEAD_LEN,
  PKT_HEAD_START,
  PKT_IN_PORT,
  PKT_KEY,
  PKT_LEN,
  PKT_MARK,
  PKT_RXQ,
  PKT_SEG_COUNT,
  PKT_SEGS,
} from '../../contract/packet.ts';
import { freeRecords, keyOf, takeRecord } from '../batch.ts';
import { countDrop } from '../drop.ts';
import { MARK_REWRITTEN } from '../mark.ts';
import { parseAgain } from '../parse.ts';
import { ipv4Checksum } from '../port/checksum.ts';
import { fixChecksum, setWord } from '../rewrite.ts';
import { copyTracking } from './metadata.ts';

/** Bytes of headers before the payload of the whole built last. */
let prefix: u32 = 0;

/** A new record for the datagram whose slots begin with `first`. 0 = no record left. */
export function buildWhole(first: u32): u32 {
  const start = slotAt(first, 0);
  const whole = newRecord(start);
  if (whole === 0) return 0;
  const v6 = load<u32>(start, SL_CUT) !== 0;
  const frame = start + SL_FRAME;
  prefix = v6 ? load<u32>(start, SL_CUT) : load<u32>(start, SL_PAYLOAD);
  const head = whole + PKT_HEAD_START;
  const bytes = load<u32>(start, SL_BYTES);
  const inHead = min<u32>(bytes, PKT_HEAD_COPY - prefix);
  memory.copy(head, frame, prefix);
  memory.copy(head + prefix, frame + load<u32>(start, SL_PAYLOAD), inHead);
  store<u32>(whole + PKT_HEAD_LEN, prefix + inHead);
  let segments: u32 = 0;
  if (bytes > inHead) {
    segments = addSegment(whole, 0, frame + load<u32>(start, SL_PAYLOAD) + inHead, bytes - inHead);
  }
  let total = bytes;
  for (let slot = slotAt(first, total); slot !== 0; slot = slotAt(first, total)) {
    const size = load<u32>(slot, SL_BYTES);
    segments = addSegment(whole, segments, slot + SL_FRAME + load<u32>(slot, SL_PAYLOAD), size);
    total += size;
  }
  store<u32>(whole + PKT_SEG_COUNT, segments);
  store<u32>(whole + PKT_LEN, prefix + total);
  const ip = head + load<u32>(start, SL_L3);
  if (v6) {
    store<u16>(ip, bswap<u16>(<u16>(prefix - load<u32>(start, SL_L3) - 40 + total)), 4);
    unlinkHeader(ip, head + prefix, load<u8>(frame + prefix));
  } else {
    store<u16>(ip, bswap<u16>(<u16>(prefix - load<u32>(start, SL_L3) + total)), 2);
    store<u16>(ip, 0, 6);
    ipv4Checksum(ip, prefix - load<u32>(start, SL_L3));
  }
  parseAgain(whole);
  return whole;
}

/** The slot whose payload begins at `offset`, 0 = none. */
function slotAt(first: u32, offset: u32): u32 {
  for (let slot = first; slot !== 0; slot = load<u32>(slot, SL_NEXT)) {
    if (load<u32>(slot, SL_OFFSET) === offset) return slot;
  }
  return 0;
}

/** An empty record with the key of a slot, 0 = none left. */
function newRecord(slot: u32): u32 {
  if (!freeRecords(1)) return 0;
  const pkt = takeRecord();
  const key = keyOf(pkt);
  memory.fill(pkt, 0, PKT_SEGS);
  memory.copy(key, slot + SL_KEY, KEY_STRIDE);
  store<u32>(pkt + PKT_KEY, key);
  store<u32>(pkt + PKT_HEAD, pkt + PKT_HEAD_START);
  store<u32>(pkt + PKT_IN_PORT, load<u32>(slot, SL_IN_PORT));
  store<u32>(pkt + PKT_RXQ, load<u32>(slot, SL_RXQ));
  return pkt;
}

function addSegment(pkt: u32, count: u32, at: u32, bytes: u32): u32 {
  const segment = pkt + PKT_SEGS + (count << 3);
  store<u32>(segment, at);
  store<u32>(segment, bytes, 4);
  return count + 1;
}

/** IPv6: the header before the fragment header, which is gone, names what came behind it. */
function unlinkHeader(ip: u32, end: u32, next: u32): void {
  let at = ip + 6;
  let header = ip + 40;
  while (load<u8>(at) !== 44 && header < end) {
    const units: u32 = load<u8>(header, 1);
    const size: u32 = load<u8>(at) === 51 ? (units + 2) << 2 : (units + 1) << 3;
    at = header;
    header += size;
  }
  if (load<u8>(at) === 44) store<u8>(at, <u8>next);
}

/**
 * Makes packets of the fragments, in the order in which they came: writes their records to `list`, returns how many.
 * `translated`: their addresses, and the first one's transport header, become those of `whole`.
 */
export function emitFragments(whole: u32, first: u32, list: u32, translated: bool): i32 {
  let n = 0;
  for (let slot = first; slot !== 0; slot = load<u32>(slot, SL_NEXT)) {
    const pkt = newRecord(slot);
    if (pkt === 0) {
      countDrop(load<u32>(slot, SL_IN_PORT), DROP_RECIRC_LIMIT);
      continue;
    }
    const length = load<u32>(slot, SL_LENGTH);
    const inHead = min<u32>(length, PKT_HEAD_COPY);
    const head = pkt + PKT_HEAD_START;
    memory.copy(head, slot + SL_FRAME, inHead);
    store<u32>(pkt + PKT_HEAD_LEN, inHead);
    store<u32>(pkt + PKT_LEN, length);
    if (length > inHead) {
      addSegment(pkt, 0, slot + SL_FRAME + inHead, length - inHead);
      store<u32>(pkt + PKT_SEG_COUNT, 1);
    }
    copyTracking(load<u32>(pkt + PKT_KEY), load<u32>(whole + PKT_KEY));
    parseAgain(pkt); // the key stays what the look-up saw, so before the translation
    if (translated) translateFragment(pkt, slot, whole, inHead);
    store<u32>(list + (n << 2), pkt);
    n++;
  }
  return n;
}

/** Instead of emitFragments(): there is no room for them. */
export function dropFragments(first: u32): void {
  for (let slot = first; slot !== 0; slot = load<u32>(slot, SL_NEXT)) {
    countDrop(load<u32>(slot, SL_IN_PORT), DROP_RECIRC_LIMIT);
  }
}

function translateFragment(pkt: u32, slot: u32, whole: u32, inHead: u32): void {
  store<u32>(pkt + PKT_MARK, MARK_REWRITTEN);
  const head = pkt + PKT_HEAD_START;
  const ip = head + load<u32>(slot, SL_L3);
  const from = whole + PKT_HEAD_START + load<u32>(slot, SL_L3);
  if (load<u32>(slot, SL_CUT) !== 0) {
    memory.copy(ip + 8, from + 8, 32);
  } else {
    const delta =
      setWord(ip + 12, load<u32>(from, 12), ~0) + setWord(ip + 16, load<u32>(from, 16), ~0);
    fixChecksum(ip + 10, delta);
  }
  if (load<u32>(slot, SL_OFFSET) !== 0) return;
  const payload = load<u32>(slot, SL_PAYLOAD);
  const bytes = min<u32>(inHead - payload, load<u32>(whole + PKT_HEAD_LEN) - prefix);
  memory.copy(
    head + payload,
    whole + PKT_HEAD_START + prefix,
    min<u32>(bytes, load<u32>(slot, SL_BYTES)),
  );
}
