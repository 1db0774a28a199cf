// Description of an OpenFlow port from the state of its device (OpenFlow 1.5.1 §7.2.1).

import type { Netdev } from '../port/types.ts';
import type { PortDesc } from '../wire/openflow/types.ts';

export const OFPPC_PORT_DOWN = 1;
export const OFPPS_LINK_DOWN = 1;
export const OFPPS_LIVE = 4;

const OFPPF_COPPER = 1 << 11;
/** bit/s → OFPPF_* of full duplex; half duplex is the bit below (up to 1 Gbit/s). */
const SPEEDS: readonly [speed: number, bit: number][] = [
  [10e6, 1 << 1],
  [100e6, 1 << 3],
  [1e9, 1 << 5],
  [10e9, 1 << 6],
  [40e9, 1 << 7],
  [100e9, 1 << 8],
  [1e12, 1 << 9],
];

function features(linkSpeed: number | undefined, duplex: 'full' | 'half' | undefined): number {
  if (linkSpeed === undefined || linkSpeed === 0) return 0;
  const bit = SPEEDS.find(([speed]) => speed === linkSpeed)?.[1] ?? 1 << 10; // OFPPF_OTHER
  return (duplex === 'half' && linkSpeed <= 1e9 ? bit >> 1 : bit) | OFPPF_COPPER;
}

/** `config`: OFPPC_* bits as they are; PORT_DOWN follows the device. `mayEnable`: the port's protocols let it carry traffic. */
export function describePort(
  netdev: Netdev,
  ofport: number,
  name: string,
  config: number,
  mayEnable = true,
): PortDesc {
  const { adminUp, linkUp, mac, linkSpeed, duplex } = netdev.status();
  const curr = features(linkSpeed, duplex);
  const hwAddr = new Uint8Array(6);
  (mac ?? '').split(':').forEach((byte, i) => {
    if (i < 6) hwAddr[i] = Number.parseInt(byte, 16) || 0;
  });
  return {
    port: ofport,
    name,
    hwAddr,
    config: !adminUp ? config | OFPPC_PORT_DOWN : config & ~OFPPC_PORT_DOWN,
    state: !linkUp ? OFPPS_LINK_DOWN : mayEnable && adminUp ? OFPPS_LIVE : 0,
    currSpeed: Math.floor((linkSpeed ?? 0) / 1000),
    maxSpeed: 0,
    curr,
    advertised: 0,
    supported: 0,
    peer: 0,
  };
}
