// Interface.bfd (ovs-vswitchd.conf.db(5), "Bidirectional Forwarding Detection") as settings of a session.

import { boolOf, intOf, macOf, type StringMap } from './text.ts';

export interface BfdConfig {
  mult: number;
  minTxMs: number;
  minRxMs: number;
  decayMinRxMs: number;
  forwardingIfRx: boolean;
  cpathDown: boolean;
  checkTunnelKey: boolean;
  /** Set the OAM bit of a tunnel that has one. */
  oam: boolean;
  /** undefined: the device's own. */
  localSrcMac: Uint8Array | undefined;
  /** undefined: the address that Open vSwitch uses for BFD. */
  localDstMac: Uint8Array | undefined;
  /** Only packets to this address are ours. */
  remoteDstMac: Uint8Array | undefined;
  /** undefined: 169.254.1.1, and packets to any address are ours. */
  srcIp: Uint8Array | undefined;
  /** undefined: 169.254.1.0. */
  dstIp: Uint8Array | undefined;
}

const MULT_DEFAULT = 3;
const MIN_TX_DEFAULT_MS = 100;
const MIN_RX_DEFAULT_MS = 1000;

function ipv4Of(map: StringMap, key: string): Uint8Array | undefined {
  const parts = map[key]?.split('.') ?? [];
  const isAddress =
    parts.length === 4 && parts.every((part) => /^\d{1,3}$/.test(part) && Number(part) < 256);
  return isAddress ? Uint8Array.from(parts, Number) : undefined;
}

/** Settings of the column; undefined when BFD is not enabled. Values that make no sense are the defaults. */
export function bfdConfigFrom(column: StringMap): BfdConfig | undefined {
  if (!boolOf(column, 'enable', false)) return undefined;
  const mult = intOf(column, 'mult', MULT_DEFAULT);
  return {
    mult: mult < 1 || mult > 255 ? MULT_DEFAULT : mult,
    minTxMs: Math.max(1, intOf(column, 'min_tx', MIN_TX_DEFAULT_MS)),
    minRxMs: Math.max(1, intOf(column, 'min_rx', MIN_RX_DEFAULT_MS)),
    decayMinRxMs: intOf(column, 'decay_min_rx', 0),
    forwardingIfRx: boolOf(column, 'forwarding_if_rx', false),
    cpathDown: boolOf(column, 'cpath_down', false),
    checkTunnelKey: boolOf(column, 'check_tnl_key', false),
    oam: boolOf(column, 'oam', false),
    localSrcMac: macOf(column, 'bfd_local_src_mac'),
    localDstMac: macOf(column, 'bfd_local_dst_mac'),
    remoteDstMac: macOf(column, 'bfd_remote_dst_mac'),
    srcIp: ipv4Of(column, 'bfd_src_ip'),
    dstIp: ipv4Of(column, 'bfd_dst_ip'),
  };
}
