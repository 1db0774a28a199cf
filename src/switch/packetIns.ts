// Descriptions of packet-ins that megaflows ask for. A megaflow's program can carry only a number (the cookie of
// ACT_USERSPACE); here the number leads to bridge, reason, cookie of the rule and pipeline state.

import {
  F_IN_PORT,
  F_METADATA,
  FLOW_SIZE,
  K_CT_IPV6_SRC,
  K_CT_LABEL,
  K_CT_MARK,
  K_CT_NW_PROTO,
  K_CT_NW_SRC,
  K_CT_STATE,
  K_CT_TP_SRC,
  K_CT_ZONE,
  K_ETH_TYPE,
  K_PACKET_TYPE,
  K_PKT_MARK,
  K_TUN_FLAGS,
  K_TUN_GBP_FLAGS,
  K_TUN_GBP_ID,
  K_TUN_GTPU_FLAGS,
  K_TUN_GTPU_MSGTYPE,
  K_TUN_ID,
  K_TUN_IPV6_SRC,
  KEY_SIZE,
  TUN_OAM,
} from '../../contract/key.ts';
import { VNET_NEEDS_CSUM } from '../../contract/packet.ts';
import type { Upcall } from '../engine/types.ts';
import { coverField, getField } from '../wire/openflow/fieldAccess.ts';
import { fieldByName } from '../wire/openflow/fields.ts';
import type { PacketIn } from '../wire/openflow/types.ts';
import { be16, be32, ETH_TYPE_IP, isZero, putBe16 } from './flow.ts';
import { IdPool, type Numbers, ObjectNumbers } from './idPool.ts';
import { frozenKey } from './recirc.ts';
import { conntrackValid } from './translate/ctFields.ts';
import type { PacketInSpec, PacketInStore } from './translate/types.ts';

export const PACKET_INS_MAX = 65_536;

const FIELDS: readonly (readonly [offset: number, bytes: number])[] = [
  [K_CT_ZONE, 2],
  [K_CT_MARK, 4],
  [K_CT_LABEL, 16],
];
const TUPLE: typeof FIELDS = [
  [K_CT_TP_SRC, 4],
  [K_CT_NW_PROTO, 1],
];

/** Adds what connection tracking says of the packet, `from` its key, to the metadata of a packet-in. */
function addConntrackMetadata(from: Uint8Array, key: Uint8Array, mask: Uint8Array): void {
  const put = (offset: number, bytes: number): void => {
    key.set(from.subarray(offset, offset + bytes), offset);
    mask.fill(0xff, offset, offset + bytes);
  };
  for (const [offset, bytes] of FIELDS) if (!isZero(from, offset, bytes)) put(offset, bytes);
  if (be32(from, K_CT_STATE) === 0) return;
  put(K_CT_STATE + 3, 1);
  // The Ethernet type says what the rest means.
  put(K_ETH_TYPE, 2);
  if (from[K_CT_NW_PROTO] === 0 || !conntrackValid(from, new Uint8Array(KEY_SIZE))) return;
  const ipv4 = be16(from, K_ETH_TYPE) === ETH_TYPE_IP;
  put(ipv4 ? K_CT_NW_SRC : K_CT_IPV6_SRC, ipv4 ? 8 : 32);
  for (const [offset, bytes] of TUPLE) put(offset, bytes);
}

/**
 * A frame as controllers get it. Those of guests with checksum offload have only the pseudo header's sum in the field:
 * nobody behind a controller would complete it. `vnet`: contract/ring.ts, UC_VNET.
 */
