// The messages of FTP that announce a data connection (RFC 959, sections 4.1.2 and 4.2; RFC 2428), read from a copy of
// the first bytes of a segment, which ends in zeros. What cannot be understood to the end, is not understood.
//
//   PORT 10,1,1,1,200,21             227 Entering Passive Mode (10,1,1,2,200,21).
//   EPRT |2|fd00::1|51221|           229 Entering Extended Passive Mode (|||51221|)

/** Bytes of a message that are looked at. */
export const MESSAGE_MAX: u32 = 128;

export const OTHER = 0; // announces nothing
export const ACTIVE = 1; // the client will listen
export const PASSIVE = 2; // the server listens
export const MALFORMED = 3; // begins like an announcement

/** What readFtp() has found: the port (host order), the address, and where its text stands (0 bytes: there is none). */
export let ftpPort: u32 = 0;
export let addressAt: u32 = 0;
export let addressBytes: u32 = 0;
/** The address is written with commas, its port behind it. */
export let withCommas = false;

function isDigit(c: u32): bool {
  return c >= 48 && c <= 57;
}

function at(text: u32): u32 {
  return load<u8>(text);
}

/** Whether four letters stand there, in whichever case; `word` is little-endian and lower-case. */
function isWord(text: u32, word: u32): bool {
  return (load<u32>(text) | 0x20202020) === word;
}

const PORT: u32 = 0x74726f70;
const EPRT: u32 = 0x74727065;

/** Reads a message; an address goes to `address` (16 bytes, an IPv4 one in the first four). */
export function readFtp(text: u32, fromClient: bool, v6: bool, address: u32): u32 {
  addressBytes = 0;
  const code = load<u32>(text) & 0xffffff;
  if (fromClient) {
    if (isWord(text, EPRT)) return readExtendedActive(text, v6, address);
    if (isWord(text, PORT) && !v6) return readCommas(text, text + 4, address, ACTIVE);
    return OTHER;
  }
  if (code === 0x393232) return readExtendedPassive(text + 3); // 229
  if (code === 0x373232 && !v6) return readCommas(text, text + 3, address, PASSIVE); // 227
  return OTHER;
}

let cursor: u32 = 0;

/** A number at the cursor, of at most `digits` digits, which something else follows; over `max` or none at all: -1. */
function readNumber(digits: u32, max: i32): i32 {
  const first = cursor;
  let value = 0;
  while (isDigit(at(cursor)) && cursor - first < digits) {
    value = value * 10 + <i32>(at(cursor) - 48);
    cursor++;
  }
  const end = at(cursor);
  return cursor === first || isDigit(end) || end === 0 || value > max ? -1 : value;
}

/** h1,h2,h3,h4,p1,p2 behind a space and whatever stands before the first digit. */
function readCommas(text: u32, from: u32, address: u32, kind: u32): u32 {
  cursor = from;
  while (at(cursor) !== 32 && at(cursor) !== 0) cursor++;
  while (!isDigit(at(cursor)) && at(cursor) !== 0) cursor++;
  const start = cursor;
  v128.store(address, i64x2.splat(0));
  ftpPort = 0;
  for (let i: u32 = 0; i < 6; i++) {
    if (i > 0) {
      if (at(cursor) !== 44) return MALFORMED;
      if (i === 4) addressBytes = cursor - start;
      cursor++;
    }
    const value = readNumber(3, 255);
    if (value < 0) {
      addressBytes = 0;
      return MALFORMED;
    }
    if (i < 4) store<u8>(address + i, <u8>value);
    else ftpPort = (ftpPort << 8) | value;
  }
  addressAt = start - text;
  withCommas = true;
  return ftpPort === 0 ? MALFORMED : kind;
}

/** |af|address|port|, with any delimiter that is neither digit nor part of an address. */
function readExtendedActive(text: u32, v6: bool, address: u32): u32 {
  cursor = text + 4;
  while (!isDigit(at(cursor)) && at(cursor) !== 0) cursor++;
  if (at(cursor) !== <u32>(v6 ? 50 : 49)) return MALFORMED;
  cursor++;
  const delimiter = at(cursor);
  if (isAddress(delimiter) || delimiter === 0) return MALFORMED;
  cursor++;
  const start = cursor;
  while (isAddress(at(cursor))) cursor++;
  if (at(cursor) !== delimiter) return MALFORMED;
  const end = cursor;
  v128.store(address, i64x2.splat(0));
  if (!(v6 ? readAddress6(start, end, address) : readAddress4(start, end, address))) {
    return MALFORMED;
  }
  cursor = end + 1;
  if (!readPort()) return MALFORMED;
  addressAt = start - text;
  addressBytes = end - start;
  withCommas = false;
  return ACTIVE;
}

