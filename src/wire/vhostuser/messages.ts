// The messages of vhost-user (vhost-user specification, "Front-end message types") as one table.
//
// Request number → name, exact size of the payload, how many file descriptors, which protocol feature must have been
// negotiated, what kind of answer. The back-end's parser, our own front-end and the fuzzer all read this table, so a
// rule about a message is written once. Requests missing here are unknown to xvio: nack or close.

import {
  PROTOCOL_F_BACKEND_REQ,
  PROTOCOL_F_CONFIGURE_MEM_SLOTS,
  PROTOCOL_F_DEVICE_STATE,
  PROTOCOL_F_INFLIGHT_SHMFD,
  PROTOCOL_F_LOG_SHMFD,
  PROTOCOL_F_MQ,
  PROTOCOL_F_NET_MTU,
  PROTOCOL_F_RARP,
  PROTOCOL_F_RESET_DEVICE,
  PROTOCOL_F_STATUS,
} from './features.ts';

export const GET_FEATURES = 1;
export const SET_FEATURES = 2;
export const SET_OWNER = 3;
export const RESET_OWNER = 4;
export const SET_MEM_TABLE = 5;
export const SET_LOG_BASE = 6;
export const SET_LOG_FD = 7;
export const SET_VRING_NUM = 8;
export const SET_VRING_ADDR = 9;
export const SET_VRING_BASE = 10;
export const GET_VRING_BASE = 11;
export const SET_VRING_KICK = 12;
export const SET_VRING_CALL = 13;
export const SET_VRING_ERR = 14;
export const GET_PROTOCOL_FEATURES = 15;
export const SET_PROTOCOL_FEATURES = 16;
export const GET_QUEUE_NUM = 17;
export const SET_VRING_ENABLE = 18;
export const SEND_RARP = 19;
export const NET_SET_MTU = 20;
export const SET_BACKEND_REQ_FD = 21;
export const GET_INFLIGHT_FD = 31;
export const SET_INFLIGHT_FD = 32;
export const RESET_DEVICE = 34;
export const GET_MAX_MEM_SLOTS = 36;
export const ADD_MEM_REG = 37;
export const REM_MEM_REG = 38;
export const SET_STATUS = 39;
export const GET_STATUS = 40;
export const SET_DEVICE_STATE_FD = 42;
export const CHECK_DEVICE_STATE = 43;

/** Requests of the back-end on its own channel (vhost-user specification, "Back-end message types"). */
export const BACKEND_CONFIG_CHANGE_MSG = 2;

export const HEADER_SIZE = 12;
export const FLAG_VERSION = 1;
export const FLAG_VERSION_MASK = 3;
export const FLAG_REPLY = 4;
export const FLAG_NEED_REPLY = 8;

/** Regions that fit into SET_MEM_TABLE: the number of descriptors that one message may carry. */
export const MEM_TABLE_MAX_REGIONS = 8;
export const REGION_SIZE = 32;
/** Longest payload that is read at all (SET_CONFIG, which we refuse, has 268 bytes); beyond, the stream is closed. */
export const PAYLOAD_MAX = 512;

/** u64 of KICK, CALL and ERR: the low byte is the index of the ring, this bit says that no descriptor comes along. */
export const VRING_INDEX_MASK = 0xff;
export const VRING_NO_FD = 0x100;
/** vring_addr flag: writes to the used ring are logged. */
export const VRING_ADDR_LOG = 1;

export const STATUS_ACKNOWLEDGE = 1;
export const STATUS_DRIVER = 2;
export const STATUS_DRIVER_OK = 4;
export const STATUS_FEATURES_OK = 8;
export const STATUS_NEEDS_RESET = 64;
export const STATUS_FAILED = 128;

/** What follows a message: data of its own, or an acknowledgement if the front-end asks for one. */
export type ReplyKind = 'data' | 'ack';

export interface MessageRule {
  readonly name: string;
  /** Legal sizes of the payload in bytes; several only where the payload counts itself or peers disagree. */
  readonly sizes: readonly number[];
  readonly minFds: number;
  readonly maxFds: number;
  readonly reply: ReplyKind;
  /** Protocol feature that must have been negotiated. */
  readonly needs?: number;
  /** Needs virtio feature bit 30 to be offered. */
  readonly protocol?: true;
}

function rule(
  name: string,
  size: number | readonly number[],
  reply: ReplyKind,
  more: { fds?: readonly [number, number]; needs?: number; protocol?: true } = {},
): MessageRule {
  const sizes = typeof size === 'number' ? [size] : size;
  const [minFds, maxFds] = more.fds ?? [0, 0];
  return { name, sizes, minFds, maxFds, reply, needs: more.needs, protocol: more.protocol };
}

const MEM_TABLE_SIZES = Array.from(
  { length: MEM_TABLE_MAX_REGIONS + 1 },
  (_, regions) => 8 + regions * REGION_SIZE,
);
const FD = [1, 1] as const;
const MAYBE_FD = [0, 1] as const;

