// Connection tracking, the control plane's side: settings, limits, timeouts, dumps, flushes, counters, and the sweep
// that ends what has expired (contract/ct.ts; the other side is dataplane/ct).
//
// The main thread has its own instance of the data plane's module and takes the same locks with it. It sweeps a slice of
// the records at a time, so neither a worker nor the event loop pauses: three million connections in about a second.

import { getRandomValues } from 'node:crypto';
import {
  CN_EXPIRES,
  CN_FLAGS,
  CN_LABEL,
  CN_LIVE,
  CN_LOCK,
  CN_MARK,
  CN_META,
  CN_PARENT_PORTS,
  CN_PARENT_SRC,
  CN_PEERS,
  CN_POLICY,
  CN_PORTS,
  CN_REPLY_PORTS,
  CN_REPLY_SRC,
  CN_REVISION,
  CN_SIZE,
  CN_SRC,
  CN_STATE,
  CNF_DNAT,
  CNF_EXPECTED,
  CNF_FTP,
  CNF_SNAT,
  CNF_TFTP,
  CT_CONTROL,
  CT_CONTROL_PLANE,
  CT_DEFAULT_LIMIT,
  CT_LOCK_COUNT,
  CT_LOCKS,
  CT_MAX,
  CT_POLICIES,
  CT_POLICY_MAX,
  CT_POLICY_SIZE,
  CT_SCRATCH,
  CT_SCRATCH_SIZE,
  CT_ZONE_SIZE,
  CT_ZONES,
  CTC_COUNT,
  CTC_DEFAULT_LIMITED,
  CTC_DEFAULT_ZONE_LIMIT,
  CTC_HIGH,
  CTC_LIBERAL,
  CTC_LIMIT,
  CTC_POOL_LOCK,
  CTC_SEED,
  CTC_SEED_WORDS,
  CTK_COUNT,
  CZ_COUNT,
  CZ_LIMIT,
  CZ_LIMITED,
  connectionAddress,
  ctCountersAddress,
  PEER_SIZE,
  PEER_STATE,
  PEER_WSCALE,
  TU_DST,
  TU_META,
  TU_PORTS,
  TU_SRC,
  WSCALE_FLAG,
  WSCALE_MASK,
  WSCALE_UNKNOWN,
} from '../../contract/ct.ts';
import { EXC_LOCK, EXPECT_BASE } from '../../contract/ctExpect.ts';
import {
  FG_ENABLED,
  FG_LOCK,
  FG_MAX,
  FG_MIN_V4,
  FG_MIN_V6,
  FG_WAITING,
  FRAGMENT_DEFAULT_MIN_V4,
  FRAGMENT_DEFAULT_MIN_V6,
  FRAGMENT_SLOTS_MAX,
  FRAGMENTS_BASE,
  FRAGMENTS_DEFAULT_MAX,
} from '../../contract/ctFragments.ts';
import { waitingDatagrams } from './conntrackFragments.ts';
import { COUNTER_NAMES, TIMEOUT_NAMES } from './conntrackNames.ts';
import type {
  Conntrack,
  CtConnection,
  CtDatagram,
  CtFragmentSettings,
  CtTcpPeer,
  CtTimeouts,
  CtTuple,
  CtZoneLimit,
} from './conntrackTypes.ts';
import type { DataPlane } from './hostLoop.ts';
import type { EngineMemory } from './memory.ts';

const PROTO_ICMP = 1;
const PROTO_TCP = 6;
const PROTO_ICMPV6 = 58;
const MAX_ZONE = 0xffff;
/** The least minimum that Open vSwitch lets one set. */
const LEAST_MIN = 400;

/** Records looked at in a slice of the sweep, its pause, and the pause between two sweeps. */
const SLICE = 32768;
const SLICE_PAUSE_MS = 10;
const SWEEP_PAUSE_MS = 1000;

export class ConntrackTable implements Conntrack {
  readonly capacity: number = CT_MAX;
  private readonly mem: EngineMemory;
  private readonly dataPlane: DataPlane;
  private readonly nowMs: () => number;
  private position = 0;
  private timer: NodeJS.Timeout | undefined;

