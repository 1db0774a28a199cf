// An exporter of IPFIX records for one set of collectors (Bridge.ipfix, table Flow_Sample_Collector_Set): samples of the
// same flow are summed up in a cache, for at most cache_active_timeout seconds and cache_max_flows flows, then sent, as
// Open vSwitch does.

import {
  K_ETH_DST,
  K_ETH_SRC,
  K_ETH_TYPE,
  K_IN_PORT,
  K_IPV6_DST,
  K_IPV6_LABEL,
  K_IPV6_SRC,
  K_NW_DST,
  K_NW_PROTO,
  K_NW_SRC,
  K_NW_TOS,
  K_NW_TTL,
  K_TCP_FLAGS,
  K_TP_DST,
  K_TP_SRC,
  K_VLAN0_TCI,
} from '../../contract/key.ts';
import {
  dataMessage,
  END_ACTIVE_TIMEOUT,
  END_FORCED,
  END_LACK_OF_RESOURCES,
  type NetworkKind,
  type RecordCounts,
  type RecordShape,
  statisticsMessage,
  type TransportKind,
  templateId,
  templateMessages,
} from '../wire/ipfix.ts';
import { Writer } from '../wire/openflow/buffer.ts';
import { type IpfixStats, zeroIpfixStats } from '../wire/openflow/ipfixStats.ts';
import { be16, be32 } from './flow.ts';

const NETWORKS: ReadonlyMap<number, NetworkKind> = new Map([
  [0x0800, 'ipv4'],
  [0x86dd, 'ipv6'],
]);
const TRANSPORTS: ReadonlyMap<number, TransportKind> = new Map([
  [6, 'tcp'],
  [17, 'udp'],
  [132, 'sctp'],
]);
/** Over UDP, templates are sent again and again. */
const TEMPLATE_INTERVAL_S = 600;
const IF_NAME_MAX = 64;
const IF_DESCRIPTION_MAX = 128;
/** Flags in the order of their counters: ACK, FIN, PSH, RST, SYN, URG. */
const TCP_FLAGS = [0x10, 0x01, 0x08, 0x04, 0x02, 0x20];

export interface ExporterOptions {
  readonly activeTimeoutS: number;
  readonly maxFlows: number;
  readonly virtualObsId: string | undefined;
}

/** A tunnel by which a sampled packet has come. Open vSwitch exports those over IPv4. */
export interface IpfixTunnel {
  /** As in the element tunnelType. */
  readonly type: number;
  readonly protocol: number;
  readonly source: number;
  readonly destination: number;
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly key: Uint8Array;
}

export interface IpfixSample {
  /** How many packets this one stands for. */
  readonly packets: number;
  readonly domain: number;
  readonly point: number;
  readonly egress: boolean;
  readonly outputPort: number;
  /** The packet's megaflow puts it out, somewhere. */
  readonly forwarded: boolean;
  readonly tunnel: IpfixTunnel | undefined;
}

export interface ExporterHooks {
  /** Sends a datagram to all collectors, and says how many there are. */
  send(datagram: Uint8Array): number;
  /** Datagrams that could not be sent so far. */
  notSent(): number;
  /** Wall clock. */
  nowMs(): number;
  /** The device of one of the bridge's datapath ports. */
  device(port: number, key: Uint8Array): IpfixDevice | undefined;
}

export interface IpfixDevice {
  readonly name: string;
  readonly ifindex: number;
  /** interfaceType, 0 = unknown. */
  readonly type: number;
  readonly description: string;
}

