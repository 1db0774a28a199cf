// What ethtool tells of a network device (linux/ethtool.h, ioctl SIOCETHTOOL): driver, speed, offload switches.
//
//   struct ifreq (40 bytes)          0 char name[16]   16 pointer to the command
//   struct ethtool_drvinfo (196)     0 u32 cmd   4 char driver[32]   36 version[32]   68 fw_version[32]   100 bus_info[32]
//   struct ethtool_cmd (44)          0 u32 cmd   12 u16 speed (low)   14 u8 duplex   28 u16 speed (high)   Mbit/s
//   struct ethtool_channels (36)     0 u32 cmd   4 max_rx, max_tx, max_other, max_combined, then the same now in use

import { closeFd } from './fd.ts';
import { c, check, cString, NativeBuffer } from './ffi.ts';

const SIOCETHTOOL = 0x8946;
const ETHTOOL_GSET = 1;
const ETHTOOL_GDRVINFO = 3;
const AF_INET = 2;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0x80000;

export interface DriverInfo {
  driver: string;
  version: string;
  firmware: string;
  /** PCI address and the like; empty for devices in software. */
  bus: string;
}

/** Runs one command; false if the device does not know it (or is gone). */
function ethtool(name: string, command: NativeBuffer): boolean {
  const fd = check(c.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), 'socket');
  try {
    const request = new NativeBuffer(40);
    request.bytes.set(cString(name).bytes.subarray(0, 15));
    request.view.setBigUint64(16, command.address, true);
    return c.ioctl(fd, BigInt(SIOCETHTOOL), request.address) >= 0;
  } finally {
    closeFd(fd);
  }
}

function textAt(buffer: NativeBuffer, offset: number): string {
  const bytes = buffer.bytes.subarray(offset, offset + 32);
  const end = bytes.indexOf(0);
  return Buffer.from(bytes.subarray(0, end < 0 ? 32 : end)).toString('latin1');
}

export function driverInfo(name: string): DriverInfo | undefined {
  const info = new NativeBuffer(196);
  info.view.setUint32(0, ETHTOOL_GDRVINFO, true);
  if (!ethtool(name, info)) return undefined;
  return {
    driver: textAt(info, 4),
    version: textAt(info, 36),
    firmware: textAt(info, 68),
    bus: textAt(info, 100),
  };
}

export interface LinkSettings {
  /** bit/s; undefined = unknown (no link). */
  speed: number | undefined;
  duplex: 'full' | 'half' | undefined;
}

export function linkSettings(name: string): LinkSettings | undefined {
  const settings = new NativeBuffer(44);
  settings.view.setUint32(0, ETHTOOL_GSET, true);
  if (!ethtool(name, settings)) return undefined;
  const low = settings.view.getUint16(12, true);
  const high = settings.view.getUint16(28, true);
  const mbits = high * 65536 + low;
  const unknown = mbits === 0 || mbits === 0xffff || mbits === 0xffffffff;
  const duplex = settings.bytes[14];
  return {
    speed: unknown ? undefined : mbits * 1e6,
    duplex: duplex === 1 ? 'full' : duplex === 0 ? 'half' : undefined,
  };
}