  /** `dataPlane` is an instance that belongs to the caller's thread. Writes the defaults. */
  constructor(mem: EngineMemory, dataPlane: DataPlane, nowMs: () => number) {
    this.mem = mem;
    this.dataPlane = dataPlane;
    this.nowMs = nowMs;
    for (let i = 0; i < CTC_SEED_WORDS; i++) {
      mem.set(CT_CONTROL + CTC_SEED + i * 4, getRandomValues(new Uint32Array(1))[0]!);
    }
    mem.store(CT_CONTROL + CTC_LIMIT, CT_DEFAULT_LIMIT);
    for (let id = 0; id < CT_POLICY_MAX; id++) this.setTimeoutPolicy(id, {});
    this.setFragments({
      enabledV4: true,
      enabledV6: true,
      minV4: FRAGMENT_DEFAULT_MIN_V4,
      minV6: FRAGMENT_DEFAULT_MIN_V6,
      max: FRAGMENTS_DEFAULT_MAX,
    });
    dataPlane.ctAttach(CT_CONTROL_PLANE);
  }

  /** The table is that of a daemon that has crashed: whatever its threads held is free. Before any worker uses it. */
  unlockAll(): void {
    const { mem } = this;
    mem.u8.fill(0, CT_LOCKS, CT_LOCKS + CT_LOCK_COUNT * 4);
    mem.store(CT_CONTROL + CTC_POOL_LOCK, 0);
    mem.store(FRAGMENTS_BASE + FG_LOCK, 0);
    mem.store(EXPECT_BASE + EXC_LOCK, 0);
    const high = mem.load(CT_CONTROL + CTC_HIGH);
    for (let n = 0; n < high; n++) mem.store(connectionAddress(n) + CN_LOCK, 0);
  }

  // ---- the sweep

  /** Sweeps from now on, until stop(). */
  start(): void {
    const round = (): void => {
      const done = this.sweep(SLICE);
      this.timer = setTimeout(round, done ? SWEEP_PAUSE_MS : SLICE_PAUSE_MS);
      this.timer.unref();
    };
    round();
  }

  stop(): void {
    clearTimeout(this.timer);
  }

  /** Looks at the next `records` records. True: the end of the table has been reached. */
  sweep(records: number): boolean {
    const high = this.mem.load(CT_CONTROL + CTC_HIGH);
    if (this.position === 0 || (this.position < high && this.count() > 0)) {
      this.dataPlane.ctSweep(this.position, records, this.nowMs());
      this.position += records;
    } else {
      this.position = high;
    }
    if (this.position < high) return false;
    this.position = 0;
    return true;
  }

  // ---- connections

  *dump(zone?: number): Generator<CtConnection> {
    const high = this.mem.load(CT_CONTROL + CTC_HIGH);
    for (let n = 0; n < high; n++) {
      const copy = this.copy(n);
      if (copy === undefined) continue;
      const meta = copy.getUint32(CN_META, true);
      if (zone !== undefined && (meta & 0xffff) !== zone) continue;
      const left = (copy.getUint32(CN_EXPIRES, true) - Math.trunc(this.nowMs())) | 0;
      if (left <= 0) continue;
      yield connection(copy, meta, Math.trunc(left / 1000));
    }
  }

  /** A consistent copy of a live record: another revision before and after means that it is another connection. */
  private copy(n: number): DataView | undefined {
    const at = connectionAddress(n);
    if (this.mem.load(at + CN_STATE) !== CN_LIVE) return undefined;
    const revision = this.mem.load(at + CN_REVISION);
    const copy = this.mem.u8.slice(at, at + CN_SIZE);
    if (this.mem.load(at + CN_STATE) !== CN_LIVE) return undefined;
    if (this.mem.load(at + CN_REVISION) !== revision) return undefined;
    return new DataView(copy.buffer);
  }

  flush(zone?: number): number {
    const high = this.mem.load(CT_CONTROL + CTC_HIGH);
    let flushed = 0;
    for (let n = 0; n < high; n++) {
      const at = connectionAddress(n);
      if (this.mem.load(at + CN_STATE) !== CN_LIVE) continue;
      const revision = this.mem.load(at + CN_REVISION);
      if (zone !== undefined && (this.mem.get(at + CN_META) & 0xffff) !== zone) continue;
      if (this.dataPlane.ctFlush(n, revision)) flushed++;
    }
    return flushed;
  }

