// Choosing the translation of a new connection: the tuple of its replies, such that no connection of the zone has it
// yet. Address by hash of the tuple over the range, then ports as Open vSwitch tries them: the hash's place in a range
// that was given, else the packet's own port first and then its class (1-511, 600-1023, 1024-65535); 128 tries in a
// row, then ever shorter rows from random places.

import {
  CT_NAT_DST,
  CT_NAT_PERSISTENT,
  CT_NAT_RANDOM,
  CT_NAT_SRC,
  CT_NAT_V6,
} from '../../contract/action.ts';
import { TU_DST, TU_HASH, TU_META, TU_PORTS, TU_SRC } from '../../contract/ct.ts';
import { isTaken } from './table.ts';
import { now } from './timeout.ts';
import { hashTuple, hasPorts, isV6, reverseTuple } from './tuple.ts';

const TRIES: u32 = 128;
const TRIES_MIN: u32 = 16;

let randomState: u32 = 1;

function random(): u32 {
  randomState = randomState * 1664525 + 1013904223 + now;
  return randomState ^ (randomState >> 16);
}

function mix(a: u32, b: u32): u32 {
  const h = (<u64>(a ^ 0x9e3779b9) * 0xff51afd7 + b) * 0xd6e8feb86659fd93;
  return <u32>(h ^ (h >> 32));
}

/**
 * Writes to `reply` the tuple of the replies to connection `tuple`, translated as the action's words (`program` points
 * behind its header) say. False: no free one was found. A kind of address that does not fit the packet translates
 * nothing, like a range of zeros; neither does an action without SRC and DST.
 */
export function chooseTranslation(program: u32, flags: u32, tuple: u32, reply: u32): bool {
  reverseTuple(reply, tuple);
  if ((flags & (CT_NAT_SRC | CT_NAT_DST)) === 0) return true;
  const meta = load<u32>(tuple, TU_META);
  const source = (flags & CT_NAT_SRC) !== 0;
  const salt = (flags & CT_NAT_RANDOM) !== 0 ? random() : 0;
  const hash = mix(load<u32>(tuple, TU_HASH), salt);
  // Persistent: a client has the same address for all of its connections.
  const client = (flags & CT_NAT_PERSISTENT) !== 0 ? clientHash(tuple) : hash;
  if (isV6(meta) === ((flags & CT_NAT_V6) !== 0)) {
    const at = reply + (source ? TU_DST : TU_SRC);
    if (isV6(meta)) address6(at, program + 52, program + 68, client);
    else address4(at, load<u32>(program, 52), load<u32>(program, 68), client);
  }
  if (!hasPorts(meta)) {
    hashTuple(reply);
    return !isTaken(reply);
  }
  // Packets of the connection leave with: source port = the reply's destination, destination port = its source.
  const ports = load<u32>(tuple, TU_PORTS);
  const range = load<u32>(program, 84);
  const low = range & 0xffff;
  const high = max<u32>(range >> 16, low);
  const given = range !== 0;
  const ownSource: u32 = bswap<u16>(<u16>ports);
  if (given && source) {
    return tryPorts(reply, false, low + (hash % (high - low + 1)), low, high);
  }
  if (given && tryPorts(reply, true, low + (hash % (high - low + 1)), low, high)) return true;
  const from: u32 = ownSource < 512 ? 1 : ownSource < 1024 ? 600 : 1024;
  const to: u32 = ownSource < 512 ? 511 : ownSource < 1024 ? 1023 : 65535;
  return tryPorts(reply, false, ownSource, from, to);
}

function clientHash(tuple: u32): u32 {
  let h: u32 = 0;
  for (let i: u32 = 0; i < 16; i += 4) h = mix(h, load<u32>(tuple + i, TU_SRC));
  return h;
}

/** Zeros as range leave the address alone: the words are those of the action, in network order. */
function address4(at: u32, lowest: u32, highest: u32, hash: u32): void {
  if (lowest === 0) return;
  const low = bswap<u32>(lowest);
  const high = max<u32>(bswap<u32>(highest), low);
  const span = <u64>high - low + 1;
  store<u32>(at, bswap<u32>(low + <u32>(<u64>hash % span)));
}

function address6(at: u32, lowest: u32, highest: u32, hash: u32): void {
  if (!v128.any_true(v128.load(lowest))) return;
  const lowHigh = bswap<u64>(load<u64>(lowest));
  const lowLow = bswap<u64>(load<u64>(lowest, 8));
  const highHigh = bswap<u64>(load<u64>(highest));
  const highLow = bswap<u64>(load<u64>(highest, 8));
  // At most 2^32 addresses of a range are used.
  let span: u64 = 0xffffffff;
  const difference = highLow - lowLow;
  const borrow: u64 = highLow < lowLow ? 1 : 0;
  if (highHigh - lowHigh - borrow === 0) span = min<u64>(difference, 0xfffffffe) + 1;
  const low = lowLow + (<u64>hash % span);
  const carry: u64 = low < lowLow ? 1 : 0;
  store<u64>(at, bswap<u64>(lowHigh + carry));
  store<u64>(at, bswap<u64>(low), 8);
}

/** Tries ports for the replies' source (`asSource`) or destination, beginning with `port`, which may be outside. */
function tryPorts(reply: u32, asSource: bool, port: u32, low: u32, high: u32): bool {
  const at = reply + TU_PORTS + (asSource ? 0 : 2);
  const first = port;
  const range = high - low + 1;
  let tries = min<u32>(range, TRIES);
  while (true) {
    for (let i: u32 = 0; i < tries; i++) {
      store<u16>(at, bswap<u16>(<u16>port));
      hashTuple(reply);
      if (!isTaken(reply)) return true;
      port = port >= low && port < high ? port + 1 : low;
    }
    if (tries >= range || tries < TRIES_MIN) break;
    tries >>= 1;
    port = low + (random() % range);
  }
  store<u16>(at, bswap<u16>(<u16>first));
  hashTuple(reply);
  return false;
}