/** Packet counts, in the order of the template; those at TOTALS run over all flows. */
const P = {
  droppedDelta: 0,
  droppedTotal: 1,
  delta: 2,
  total: 3,
  inUnicast: 4,
  inMulticast: 5,
  inBroadcast: 6,
  outUnicast: 7,
  outBroadcast: 8,
  mcastDelta: 9,
  mcastTotal: 10,
  layer2Delta: 11,
  layer2Total: 12,
} as const;
const PACKET_DELTAS: readonly number[] = [P.droppedDelta, P.delta, P.mcastDelta, P.layer2Delta];
const O = {
  droppedDelta: 0,
  droppedTotal: 1,
  delta: 2,
  total: 3,
  squaresDelta: 4,
  squaresTotal: 5,
  min: 6,
  max: 7,
  mcastDelta: 8,
  mcastTotal: 9,
} as const;
const OCTET_DELTAS: readonly number[] = [O.droppedDelta, O.delta, O.squaresDelta, O.mcastDelta];

interface CacheEntry extends RecordCounts {
  readonly domain: number;
  readonly template: number;
  readonly key: Uint8Array;
  packets: number[];
  octets: number[];
  tcp: number[];
}

function shapeOf(key: Uint8Array, egress: boolean, tunnel: boolean): RecordShape {
  const network = NETWORKS.get(be16(key, K_ETH_TYPE)) ?? 'other';
  const proto = key[K_NW_PROTO]!;
  const isIcmp = proto === (network === 'ipv4' ? 1 : 58);
  const transport = isIcmp ? 'icmp' : (TRANSPORTS.get(proto) ?? 'other');
  return {
    vlan: be16(key, K_VLAN0_TCI) !== 0,
    network,
    transport: network === 'other' ? 'other' : transport,
    tunnel,
    egress,
  };
}

/** Variable length of less than 255 bytes (RFC 7011 §7). */
function putText(w: Writer, text: string, max: number): void {
  const bytes = new TextEncoder().encode(text).subarray(0, max);
  w.u8(bytes.length).put(bytes);
}

function putNetwork(w: Writer, { network, transport }: RecordShape, key: Uint8Array): void {
  const tos = key[K_NW_TOS]!;
  w.u8(network === 'ipv4' ? 4 : 6)
    .u8(key[K_NW_TTL]!)
    .u8(key[K_NW_PROTO]!);
  w.u8(tos >> 2)
    .u8(tos >> 5)
    .u8(tos);
  if (network === 'ipv4') w.u32(be32(key, K_NW_SRC)).u32(be32(key, K_NW_DST));
  else {
    w.put(key.subarray(K_IPV6_SRC, K_IPV6_SRC + 16)).put(key.subarray(K_IPV6_DST, K_IPV6_DST + 16));
    w.u32(be32(key, K_IPV6_LABEL));
  }
  if (transport === 'icmp') w.u8(key[K_TP_SRC + 1]!).u8(key[K_TP_DST + 1]!);
  else if (transport !== 'other') w.u16(be16(key, K_TP_SRC)).u16(be16(key, K_TP_DST));
}

function putTunnel(w: Writer, tunnel: IpfixTunnel): void {
  w.u32(tunnel.source).u32(tunnel.destination).u8(tunnel.protocol);
  w.u16(tunnel.sourcePort).u16(tunnel.destinationPort).u8(tunnel.type);
  w.u8(tunnel.key.length).put(tunnel.key);
}

export class IpfixExporter {
  #options: ExporterOptions;
  readonly #hooks: ExporterHooks;
  readonly #id: number;
  #sequence = 1;
  #templatesSentS = 0;
  readonly #stats = zeroIpfixStats();
  /** By domain, template and key; the oldest first. */
  readonly #cache = new Map<string, CacheEntry>();
  readonly #packetTotals = new Array<number>(13).fill(0);
  readonly #octetTotals = new Array<number>(10).fill(0);
  readonly #tcpTotals = new Array<number>(6).fill(0);

  /** `id`: number of this exporting process. */
  constructor(id: number, options: ExporterOptions, hooks: ExporterHooks) {
    this.#id = id;
    this.#options = options;
    this.#hooks = hooks;
  }

  /** Totals stay. Collectors hear the templates again: they may be others, or the records look different. */
  configure(options: ExporterOptions): void {
    this.#options = options;
    this.#templatesSentS = 0;
    this.expire();
  }

