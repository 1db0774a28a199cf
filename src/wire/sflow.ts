// sFlow version 5 datagrams (sflow.org/sflow_version_5.txt), with the structures that Open vSwitch sends. XDR: everything in
// units of 4 bytes. A pure codec.
//
//   datagram   version 5, agent address (1 = IPv4, 2 = IPv6), sub-agent, sequence, uptime in ms, number of samples, samples
//   sample     tag (1 flow, 2 counters), length, sequence, source (class << 24 | index), …, number of elements, elements
//   element    tag (enterprise << 12 | format), length, data

import { Writer } from './openflow/buffer.ts';

export const SFLOW_PORT = 6343;
/** Datagrams are sent before they get longer than this. */
export const SFLOW_DATAGRAM_MAX = 1400;
/** Classes of data sources. */
export const SOURCE_INTERFACE = 0;
export const SOURCE_ENTITY = 2;

const VERSION = 5;
const FLOW_SAMPLE = 1;
const COUNTERS_SAMPLE = 2;
// Elements of flow samples.
const HEADER = 1;
const EXTENDED_SWITCH = 1001;
const EXTENDED_MPLS = 1006;
const TUNNEL_EGRESS = 1023;
const TUNNEL_INGRESS = 1024;
const VNI_EGRESS = 1029;
const VNI_INGRESS = 1030;
// Elements of counter samples.
const GENERIC = 1;
const ETHERNET = 2;
const LACP = 7;
const OPENFLOW_PORT = 1004;
const PORT_NAME = 1005;
const APP_RESOURCES = 2203;
const OVS_DATAPATH = 2207;

const PROTOCOL_ETHERNET = 1;
const FCS_LEN = 4;
/** A counter that nobody counts. */
const UNKNOWN = 0xffffffff;
const UNKNOWN64 = 0xffffffffffffffffn;

export interface SflowElement {
  tag: number;
  data: Uint8Array;
}

export interface SflowSource {
  class: number;
  index: number;
}

/** An outer header of IPv4. */
export interface SflowOuter {
  protocol: number;
  tos: number;
  source: number;
  destination: number;
  sourcePort: number;
  destinationPort: number;
  /** 0 = none. */
  vni: number;
}

function element(tag: number, fill: (w: Writer) => void): SflowElement {
  const w = new Writer();
  fill(w);
  w.zeros(-w.length & 3);
  return { tag, data: w.finish() };
}

// ---- flow samples

/** `header`: the frame's first bytes; `frameBytes`: its length without checksum. */
export function headerElement(header: Uint8Array, frameBytes: number): SflowElement {
  return element(HEADER, (w) =>
    w
      .u32(PROTOCOL_ETHERNET)
      .u32(frameBytes + FCS_LEN)
      .u32(FCS_LEN)
      .u32(header.length)
      .put(header),
  );
}

export function switchElement(sourceTci: number, destinationTci: number): SflowElement {
  return element(EXTENDED_SWITCH, (w) => {
    for (const tci of [sourceTci, destinationTci]) w.u32(tci & 0xfff).u32((tci >> 13) & 7);
  });
}

/** Label stack of the packet that goes out. */
export function mplsElement(labels: readonly number[]): SflowElement {
  return element(EXTENDED_MPLS, (w) => {
    w.u32(1).u32(0).u32(0).u32(labels.length); // no next hop, nothing of the stack that came in
    for (const label of labels) w.u32(label);
  });
}

export function tunnelElements(way: 'ingress' | 'egress', outer: SflowOuter): SflowElement[] {
  const ingress = way === 'ingress';
  const address = element(ingress ? TUNNEL_INGRESS : TUNNEL_EGRESS, (w) => {
    w.u32(0).u32(outer.protocol).u32(outer.source).u32(outer.destination);
    w.u32(outer.sourcePort).u32(outer.destinationPort).u32(0).u32(outer.tos);
  });
  if (outer.vni === 0) return [address];
  return [element(ingress ? VNI_INGRESS : VNI_EGRESS, (w) => w.u32(outer.vni)), address];
}

// ---- counters; undefined is unknown

type Count = number | undefined;

const put32 = (w: Writer, ...counts: Count[]): void => {
  for (const count of counts) w.u32(count === undefined ? UNKNOWN : count % 2 ** 32);
};
const put64 = (w: Writer, count: Count): void =>
  void w.u64(count === undefined ? UNKNOWN64 : BigInt(count));

export interface InterfaceCounters {
  index: number;
  bitsPerSecond: number;
  /** 0 unknown, 1 full, 2 half. */
  duplex: number;
  adminUp: boolean;
  linkUp: boolean;
  /** Interface.statistics of the database. */
  statistics: Readonly<Record<string, number>>;
}

const ETHERNET_CSMACD = 6;

