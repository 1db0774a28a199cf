// Groups on the wire: OpenFlow 1.1 §A.3.4.2, 1.3 §7.3.4.3, 1.5.1 §7.3.4.3, §7.3.5.9-11; Nicira's forms for OpenFlow 1.0
// (NXT_GROUP_MOD 31, NXST_GROUP 7, NXST_GROUP_DESC 8, NXST_GROUP_FEATURES 9) have the layout of 1.5. Netronome's group
// property "selection method" says how a select group chooses.
//
//   bucket, 1.1 … 1.4   len 2, weight 2, watch_port 4, watch_group 4, pad 4, actions
//   bucket, 1.5         len 2, action_array_len 2, bucket_id 4, actions, properties (weight, watch_port, watch_group)

import { decodeActions } from './actionDecode.ts';
import { encodeActions } from './actionEncode.ts';
import type { Reader, Writer } from './buffer.ts';
import type { BodyCodec, BodyContext, Codecs, MessageOf } from './codec.ts';
import { putDuration, readDuration } from './codec.ts';
import { fieldByName } from './fields.ts';
import type { Bucket, GroupMod, GroupSelection, GroupStats } from './messages.ts';
import { readOxmEntry, writeOxmEntry } from './oxm.ts';
import { putExpProp, putProp, readProps } from './prop.ts';
import { OFPP_MAX, OFPP_NONE, OfError } from './types.ts';

export const OFPGT_ALL = 0;
export const OFPGT_SELECT = 1;
export const OFPGT_INDIRECT = 2;
export const OFPGT_FF = 3;
const GROUP_TYPES = 4;

export const OFPGC_ADD = 0;
export const OFPGC_MODIFY = 1;
export const OFPGC_DELETE = 2;
export const OFPGC_INSERT_BUCKET = 3;
export const OFPGC_REMOVE_BUCKET = 5;
/** Open vSwitch's own: --may-create mod-group. */
export const OFPGC_ADD_OR_MOD = 0x8000;

export const OFPG_MAX = 0xffffff00;
export const OFPG_ALL = 0xfffffffc;
const OFPG_ANY = 0xffffffff;

export const BUCKET_MAX = 0xffffff00;
export const BUCKET_FIRST = 0xfffffffd;
export const BUCKET_LAST = 0xfffffffe;
export const BUCKET_ALL = 0xffffffff;

const WEIGHT = 0;
const WATCH_PORT = 1;
const WATCH_GROUP = 2;
/** Netronome's experimenter id, and the wrong one that Open vSwitch 2.4 used. */
const NTR_VENDOR = 0x154d;
const NTR_OLD_VENDOR = 0x1540;
const NTRT_SELECTION_METHOD = 1;
const METHOD_LEN = 16;

const isNew = ({ version }: BodyContext): boolean => version >= 6 || version === 1;

const isNx = (ctx: BodyContext): { nxt?: true } =>
  ctx.kind === 'nx_request' || ctx.kind === 'nx_reply' ? { nxt: true } : {};

function readWords(r: Reader, n: number): number[] {
  return Array.from({ length: n }, () => r.u32());
}

function putWords(w: Writer, words: readonly number[], n: number): void {
  for (let i = 0; i < n; i++) w.u32(words[i] ?? 0);
}

// ---- buckets

function watchedPort(port: number): number {
  if (port >= 0xff00 && port < OFPP_MAX) throw new OfError('OFPGMFC_BAD_WATCH');
  return port;
}

function pullActions(r: Reader, length: number, ctx: BodyContext): Bucket['actions'] {
  if (length > r.left || length % 8 !== 0) throw new OfError('OFPBRC_BAD_LEN');
  return decodeActions(r.sub(length, 'OFPBAC_BAD_LEN'), ctx);
}

function readBucket11(r: Reader, ctx: BodyContext, id: number): Bucket {
  const bad = new OfError('OFPGMFC_BAD_BUCKET');
  if (r.left < 16) throw bad;
  const length = r.u16();
  if (length < 16 || length - 2 > r.left) throw bad;
  const weight = r.u16();
  const port = r.u32();
  const watchGroup = r.u32();
  r.skip(4);
  const actions = pullActions(r, length - 16, ctx);
  return { id, weight, watchPort: watchedPort(port), watchGroup, actions };
}

