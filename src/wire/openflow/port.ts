// Ports: description, status, modification and statistics. OpenFlow 1.0.1 §5.2.1, 1.1 §A.2.1, 1.4.1 §7.2.1, §7.3.4.3.
// The bits of config and of the link features are those of the newest version; OpenFlow 1.0 numbers some differently.

import type { Reader, Writer } from './buffer.ts';
import type { Codecs } from './codec.ts';
import { putCounter, putDuration, readCounter, readDuration, readList } from './codec.ts';
import { port10To11, port11To10 } from './fieldAccess.ts';
import type { PortMod } from './messages.ts';
import { putExpProp, putProp, readProps } from './prop.ts';
import type { PortDesc, PortStats } from './types.ts';
import { OfError } from './types.ts';

const CONFIG10 = 0x7f;
/** Spanning tree and flooding are OpenFlow 1.0 only. */
const CONFIG11 = 0x65;
const STATE10 = 0x301;
const STATE11 = 7;

/** OpenFlow 1.0: copper, fiber, autoneg, pause, asymmetric pause are bits 7-11, later 11-15. */
function features10To11(bits: number): number {
  return (bits & 0x7f) | ((bits & 0xf80) << 4);
}

function features11To10(bits: number): number {
  return (bits & 0x7f) | ((bits >> 4) & 0xf80);
}

export function checkPort(port: number): number {
  if (port >= 0xff00 && port < 0xffffff00) throw new OfError('OFPBAC_BAD_OUT_PORT');
  return port;
}

export function readPortNumber(r: Reader, version: number): number {
  return version === 1 ? port10To11(r.u16()) : checkPort(r.u32());
}

export function putPortNumber(w: Writer, port: number, version: number): void {
  if (version === 1) w.u16(port11To10(port));
  else w.u32(port);
}

const ETHERNET = 0;

export function readPort(r: Reader, version: number): PortDesc {
  if (version === 1) {
    const port = port10To11(r.u16());
    const hwAddr = r.copy(6);
    const name = r.text(16);
    const [config, state] = [r.u32() & CONFIG10, r.u32() & STATE10];
    const [curr, advertised, supported, peer] = [
      features10To11(r.u32()),
      features10To11(r.u32()),
      features10To11(r.u32()),
      features10To11(r.u32()),
    ];
    const speeds = { currSpeed: speedOf(curr), maxSpeed: speedOf(supported) };
    return { port, hwAddr, name, config, state, curr, advertised, supported, peer, ...speeds };
  }
  const start = r.offset;
  const port = checkPort(r.u32());
  const length = r.u16();
  r.skip(2);
  const hwAddr = r.copy(6);
  r.skip(2);
  const name = r.text(16);
  const desc: PortDesc = {
    port,
    hwAddr,
    name,
    config: r.u32() & CONFIG11,
    state: r.u32() & STATE11,
    curr: 0,
    advertised: 0,
    supported: 0,
    peer: 0,
    currSpeed: 0,
    maxSpeed: 0,
  };
  if (version < 5) {
    readLink(r, desc);
    return desc;
  }
  if (length < 40 || length - 40 > r.left || length % 8 !== 0) throw new OfError('OFPBRC_BAD_LEN');
  for (const p of readProps(r.sub(length - 40))) {
    if (p.type !== ETHERNET) continue;
    p.body.skip(4);
    readLink(p.body, desc);
  }
  r.offset = start + length;
  return desc;
}

function readLink(r: Reader, desc: PortDesc): void {
  desc.curr = r.u32();
  desc.advertised = r.u32();
  desc.supported = r.u32();
  desc.peer = r.u32();
  desc.currSpeed = r.u32();
  desc.maxSpeed = r.u32();
}

/** Fastest Ethernet speed among feature bits, kbit/s. */
function speedOf(features: number): number {
  const speeds = [10, 10, 100, 100, 1000, 1000, 10_000, 40_000, 100_000, 1_000_000];
  for (let i = speeds.length - 1; i >= 0; i--)
    if ((features & (1 << i)) !== 0) return speeds[i]! * 1000;
  return 0;
}