  flushTuple(tuple: CtTuple, zone: number): boolean {
    const at = CT_SCRATCH + CT_CONTROL_PLANE * CT_SCRATCH_SIZE;
    const v6 = tuple.src.length === 16;
    const view = new DataView(this.mem.memory.buffer, at, 64);
    this.mem.u8.fill(0, at, at + 64);
    this.mem.u8.set(tuple.src, at + TU_SRC);
    this.mem.u8.set(tuple.dst, at + TU_DST);
    if (tuple.proto === (v6 ? PROTO_ICMPV6 : PROTO_ICMP)) {
      view.setUint16(TU_PORTS, tuple.icmpId);
      view.setUint8(TU_PORTS + 2, tuple.icmpType);
      view.setUint8(TU_PORTS + 3, tuple.icmpCode);
    } else {
      view.setUint16(TU_PORTS, tuple.srcPort);
      view.setUint16(TU_PORTS + 2, tuple.dstPort);
    }
    view.setUint32(TU_META, zone | (tuple.proto << 16) | ((v6 ? 6 : 4) << 24), true);
    return Boolean(this.dataPlane.ctFlushTuple(this.nowMs()));
  }

  count(): number {
    return this.mem.load(CT_CONTROL + CTC_COUNT);
  }

  // ---- limits

  getMax(): number {
    return this.mem.load(CT_CONTROL + CTC_LIMIT);
  }

  setMax(limit: number): void {
    this.mem.store(CT_CONTROL + CTC_LIMIT, limit);
  }

  getDefaultLimit(): number | undefined {
    if (this.mem.load(CT_CONTROL + CTC_DEFAULT_LIMITED) === 0) return undefined;
    return this.mem.load(CT_CONTROL + CTC_DEFAULT_ZONE_LIMIT);
  }

  setDefaultLimit(limit: number | undefined): void {
    if (limit !== undefined) this.mem.store(CT_CONTROL + CTC_DEFAULT_ZONE_LIMIT, limit);
    this.mem.store(CT_CONTROL + CTC_DEFAULT_LIMITED, limit === undefined ? 0 : 1);
  }

  zoneLimits(): CtZoneLimit[] {
    const out: CtZoneLimit[] = [];
    for (let zone = 0; zone <= MAX_ZONE; zone++) {
      const at = CT_ZONES + zone * CT_ZONE_SIZE;
      if (this.mem.load(at + CZ_LIMITED) === 0) continue;
      out.push({ zone, limit: this.mem.load(at + CZ_LIMIT), count: this.zoneCount(zone) });
    }
    return out;
  }

  zoneCount(zone: number): number {
    return this.mem.load(CT_ZONES + zone * CT_ZONE_SIZE + CZ_COUNT);
  }

  setZoneLimit(zone: number, limit: number): void {
    if (zone < 0 || zone > MAX_ZONE) throw new RangeError(`zone ${zone}`);
    const at = CT_ZONES + zone * CT_ZONE_SIZE;
    this.mem.store(at + CZ_LIMIT, limit);
    this.mem.store(at + CZ_LIMITED, 1);
  }

  deleteZoneLimit(zone: number): void {
    if (zone < 0 || zone > MAX_ZONE) return;
    this.mem.store(CT_ZONES + zone * CT_ZONE_SIZE + CZ_LIMITED, 0);
  }

  // ---- settings

  getTcpSeqChk(): boolean {
    return this.mem.load(CT_CONTROL + CTC_LIBERAL) === 0;
  }

  setTcpSeqChk(on: boolean): void {
    this.mem.store(CT_CONTROL + CTC_LIBERAL, on ? 0 : 1);
  }

  setTimeoutPolicy(id: number, timeouts: CtTimeouts): void {
    if (id < 0 || id >= CT_POLICY_MAX) throw new RangeError(`timeout policy ${id}`);
    TIMEOUT_NAMES.forEach(({ name, defaultSeconds }, kind) => {
      const seconds = timeouts[name] ?? defaultSeconds;
      this.mem.store(CT_POLICIES + id * CT_POLICY_SIZE + kind * 4, Math.min(seconds, 0xffffffff));
    });
  }

  deleteTimeoutPolicy(id: number): void {
    this.setTimeoutPolicy(id, {});
  }