function readBucket15(r: Reader, ctx: BodyContext, groupType: number): Bucket {
  const bad = new OfError('OFPGMFC_BAD_BUCKET');
  if (r.left < 8) throw bad;
  const length = r.u16();
  const actionsLength = r.u16();
  if (length < 8 || length - 4 > r.left || actionsLength > length - 8) throw bad;
  const body = r.sub(length - 4);
  const id = body.u32();
  const bucket: Bucket = {
    id,
    weight: groupType === OFPGT_SELECT ? 1 : 0,
    watchPort: OFPP_NONE,
    watchGroup: OFPG_ANY,
    actions: pullActions(body, actionsLength, ctx),
  };
  for (const { type, body: prop } of readProps(body)) {
    if (type === WEIGHT) bucket.weight = prop.u16();
    else if (type === WATCH_PORT) bucket.watchPort = prop.u32();
    else if (type === WATCH_GROUP) bucket.watchGroup = prop.u32();
    else throw new OfError('OFPBPC_BAD_TYPE');
  }
  watchedPort(bucket.watchPort);
  if (id > BUCKET_MAX) throw bad;
  return bucket;
}

function readBuckets(r: Reader, ctx: BodyContext, groupType: number): Bucket[] {
  const buckets: Bucket[] = [];
  while (r.left > 0) {
    buckets.push(
      isNew(ctx) ? readBucket15(r, ctx, groupType) : readBucket11(r, ctx, buckets.length),
    );
  }
  if (new Set(buckets.map((bucket) => bucket.id)).size !== buckets.length) {
    throw new OfError('OFPGMFC_BAD_BUCKET');
  }
  return buckets;
}

function putBuckets(
  w: Writer,
  buckets: readonly Bucket[],
  ctx: BodyContext,
  groupType: number,
): void {
  for (const bucket of buckets) {
    const start = w.length;
    if (isNew(ctx)) {
      w.u16(0).u16(0).u32(bucket.id);
      const actionsAt = w.length;
      encodeActions(w, bucket.actions, ctx);
      w.patchLength(start + 2, actionsAt);
      if (groupType === OFPGT_SELECT || bucket.weight !== 0) {
        putProp(w, WEIGHT, () => w.u16(bucket.weight));
      }
      if (bucket.watchPort !== OFPP_NONE) putProp(w, WATCH_PORT, () => w.u32(bucket.watchPort));
      if (bucket.watchGroup !== OFPG_ANY) putProp(w, WATCH_GROUP, () => w.u32(bucket.watchGroup));
    } else {
      w.u16(0).u16(bucket.weight).u32(bucket.watchPort).u32(bucket.watchGroup).zeros(4);
      encodeActions(w, bucket.actions, ctx);
    }
    w.patchLength(start, start);
  }
}

// ---- how a select group chooses

const ADDS = new Set([OFPGC_ADD, OFPGC_MODIFY, OFPGC_ADD_OR_MOD]);
const COMMANDS = new Set([...ADDS, OFPGC_DELETE, OFPGC_INSERT_BUCKET, OFPGC_REMOVE_BUCKET]);

function readSelection(r: Reader, ctx: BodyContext): GroupSelection {
  if (r.left < 4 + METHOD_LEN + 8) throw new OfError('OFPBPC_BAD_LEN');
  r.skip(4);
  const method = r.text(METHOD_LEN);
  if (method !== 'hash' && method !== 'dp_hash') throw new OfError('OFPBPC_BAD_VALUE');
  const selection: GroupSelection = { method, param: r.u64(), fields: [] };
  if (r.left > 0 && method !== 'hash') throw new OfError('OFPBPC_BAD_VALUE');
  while (r.left > 0) {
    const { field, value, mask } = readOxmEntry(r, ctx);
    if (field === undefined) throw new OfError('OFPBMC_BAD_FIELD');
    if (mask !== undefined) throw new OfError('OFPBMC_BAD_MASK');
    if (selection.fields.some((one) => one.field === field.name)) {
      throw new OfError('OFPBMC_DUP_FIELD');
    }
    if (!field.maskable && value.some((byte) => byte !== 0xff)) {
      throw new OfError('OFPBMC_BAD_MASK');
    }
    selection.fields.push({ field: field.name, mask: value });
  }
  return selection;
}

function readGroupProps(
  r: Reader,
  ctx: BodyContext,
  groupType: number,
  command: number,
): GroupSelection | undefined {
  let selection: GroupSelection | undefined;
  for (const { type, experimenter, expType, body } of readProps(r)) {
    const ours = experimenter === NTR_VENDOR || experimenter === NTR_OLD_VENDOR;
    if (type !== 0xffff) throw new OfError('OFPBPC_BAD_TYPE');
    if (!ours) throw new OfError('OFPBPC_BAD_EXPERIMENTER');
    if (expType !== NTRT_SELECTION_METHOD) throw new OfError('OFPBPC_BAD_EXP_TYPE');
    if (groupType >= GROUP_TYPES) throw new OfError('OFPGMFC_BAD_TYPE');
    if (groupType !== OFPGT_SELECT) throw new OfError('OFPBPC_BAD_VALUE');
    if (!COMMANDS.has(command)) throw new OfError('OFPGMFC_BAD_COMMAND');
    if (!ADDS.has(command)) throw new OfError('OFPBPC_BAD_VALUE');
    selection = readSelection(body, ctx);
  }
  return selection;
}

