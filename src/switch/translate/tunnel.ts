// Native tunnelling: what translation does where a packet goes into a tunnel, comes out of one, or is about to leave for the
// host although it is a tunnel's.
//
//   output to a tunnel port ── settings and flow give the outer addresses, key, TOS … ── route ── neighbour ── ACT_TUNNEL_PUSH ──
//   the translation goes on in the underlay's bridge, as if its own port had sent the packet
//
//   output to a bridge's own port, for an address of the host and a tunnel's protocol ── ACT_TUNNEL_POP; what comes out is looked up
//   with the tunnel's datapath port as input port
//
// Addresses and neighbours are the underlay's (src/switch/tunnel/types.ts): when they change, megaflows are looked at again.

import {
  ACT_CLONE,
  ACT_OUTPUT,
  ACT_SET_TUNNEL,
  ACT_TUNNEL_POP,
  ACT_TUNNEL_PUSH,
} from '../../../contract/action.ts';
import {
  DROP_NO_PORT,
  DROP_TUNNEL_NO_NEIGHBOUR,
  DROP_TUNNEL_NO_ROUTE,
  DROP_TUNNEL_OPTIONS,
  DROP_TUNNEL_PROTOCOL,
} from '../../../contract/drop.ts';
import {
  K_ARP_SHA,
  K_ARP_THA,
  K_CT_IPV6_SRC,
  K_ETH_DST,
  K_ETH_SRC,
  K_ETH_TYPE,
  K_IPV6_DST,
  K_IPV6_LABEL,
  K_IPV6_SRC,
  K_ND_TARGET,
  K_NW_DST,
  K_NW_FRAG,
  K_NW_PROTO,
  K_NW_SRC,
  K_NW_TOS,
  K_NW_TTL,
  K_PACKET_TYPE,
  K_PKT_MARK,
  K_TCP_FLAGS,
  K_TP_DST,
  K_TP_SRC,
  K_TUN_DST,
  K_TUN_ERSPAN,
  K_TUN_FLAGS,
  K_TUN_GBP_ID,
  K_TUN_GTPU_FLAGS,
  K_TUN_ID,
  K_TUN_IPV6_SRC,
  K_TUN_OPTS_LEN,
  K_TUN_SRC,
  K_TUN_TOS,
  K_TUN_TTL,
  K_VLAN0_TCI,
  TUN_CSUM,
  TUN_DF,
  TUN_KEY,
  TUN_OAM,
} from '../../../contract/key.ts';
import {
  PACKET_TYPE_ETHERTYPE,
  TUNNEL_ERSPAN,
  TUNNEL_GRE,
  TUNNEL_IP6ERSPAN,
  TUNNEL_IP6GRE,
} from '../../../contract/tunnel.ts';
import type { TunnelPort } from '../../port/tunnel.ts';
import { TUNNEL_KINDS, type TunnelConfig } from '../../port/tunnelConfig.ts';
import {
  be16,
  be32,
  ETH_TYPE_ARP,
  ETH_TYPE_IP,
  ETH_TYPE_IPV6,
  exact,
  isIp,
  ND_ADVERT,
  putBe16,
  putBe32,
} from '../flow.ts';
import { buildHeader, ipProtocolOf, isErspanType, isGreType } from '../tunnel/header.ts';
import { composeOptions, coverFields } from '../tunnel/metadata.ts';
import { tunnelOf } from '../tunnel/ports.ts';
import {
  copyTunnel,
  hasTunnel,
  putTunnelDestination,
  putTunnelSource,
  TUNNEL_RANGES,
  tunnelDestination,
  tunnelSource,
} from '../tunnel/record.ts';
import type { Underlay } from '../tunnel/types.ts';
import type { BridgePort } from '../types.ts';
import { formatAddress, isMapped, isUnset } from '../underlay/address.ts';
import { commit } from './commit.ts';
import { report, type Xlate } from './context.ts';
import { nest } from './nxActions.ts';
import { enterBridge } from './output.ts';

const ECN = 3;
const ECN_CE = 3;
const ECN_ECT0 = 2;
const DSCP = 0xfc;