export function genericElement(c: InterfaceCounters): SflowElement {
  const s: Readonly<Record<string, number | undefined>> = c.statistics;
  const status = c.adminUp ? 1 | (c.linkUp ? 2 : 0) : 0;
  return element(GENERIC, (w) => {
    w.u32(c.index).u32(ETHERNET_CSMACD).u64(BigInt(c.bitsPerSecond)).u32(c.duplex).u32(status);
    put64(w, s.rx_bytes);
    put32(w, s.rx_packets, s.rx_multicast_packets, s.rx_broadcast_packets);
    put32(w, s.rx_dropped, s.rx_errors, undefined);
    put64(w, s.tx_bytes);
    put32(w, s.tx_packets, s.tx_multicast_packets, s.tx_broadcast_packets);
    put32(w, s.tx_dropped, s.tx_errors, 0);
  });
}

export function ethernetElement(c: InterfaceCounters): SflowElement {
  const s: Readonly<Record<string, number | undefined>> = c.statistics;
  return element(ETHERNET, (w) => {
    put32(w, s.rx_frame_err, s.rx_crc_err);
    for (let i = 0; i < 8; i++) w.u32(UNKNOWN);
    put32(w, s.rx_oversize_errors);
    w.u32(UNKNOWN).u32(UNKNOWN);
  });
}

export interface LacpCounters {
  systemId: Uint8Array;
  partnerId: Uint8Array;
  key: number;
  actorAdmin: number;
  actorOper: number;
  partnerOper: number;
  received: number;
  illegal: number;
  sent: number;
}

export function lacpElement(c: LacpCounters): SflowElement {
  return element(LACP, (w) => {
    w.put(c.systemId).zeros(2).put(c.partnerId).zeros(2).u32(c.key);
    w.u8(c.actorAdmin).u8(c.actorOper).u8(0).u8(c.partnerOper);
    put32(w, c.received, undefined, undefined, undefined, c.illegal, c.sent, undefined, undefined);
  });
}

export function openflowPortElement(datapathId: bigint, port: number): SflowElement {
  return element(OPENFLOW_PORT, (w) => w.u64(datapathId).u32(port));
}

export function portNameElement(name: string): SflowElement {
  const bytes = new TextEncoder().encode(name);
  return element(PORT_NAME, (w) => w.u32(bytes.length).put(bytes));
}

export interface DatapathCounters {
  hit: number;
  missed: number;
  lost: number;
  maskHit: number;
  flows: number;
  masks: number;
}

export function datapathElement(c: DatapathCounters): SflowElement {
  return element(OVS_DATAPATH, (w) =>
    put32(w, c.hit, c.missed, c.lost, c.maskHit, c.flows, c.masks),
  );
}

export function resourcesElement(usage: {
  userMs: number;
  systemMs: number;
  memoryBytes: number;
}): SflowElement {
  return element(APP_RESOURCES, (w) => {
    w.u32(usage.userMs).u32(usage.systemMs).u64(BigInt(usage.memoryBytes));
    // Limits and descriptors: gauges without a value are 0.
    w.zeros(24);
  });
}

// ---- samples and datagrams

export interface FlowSampleHeader {
  sequence: number;
  source: SflowSource;
  samplingRate: number;
  samplePool: number;
  input: number;
  output: number;
}

const sourceId = ({ class: sourceClass, index }: SflowSource): number =>
  ((sourceClass << 24) | (index & 0xffffff)) >>> 0;

function putElements(w: Writer, elements: readonly SflowElement[]): void {
  w.u32(elements.length);
  for (const { tag, data } of elements) w.u32(tag).u32(data.length).put(data);
}

function sample(tag: number, fill: (w: Writer) => void): Uint8Array {
  const body = new Writer();
  fill(body);
  const bytes = body.finish();
  return new Writer().u32(tag).u32(bytes.length).put(bytes).finish();
}

export function flowSample(h: FlowSampleHeader, elements: readonly SflowElement[]): Uint8Array {
  return sample(FLOW_SAMPLE, (w) => {
    w.u32(h.sequence).u32(sourceId(h.source)).u32(h.samplingRate).u32(h.samplePool);
    w.u32(0).u32(h.input).u32(h.output);
    putElements(w, elements);
  });
}

export function countersSample(
  sequence: number,
  source: SflowSource,
  elements: readonly SflowElement[],
): Uint8Array {
  return sample(COUNTERS_SAMPLE, (w) => {
    w.u32(sequence).u32(sourceId(source));
    putElements(w, elements);
  });
}

export interface DatagramHeader {
  /** 4 or 16 bytes. */
  agent: Uint8Array;
  subAgent: number;
  sequence: number;
  uptimeMs: number;
}

export const datagramHeaderLength = (agent: Uint8Array): number => 24 + agent.length;

export function sflowDatagram(h: DatagramHeader, samples: readonly Uint8Array[]): Uint8Array {
  const w = new Writer()
    .u32(VERSION)
    .u32(h.agent.length === 4 ? 1 : 2)
    .put(h.agent);
  w.u32(h.subAgent).u32(h.sequence).u32(h.uptimeMs).u32(samples.length);
  for (const one of samples) w.put(one);
  return w.finish();
}
