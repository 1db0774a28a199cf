// Messages of the connection itself and of the switch as a whole: hello, error, echo, features, configuration, role,
// barrier. OpenFlow 1.5.1 §7.1, §7.3.1, §7.3.2, §7.3.9; NXT_ROLE_*.

import type { Reader, Writer } from './buffer.ts';
import type { Codecs, MessageOf } from './codec.ts';
import { empty } from './codec.ts';
import { decodeErrorBody, encodeErrorBody } from './errors.ts';
import type { Role } from './messages.ts';
import { putPort, readPort } from './port.ts';
import { OfError } from './types.ts';

const HELLO_BITMAP = 1;

/** Elements of types that are unknown are skipped (OpenFlow 1.3.1 §6.3.1). */
function decodeHello(r: Reader): MessageOf<'hello'> {
  while (r.left >= 4) {
    const type = r.u16();
    const length = r.u16();
    if (length < 4 || length - 4 > r.left) break;
    const body = r.sub(length - 4);
    r.skip(Math.min(-length & 7, r.left));
    if (type === HELLO_BITMAP && body.left >= 4) {
      r.offset = r.end;
      return { type: 'hello', bitmap: body.u32() };
    }
  }
  r.offset = r.end;
  return { type: 'hello' };
}

// Capabilities, OFPC_*.
const FLOW_STATS = 1 << 0;
const TABLE_STATS = 1 << 1;
const PORT_STATS = 1 << 2;
const GROUP_STATS = 1 << 3;
const QUEUE_STATS = 1 << 6;
const ARP_MATCH_IP = 1 << 7;
const BUNDLES = 1 << 9;
const FLOW_MONITORING = 1 << 10;
/** Actions of OpenFlow 1.0: all twelve. */
const ACTIONS10 = 0xfff;

function decodeFeatures(r: Reader, version: number): MessageOf<'features_reply'> {
  const datapathId = r.u64();
  const nBuffers = r.u32();
  const nTables = r.u8();
  const auxiliaryId = r.u8();
  r.skip(2);
  const caps = r.u32();
  r.skip(4);
  const ports = [];
  while (version < 4 && r.left > 0) ports.push(readPort(r, version));
  return {
    type: 'features_reply',
    features: {
      datapathId,
      nBuffers,
      nTables,
      auxiliaryId: version >= 4 ? auxiliaryId : 0,
      flowStats: (caps & FLOW_STATS) !== 0,
      tableStats: (caps & TABLE_STATS) !== 0,
      portStats: (caps & PORT_STATS) !== 0,
      queueStats: (caps & QUEUE_STATS) !== 0,
      groupStats: version > 1 && (caps & GROUP_STATS) !== 0,
      arpMatchIp: version <= 2 && (caps & ARP_MATCH_IP) !== 0,
      bundles: version >= 5 && (caps & BUNDLES) !== 0,
      flowMonitoring: version >= 5 && (caps & FLOW_MONITORING) !== 0,
      ports,
    },
  };
}

function encodeFeatures(w: Writer, m: MessageOf<'features_reply'>, version: number): void {
  const f = m.features;
  let caps = 0;
  if (f.flowStats) caps |= FLOW_STATS;
  if (f.tableStats) caps |= TABLE_STATS;
  if (f.portStats) caps |= PORT_STATS;
  if (f.queueStats) caps |= QUEUE_STATS;
  if (version > 1 && f.groupStats) caps |= GROUP_STATS;
  if (version <= 2 && f.arpMatchIp) caps |= ARP_MATCH_IP;
  if (version >= 5 && f.bundles) caps |= BUNDLES;
  if (version >= 5 && f.flowMonitoring) caps |= FLOW_MONITORING;
  w.u64(f.datapathId)
    .u32(f.nBuffers)
    .u8(f.nTables)
    .u8(version >= 4 ? f.auxiliaryId : 0)
    .zeros(2);
  w.u32(caps).u32(version === 1 ? ACTIONS10 : 0);
  if (version < 4) for (const p of f.ports) putPort(w, p, version);
}

