// A guest that stands for the network under a tunnel: what it sends and receives are frames in VXLAN, to and from the
// address of the switch.
//
//   | Ethernet 14 | IPv4 20 | UDP 8 | VXLAN 8 | frame |
//
// VXLAN: RFC 7348. The outer UDP checksum is zero, as tunnel ends send it unless asked otherwise.

import { PAYLOAD } from '../../src/guest/driver/layout.ts';
import { frameTemplate } from '../../src/guest/thread.ts';

export const VXLAN_PORT = 4789;
export const VXLAN_BYTES = PAYLOAD + 8;

export interface Wire {
  /** Number of the guest. */
  guest: number;
  vni: number;
  /** The guest's own end of the tunnel. */
  mac: string;
  ip: string;
  /** The switch's end. */
  switchMac: string;
  switchIp: string;
}

/** Headers before a frame of `innerBytes` that the guest sends to the switch. */
export function vxlanHeaders(wire: Wire, innerBytes: number): Uint8Array {
  const outer = frameTemplate(
    {
      send: true,
      sourceMac: wire.mac,
      destinationMac: wire.switchMac,
      sourceIp: wire.ip,
      destinationIp: wire.switchIp,
    },
    innerBytes + VXLAN_BYTES,
  );
  const bytes = new Uint8Array(VXLAN_BYTES);
  bytes.set(outer);
  const view = new DataView(bytes.buffer);
  view.setUint16(34, 0x8000);
  view.setUint16(36, VXLAN_PORT);
  view.setUint8(PAYLOAD, 0x08); // the VNI is valid
  view.setUint32(PAYLOAD + 4, wire.vni << 8);
  return bytes;
}