  getFragments(): CtFragmentSettings & { readonly waiting: number } {
    const get = (offset: number): number => this.mem.load(FRAGMENTS_BASE + offset);
    return {
      enabledV4: (get(FG_ENABLED) & 1) !== 0,
      enabledV6: (get(FG_ENABLED) & 2) !== 0,
      minV4: get(FG_MIN_V4),
      minV6: get(FG_MIN_V6),
      max: get(FG_MAX),
      waiting: get(FG_WAITING),
    };
  }

  setFragments(settings: Partial<CtFragmentSettings>): boolean {
    const all = { ...this.getFragments(), ...settings };
    const small = Math.min(settings.minV4 ?? LEAST_MIN, settings.minV6 ?? LEAST_MIN);
    if (small < LEAST_MIN || all.max > FRAGMENT_SLOTS_MAX) return false;
    const set = (offset: number, value: number): void => {
      this.mem.store(FRAGMENTS_BASE + offset, value);
    };
    set(FG_MIN_V4, all.minV4);
    set(FG_MIN_V6, all.minV6);
    set(FG_MAX, all.max);
    set(FG_ENABLED, (all.enabledV4 ? 1 : 0) | (all.enabledV6 ? 2 : 0));
    return true;
  }

  datagrams(): Iterable<CtDatagram> {
    return waitingDatagrams(this.mem);
  }

  counters(): Record<string, number> {
    const out: Record<string, number> = {};
    for (let i = 0; i < CTK_COUNT; i++) {
      let sum = 0;
      for (let holder = 0; holder <= CT_CONTROL_PLANE; holder++) {
        sum += this.mem.f64[ctCountersAddress(holder) / 8 + i]!;
      }
      out[COUNTER_NAMES[i]!] = sum;
    }
    return out;
  }
}

function connection(record: DataView, meta: number, timeoutSeconds: number): CtConnection {
  const flags = record.getUint32(CN_FLAGS, true);
  const proto = (meta >>> 16) & 0xff;
  return {
    orig: tuple(record, meta, CN_SRC, CN_PORTS),
    reply: tuple(record, meta, CN_REPLY_SRC, CN_REPLY_PORTS),
    zone: meta & 0xffff,
    timeoutSeconds,
    mark: record.getUint32(CN_MARK),
    label: bytes(record, CN_LABEL, 16),
    tcp:
      proto === PROTO_TCP
        ? [peer(record, CN_PEERS), peer(record, CN_PEERS + PEER_SIZE)]
        : undefined,
    snat: (flags & CNF_SNAT) !== 0,
    dnat: (flags & CNF_DNAT) !== 0,
    helper: (flags & CNF_FTP) !== 0 ? 'ftp' : (flags & CNF_TFTP) !== 0 ? 'tftp' : undefined,
    parent:
      (flags & CNF_EXPECTED) !== 0
        ? tuple(record, meta, CN_PARENT_SRC, CN_PARENT_PORTS)
        : undefined,
    policy: record.getUint8(CN_POLICY),
  };
}

function bytes(record: DataView, offset: number, length: number): Uint8Array {
  return new Uint8Array(record.buffer, record.byteOffset + offset, length).slice();
}

/** The destination follows the source. */
function tuple(record: DataView, meta: number, source: number, ports: number): CtTuple {
  const proto = (meta >>> 16) & 0xff;
  const v6 = meta >>> 24 === 6;
  const size = v6 ? 16 : 4;
  const icmp = proto === (v6 ? PROTO_ICMPV6 : PROTO_ICMP);
  return {
    src: bytes(record, source, size),
    dst: bytes(record, source + 16, size),
    proto,
    srcPort: icmp ? 0 : record.getUint16(ports),
    dstPort: icmp ? 0 : record.getUint16(ports + 2),
    icmpId: icmp ? record.getUint16(ports) : 0,
    icmpType: icmp ? record.getUint8(ports + 2) : 0,
    icmpCode: icmp ? record.getUint8(ports + 3) : 0,
  };
}

function peer(record: DataView, at: number): CtTcpPeer {
  const scale = record.getUint8(at + PEER_WSCALE);
  return {
    state: record.getUint8(at + PEER_STATE),
    windowScale: scale & WSCALE_MASK,
    hasWindowScale: (scale & WSCALE_FLAG) !== 0,
    liberal: (scale & WSCALE_UNKNOWN) !== 0,
  };
}
