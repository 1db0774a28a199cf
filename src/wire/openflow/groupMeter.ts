// Groups and meters, as far as a switch without them needs: requests are understood, replies are empty lists or the
// features. OpenFlow 1.1 §A.3.4.2, 1.3 §7.3.4.4, §7.3.5.10-14; the Nicira forms for OpenFlow 1.0.

import type { Reader, Writer } from './buffer.ts';
import type { BodyCodec, BodyContext, Codecs, MessageOf } from './codec.ts';
import { empty } from './codec.ts';

const GROUP_TYPES = 4;

const isNx = (ctx: BodyContext): { nxt?: true } =>
  ctx.kind === 'nx_request' || ctx.kind === 'nx_reply' ? { nxt: true } : {};

function readWords(r: Reader, n: number): number[] {
  return Array.from({ length: n }, () => r.u32());
}

function putWords(w: Writer, words: readonly number[], n: number): void {
  for (let i = 0; i < n; i++) w.u32(words[i] ?? 0);
}

function listReply<T extends 'meter_stats_reply' | 'meter_config_reply'>(type: T): BodyCodec<T> {
  return {
    decode: (r) => {
      r.offset = r.end;
      return { type } as MessageOf<T>;
    },
    encode: () => undefined,
  };
}

function groupListReply<T extends 'group_stats_reply' | 'group_desc_reply'>(type: T): BodyCodec<T> {
  return {
    decode: (r, ctx) => {
      r.offset = r.end;
      return { type, ...isNx(ctx) } as MessageOf<T>;
    },
    encode: () => undefined,
  };
}

function meterRequest<T extends 'meter_stats_request' | 'meter_config_request'>(
  type: T,
): BodyCodec<T> {
  return {
    decode: (r) => {
      const meterId = r.u32();
      r.skip(4);
      return { type, meterId } as MessageOf<T>;
    },
    encode: (w, m) => void w.u32((m as { meterId: number }).meterId).zeros(4),
  };
}

export const groupMeterCodecs: Codecs = {
  group_mod: {
    decode: (r) => {
      const command = r.u16();
      const groupType = r.u8();
      r.skip(1);
      const group = r.u32();
      r.offset = r.end;
      return { type: 'group_mod', command, group, groupType };
    },
    encode: (w, m, ctx) => {
      w.u16(m.command).u8(m.groupType).zeros(1).u32(m.group);
      // OpenFlow 1.5: no buckets, and a command bucket of "all".
      if (ctx.version >= 6 || ctx.kind === 'nx') w.u16(0).zeros(2).u32(0xffffffff);
    },
  },
  meter_mod: {
    decode: (r) => {
      const [command, flags, meterId] = [r.u16(), r.u16(), r.u32()];
      r.offset = r.end;
      return { type: 'meter_mod', command, meterId, flags };
    },
    encode: (w, m) => void w.u16(m.command).u16(m.flags).u32(m.meterId),
  },
  group_stats_request: {
    decode: (r, ctx) => {
      const group = r.u32();
      r.skip(4);
      return { type: 'group_stats_request', group, ...isNx(ctx) };
    },
    encode: (w, m) => void w.u32(m.group).zeros(4),
  },
  group_stats_reply: groupListReply('group_stats_reply'),
  group_desc_request: {
    decode: (r, ctx) => {
      const nx = isNx(ctx);
      if (ctx.version < 6 && !nx.nxt) return { type: 'group_desc_request', group: 0xfffffffc };
      const group = r.u32();
      r.skip(4);
      return { type: 'group_desc_request', group, ...nx };
    },
    encode: (w, m, ctx) => {
      if (ctx.version >= 6 || ctx.kind === 'nx_request') w.u32(m.group).zeros(4);
    },
  },
  group_desc_reply: groupListReply('group_desc_reply'),
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
  meter_stats_request: meterRequest('meter_stats_request'),
  meter_stats_reply: listReply('meter_stats_reply'),
  meter_config_request: meterRequest('meter_config_request'),
  meter_config_reply: listReply('meter_config_reply'),
  meter_features_request: empty({ type: 'meter_features_request' }),
  meter_features_reply: {
    decode: (r) => {
      const [maxMeters, bandTypes, capabilities] = [r.u32(), r.u32(), r.u32()];
      const [maxBands, maxColor] = [r.u8(), r.u8()];
      r.skip(2);
      const features = { maxMeters, bandTypes, capabilities, maxBands, maxColor };
      return { type: 'meter_features_reply', features };
    },
    encode: (w, { features: f }) =>
      void w
        .u32(f.maxMeters)
        .u32(f.bandTypes)
        .u32(f.capabilities)
        .u8(f.maxBands)
        .u8(f.maxColor)
        .zeros(2),
  },
};