export function putPort(w: Writer, p: PortDesc, version: number): void {
  if (version === 1) {
    w.u16(port11To10(p.port)).put(p.hwAddr).text(p.name, 16);
    w.u32(p.config & CONFIG10).u32(p.state & STATE10);
    for (const f of [p.curr, p.advertised, p.supported, p.peer]) w.u32(features11To10(f));
    return;
  }
  const start = w.length;
  w.u32(p.port).u16(0).zeros(2).put(p.hwAddr).zeros(2).text(p.name, 16);
  w.u32(p.config & CONFIG11).u32(p.state & STATE11);
  const link = (): void => {
    w.u32(p.curr).u32(p.advertised).u32(p.supported).u32(p.peer).u32(p.currSpeed).u32(p.maxSpeed);
  };
  if (version < 5) {
    link();
    return;
  }
  putProp(w, ETHERNET, () => {
    w.zeros(4);
    link();
  });
  w.patchLength(start + 4, start);
}

// ---- statistics

const INTEL = 0x0000aa01;
const CUSTOM_STATS = 2;

function readStats(r: Reader, version: number): PortStats {
  const start = r.offset;
  let length = 0;
  if (version >= 5) {
    length = r.u16();
    r.skip(2);
  }
  const port = readPortNumber(r, version);
  if (version < 5) r.skip(version === 1 ? 6 : 4);
  let durationMs = version >= 5 ? readDuration(r) : 0;
  const n = (): number => readCounter(r);
  const s: PortStats = {
    port,
    rxPackets: n(),
    txPackets: n(),
    rxBytes: n(),
    txBytes: n(),
    rxDropped: n(),
    txDropped: n(),
    rxErrors: n(),
    txErrors: n(),
    rxFrameErr: version < 5 ? n() : -1,
    rxOverErr: version < 5 ? n() : -1,
    rxCrcErr: version < 5 ? n() : -1,
    collisions: version < 5 ? n() : -1,
    durationMs,
  };
  if (version === 4) durationMs = readDuration(r);
  s.durationMs = durationMs;
  if (version < 5) return s;
  if (length < r.offset - start || length - (r.offset - start) > r.left)
    throw new OfError('OFPBRC_BAD_LEN');
  for (const p of readProps(r.sub(length - (r.offset - start)))) {
    if (p.type === ETHERNET) {
      p.body.skip(4);
      s.rxFrameErr = readCounter(p.body);
      s.rxOverErr = readCounter(p.body);
      s.rxCrcErr = readCounter(p.body);
      s.collisions = readCounter(p.body);
    } else if (p.experimenter === INTEL && p.expType === CUSTOM_STATS) {
      s.custom = readCustom(p.body);
    }
  }
  return s;
}

function readCustom(r: Reader): Record<string, number> {
  r.skip(2);
  const custom: Record<string, number> = {};
  for (let n = r.u16(); n > 0; n--) {
    const name = r.text(r.u8());
    custom[name] = readCounter(r);
  }
  return custom;
}

function putStats(w: Writer, s: PortStats, version: number): void {
  const start = w.length;
  if (version >= 5) w.u16(0).zeros(2);
  putPortNumber(w, s.port, version);
  if (version >= 5) putDuration(w, s.durationMs);
  else w.zeros(version === 1 ? 6 : 4);
  for (const n of [s.rxPackets, s.txPackets, s.rxBytes, s.txBytes]) putCounter(w, n);
  for (const n of [s.rxDropped, s.txDropped, s.rxErrors, s.txErrors]) putCounter(w, n);
  const ethernet = (): void => {
    for (const n of [s.rxFrameErr, s.rxOverErr, s.rxCrcErr, s.collisions]) putCounter(w, n);
  };
  if (version < 5) {
    ethernet();
    if (version === 4) putDuration(w, s.durationMs);
    return;
  }
  putProp(w, ETHERNET, () => {
    w.zeros(4);
    ethernet();
  });
  const custom = Object.entries(s.custom ?? {});
  if (custom.length > 0) {
    putExpProp(w, INTEL, CUSTOM_STATS, () => {
      w.zeros(2).u16(custom.length);
      for (const [name, value] of custom) {
        const bytes = Buffer.from(name).subarray(0, 255);
        w.u8(bytes.length).put(bytes);
        putCounter(w, value);
      }
    });
  }
  w.patchLength(start, start);
}