  /** NXST_IPFIX_*. */
  get stats(): IpfixStats {
    const txErrors = this.#hooks.notSent();
    const txPackets = this.#stats.txPackets - txErrors;
    return { ...this.#stats, currentFlows: this.#cache.size, txPackets, txErrors };
  }

  /** `key`: the packet's flow key, `bytes`: its length. */
  sample(sample: IpfixSample, key: Uint8Array, bytes: number): void {
    const shape = shapeOf(key, sample.egress, sample.tunnel !== undefined);
    const entry = this.#entryOf(sample, shape, key, bytes);
    this.#countSample(shape);
    const name = `${entry.domain}/${entry.template}/${entry.key.toHex()}`;
    const old = this.#cache.get(name);
    if (old !== undefined) {
      aggregate(old, entry);
      return;
    }
    this.#cache.set(name, entry);
    this.#stats.totalFlows++;
    if (this.#cache.size > this.#options.maxFlows) this.expire();
  }

  #entryOf(sample: IpfixSample, shape: RecordShape, key: Uint8Array, bytes: number): CacheEntry {
    const nowUs = Math.floor(this.#hooks.nowMs()) * 1000;
    return {
      domain: sample.domain,
      template: templateId(shape),
      key: this.#keyOf(sample, shape, key),
      startUs: nowUs,
      endUs: nowUs,
      ...this.#count(sample, shape, key, bytes),
    };
  }

  /** A protocol without template of its own counts as an error. */
  #countSample({ network, transport }: RecordShape): void {
    const stats = this.#stats;
    stats.packets++;
    if (network === 'other') return;
    const known = transport !== 'other';
    if (network === 'ipv4') stats[known ? 'ipv4Packets' : 'ipv4ErrorPackets']++;
    else stats[known ? 'ipv6Packets' : 'ipv6ErrorPackets']++;
    if (!known) stats.errorPackets++;
  }

  #keyOf(sample: IpfixSample, shape: RecordShape, key: Uint8Array): Uint8Array {
    const { vlan, network, egress } = shape;
    const w = new Writer();
    w.u32(sample.point).u8(egress ? 1 : 0);
    w.put(key.subarray(K_ETH_SRC, K_ETH_SRC + 6)).put(key.subarray(K_ETH_DST, K_ETH_DST + 6));
    w.u16(be16(key, K_ETH_TYPE)).u8(vlan ? 18 : 14);
    this.#putDevice(w, be32(key, K_IN_PORT), key);
    if (egress) this.#putDevice(w, sample.outputPort, key);
    if (vlan) {
      const tci = be16(key, K_VLAN0_TCI);
      w.u16(tci & 0xfff)
        .u16(tci & 0xfff)
        .u8(tci >> 13);
    }
    if (network !== 'other') putNetwork(w, shape, key);
    if (sample.tunnel !== undefined) putTunnel(w, sample.tunnel);
    return w.finish();
  }

