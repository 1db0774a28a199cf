// The flow key: what a packet looks like to every table of xvio.
//
// One flat record. The data plane fills the first KEY_SIZE bytes for each packet; the control plane uses the same
// record, extended by the OpenFlow-only fields up to FLOW_SIZE, for matches, masks and translation. So a megaflow's
// mask is the first KEY_SIZE bytes of what translation has looked at, with no conversion between them.
//
// EVERY field is in network byte order, the metadata fields too (ports, recirculation id, marks, registers): a
// value of an OXM TLV is copied in without swapping. Fields that a packet lacks are zero.
//
//   line 0  bytes   0- 63  everything an IPv4 packet needs, with the words of connection tracking used most
//   line 1  bytes  64-127  IPv6, ARP and neighbour discovery
//   line 2  bytes 128-191  rest of connection tracking, marks, MPLS
//   line 3  bytes 192-255  tunnel
//   line 4  bytes 256-319  original IPv6 tuple of connection tracking, NSH
//   line 5  bytes 320-447  two lines: Geneve options of the tunnel, as they came
//   then    bytes 448-831  OpenFlow only: metadata, registers, tunnel metadata
//
// Semantics of the fields are those of Open vSwitch (ovs-fields(7)).

// line 0
export const K_IN_PORT = 0; // u32 datapath port number (not the OpenFlow one: F_IN_PORT)
export const K_RECIRC_ID = 4; // u32
export const K_ETH_DST = 8; // 6 bytes
export const K_ETH_SRC = 14; // 6 bytes
export const K_ETH_TYPE = 20; // u16, after all parsed VLAN headers; 0x05ff for 802.2 frames without SNAP type
export const K_VLAN0_TCI = 22; // u16 outermost VLAN, bit 0x1000 set when the header is present
export const K_VLAN0_TPID = 24; // u16
export const K_VLAN1_TCI = 26; // u16 second VLAN (only if the VLAN limit is 2)
export const K_VLAN1_TPID = 28; // u16
export const K_NW_PROTO = 30; // u8 IP protocol; low byte of the opcode for ARP
export const K_NW_FRAG = 31; // u8 FRAG_ANY | FRAG_LATER
export const K_NW_TOS = 32; // u8 whole TOS / traffic class byte
export const K_NW_TTL = 33; // u8 TTL / hop limit
export const K_TP_SRC = 34; // u16 TCP/UDP/SCTP source port; ICMP type in the low byte
export const K_TP_DST = 36; // u16 destination port; ICMP code in the low byte
export const K_TCP_FLAGS = 38; // u16, 12 bits
export const K_NW_SRC = 40; // u32 IPv4 source; ARP sender protocol address
export const K_NW_DST = 44; // u32 IPv4 destination; ARP target protocol address
export const K_CT_STATE = 48; // u32
export const K_CT_ZONE = 52; // u16
export const K_MPLS_COUNT = 54; // u16 number of valid words at K_MPLS_LSE
export const K_CT_MARK = 56; // u32
export const K_DP_HASH = 60; // u32
// line 1
export const K_IPV6_SRC = 64; // 16 bytes
export const K_IPV6_DST = 80; // 16 bytes
export const K_IPV6_LABEL = 96; // u32, low 20 bits
export const K_ARP_SHA = 100; // 6 bytes; ND source link-layer address for ICMPv6 135
export const K_ARP_THA = 106; // 6 bytes; ND target link-layer address for ICMPv6 136
export const K_ND_TARGET = 112; // 16 bytes
// line 2
export const K_CT_LABEL = 128; // 16 bytes
export const K_CT_NW_SRC = 144; // u32 original tuple
export const K_CT_NW_DST = 148; // u32
export const K_CT_TP_SRC = 152; // u16
export const K_CT_TP_DST = 154; // u16
export const K_CT_NW_PROTO = 156; // u8, then 3 bytes of zero
export const K_PKT_MARK = 160; // u32
export const K_PRIORITY = 164; // u32 skb_priority, that is the output queue
export const K_ND_RESERVED = 168; // u32 flags word of a neighbour advertisement
export const K_ND_OPTIONS_TYPE = 172; // u8, then 3 bytes of zero
export const K_MPLS_LSE = 176; // 3 x u32 label stack entries, outermost first
export const K_PACKET_TYPE = 188; // u32 (0 = Ethernet)
// line 3
export const K_TUN_ID = 192; // u64
export const K_TUN_SRC = 200; // u32
export const K_TUN_DST = 204; // u32
export const K_TUN_FLAGS = 208; // u16
export const K_TUN_TOS = 210; // u8
export const K_TUN_TTL = 211; // u8
export const K_TUN_TP_SRC = 212; // u16
export const K_TUN_GBP_ID = 214; // u16
export const K_TUN_GBP_FLAGS = 216; // u8
export const K_TUN_OPTS_LEN = 217; // u8 bytes of Geneve options, at most TUN_OPTS_MAX
export const K_TUN_GTPU_FLAGS = 218; // u8
export const K_TUN_GTPU_MSGTYPE = 219; // u8
/** ERSPAN: version << 28 | index (version 1) << 8 | direction << 6 | hardware id (version 2). */
export const K_TUN_ERSPAN = 220; // u32
export const K_TUN_IPV6_SRC = 224; // 16 bytes
export const K_TUN_IPV6_DST = 240; // 16 bytes
// line 4
export const K_CT_IPV6_SRC = 256; // 16 bytes
export const K_CT_IPV6_DST = 272; // 16 bytes
// Network service header (RFC 8300). A header that lies about its length has left nothing here.
export const K_NSH = 288;
export const K_NSH_FLAGS = 288; // u8, 2 bits: O and U
export const K_NSH_TTL = 289; // u8, 6 bits
export const K_NSH_MDTYPE = 290; // u8
export const K_NSH_NP = 291; // u8 next protocol
export const K_NSH_PATH = 292; // u32 service path identifier << 8 | service index
export const K_NSH_CONTEXT = 296; // 4 x u32 of metadata type 1, then 8 bytes of zero
export const NSH_KEY_BYTES = 24;