// ---- port-mod

function readPortMod(r: Reader, version: number): PortMod {
  if (version === 1) {
    const port = port10To11(r.u16());
    const hwAddr = r.copy(6);
    const config = r.u32() & CONFIG10;
    const mask = r.u32() & CONFIG10;
    const advertise = features10To11(r.u32());
    r.skip(4);
    return { port, hwAddr, config, mask, advertise };
  }
  const port = checkPort(r.u32());
  r.skip(4);
  const hwAddr = r.copy(6);
  r.skip(2);
  const mod = { port, hwAddr, config: r.u32() & CONFIG11, mask: r.u32() & CONFIG11, advertise: 0 };
  if (version < 5) {
    mod.advertise = r.u32();
    r.skip(4);
    return mod;
  }
  for (const p of readProps(r)) {
    if (p.type !== ETHERNET) throw new OfError('OFPBPC_BAD_TYPE');
    mod.advertise = p.body.u32();
  }
  return mod;
}

function putPortMod(w: Writer, m: PortMod, version: number): void {
  if (version === 1) {
    w.u16(port11To10(m.port))
      .put(m.hwAddr)
      .u32(m.config & CONFIG10)
      .u32(m.mask & CONFIG10);
    w.u32(features11To10(m.advertise)).zeros(4);
    return;
  }
  w.u32(m.port).zeros(4).put(m.hwAddr).zeros(2);
  w.u32(m.config & CONFIG11).u32(m.mask & CONFIG11);
  if (version < 5) w.u32(m.advertise).zeros(4);
  else if (m.advertise !== 0) putProp(w, ETHERNET, () => w.u32(m.advertise));
}

const REASONS = ['add', 'delete', 'modify'] as const;

export const portCodecs: Codecs = {
  port_status: {
    decode: (r, ctx) => {
      const reason = REASONS[r.u8()];
      if (reason === undefined) throw new OfError('NXBRC_BAD_REASON');
      r.skip(7);
      return { type: 'port_status', reason, port: readPort(r, ctx.version) };
    },
    encode: (w, m, ctx) => {
      w.u8(REASONS.indexOf(m.reason)).zeros(7);
      putPort(w, m.port, ctx.version);
    },
  },
  port_mod: {
    decode: (r, ctx) => ({ type: 'port_mod', portMod: readPortMod(r, ctx.version) }),
    encode: (w, m, ctx) => putPortMod(w, m.portMod, ctx.version),
  },
  port_stats_request: {
    decode: (r, ctx) => {
      const port = readPortNumber(r, ctx.version);
      r.skip(ctx.version === 1 ? 6 : 4);
      return { type: 'port_stats_request', port };
    },
    encode: (w, m, ctx) => {
      putPortNumber(w, m.port, ctx.version);
      w.zeros(ctx.version === 1 ? 6 : 4);
    },
  },
  port_stats_reply: {
    decode: (r, ctx) => ({
      type: 'port_stats_reply',
      ports: readList(r, () => readStats(r, ctx.version)),
    }),
    encode: (w, m, ctx) => {
      for (const s of m.ports) {
        putStats(w, s, ctx.version);
        ctx.mark();
      }
    },
  },
  port_desc_request: {
    decode: (r, ctx) => {
      if (ctx.version < 6) return { type: 'port_desc_request', port: 0xffffffff };
      const port = readPortNumber(r, ctx.version);
      r.skip(4);
      return { type: 'port_desc_request', port };
    },
    encode: (w, m, ctx) => {
      if (ctx.version >= 6) w.u32(m.port).zeros(4);
    },
  },
  port_desc_reply: {
    decode: (r, ctx) => ({
      type: 'port_desc_reply',
      ports: readList(r, () => readPort(r, ctx.version)),
    }),
    encode: (w, m, ctx) => {
      for (const p of m.ports) {
        putPort(w, p, ctx.version);
        ctx.mark();
      }
    },
  },
};