function putGroupProps(w: Writer, selection: GroupSelection | undefined, ctx: BodyContext): void {
  if (selection === undefined) return;
  putExpProp(w, NTR_VENDOR, NTRT_SELECTION_METHOD, () => {
    w.zeros(4).text(selection.method, METHOD_LEN).u64(selection.param);
    for (const { field, mask } of selection.fields) {
      writeOxmEntry(w, fieldByName(field), ctx.version < 3 ? 0 : ctx.version, mask);
    }
  });
}

// ---- group mod

function checkCommandBucket(command: number, bucket: number): void {
  const one = bucket <= BUCKET_MAX || bucket === BUCKET_FIRST || bucket === BUCKET_LAST;
  const ok =
    command === OFPGC_INSERT_BUCKET
      ? one
      : command === OFPGC_REMOVE_BUCKET
        ? one || bucket === BUCKET_ALL
        : bucket === BUCKET_ALL;
  if (!ok) throw new OfError('OFPGMFC_BAD_BUCKET');
}

export function watches({ watchPort, watchGroup }: Bucket): boolean {
  return watchPort !== OFPP_NONE || watchGroup !== OFPG_ANY;
}

/** What can be judged without knowing the groups that there are. */
function checkGroupMod({ command, groupType, buckets }: GroupMod): void {
  if (groupType >= GROUP_TYPES) throw new OfError('OFPGMFC_BAD_TYPE');
  if (groupType === OFPGT_INDIRECT && command !== OFPGC_DELETE && buckets.length !== 1) {
    throw new OfError('OFPGMFC_INVALID_GROUP');
  }
  if (!COMMANDS.has(command)) throw new OfError('OFPGMFC_BAD_COMMAND');
  if (command === OFPGC_REMOVE_BUCKET && buckets.length > 0) {
    throw new OfError('OFPGMFC_BAD_BUCKET');
  }
  for (const bucket of buckets) {
    if (bucket.weight !== 0 && groupType !== OFPGT_SELECT && command !== OFPGC_INSERT_BUCKET) {
      throw new OfError('OFPGMFC_INVALID_GROUP');
    }
    if ((groupType === OFPGT_ALL || groupType === OFPGT_INDIRECT) && watches(bucket)) {
      throw new OfError('OFPGMFC_WATCH_UNSUPPORTED');
    }
    if (groupType === OFPGT_FF && !watches(bucket)) throw new OfError('OFPGMFC_INVALID_GROUP');
  }
}

const groupMod: BodyCodec<'group_mod'> = {
  decode: (r, ctx) => {
    const command = r.u16();
    const groupType = r.u8();
    r.skip(1);
    const group = r.u32();
    const mod: MessageOf<'group_mod'> = {
      type: 'group_mod',
      command,
      group,
      groupType,
      commandBucket: BUCKET_ALL,
      buckets: [],
    };
    if (isNew(ctx)) {
      const length = r.u16();
      r.skip(2);
      mod.commandBucket = r.u32();
      checkCommandBucket(command, mod.commandBucket);
      mod.buckets = readBuckets(r.sub(length), ctx, groupType);
      const selection = readGroupProps(r, ctx, groupType, command);
      if (selection !== undefined) mod.selection = selection;
    } else {
      mod.buckets = readBuckets(r, ctx, groupType);
      // Asked for since OpenFlow 1.3.5.
      if (ctx.version >= 4 && command === OFPGC_DELETE && mod.buckets.length > 0) {
        throw new OfError('OFPGMFC_INVALID_GROUP');
      }
    }
    checkGroupMod(mod);
    return mod;
  },
  encode: (w, m, ctx) => {
    w.u16(m.command).u8(m.groupType).zeros(1).u32(m.group);
    if (!isNew(ctx)) {
      putBuckets(w, m.buckets, ctx, m.groupType);
      return;
    }
    const lengthAt = w.length;
    w.u16(0).zeros(2).u32(m.commandBucket);
    const start = w.length;
    putBuckets(w, m.buckets, ctx, m.groupType);
    w.patchLength(lengthAt, start);
    putGroupProps(w, m.selection, ctx);
  },
};

// ---- statistics, descriptions, features