/** What every translation of a packet from a tunnel looks at. */
export function coverTunnel(wildcards: Uint8Array, flow: Uint8Array): void {
  if (!hasTunnel(flow)) return;
  exact(wildcards, K_TUN_ID, 8);
  if (be32(flow, K_TUN_DST) !== 0) {
    exact(wildcards, K_TUN_SRC, 8);
  } else {
    exact(wildcards, K_TUN_IPV6_SRC, 32);
  }
  putBe16(wildcards, K_TUN_FLAGS, TUN_DF | TUN_CSUM | TUN_KEY);
  wildcards[K_TUN_TOS] = 0xff;
  if (isIp(flow) && (flow[K_TUN_TOS]! & ECN) === ECN_CE) wildcards[K_NW_TOS]! |= ECN;
}

/** What the tunnel's header said besides addresses and key goes into a frozen pipeline or into another header. */
export function coverReceived(x: Xlate): void {
  // Behind a recirculation it is the frozen pipeline's.
  if (x.in.frozen !== undefined || !hasTunnel(x.received)) return;
  const { wildcards } = x;
  coverFields(wildcards, x.in.bridge.tlvs ?? []);
  const config = x.effects.tunnels.find(({ received }) => received)?.netdev.tunnel;
  if (config === undefined) return;
  if (config.gbp) exact(wildcards, K_TUN_GBP_ID, 3);
  if (config.type === 'gtpu') exact(wildcards, K_TUN_GTPU_FLAGS, 2);
  if (isErspanType(config.type)) exact(wildcards, K_TUN_ERSPAN, 4);
}

/** Does a header of this tunnel say what flows, or the tunnel that a packet has come by, have left in the fields? */
function hands({ type, gbp, erspan }: TunnelConfig): boolean {
  return type === 'geneve' || type === 'gtpu' || gbp || erspan.flowBits !== 0;
}

/**
 * The packet has come in by this port, if it is a tunnel's. False: drop it, because it was marked on the way and cannot say so
 * itself (RFC 6040 §4.2).
 */
export function receiveFromTunnel(x: Xlate, port: BridgePort | undefined): boolean {
  const { flow } = x;
  const netdev = port && tunnelOf(port);
  if (x.in.frozen === undefined && netdev !== undefined) {
    x.effects.tunnels.push({ netdev, received: true });
  }
  // After a recirculation it is what the pipeline has made of it (encap.ts).
  if (x.in.frozen === undefined && netdev !== undefined && netdev.tunnel.mode !== 'ptap') {
    // A bridge that does not know packets without Ethernet header gets them one, with addresses of zero.
    putBe32(flow, K_PACKET_TYPE, 0);
  }
  if (!hasTunnel(flow) || !isIp(flow) || (flow[K_TUN_TOS]! & ECN) !== ECN_CE) return true;
  if ((flow[K_NW_TOS]! & ECN) === 0) return false;
  flow[K_NW_TOS]! |= ECN_CE;
  return true;
}

/** Tunnel fields of a packet that leaves by a port with these settings. */
function applyConfig(x: Xlate, config: TunnelConfig): void {
  const { flow, wildcards } = x;
  if (!config.localFlow) putTunnelSource(flow, config.local);
  if (!config.remoteFlow) putTunnelDestination(flow, config.remote);
  if (!config.outKeyFlow) {
    new DataView(flow.buffer, flow.byteOffset).setBigUint64(K_TUN_ID, config.outKey);
  }
  const ip = isIp(flow);
  if (config.ttlInherit && ip) {
    wildcards[K_NW_TTL] = 0xff;
    flow[K_TUN_TTL] = flow[K_NW_TTL]!;
  } else {
    flow[K_TUN_TTL] = config.ttl;
  }
  if (config.tosInherit && ip) {
    wildcards[K_NW_TOS]! |= DSCP;
    flow[K_TUN_TOS] = flow[K_NW_TOS]! & DSCP;
  } else {
    flow[K_TUN_TOS] = config.tos;
  }
  if (ip) {
    // ECN is always inherited, except that congestion already experienced is not the tunnel's.
    wildcards[K_NW_TOS]! |= ECN;
    const ecn = flow[K_NW_TOS]! & ECN;
    flow[K_TUN_TOS]! |= ecn === ECN_CE ? ECN_ECT0 : ecn;
  }
  const flags =
    (be16(flow, K_TUN_FLAGS) & TUN_OAM) |
    (config.dontFragment ? TUN_DF : 0) |
    (config.csum ? TUN_CSUM : 0) |
    (config.outKeyPresent ? TUN_KEY : 0);
  putBe16(flow, K_TUN_FLAGS, flags);
  const { fixed, flowBits } = config.erspan;
  putBe32(flow, K_TUN_ERSPAN, ((be32(flow, K_TUN_ERSPAN) & flowBits) | fixed) >>> 0);
  if (config.egressMark !== undefined) {
    putBe32(flow, K_PKT_MARK, config.egressMark);
    exact(wildcards, K_PKT_MARK, 4);
  }
}