export function wholeFrame(frame: Uint8Array, vnet: Uint8Array): Uint8Array {
  const data = frame.slice();
  if (((vnet[0] ?? 0) & VNET_NEEDS_CSUM) === 0) return data;
  const fields = new DataView(vnet.buffer, vnet.byteOffset);
  const start = fields.getUint16(4, true);
  const at = start + fields.getUint16(6, true);
  if (at + 2 > data.length) return data;
  let sum = 0;
  for (let i = start; i < data.length; i += 2) sum += (data[i]! << 8) | (data[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  const checksum = ~sum & 0xffff;
  data[at] = checksum >> 8;
  data[at + 1] = checksum & 0xff;
  return data;
}

const ERSPAN_FIELDS = ['ver', 'idx', 'dir', 'hwid'].map((name) =>
  fieldByName(`tun_erspan_${name}`),
);

/** Fields of 64 bits: matched whole if at all. */
const WIDE_METADATA: readonly number[] = [F_METADATA, K_TUN_ID];

/** Tunnel fields that share words with others: only those that say something. */
function addTunnelDetails(key: Uint8Array, mask: Uint8Array): void {
  mask.fill(0, K_TUN_FLAGS, K_TUN_IPV6_SRC);
  putBe16(mask, K_TUN_FLAGS, be16(key, K_TUN_FLAGS) & TUN_OAM);
  if (be16(key, K_TUN_GBP_ID) !== 0) putBe16(mask, K_TUN_GBP_ID, 0xffff);
  for (const at of [K_TUN_GBP_FLAGS, K_TUN_GTPU_FLAGS, K_TUN_GTPU_MSGTYPE]) {
    if (key[at] !== 0) mask[at] = 0xff;
  }
  for (const field of ERSPAN_FIELDS) if (getField(key, field) !== 0n) coverField(mask, field);
}

/** What controllers get: the packet cut to max_len, and the pipeline's state at the action. */
export function packetInOf(spec: PacketInSpec, upcall: Upcall): PacketIn {
  const key = spec.metadata.slice();
  const data = wholeFrame(upcall.data, upcall.vnet);
  // What the packet is like, not the pipeline.
  for (const at of [K_PKT_MARK, K_PACKET_TYPE]) key.set(upcall.key.subarray(at, at + 4), at);
  const mask = new Uint8Array(FLOW_SIZE);
  for (let i = 0; i < FLOW_SIZE; i += 4) {
    if (be32(key, i) !== 0) mask.fill(0xff, i, i + 4);
  }
  for (const wide of WIDE_METADATA) {
    if (be32(key, wide) !== 0 || be32(key, wide + 4) !== 0) mask.fill(0xff, wide, wide + 8);
  }
  addTunnelDetails(key, mask);
  mask.fill(0xff, F_IN_PORT, F_IN_PORT + 4);
  if (spec.conntracked) addConntrackMetadata(upcall.key, key, mask);
  return {
    bufferId: 0xffffffff,
    totalLen: upcall.packetLen,
    reason: spec.reason,
    table: spec.table,
    cookie: spec.cookie,
    match: { key, mask },
    data: spec.paused === undefined ? data.subarray(0, spec.maxLen) : data,
    ...(spec.userdata === undefined ? {} : { userdata: spec.userdata }),
  };
}

export class PacketIns implements PacketInStore {
  readonly #pool: IdPool<PacketInSpec>;
  readonly #bridges = new ObjectNumbers();

  constructor(now: () => number, numbers?: Numbers) {
    this.#pool = new IdPool(now, PACKET_INS_MAX, numbers);
  }

  get size(): number {
    return this.#pool.size;
  }

  /** The caller is a user of the number until it releases it. 0 = too many. */
  add(spec: PacketInSpec): number {
    const { reason, table, cookie, controllerId, maxLen, userdata, metadata } = spec;
    const bridge = this.#bridges.of(spec.bridge);
    const rest = isZero(metadata, 0, metadata.length) ? '' : metadata.toHex();
    const paused = spec.paused === undefined ? '' : frozenKey(spec.paused, bridge);
    const sample = spec.sample === undefined ? '' : JSON.stringify(spec.sample);
    const key = `${bridge}/${reason}/${table}/${cookie}/${controllerId}/${maxLen}/${userdata?.toHex() ?? '-'}/${spec.conntracked ? 1 : 0}/${rest}/${paused}/${sample}`;
    return this.#pool.add(key, spec);
  }

  get(id: number): PacketInSpec | undefined {
    return this.#pool.get(id);
  }

  release(ids: readonly number[]): void {
    this.#pool.release(ids);
  }

  sweep(): void {
    this.#pool.sweep();
  }
}
