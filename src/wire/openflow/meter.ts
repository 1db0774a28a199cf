// Meters on the wire: OpenFlow 1.3 §7.3.4.4 (meter mod), §7.3.5.12-14 (statistics, configuration, features). The layouts
// did not change until 1.5.
//
//   band  type 2, len 2 (16), rate 4, burst_size 4, prec_level 1, pad 3      type 1 drop, 2 dscp_remark

import type { Reader, Writer } from './buffer.ts';
import type { BodyCodec, Codecs, MessageOf } from './codec.ts';
import { empty, putDuration, readDuration } from './codec.ts';
import type { MeterBand, MeterConfig, MeterStats } from './messages.ts';
import { OfError } from './types.ts';

export const OFPMC_ADD = 0;
export const OFPMC_MODIFY = 1;
export const OFPMC_DELETE = 2;

export const OFPMF_KBPS = 1;
export const OFPMF_PKTPS = 2;
export const OFPMF_BURST = 4;
export const OFPMF_STATS = 8;

export const OFPM_MAX = 0xffff0000;
export const OFPM_SLOWPATH = 0xfffffffd;
export const OFPM_CONTROLLER = 0xfffffffe;
export const OFPM_ALL = 0xffffffff;

export const OFPMBT_DROP = 1;
const OFPMBT_DSCP_REMARK = 2;
const BAND_LEN = 16;

function readBands(r: Reader): MeterBand[] {
  const bands: MeterBand[] = [];
  while (r.left >= BAND_LEN) {
    const type = r.u16();
    if (r.u16() !== BAND_LEN) throw new OfError('OFPBRC_BAD_LEN');
    if (type !== OFPMBT_DROP && type !== OFPMBT_DSCP_REMARK) throw new OfError('OFPMMFC_BAD_BAND');
    const [rate, burstSize, level] = [r.u32(), r.u32(), r.u8()];
    r.skip(3);
    bands.push({ type, rate, burstSize, precLevel: type === OFPMBT_DSCP_REMARK ? level : 0 });
  }
  if (r.left > 0) throw new OfError('OFPBRC_BAD_LEN');
  return bands;
}

function putBands(w: Writer, bands: readonly MeterBand[]): void {
  for (const { type, rate, burstSize, precLevel } of bands) {
    w.u16(type).u16(BAND_LEN).u32(rate).u32(burstSize).u8(precLevel).zeros(3);
  }
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

function readMeterStats(r: Reader): MeterStats {
  const meterId = r.u32();
  const length = r.u16();
  if (length < 40) throw new OfError('OFPBRC_BAD_LEN');
  const body = r.sub(length - 6);
  body.skip(6);
  const flowCount = body.u32();
  const [packets, bytes] = [body.u64(), body.u64()];
  const durationMs = readDuration(body);
  const bands: MeterStats['bands'] = [];
  while (body.left > 0) bands.push({ packets: body.u64(), bytes: body.u64() });
  return { meterId, flowCount, packets, bytes, durationMs, bands };
}

export const meterCodecs: Codecs = {
  meter_mod: {
    decode: (r) => {
      const [command, flags, meterId] = [r.u16(), r.u16(), r.u32()];
      if (command > OFPMC_DELETE) throw new OfError('OFPMMFC_BAD_COMMAND');
      if (command === OFPMC_DELETE) {
        r.offset = r.end;
        return { type: 'meter_mod', command, meterId, flags: 0, bands: [] };
      }
      if ((flags & OFPMF_KBPS) !== 0 && (flags & OFPMF_PKTPS) !== 0) {
        throw new OfError('OFPMMFC_BAD_FLAGS');
      }
      return { type: 'meter_mod', command, meterId, flags, bands: readBands(r) };
    },
    encode: (w, m) => {
      w.u16(m.command).u16(m.flags).u32(m.meterId);
      putBands(w, m.bands);
    },
  },
  meter_stats_request: meterRequest('meter_stats_request'),
  meter_stats_reply: {
    decode: (r) => {
      const meters: MeterStats[] = [];
      while (r.left > 0) meters.push(readMeterStats(r));
      return { type: 'meter_stats_reply', meters };
    },
    encode: (w, m, ctx) => {
      for (const one of m.meters) {
        const start = w.length;
        w.u32(one.meterId).u16(0).zeros(6).u32(one.flowCount).u64(one.packets).u64(one.bytes);
        putDuration(w, one.durationMs);
        for (const { packets, bytes } of one.bands) w.u64(packets).u64(bytes);
        w.patchLength(start + 4, start);
        ctx.mark();
      }
    },
  },
  meter_config_request: meterRequest('meter_config_request'),
  meter_config_reply: {
    decode: (r) => {
      const meters: MeterConfig[] = [];
      while (r.left > 0) {
        const length = r.u16();
        if (length < 8) throw new OfError('OFPBRC_BAD_LEN');
        const body = r.sub(length - 2);
        const [flags, meterId] = [body.u16(), body.u32()];
        meters.push({ meterId, flags, bands: readBands(body) });
      }
      return { type: 'meter_config_reply', meters };
    },
    encode: (w, m, ctx) => {
      for (const { meterId, flags, bands } of m.meters) {
        w.u16(8 + BAND_LEN * bands.length)
          .u16(flags)
          .u32(meterId);
        putBands(w, bands);
        ctx.mark();
      }
    },
  },
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
