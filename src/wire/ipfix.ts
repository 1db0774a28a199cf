// IPFIX messages (RFC 7011) with the templates of Open vSwitch's exporter: one template for each combination of VLAN tag,
// network and transport protocol, tunnel and direction. Message header of 16 bytes (version 10, length, export time,
// sequence number, observation domain), then sets of a 4-byte header (set or template id, length) and records. A pure codec.

import { Writer } from './openflow/buffer.ts';

export const IPFIX_PORT = 4739;
/** A message is sent when it has got this long. */
const MESSAGE_LEN = 1024;
const SET_TEMPLATE = 2;
const SET_OPTIONS_TEMPLATE = 3;
const TEMPLATE_MIN = 256;
const VARIABLE = 65535;
/** Elements with this bit carry an enterprise number, VMware's. */
const ENTERPRISE = 0x8000;
const VMWARE = 6876;

export const END_ACTIVE_TIMEOUT = 2;
export const END_FORCED = 4;
export const END_LACK_OF_RESOURCES = 5;

export type NetworkKind = 'other' | 'ipv4' | 'ipv6';
export type TransportKind = 'other' | 'tcp' | 'udp' | 'sctp' | 'icmp';
const NETWORKS: readonly NetworkKind[] = ['other', 'ipv4', 'ipv6'];
const TRANSPORTS: readonly TransportKind[] = ['other', 'tcp', 'udp', 'sctp', 'icmp'];

/** What decides the template of a record. */
export interface RecordShape {
  vlan: boolean;
  network: NetworkKind;
  transport: TransportKind;
  tunnel: boolean;
  egress: boolean;
}

type Element = readonly [id: number, bytes: number];

const ETHERNET: readonly Element[] = [
  [138, 4], // observationPointId
  [61, 1], // flowDirection
  [56, 6], // sourceMacAddress
  [80, 6], // destinationMacAddress
  [256, 2], // ethernetType
  [240, 1], // ethernetHeaderLength
];
const NAMES: readonly Element[] = [
  [82, VARIABLE], // interfaceName
  [83, VARIABLE], // interfaceDescription
];
const INGRESS: readonly Element[] = [[10, 4], [368, 4], ...NAMES]; // ingressInterface, -Type
const EGRESS: readonly Element[] = [[14, 4], [369, 4], ...NAMES]; // egressInterface, -Type
// vlanId, dot1qVlanId, dot1qPriority
const VLAN: readonly Element[] = [
  [58, 2],
  [243, 2],
  [244, 1],
];
// ipVersion, ipTTL, protocolIdentifier, ipDiffServCodePoint, ipPrecedence, ipClassOfService
const IP: readonly Element[] = [60, 192, 4, 195, 196, 5].map((id): Element => [id, 1]);
const IPV4: readonly Element[] = [
  [8, 4],
  [12, 4],
];
// sourceIPv6Address, destinationIPv6Address, flowLabelIPv6
const IPV6: readonly Element[] = [
  [27, 16],
  [28, 16],
  [31, 4],
];
const PORTS: readonly Element[] = [
  [7, 2],
  [11, 2],
];
const ICMP: readonly Element[] = [
  [176, 1],
  [177, 1],
];
const ICMPV6: readonly Element[] = [
  [178, 1],
  [179, 1],
];
/** tunnelSourceIPv4Address … tunnelKey. */
const TUNNEL: readonly Element[] = [
  [893, 4],
  [894, 4],
  [895, 1],
  [896, 2],
  [897, 2],
  [891, 1],
  [892, VARIABLE],
].map(([id, bytes]): Element => [id! | ENTERPRISE, bytes!]);
const VIRTUAL_OBS_ID: Element = [898 | ENTERPRISE, VARIABLE];
/** flowStart-, flowEndDeltaMicroseconds; packet counts in the order of PacketCounts; flowEndReason. */
const PACKETS: readonly Element[] = [
  [158, 4],
  [159, 4],
  ...[133, 135, 2, 86, 354, 355, 356, 357, 358, 19, 174, 352, 353].map((id): Element => [id, 8]),
  [136, 1],
];
const OCTETS: readonly Element[] = [132, 134, 1, 85, 198, 199, 25, 26, 20, 175].map(
  (id): Element => [id, 8],
);
/** ACK, FIN, PSH, RST, SYN, URG. */
const TCP: readonly Element[] = [222, 219, 221, 220, 218, 223].map((id): Element => [id, 8]);

export function templateId({ vlan, network, transport, tunnel, egress }: RecordShape): number {
  let id = vlan ? 1 : 0;
  id = id * NETWORKS.length + NETWORKS.indexOf(network);
  id = id * TRANSPORTS.length + TRANSPORTS.indexOf(transport);
  id = id * 2 + (tunnel ? 1 : 0);
  return TEMPLATE_MIN + id * 2 + (egress ? 1 : 0);
}