// line 5 and 6
/**
 * Geneve options (RFC 8926, 3.5), each | class u16 | type u8 | length u8 in 4 bytes | value |, in the order of the packet.
 * Control plane: what tun_metadata0 … 63 mean is in F_TUN_METADATA; src/switch/tunnel/metadata.ts goes between the two.
 */
export const K_TUN_OPTS = 320; // 128 bytes
export const TUN_OPTS_MAX = 128;

/** Bytes of the key that the data plane fills and megaflows may match. */
export const KEY_SIZE = 448;

// OpenFlow only
export const F_METADATA = 448; // u64
export const F_REGS = 456; // 16 x u32 reg0..reg15 (xreg n = regs 2n, 2n+1; xxreg n = regs 4n..4n+3)
export const F_ACTSET_OUTPUT = 520; // u32
export const F_IN_PORT = 524; // u32 OpenFlow port number
export const F_CONJ_ID = 528; // u32
export const F_TUN_METADATA = 536; // 256 bytes, allocated by NXT_TLV_TABLE_MOD
export const F_TUN_PRESENT = 792; // 64 bits: which of tun_metadata0 … 63 the packet has or will get; bit n of byte n / 8
export const F_SKB_SPARE = 800; // up to 832: zero

/** Bytes of the extended record used by matches and translation. */
export const FLOW_SIZE = 832;

/** Bits of K_TUN_FLAGS. OpenFlow sees the first only. */
export const TUN_OAM = 1;
export const TUN_DF = 2;
export const TUN_CSUM = 4;
export const TUN_KEY = 8;

export const FRAG_ANY = 1;
export const FRAG_LATER = 2;
export const VLAN_PRESENT = 0x1000;
export const ETH_TYPE_NONE = 0x05ff;
