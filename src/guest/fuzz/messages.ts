// Attacks by messages: the grammar of the F cases of docs/hostile-guests.md, read off the same table as the back-end's
// parser, then bent: sizes, flags, descriptors of every kind and number, fields with values that matter.

import { openSync } from 'node:fs';
import { eventfdCreate } from '../../sys/eventfd.ts';
import { closeFd } from '../../sys/fd.ts';
import { memfdCreate } from '../../sys/memory.ts';
import { packetPair } from '../../sys/unix.ts';
import * as C from '../../wire/vhostuser/codec.ts';
import * as M from '../../wire/vhostuser/messages.ts';
import type { Attacker } from '../attacker.ts';
import { USER_BASE } from '../guest.ts';
import type { Random } from './random.ts';

const REQUESTS = [...M.MESSAGES.keys()];

/** Descriptors to send, of any kind; the caller closes them. */
function someFds(random: Random, count: number): number[] {
  const fds: number[] = [];
  while (fds.length < count) {
    switch (random.below(6)) {
      case 0:
        fds.push(memfdCreate('fuzz', random.pick([0, 1, 4096, 0x10000, 0x200000])));
        break;
      case 1:
        fds.push(memfdCreate('fuzz', 0x200000, false));
        break;
      case 2:
        fds.push(openSync('/dev/zero', 'r+'));
        break;
      case 3:
        fds.push(...packetPair());
        break;
      default:
        fds.push(eventfdCreate());
    }
  }
  return fds;
}

function field(random: Random, attacker: Attacker): bigint {
  switch (random.below(5)) {
    case 0:
      return random.u64();
    case 1:
      return BigInt(random.length());
    case 2:
      return USER_BASE + random.address(attacker.bytes);
    case 3:
      return 1n << BigInt(random.below(64));
    default:
      return BigInt(random.below(5));
  }
}

/** A payload of `size` bytes: 32- or 64-bit fields. */
function payloadOf(random: Random, attacker: Attacker, size: number): Uint8Array {
  const payload = new Uint8Array(size);
  const view = new DataView(payload.buffer);
  const wide = random.once(2);
  for (let at = 0; at + 4 <= size; at += wide ? 8 : 4) {
    const value = BigInt.asUintN(64, field(random, attacker));
    if (wide && at + 8 <= size) view.setBigUint64(at, value, true);
    else view.setUint32(at, Number(value & 0xffffffffn), true);
  }
  return payload;
}

/** Legal messages at a moment that the specification may not allow. */
function ordinary(random: Random, attacker: Attacker): { request: number; payload: Uint8Array } {
  const index = random.once(4) ? random.below(70) : random.below(attacker.pairs * 2);
  const state = (num: number): Uint8Array => C.encodeVringState({ index, num });
  switch (random.below(9)) {
    case 0:
      return { request: M.SET_VRING_ENABLE, payload: state(random.below(3)) };
    case 1:
      return { request: M.GET_VRING_BASE, payload: state(0) };
    case 2:
      return { request: M.SET_VRING_BASE, payload: state(random.below(0x10000)) };
    case 3:
      return {
        request: M.SET_VRING_NUM,
        payload: state(random.pick([0, 1, 7, 64, 256, 32768, 32769])),
      };
    case 4:
      return { request: M.SET_VRING_ADDR, payload: attacker.ringAddresses(index & 63) };
    case 5:
      return { request: M.SET_FEATURES, payload: C.encodeU64(attacker.features) };
    case 6:
      return { request: M.SET_STATUS, payload: C.encodeU64(BigInt(random.below(256))) };
    case 7:
      return { request: M.SEND_RARP, payload: random.bytes(8) };
    default:
      return { request: M.GET_FEATURES, payload: new Uint8Array(0) };
  }
}

/** Sends one message, whole or in pieces. Throws when the connection is gone or full. */
export function fuzzMessage(attacker: Attacker, random: Random): void {
  const { frontend } = attacker;
  if (random.once(3)) {
    const { request, payload } = ordinary(random, attacker);
    const flags = random.once(2) ? M.FLAG_NEED_REPLY : 0;
    frontend.sendRaw(C.encodeMessage(request, flags, payload));
    return;
  }
  const request = random.once(10) ? random.below(64) : random.pick(REQUESTS);
  const rule = M.MESSAGES.get(request);
  const sizes = rule?.sizes ?? [random.below(64)];
  const size = random.once(8) ? random.below(M.PAYLOAD_MAX + 20) : random.pick(sizes);
  // Most carry NEED_REPLY: a nack keeps the connection, so that the session goes on.
  const flags = random.once(12) ? random.u32() & 0xff : M.FLAG_NEED_REPLY;
  const message = C.encodeMessage(request, flags, payloadOf(random, attacker, size));
  const view = new DataView(message.buffer, message.byteOffset);
  if (random.once(40)) view.setUint32(4, random.u32(), true);
  if (random.once(40)) view.setUint32(8, random.length(), true);
  const wanted = rule === undefined ? 0 : rule.minFds + random.below(rule.maxFds - rule.minFds + 1);
  const fds = someFds(random, random.once(8) ? random.below(12) : wanted);
  try {
    if (random.once(6) && message.length > 1) {
      const cut = 1 + random.below(message.length - 1);
      frontend.sendRaw(message.subarray(0, cut), fds);
      frontend.sendRaw(message.subarray(cut));
    } else frontend.sendRaw(random.once(60) ? message.subarray(0, 7) : message, fds);
  } finally {
    for (const fd of fds) closeFd(fd);
  }
}
