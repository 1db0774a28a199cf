// The last line of a flow record and of a subtable, for dataplane/plain.ts: what of a key or mask lies in the first 48 bytes
// of a plain frame (untagged TCP or UDP over IPv4, no options, no fragment), where it lies there.
//
//   byte 0        6        12         14     15   16       22   23     24        26   30   34        36        46
//        eth dst  eth src  eth type   0x45   tos  …        ttl  proto  checksum  src  dst  tp_src    tp_dst …  TCP flags
//
// All other fields of a plain packet just received are zero. So a flow whose key is not zero there never meets one.

import { ACT_END, ACT_OUTPUT } from '../../contract/action.ts';
import {
  K_CT_STATE,
  K_ETH_DST,
  K_ETH_TYPE,
  K_NW_DST,
  K_NW_SRC,
  K_NW_TOS,
  K_RECIRC_ID,
  K_TP_DST,
  K_VLAN0_TPID,
  K_VLAN1_TPID,
} from '../../contract/key.ts';
import { FP_NONE } from '../../contract/table.ts';

const OUTPUT = ACT_OUTPUT | (2 << 16);
const END = ACT_END | (1 << 16);
const PROTO_TCP = 6;

/** Number of the word that holds a field. */
const word = (offset: number): number => offset >> 2;

/** Writes the PLAIN_BYTES at word `to` of `out`, of the key or mask whose first line is at word `from` of `key`. */
export function writePlain(out: Uint32Array, to: number, key: Uint32Array, from: number): void {
  const at = (offset: number): number => key[from + word(offset)]!;
  const type = at(K_ETH_TYPE); // and tag
  const proto = (at(K_VLAN1_TPID) >>> 16) & 0xff;
  const tos = at(K_NW_TOS); // TOS, TTL, source port
  const ports = at(K_TP_DST); // destination port, TCP flags
  const src = at(K_NW_SRC);
  const dst = at(K_NW_DST);
  out[to] = at(K_ETH_DST);
  out[to + 1] = at(K_ETH_DST + 4);
  out[to + 2] = at(K_ETH_DST + 8);
  out[to + 3] = (type & 0xffff) | (tos << 24);
  out[to + 4] = 0;
  out[to + 5] = ((tos << 8) & 0xff0000) | (proto << 24);
  out[to + 6] = src << 16;
  out[to + 7] = (src >>> 16) | (dst << 16);
  out[to + 8] = (dst >>> 16) | (tos & 0xffff0000);
  out[to + 9] = ports & 0xffff;
  out[to + 10] = 0;
  // The high half of the first byte is the length of the header.
  out[to + 11] = ports & 0xff0f0000;
}

/**
 * Can a plain packet be of the flow with the masked key at word `from`, and do its bytes tell? `lines`: those of the key that
 * are not zero. With UDP there is payload where TCP has its flags.
 */
export function canBePlain(
  key: Uint32Array,
  from: number,
  mask: Uint32Array,
  lines: number,
): boolean {
  if ((lines & ~1) !== 0) return false;
  const at = (offset: number): number => key[from + word(offset)]!;
  const proto = at(K_VLAN1_TPID) >>> 16; // and the fragment bits
  const others =
    at(K_RECIRC_ID) |
    (at(K_ETH_TYPE) >>> 16) |
    at(K_VLAN0_TPID) |
    (at(K_VLAN1_TPID) & 0xffff) |
    (proto >>> 8) |
    at(K_CT_STATE) |
    at(K_CT_STATE + 4) |
    at(K_CT_STATE + 8) |
    at(K_CT_STATE + 12);
  if (others !== 0) return false;
  const flags = mask[word(K_TP_DST)]! >>> 16;
  return flags === 0 || (proto & 0xff) === PROTO_TCP;
}

/** The port to which a program outputs, if it does nothing else; otherwise FP_NONE. */
export function onlyOutput(program: Uint32Array): number {
  return program[0] === OUTPUT && program[2] === END ? program[1]! : FP_NONE;
}