/** Behind all others, as Open vSwitch counts them. */
const EXPORTER_STATISTICS = TEMPLATE_MIN + (((2 * 3 + 3) * 5 + 5) * 2 + 2) * 2 + 2;

function elementsOf(shape: RecordShape, virtualObsId: boolean): Element[] {
  const { network, transport } = shape;
  const elements = [...ETHERNET, ...INGRESS];
  if (shape.egress) elements.push(...EGRESS);
  if (shape.vlan) elements.push(...VLAN);
  if (network !== 'other') {
    elements.push(...IP, ...(network === 'ipv4' ? IPV4 : IPV6));
    if (transport === 'icmp') elements.push(...(network === 'ipv4' ? ICMP : ICMPV6));
    else if (transport !== 'other') elements.push(...PORTS);
  }
  if (shape.tunnel) elements.push(...TUNNEL);
  if (virtualObsId) elements.push(VIRTUAL_OBS_ID);
  elements.push(...PACKETS);
  if (network !== 'other') elements.push(...OCTETS);
  if (transport === 'tcp') elements.push(...TCP);
  return elements;
}

export interface MessageHeader {
  exportSeconds: number;
  sequence: number;
  domain: number;
}

function putElements(w: Writer, elements: readonly Element[]): void {
  for (const [id, bytes] of elements) {
    w.u16(id).u16(bytes);
    if ((id & ENTERPRISE) !== 0) w.u32(VMWARE);
  }
}

/** A message with one set. */
function message(header: MessageHeader, set: number, body: Uint8Array): Uint8Array {
  const w = new Writer();
  w.u16(10).u16(20 + body.length);
  w.u32(header.exportSeconds).u32(header.sequence).u32(header.domain);
  w.u16(set).u16(4 + body.length);
  return w.put(body).finish();
}

/** All templates, in as many messages as it takes. */
export function templateMessages(header: MessageHeader, virtualObsId: boolean): Uint8Array[] {
  const messages: Uint8Array[] = [];
  let w = new Writer();
  const flush = (): void => {
    messages.push(message(header, SET_TEMPLATE, w.finish()));
    w = new Writer();
  };
  for (const vlan of [false, true]) {
    for (const network of NETWORKS) {
      for (const transport of network === 'other' ? TRANSPORTS.slice(0, 1) : TRANSPORTS) {
        for (const [tunnel, egress] of [
          [false, false],
          [false, true],
          [true, false],
          [true, true],
        ] as const) {
          if (20 + w.length >= MESSAGE_LEN) flush();
          const shape = { vlan, network, transport, tunnel, egress };
          const elements = elementsOf(shape, virtualObsId);
          w.u16(templateId(shape)).u16(elements.length);
          putElements(w, elements);
        }
      }
    }
  }
  flush();
  // exportingProcessId is the scope, notSentPacketTotalCount the field.
  const options = new Writer().u16(EXPORTER_STATISTICS).u16(2).u16(1);
  putElements(options, [
    [144, 4],
    [167, 8],
  ]);
  messages.push(message({ ...header, domain: 0 }, SET_OPTIONS_TEMPLATE, options.finish()));
  return messages;
}

/** How many packets this exporter could not send. */
export function statisticsMessage(
  header: Omit<MessageHeader, 'domain'>,
  exporter: number,
  notSent: number,
): Uint8Array {
  const body = new Writer().u32(exporter).u64(BigInt(notSent)).finish();
  return message({ ...header, domain: 0 }, EXPORTER_STATISTICS, body);
}

/** A record's counts, each list in the order of its template. */
export interface RecordCounts {
  startUs: number;
  endUs: number;
  packets: readonly number[];
  /** Empty for packets that are no IP. */
  octets: readonly number[];
  /** Empty for packets that are no TCP. */
  tcp: readonly number[];
}

/** `key`: the fields of the template in front of the counts. */
export function dataMessage(
  header: MessageHeader,
  template: number,
  key: Uint8Array,
  virtualObsId: string | undefined,
  counts: RecordCounts,
  endReason: number,
): Uint8Array {
  const w = new Writer().put(key);
  if (virtualObsId !== undefined) {
    const bytes = new TextEncoder().encode(virtualObsId);
    w.u8(bytes.length).put(bytes);
  }
  const exportUs = header.exportSeconds * 1e6;
  w.u32((exportUs - counts.startUs) >>> 0).u32((exportUs - counts.endUs) >>> 0);
  for (const count of counts.packets) w.u64(BigInt(count));
  w.u8(endReason);
  for (const count of [...counts.octets, ...counts.tcp]) w.u64(BigInt(count));
  return message(header, template, w.finish());
}
