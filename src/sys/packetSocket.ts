// AF_PACKET sockets (packet(7)): all frames of a network device, with the kernel's offload description.

import { closeFd } from './fd.ts';
import { c, check, NativeBuffer } from './ffi.ts';

const AF_PACKET = 17;
const SOCK_RAW = 3;
const SOCK_NONBLOCK = 0x800;
const SOCK_CLOEXEC = 0x80000;
const SOL_SOCKET = 1;
const SO_SNDBUFFORCE = 32;
const SO_RCVBUFFORCE = 33;
const SOL_PACKET = 263;
const PACKET_ADD_MEMBERSHIP = 1;
const PACKET_STATISTICS = 6;
const PACKET_AUXDATA = 8;
const PACKET_VNET_HDR = 15;
const PACKET_IGNORE_OUTGOING = 23;
const PACKET_MR_PROMISC = 1;
const ETH_P_ALL = 3;
const BUFFER_BYTES = 8 << 20;

export const PACKET_VNET_SIZE = 10;

function setInt(fd: number, level: number, option: number, value: number): number {
  const buffer = new NativeBuffer(4);
  buffer.view.setInt32(0, value, true);
  return c.setsockopt(fd, level, option, buffer.address, 4);
}

/**
 * A non-blocking socket that gets every frame that the device receives, not those that it sends, each preceded by a
 * virtio-net header of 10 bytes; the device is promiscuous as long as the socket is open. Throws SysError (EPERM, ENODEV).
 */
export function openPacketSocket(ifindex: number): number {
  // Protocol 0: nothing is delivered until bind, when all options are set.
  const type = SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC;
  const fd = check(c.socket(AF_PACKET, type, 0), 'socket AF_PACKET');
  try {
    check(setInt(fd, SOL_PACKET, PACKET_VNET_HDR, 1), 'PACKET_VNET_HDR');
    check(setInt(fd, SOL_PACKET, PACKET_AUXDATA, 1), 'PACKET_AUXDATA');
    check(setInt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1), 'PACKET_IGNORE_OUTGOING');
    setInt(fd, SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES); // as large as we are allowed to
    setInt(fd, SOL_SOCKET, SO_SNDBUFFORCE, BUFFER_BYTES);
    const address = new NativeBuffer(20); // struct sockaddr_ll
    address.view.setUint16(0, AF_PACKET, true);
    address.view.setUint16(2, ETH_P_ALL, false);
    address.view.setInt32(4, ifindex, true);
    check(c.bind(fd, address.address, 20), 'bind');
    const membership = new NativeBuffer(16); // struct packet_mreq
    membership.view.setInt32(0, ifindex, true);
    membership.view.setUint16(4, PACKET_MR_PROMISC, true);
    check(
      c.setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership.address, 16),
      'PACKET_ADD_MEMBERSHIP',
    );
    return fd;
  } catch (thrown) {
    closeFd(fd);
    throw thrown;
  }
}

/** Frames that the kernel dropped because the socket was full, since the last call. */
export function packetDrops(fd: number): number {
  const statistics = new NativeBuffer(8); // struct tpacket_stats: u32 packets, u32 drops
  const length = new NativeBuffer(4);
  length.view.setUint32(0, 8, true);
  const result = c.getsockopt(
    fd,
    SOL_PACKET,
    PACKET_STATISTICS,
    statistics.address,
    length.address,
  );
  return result < 0 ? 0 : statistics.view.getUint32(4, true);
}