export const MESSAGES: ReadonlyMap<number, MessageRule> = new Map([
  [GET_FEATURES, rule('GET_FEATURES', 0, 'data')],
  [SET_FEATURES, rule('SET_FEATURES', 8, 'ack')],
  [SET_OWNER, rule('SET_OWNER', 0, 'ack')],
  [RESET_OWNER, rule('RESET_OWNER', 0, 'ack')],
  [
    SET_MEM_TABLE,
    rule('SET_MEM_TABLE', MEM_TABLE_SIZES, 'ack', { fds: [0, MEM_TABLE_MAX_REGIONS] }),
  ],
  [SET_LOG_BASE, rule('SET_LOG_BASE', 16, 'data', { fds: FD, needs: PROTOCOL_F_LOG_SHMFD })],
  [SET_LOG_FD, rule('SET_LOG_FD', [0, 8], 'ack', { fds: FD })],
  [SET_VRING_NUM, rule('SET_VRING_NUM', 8, 'ack')],
  [SET_VRING_ADDR, rule('SET_VRING_ADDR', 40, 'ack')],
  [SET_VRING_BASE, rule('SET_VRING_BASE', 8, 'ack')],
  [GET_VRING_BASE, rule('GET_VRING_BASE', 8, 'data')],
  [SET_VRING_KICK, rule('SET_VRING_KICK', 8, 'ack', { fds: MAYBE_FD })],
  [SET_VRING_CALL, rule('SET_VRING_CALL', 8, 'ack', { fds: MAYBE_FD })],
  [SET_VRING_ERR, rule('SET_VRING_ERR', 8, 'ack', { fds: MAYBE_FD })],
  [GET_PROTOCOL_FEATURES, rule('GET_PROTOCOL_FEATURES', 0, 'data', { protocol: true })],
  [SET_PROTOCOL_FEATURES, rule('SET_PROTOCOL_FEATURES', 8, 'ack', { protocol: true })],
  [GET_QUEUE_NUM, rule('GET_QUEUE_NUM', 0, 'data', { needs: PROTOCOL_F_MQ })],
  [SET_VRING_ENABLE, rule('SET_VRING_ENABLE', 8, 'ack', { protocol: true })],
  [SEND_RARP, rule('SEND_RARP', 8, 'ack', { needs: PROTOCOL_F_RARP })],
  [NET_SET_MTU, rule('NET_SET_MTU', 8, 'ack', { needs: PROTOCOL_F_NET_MTU })],
  // Size 0 in QEMU (header only), a u64 nowhere: the descriptor is the whole message.
  [
    SET_BACKEND_REQ_FD,
    rule('SET_BACKEND_REQ_FD', 0, 'ack', { fds: FD, needs: PROTOCOL_F_BACKEND_REQ }),
  ],
  // 20 bytes of fields in a C structure of 24: both sizes are seen.
  [
    GET_INFLIGHT_FD,
    rule('GET_INFLIGHT_FD', [20, 24], 'data', { needs: PROTOCOL_F_INFLIGHT_SHMFD }),
  ],
  [
    SET_INFLIGHT_FD,
    rule('SET_INFLIGHT_FD', [20, 24], 'ack', { fds: FD, needs: PROTOCOL_F_INFLIGHT_SHMFD }),
  ],
  [RESET_DEVICE, rule('RESET_DEVICE', 0, 'ack', { needs: PROTOCOL_F_RESET_DEVICE })],
  [
    GET_MAX_MEM_SLOTS,
    rule('GET_MAX_MEM_SLOTS', 0, 'data', { needs: PROTOCOL_F_CONFIGURE_MEM_SLOTS }),
  ],
  [ADD_MEM_REG, rule('ADD_MEM_REG', 40, 'ack', { fds: FD, needs: PROTOCOL_F_CONFIGURE_MEM_SLOTS })],
  // Old QEMUs send a descriptor along, which is closed and otherwise ignored.
  [
    REM_MEM_REG,
    rule('REM_MEM_REG', 40, 'ack', { fds: MAYBE_FD, needs: PROTOCOL_F_CONFIGURE_MEM_SLOTS }),
  ],
  [SET_STATUS, rule('SET_STATUS', 8, 'ack', { needs: PROTOCOL_F_STATUS })],
  [GET_STATUS, rule('GET_STATUS', 0, 'data', { needs: PROTOCOL_F_STATUS })],
  [
    SET_DEVICE_STATE_FD,
    rule('SET_DEVICE_STATE_FD', 8, 'data', { fds: FD, needs: PROTOCOL_F_DEVICE_STATE }),
  ],
  [CHECK_DEVICE_STATE, rule('CHECK_DEVICE_STATE', 0, 'data', { needs: PROTOCOL_F_DEVICE_STATE })],
]);

/** Name of a request for logs: "SET_FEATURES", or "request 77". */
export function requestName(request: number): string {
  return MESSAGES.get(request)?.name ?? `request ${request}`;
}
