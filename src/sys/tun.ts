// Tap devices (kernel Documentation/networking/tuntap.rst, linux/if_tun.h): a network device whose wire is a descriptor.
//
//   struct ifreq (40 bytes)  0 char name[16]   16 i16 flags
//
// Each frame on the descriptor carries a virtio-net header of 12 bytes, so that checksum and segmentation can be left to
// whoever needs them, in both directions.

import { closeFd, ioctl, O_NONBLOCK, O_RDWR, openPath } from './fd.ts';
import { c, NativeBuffer, SysError } from './ffi.ts';

const ENODEV = 19;
const TUNSETIFF = 0x400454ca;
const TUNSETPERSIST = 0x400454cb;
const TUNSETOFFLOAD = 0x400454d0;
const TUNGETIFF = 0x800454d2;
const TUNSETVNETHDRSZ = 0x400454d8;
const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
const TUN_F_CSUM = 1;
const TUN_F_TSO4 = 2;
const TUN_F_TSO6 = 4;
const TUN_F_TSO_ECN = 8;
const TUN_F_UFO = 16;

export const TAP_VNET_SIZE = 12;

/** The name that the kernel's device gets: at most 15 bytes, the rest is cut off, as ovs-vswitchd does. */
export function tapName(name: string): string {
  return Buffer.from(name, 'utf8').subarray(0, 15).toString('utf8');
}

/**
 * Opens the tap `name` (a tapName), or makes it; persistent, so that it outlives the descriptor. Throws SysError: EPERM without
 * the right to, EBUSY if another process has it, EINVAL if the name is that of something else, ENODEV if the kernel calls
 * the device otherwise: it takes "%d" in a name for a number to be chosen, and nobody would find that device again.
 */
export function openTap(name: string): number {
  const fd = openPath('/dev/net/tun', O_RDWR | O_NONBLOCK);
  try {
    const request = new NativeBuffer(40);
    const wanted = Buffer.from(name, 'utf8').subarray(0, 15);
    request.bytes.set(wanted);
    request.view.setInt16(16, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, true);
    ioctl(fd, TUNSETIFF, request, 'TUNSETIFF');
    if (wanted.compare(request.bytes, 0, wanted.length) !== 0)
      throw new SysError('TUNSETIFF', ENODEV);
    const size = new NativeBuffer(4);
    size.view.setInt32(0, TAP_VNET_SIZE, true);
    ioctl(fd, TUNSETVNETHDRSZ, size, 'TUNSETVNETHDRSZ');
    // What we are ready to receive unfinished. Old kernels know fewer bits and refuse unknown ones.
    const base = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    for (const offloads of [base | TUN_F_UFO, base, TUN_F_CSUM, 0]) {
      if (c.ioctl(fd, BigInt(TUNSETOFFLOAD), BigInt(offloads)) >= 0) break;
    }
    ioctl(fd, TUNSETPERSIST, 1n, 'TUNSETPERSIST');
    return fd;
  } catch (thrown) {
    closeFd(fd);
    throw thrown;
  }
}

/** Lets the device go when its descriptor is closed. */
export function forgetTap(fd: number): void {
  c.ioctl(fd, BigInt(TUNSETPERSIST), 0n);
}

/** False once the device behind the descriptor has been deleted. Moved to another namespace, it is alive. */
export function tapAlive(fd: number): boolean {
  return c.ioctl(fd, BigInt(TUNGETIFF), new NativeBuffer(40).address) >= 0;
}