/** Sends the packet into a tunnel. Nothing of what the tunnel needs stays in the flow. */
export function outputToTunnel(x: Xlate, netdev: TunnelPort): void {
  const { flow } = x;
  const saved = flow.slice();
  applyConfig(x, netdev.tunnel);
  // Of a packet that came by no tunnel the address is unset: a tunnel whose remote end no flow has set is refused here, too.
  if (sameBytes(tunnelDestination(flow), tunnelDestination(x.received))) {
    report(x, 'warn', 'Not tunneling to our own address');
    x.dropReason = DROP_NO_PORT;
  } else {
    x.effects.tunnels.push({ netdev, received: false });
    const native = x.in.tunnels?.pushPop !== false;
    report(x, 'detail', native ? 'output to native tunnel' : 'output to kernel tunnel');
    if (netdev.tunnel.mode === 'legacy_l3' && be32(flow, K_PACKET_TYPE) === 0) {
      putBe32(flow, K_PACKET_TYPE, PACKET_TYPE_ETHERTYPE | be16(flow, K_ETH_TYPE));
      flow.fill(0, K_VLAN0_TCI, K_VLAN0_TCI + 8);
    }
    if (native) {
      commit(x);
      push(x, netdev);
    } else {
      setTunnel(x, netdev);
      commit(x);
      x.program.push(ACT_OUTPUT | (2 << 16), netdev.port);
    }
  }
  // pkt_mark stays, as in Open vSwitch.
  saved.set(flow.subarray(K_PKT_MARK, K_PKT_MARK + 4), K_PKT_MARK);
  flow.set(saved);
}

/** Tells a port that encapsulates by itself what to do, unless it knows from the last output. */
function setTunnel(x: Xlate, netdev: TunnelPort): void {
  const { flow, base, bridge } = x;
  if (TUNNEL_RANGES.every(([start, end]) => equalRange(flow, base, start, end))) return;
  const options =
    netdev.tunnel.type === 'geneve' ? composeOptions(flow, bridge.tlvs ?? []) : undefined;
  const fields = flow.slice(K_TUN_ID, K_CT_IPV6_SRC);
  const words = new Uint32Array((fields.length + (options?.length ?? 0)) / 4);
  const bytes = new Uint8Array(words.buffer);
  bytes.set(fields);
  bytes[K_TUN_OPTS_LEN - K_TUN_ID] = options?.length ?? 0;
  if (options !== undefined) bytes.set(options, fields.length);
  x.program.push(ACT_SET_TUNNEL | ((2 + words.length) << 16), netdev.tunnel.dstPort, ...words);
  copyTunnel(flow, base);
}

function equalRange(a: Uint8Array, b: Uint8Array, start: number, end: number): boolean {
  for (let i = start; i < end; i++) if (a[i] !== b[i]) return false;
  return true;
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.every((byte, i) => byte === b[i]);
}