const ROLES: readonly Role[] = ['nochange', 'other', 'primary', 'secondary'];
const NO_GENERATION = 0xffffffffffffffffn;

type RoleMessage = MessageOf<'role_request'> | MessageOf<'role_reply'>;

function readRole(number: number): Role {
  const role = ROLES[number];
  if (role === undefined) throw new OfError('OFPRRFC_BAD_ROLE');
  return role;
}

function decodeRole<T extends RoleMessage['type']>(r: Reader, nxt: boolean, type: T): RoleMessage {
  // Nicira's numbers start at "other".
  if (nxt) return { type, role: readRole(r.u32() + 1), nxt };
  const role = readRole(r.u32());
  r.skip(4);
  const generationId = r.u64();
  const absent = type === 'role_request' ? role === 'nochange' : generationId === NO_GENERATION;
  return absent ? { type, role, nxt } : { type, role, generationId, nxt };
}

function encodeRole(w: Writer, m: RoleMessage, nxt: boolean): void {
  const number = ROLES.indexOf(m.role);
  if (nxt) w.u32(number - 1);
  else
    w.u32(number)
      .zeros(4)
      .u64(m.generationId ?? (m.type === 'role_reply' ? NO_GENERATION : 0n));
}

export const controlCodecs: Codecs = {
  hello: {
    decode: decodeHello,
    encode: (w, m) => {
      if (m.bitmap !== undefined) w.u16(HELLO_BITMAP).u16(8).u32(m.bitmap);
    },
  },
  error: {
    decode: (r, ctx) => ({ type: 'error', ...decodeErrorBody(r.rest(), ctx.version) }),
    encode: (w, m, ctx) => {
      if (m.code === '' && m.errorType !== undefined)
        w.u16(m.errorType)
          .u16(m.errorCode ?? 0)
          .put(m.data);
      else w.put(encodeErrorBody(m.code, ctx.version, m.data));
    },
  },
  echo_request: {
    decode: (r) => ({ type: 'echo_request', data: r.rest() }),
    encode: (w, m) => void w.put(m.data),
  },
  echo_reply: {
    decode: (r) => ({ type: 'echo_reply', data: r.rest() }),
    encode: (w, m) => void w.put(m.data),
  },
  features_request: empty({ type: 'features_request' }),
  features_reply: {
    decode: (r, ctx) => decodeFeatures(r, ctx.version),
    encode: (w, m, ctx) => encodeFeatures(w, m, ctx.version),
  },
  get_config_request: empty({ type: 'get_config_request' }),
  get_config_reply: {
    decode: (r) => ({ type: 'get_config_reply', flags: r.u16(), missSendLen: r.u16() }),
    encode: (w, m) => void w.u16(m.flags).u16(m.missSendLen),
  },
  set_config: {
    decode: (r) => ({ type: 'set_config', flags: r.u16(), missSendLen: r.u16() }),
    encode: (w, m) => void w.u16(m.flags).u16(m.missSendLen),
  },
  barrier_request: empty({ type: 'barrier_request' }),
  barrier_reply: empty({ type: 'barrier_reply' }),
  role_request: {
    decode: (r, ctx) =>
      decodeRole(r, ctx.kind === 'nx', 'role_request') as MessageOf<'role_request'>,
    encode: (w, m, ctx) => encodeRole(w, m, ctx.kind === 'nx'),
  },
  role_reply: {
    decode: (r, ctx) => decodeRole(r, ctx.kind === 'nx', 'role_reply') as MessageOf<'role_reply'>,
    encode: (w, m, ctx) => encodeRole(w, m, ctx.kind === 'nx'),
  },
  role_status: {
    decode: (r) => {
      const role = readRole(r.u32());
      const reason = r.u8();
      r.skip(3);
      const generationId = r.u64();
      r.offset = r.end;
      return { type: 'role_status', role, reason, generationId };
    },
    encode: (w, m) => void w.u32(ROLES.indexOf(m.role)).u8(m.reason).zeros(3).u64(m.generationId),
  },
};