/** (|||port|): the first digits behind the first bracket. */
function readExtendedPassive(text: u32): u32 {
  cursor = text;
  while (at(cursor) !== 40 && at(cursor) !== 0) cursor++;
  while (!isDigit(at(cursor)) && at(cursor) !== 0) cursor++;
  return readPort() ? PASSIVE : MALFORMED;
}

function readPort(): bool {
  const value = readNumber(5, 65535);
  ftpPort = <u32>value;
  return value > 0;
}

function hexValue(c: u32): u32 {
  if (isDigit(c)) return c - 48;
  const letter = c | 0x20;
  return letter >= 97 && letter <= 102 ? letter - 87 : 16;
}

function isAddress(c: u32): bool {
  return hexValue(c) < 16 || c === 58 || c === 46;
}

/** Dotted numbers that fill the text up to `end`. */
function readAddress4(text: u32, end: u32, address: u32): bool {
  cursor = text;
  for (let i: u32 = 0; i < 4; i++) {
    if (i > 0) {
      if (at(cursor) !== 46) return false;
      cursor++;
    }
    const value = readNumber(3, 255);
    if (value < 0) return false;
    store<u8>(address + i, <u8>value);
  }
  return cursor === end;
}

/** RFC 4291, section 2.2: groups of hexadecimal digits, one run of zeros left out, perhaps dotted numbers at the end. */
function readAddress6(text: u32, end: u32, address: u32): bool {
  let written: u32 = 0;
  let gap: i32 = -1;
  let c = text;
  if (at(c) === 58) {
    c++;
    if (at(c) !== 58) return false;
  }
  while (c < end) {
    if (at(c) === 58) {
      if (gap >= 0) return false;
      gap = written;
      c++;
      if (c === end) break;
    }
    let dot = c;
    while (dot < end && hexValue(at(dot)) < 16) dot++;
    if (dot < end && at(dot) === 46) {
      if (written > 12 || !readAddress4(c, end, address + written)) return false;
      written += 4;
      break;
    }
    if (dot === c || dot - c > 4 || written === 16) return false;
    let value: u32 = 0;
    for (; c < dot; c++) value = (value << 4) | hexValue(at(c));
    store<u16>(address + written, bswap<u16>(<u16>value));
    written += 2;
    if (c < end) {
      c++; // a colon: what else belongs to addresses
      if (c === end) return false;
    }
  }
  if (gap < 0) return written === 16;
  if (written > 14) return false;
  const moved = written - gap;
  memory.copy(address + 16 - moved, address + gap, moved);
  memory.fill(address + gap, 0, 16 - moved - gap);
  return true;
}

/** Writes an address as text, with `separator` between the numbers of an IPv4 one. Returns its length, at most 39. */
export function writeAddress(to: u32, address: u32, v6: bool, separator: u32): u32 {
  if (v6) return writeAddress6(to, address);
  let end = to;
  for (let i: u32 = 0; i < 4; i++) {
    if (i > 0) {
      store<u8>(end, <u8>separator);
      end++;
    }
    const value: u32 = load<u8>(address + i);
    if (value >= 100) store<u8>(end++, <u8>(48 + value / 100));
    if (value >= 10) store<u8>(end++, <u8>(48 + ((value / 10) % 10)));
    store<u8>(end++, <u8>(48 + (value % 10)));
  }
  return end - to;
}

/** RFC 5952: lower case, no leading zeros, the longest run of zero groups left out. */
function writeAddress6(to: u32, address: u32): u32 {
  let runAt: u32 = 8;
  let runLength: u32 = 1; // one group alone is written out
  for (let i: u32 = 0; i < 8; i++) {
    let n: u32 = 0;
    while (i + n < 8 && load<u16>(address + ((i + n) << 1)) === 0) n++;
    if (n > runLength) {
      runAt = i;
      runLength = n;
    }
  }
  let end = to;
  for (let i: u32 = 0; i < 8; ) {
    if (i === runAt) {
      store<u8>(end++, 58);
      i += runLength;
      if (i === 8) store<u8>(end++, 58);
      continue;
    }
    if (i > 0) store<u8>(end++, 58);
    const value: u32 = bswap<u16>(load<u16>(address + (i << 1)));
    for (let shift: i32 = 12; shift >= 0; shift -= 4) {
      if (shift > 0 && value >> shift === 0) continue;
      const digit = (value >> shift) & 15;
      store<u8>(end++, <u8>(digit < 10 ? 48 + digit : 87 + digit));
    }
    i++;
  }
  return end - to;
}
