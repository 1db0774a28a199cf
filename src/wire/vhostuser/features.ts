// Feature bits of virtio-net (virtio 1.2, sections 5.1.3 and 6) and of the vhost-user protocol
// (vhost-user specification, "Protocol features"), and the sets that xvio offers.
//
// The offered sets must stay stable over releases: the destination of a live migration has to offer what the source
// offered. Anything that an operator may have to hide is masked by options of the port (maskFeatures).

export const VIRTIO_NET_F_CSUM = 0;
export const VIRTIO_NET_F_GUEST_CSUM = 1;
export const VIRTIO_NET_F_MTU = 3;
export const VIRTIO_NET_F_MAC = 5;
export const VIRTIO_NET_F_GSO = 6;
export const VIRTIO_NET_F_GUEST_TSO4 = 7;
export const VIRTIO_NET_F_GUEST_TSO6 = 8;
export const VIRTIO_NET_F_GUEST_ECN = 9;
export const VIRTIO_NET_F_GUEST_UFO = 10;
export const VIRTIO_NET_F_HOST_TSO4 = 11;
export const VIRTIO_NET_F_HOST_TSO6 = 12;
export const VIRTIO_NET_F_HOST_ECN = 13;
export const VIRTIO_NET_F_HOST_UFO = 14;
export const VIRTIO_NET_F_MRG_RXBUF = 15;
export const VIRTIO_NET_F_STATUS = 16;
export const VIRTIO_NET_F_CTRL_VQ = 17;
export const VIRTIO_NET_F_GUEST_ANNOUNCE = 21;
export const VIRTIO_NET_F_MQ = 22;
export const VHOST_F_LOG_ALL = 26;
export const VIRTIO_F_ANY_LAYOUT = 27;
export const VIRTIO_RING_F_INDIRECT_DESC = 28;
export const VIRTIO_RING_F_EVENT_IDX = 29;
export const VHOST_USER_F_PROTOCOL_FEATURES = 30;
export const VIRTIO_F_VERSION_1 = 32;
export const VIRTIO_F_RING_PACKED = 34;
export const VIRTIO_F_IN_ORDER = 35;

export const PROTOCOL_F_MQ = 0;
export const PROTOCOL_F_LOG_SHMFD = 1;
export const PROTOCOL_F_RARP = 2;
export const PROTOCOL_F_REPLY_ACK = 3;
export const PROTOCOL_F_NET_MTU = 4;
export const PROTOCOL_F_BACKEND_REQ = 5;
export const PROTOCOL_F_CROSS_ENDIAN = 6;
export const PROTOCOL_F_CRYPTO_SESSION = 7;
export const PROTOCOL_F_PAGEFAULT = 8;
export const PROTOCOL_F_CONFIG = 9;
export const PROTOCOL_F_INFLIGHT_SHMFD = 12;
export const PROTOCOL_F_RESET_DEVICE = 13;
export const PROTOCOL_F_INBAND_NOTIFICATIONS = 14;
export const PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15;
export const PROTOCOL_F_STATUS = 16;
export const PROTOCOL_F_SHARED_OBJECT = 18;
export const PROTOCOL_F_DEVICE_STATE = 19;

/** Set of feature bits as one number. */
export function bits(...numbers: readonly number[]): bigint {
  return numbers.reduce((set, bit) => set | (1n << BigInt(bit)), 0n);
}

/** Is feature `bit` in the set? */
export function has(set: bigint, bit: number): boolean {
  return ((set >> BigInt(bit)) & 1n) === 1n;
}

/** Virtio features of every xvio port. UFO (10, 14) is there because the data plane fragments in software. */
export const OFFERED_FEATURES: bigint = bits(
  0,
  1,
  3,
  6,
  7,
  8,
  9,
  10,
  11,
  12,
  13,
  14,
  15,
  21,
  22,
  26,
  27,
  28,
  29,
  30,
  32,
  34,
  35,
);

/** Protocol features of every xvio port. */
export const OFFERED_PROTOCOL_FEATURES: bigint = bits(0, 1, 2, 3, 4, 5, 12, 13, 15, 16, 19);

/** Without its checksum feature none of the offloads may be offered (virtio 1.2, 5.1.3.1). */
const NEEDS_CSUM = bits(11, 12, 13, 14);
const NEEDS_GUEST_CSUM = bits(7, 8, 9, 10);

/** Removes `mask` from an offered set, with all features that depend on a removed one. */
export function maskFeatures(offered: bigint, mask: bigint): bigint {
  let left = offered & ~mask;
  if (!has(left, VIRTIO_NET_F_CSUM)) left &= ~(NEEDS_CSUM | bits(VIRTIO_NET_F_GSO));
  if (!has(left, VIRTIO_NET_F_GUEST_CSUM)) left &= ~NEEDS_GUEST_CSUM;
  if (!has(left, VIRTIO_NET_F_HOST_TSO4) && !has(left, VIRTIO_NET_F_HOST_TSO6)) {
    left &= ~bits(VIRTIO_NET_F_HOST_ECN);
  }
  if (!has(left, VIRTIO_NET_F_GUEST_TSO4) && !has(left, VIRTIO_NET_F_GUEST_TSO6)) {
    left &= ~bits(VIRTIO_NET_F_GUEST_ECN);
  }
  return left;
}

/**
 * Features that other hosts do not offer, by name of the host: a guest that is to migrate there and back must not have
 * taken them. What they lack was read in their sources; QEMU refuses a guest with more than the destination has.
 */
export const FEATURE_SETS: Readonly<Record<string, bigint>> = {
  /** Everything. */
  all: 0n,
  /** Open vSwitch with DPDK, without userspace-tso-enable: no checksum offload, and with it no segmentation by us. */
  'ovs-dpdk': bits(VIRTIO_NET_F_CSUM),
  /** vhost-net of Linux behind a tap device on a bridge: no packed rings, not in order, no UFO. */
  'vhost-net': bits(
    VIRTIO_F_RING_PACKED,
    VIRTIO_F_IN_ORDER,
    VIRTIO_NET_F_GUEST_UFO,
    VIRTIO_NET_F_HOST_UFO,
  ),
};