function push(x: Xlate, netdev: TunnelPort): void {
  const { flow, bridge } = x;
  const { tunnels } = x.in;
  const underlay = tunnels?.underlay;
  const destination = tunnelDestination(flow);
  const wanted = tunnelSource(flow);
  const route = underlay?.route(
    destination,
    be32(flow, K_PKT_MARK),
    isUnset(wanted) ? undefined : wanted,
  );
  const carrier = route && tunnels?.carrier(route.device);
  if (route === undefined || carrier === undefined) {
    report(x, 'warn', 'native tunnel routing failed');
    x.dropReason = DROP_TUNNEL_NO_ROUTE;
    return;
  }
  const next = formatAddress(route.nextHop);
  report(x, 'detail', `tunneling to ${next} via ${route.device}`);
  const { bridge: out, port: local } = carrier;
  x.effects.bridges.add(out);
  const sourceMac = local.desc.hwAddr;
  const nextMac = underlay!.neighbour(out.name, route.nextHop);
  if (nextMac === undefined) {
    const protocol = isMapped(route.nextHop) ? 'ARP' : 'ND';
    report(
      x,
      'detail',
      `neighbor cache miss for ${next} on bridge ${out.name}, sending ${protocol} request`,
    );
    x.effects.solicits.push({ underlay: underlay!, route });
    x.dropReason = DROP_TUNNEL_NO_NEIGHBOUR;
    return;
  }
  const source = isUnset(wanted) ? route.source : wanted;
  report(
    x,
    'detail',
    `tunneling from ${macText(sourceMac)} ${formatAddress(source)} to ${macText(nextMac)} ${next}`,
  );
  if (hands(netdev.tunnel)) coverReceived(x);
  const options = netdev.tunnel.type === 'geneve' ? composeOptions(flow, bridge.tlvs ?? []) : NONE;
  if (options === undefined) {
    report(x, 'warn', 'native tunnel header build failed');
    x.dropReason = DROP_TUNNEL_OPTIONS;
    return;
  }
  const isIpv6 = !isMapped(destination);
  const header = buildHeader({
    config: netdev.tunnel,
    flow,
    source,
    destination,
    isIpv6,
    sourceMac,
    nextMac,
    options,
  });
  if (header === undefined || isMapped(source) === isIpv6) {
    report(x, 'warn', 'native tunnel header build failed');
    x.dropReason = DROP_TUNNEL_PROTOCOL;
    return;
  }
  const start = x.program.length;
  const base = x.base.slice();
  const words = new Uint32Array(Math.ceil(header.length / 4));
  new Uint8Array(words.buffer).set(header);
  const type = encapsulationOf(netdev.tunnel.type, isIpv6);
  x.program.push(
    ACT_TUNNEL_PUSH | ((5 + words.length) << 16),
    netdev.port,
    local.dpPort,
    type | (header.length << 16),
    tunnels!.sourcePorts,
    ...words,
  );
  const before = x.program.length;
  const { rules, outers } = x.effects;
  const from = rules.length;
  // The packet is the underlay's from here on. What its bridge looks at is what was just made: no part of the megaflow.
  const wildcards = x.wildcards.slice();
  asOuter(flow, header, source, destination, isIpv6, netdev.tunnel);
  x.base.set(flow);
  enterBridge(x, out, local, undefined);
  if (rules.length > from) outers.push({ from, to: rules.length, bytes: header.length });
  x.wildcards.set(wildcards);
  x.base.set(base);
  if (x.program.length === before) {
    x.program.length = start;
    return;
  }
  nest(x, start, ACT_CLONE, [0]);
  x.patchClone = start;
}

/** By what is around it, not by its name. */
function encapsulationOf(type: string, isIpv6: boolean): number {
  if (isGreType(type)) return isIpv6 ? TUNNEL_IP6GRE : TUNNEL_GRE;
  if (isErspanType(type)) return isIpv6 ? TUNNEL_IP6ERSPAN : TUNNEL_ERSPAN;
  return TUNNEL_KINDS[type]!.encapsulation!;
}

const NONE = new Uint8Array(0);