function readGroupStats(r: Reader, ctx: BodyContext): GroupStats {
  const length = r.u16();
  if (length < 32) throw new OfError('OFPBRC_BAD_LEN');
  const body = r.sub(length - 2);
  body.skip(2);
  const group = body.u32();
  const refCount = body.u32();
  body.skip(4);
  const [packets, bytes] = [body.u64(), body.u64()];
  const durationMs = ctx.version === 2 || ctx.version === 3 ? 0 : readDuration(body);
  const buckets: GroupStats['buckets'] = [];
  while (body.left > 0) buckets.push({ packets: body.u64(), bytes: body.u64() });
  return { group, refCount, packets, bytes, durationMs, buckets };
}

function putGroupStats(w: Writer, one: GroupStats, ctx: BodyContext): void {
  const start = w.length;
  w.u16(0).zeros(2).u32(one.group).u32(one.refCount).zeros(4).u64(one.packets).u64(one.bytes);
  if (ctx.version !== 2 && ctx.version !== 3) putDuration(w, one.durationMs);
  for (const { packets, bytes } of one.buckets) w.u64(packets).u64(bytes);
  w.patchLength(start, start);
  ctx.mark();
}

export const groupCodecs: Codecs = {
  group_mod: groupMod,
  group_stats_request: {
    decode: (r, ctx) => {
      const group = r.u32();
      r.skip(4);
      return { type: 'group_stats_request', group, ...isNx(ctx) };
    },
    encode: (w, m) => void w.u32(m.group).zeros(4),
  },
  group_stats_reply: {
    decode: (r, ctx) => {
      const groups: GroupStats[] = [];
      while (r.left > 0) groups.push(readGroupStats(r, ctx));
      return { type: 'group_stats_reply', groups, ...isNx(ctx) };
    },
    encode: (w, m, ctx) => {
      for (const one of m.groups) putGroupStats(w, one, ctx);
    },
  },
  group_desc_request: {
    decode: (r, ctx) => {
      const nx = isNx(ctx);
      if (ctx.version < 6 && !nx.nxt) return { type: 'group_desc_request', group: OFPG_ALL };
      const group = r.u32();
      r.skip(4);
      return { type: 'group_desc_request', group, ...nx };
    },
    encode: (w, m, ctx) => {
      if (ctx.version >= 6 || ctx.kind === 'nx_request') w.u32(m.group).zeros(4);
    },
  },
  group_desc_reply: {
    decode: (r, ctx) => {
      const groups: MessageOf<'group_desc_reply'>['groups'] = [];
      while (r.left > 0) {
        const length = r.u16();
        if (length < 8) throw new OfError('OFPBRC_BAD_LEN');
        const body = r.sub(length - 2);
        const groupType = body.u8();
        body.skip(1);
        const group = body.u32();
        if (!isNew(ctx)) {
          groups.push({ group, groupType, buckets: readBuckets(body, ctx, groupType) });
          continue;
        }
        const bucketsLength = body.u16();
        body.skip(6);
        const buckets = readBuckets(body.sub(bucketsLength), ctx, groupType);
        const selection = readGroupProps(body, ctx, groupType, OFPGC_ADD);
        groups.push({
          group,
          groupType,
          buckets,
          ...(selection === undefined ? {} : { selection }),
        });
      }
      return { type: 'group_desc_reply', groups, ...isNx(ctx) };
    },
    encode: (w, m, ctx) => {
      for (const one of m.groups) {
        const start = w.length;
        w.u16(0).u8(one.groupType).zeros(1).u32(one.group);
        if (isNew(ctx)) {
          const lengthAt = w.length;
          w.u16(0).zeros(6);
          const bucketsAt = w.length;
          putBuckets(w, one.buckets, ctx, one.groupType);
          w.patchLength(lengthAt, bucketsAt);
          putGroupProps(w, one.selection, ctx);
        } else {
          putBuckets(w, one.buckets, ctx, one.groupType);
        }
        w.patchLength(start, start);
        ctx.mark();
      }
    },
  },
  group_features_request: {
    decode: (_, ctx) => ({ type: 'group_features_request', ...isNx(ctx) }),
    encode: () => undefined,
  },
  group_features_reply: {
    decode: (r, ctx) => ({
      type: 'group_features_reply',
      features: {
        types: r.u32(),
        capabilities: r.u32(),
        maxGroups: readWords(r, GROUP_TYPES),
        actions: readWords(r, GROUP_TYPES),
      },
      ...isNx(ctx),
    }),
    encode: (w, m) => {
      w.u32(m.features.types).u32(m.features.capabilities);
      putWords(w, m.features.maxGroups, GROUP_TYPES);
      putWords(w, m.features.actions, GROUP_TYPES);
    },
  },
};
