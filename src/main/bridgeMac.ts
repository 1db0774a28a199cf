// The Ethernet address of a bridge, from which its datapath id follows: other_config:hwaddr; else the lowest globally
// administered address among its ports; else one derived from the row's uuid, so that it survives restarts
// (ovs-vswitchd.conf.db(5), Bridge.other_config:hwaddr).

/** Local unicast address from the first six bytes of the uuid as Open vSwitch stores it (32-bit words, little-endian). */
export function macFromUuid(uuid: string): string {
  const hex = uuid.replaceAll('-', '');
  const byte = (at: number): number => Number.parseInt(hex.slice(at * 2, at * 2 + 2), 16);
  const bytes = [3, 2, 1, 0, 7, 6].map(byte);
  bytes[0] = (bytes[0]! & 0xfe) | 0x02;
  return bytes.map((b) => b.toString(16).padStart(2, '0')).join(':');
}

const isGlobalUnicast = (mac: string): boolean =>
  (Number.parseInt(mac.slice(0, 2), 16) & 3) === 0 &&
  mac !== '00:00:00:00:00:00' &&
  !mac.startsWith('01:80:c2');

export function bridgeMac(
  uuid: string,
  hwaddr: string | undefined,
  portMacs: readonly (string | undefined)[],
): string {
  if (hwaddr !== undefined) return hwaddr;
  const candidates = portMacs.filter((mac) => mac !== undefined && isGlobalUnicast(mac)).sort();
  return candidates[0] ?? macFromUuid(uuid);
}

/** 48-bit address as the lower part of a datapath id. */
export function macToDatapathId(mac: string): bigint {
  return BigInt(`0x${mac.replaceAll(':', '')}`);
}