function macText(mac: Uint8Array): string {
  return [...mac].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** Makes the flow that of the packet with its outer headers. Metadata and registers are the next bridge's business. */
function asOuter(
  flow: Uint8Array,
  header: Uint8Array,
  source: Uint8Array,
  destination: Uint8Array,
  isIpv6: boolean,
  config: TunnelConfig,
): void {
  flow.set(header.subarray(0, 12), K_ETH_DST);
  flow.fill(0, K_VLAN0_TCI, K_VLAN0_TCI + 8);
  putBe32(flow, K_PACKET_TYPE, 0);
  putBe16(flow, K_ETH_TYPE, isIpv6 ? ETH_TYPE_IPV6 : ETH_TYPE_IP);
  flow.fill(0, K_NW_SRC, K_NW_DST + 4);
  flow.fill(0, K_IPV6_SRC, K_IPV6_LABEL + 4);
  if (isIpv6) {
    flow.set(source, K_IPV6_SRC);
    flow.set(destination, K_IPV6_DST);
  } else {
    flow.set(source.subarray(12), K_NW_SRC);
    flow.set(destination.subarray(12), K_NW_DST);
  }
  flow[K_NW_PROTO] = ipProtocolOf(config.type);
  flow[K_NW_FRAG] = 0;
  flow[K_NW_TOS] = flow[K_TUN_TOS]!;
  flow[K_NW_TTL] = flow[K_TUN_TTL]!;
  putBe16(flow, K_TP_SRC, 0);
  putBe16(flow, K_TP_DST, config.dstPort);
  putBe16(flow, K_TCP_FLAGS, 0);
}

/** A packet on its way to a device of the host: true if it is a tunnel's, and has been taken out of it. */
export function terminateTunnel(x: Xlate, port: BridgePort): boolean {
  const { tunnels } = x.in;
  const underlay = tunnels?.underlay;
  if (tunnels === undefined || underlay === undefined || tunnels.size === 0) return false;
  const { flow, wildcards } = x;
  const listener = tunnels.terminate(port.name, flow, wildcards);
  if (listener === undefined) {
    if (underlay.addressesOf(port.name).length > 0) snoop(x, port.name, underlay);
    return false;
  }
  const { encapsulation, payloadType } = listener;
  x.program.push(ACT_TUNNEL_POP | (4 << 16), listener.port, encapsulation, payloadType);
  if (x.in.learn) underlay.heard(x.bridge.name, flow);
  return true;
}

/** ARP and neighbour discovery that reach the host's port tell tunnels of their neighbours. */
function snoop(x: Xlate, device: string, underlay: Underlay): void {
  const type = be16(x.flow, K_ETH_TYPE);
  if (type !== ETH_TYPE_ARP && !(type === ETH_TYPE_IPV6 && x.flow[K_NW_PROTO] === 58)) return;
  if (x.in.learn && isAnswerFor(x.flow, underlay.addressesOf(device))) {
    underlay.snoop(x.bridge.name, x.flow);
  }
  // Another neighbour's answer has to be seen, too, and so has another answer of the same neighbour.
  x.wildcards[K_NW_PROTO] = 0xff;
  if (type === ETH_TYPE_ARP) {
    exact(x.wildcards, K_NW_SRC, 8);
    exact(x.wildcards, K_ETH_SRC, 6);
    exact(x.wildcards, K_ARP_SHA, 6);
  } else {
    exact(x.wildcards, K_TP_SRC, 4);
    if (be16(x.flow, K_TP_SRC) === ND_ADVERT) {
      exact(x.wildcards, K_IPV6_SRC, 32);
      exact(x.wildcards, K_ND_TARGET, 16);
      exact(x.wildcards, K_ARP_THA, 6);
    }
  }
}

/**
 * Is ARP or neighbour discovery meant for one of these addresses? What others are told does not change our neighbours,
 * except where somebody announces its own address.
 */
function isAnswerFor(flow: Uint8Array, own: readonly { readonly address: Uint8Array }[]): boolean {
  if (be16(flow, K_ETH_TYPE) === ETH_TYPE_ARP) {
    const target = be32(flow, K_NW_DST);
    if (be32(flow, K_NW_SRC) === target) return true;
    return own.some(({ address }) => isMapped(address) && be32(address, 12) === target);
  }
  const to = flow.subarray(K_IPV6_DST, K_IPV6_DST + 16);
  // ff02::1:ffXX:XXXX, the solicited-node address (RFC 4291 §2.7.1), stands for all that end in the same three bytes.
  const many = to[0] === 0xff && (to[1]! & 15) === 2 && to[11] === 1 && to[12] === 0xff;
  return own.some(
    ({ address }) =>
      !isMapped(address) &&
      (sameBytes(to, address) || (many && sameBytes(to.subarray(13), address.subarray(13)))),
  );
}