  /** Interface and its type, name and description. */
  #putDevice(w: Writer, port: number, key: Uint8Array): void {
    const device = this.#hooks.device(port, key);
    w.u32(Math.max(0, device?.ifindex ?? 0)).u32(device?.type ?? 0);
    putText(w, device?.name ?? '', IF_NAME_MAX);
    putText(w, device?.description ?? '', IF_DESCRIPTION_MAX);
  }

  /** Adds to the totals, and gives the counts of one sample. */
  #count(
    sample: IpfixSample,
    shape: RecordShape,
    key: Uint8Array,
    bytes: number,
  ): { packets: number[]; octets: number[]; tcp: number[] } {
    const n = sample.packets;
    const broadcast = key.subarray(K_ETH_DST, K_ETH_DST + 6).every((byte) => byte === 0xff);
    const multicast = !broadcast && (key[K_ETH_DST]! & 1) !== 0;
    const dropped = sample.forwarded ? 0 : n;
    const t = this.#packetTotals;
    t[P.droppedTotal]! += dropped;
    t[P.total]! += n;
    t[P.layer2Total]! += n * bytes;
    if (broadcast) t[shape.egress ? P.outBroadcast : P.inBroadcast]! += n;
    else if (multicast) t[shape.egress ? P.mcastTotal : P.inMulticast]! += n;
    else t[shape.egress ? P.outUnicast : P.inUnicast]! += n;
    const packets = [...t];
    packets[P.droppedDelta] = dropped;
    packets[P.delta] = n;
    packets[P.mcastDelta] = multicast && shape.egress ? n : 0;
    packets[P.layer2Delta] = n * bytes;
    if (shape.network === 'other') return { packets, octets: [], tcp: [] };

    const length = bytes - (shape.vlan ? 18 : 14);
    const o = this.#octetTotals;
    const mcast = multicast && shape.egress ? n * length : 0;
    o[O.droppedTotal]! += dropped * length;
    o[O.total]! += n * length;
    o[O.squaresTotal]! += n * length * length;
    o[O.mcastTotal]! += mcast;
    const octets = [...o];
    octets[O.droppedDelta] = dropped * length;
    octets[O.delta] = n * length;
    octets[O.squaresDelta] = n * length * length;
    octets[O.min] = length;
    octets[O.max] = length;
    octets[O.mcastDelta] = mcast;
    if (shape.transport !== 'tcp') return { packets, octets, tcp: [] };
    const flags = be16(key, K_TCP_FLAGS);
    TCP_FLAGS.forEach((flag, i) => {
      if ((flags & flag) !== 0) this.#tcpTotals[i]! += n;
    });
    return { packets, octets, tcp: [...this.#tcpTotals] };
  }

  /** Sends the flows whose time has come, and the oldest of too many; `all`: every one. */
  expire(all = false): void {
    const nowMs = this.#hooks.nowMs();
    const exportSeconds = Math.ceil(nowMs / 1000);
    const oldestUs = Math.floor(nowMs) * 1000 - this.#options.activeTimeoutS * 1e6;
    for (const [name, entry] of this.#cache) {
      let reason = END_FORCED;
      if (!all) {
        if (entry.startUs <= oldestUs) reason = END_ACTIVE_TIMEOUT;
        else if (this.#cache.size > this.#options.maxFlows) reason = END_LACK_OF_RESOURCES;
        else break;
      }
      this.#cache.delete(name);
      this.#send(entry, exportSeconds, reason);
    }
  }

  #send(entry: CacheEntry, exportSeconds: number, reason: number): void {
    const { domain, template, key } = entry;
    const { virtualObsId } = this.#options;
    if (this.#templatesSentS + TEMPLATE_INTERVAL_S <= exportSeconds) {
      this.#templatesSentS = exportSeconds;
      const header = { exportSeconds, sequence: this.#sequence, domain };
      const withId = virtualObsId !== undefined;
      for (const message of templateMessages(header, withId)) this.#put(message);
      const statistics = { exportSeconds, sequence: this.#next() };
      this.#put(statisticsMessage(statistics, this.#id, this.#hooks.notSent()));
    }
    const header = { exportSeconds, sequence: this.#next(), domain };
    this.#put(dataMessage(header, template, key, virtualObsId, entry, reason));
  }

  #put(message: Uint8Array): void {
    this.#stats.txPackets += this.#hooks.send(message);
  }

  #next(): number {
    const sequence = this.#sequence;
    this.#sequence = (sequence + 1) >>> 0;
    return sequence;
  }
}

/** Another sample of the same flow: differences add up, totals are the latest. */
function aggregate(to: CacheEntry, from: CacheEntry): void {
  to.endUs = from.endUs;
  to.packets = from.packets.map((count, i) =>
    PACKET_DELTAS.includes(i) ? count + to.packets[i]! : count,
  );
  to.octets = from.octets.map((count, i) => {
    if (i === O.min) return Math.min(count, to.octets[i]!);
    if (i === O.max) return Math.max(count, to.octets[i]!);
    return OCTET_DELTAS.includes(i) ? count + to.octets[i]! : count;
  });
  to.tcp = from.tcp;
}
