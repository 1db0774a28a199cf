// Tunnels in the data plane: programs push a ready-made outer header and pop what arrives for a tunnel port.
//
// A tunnel's datapath port (vxlan_sys_4789, gre_sys) has no queues. ACT_TUNNEL_POP strips the outer headers, writes what
// they said into the tunnel fields of the key (contract/key.ts), and has the packet looked up again as if it had come
// in by that port. ACT_TUNNEL_PUSH puts the header in front, fills in what differs from packet to packet (lengths,
// checksums, UDP source port, GRE sequence number), and the program goes on with the packet as the underlay sees it.
//
//   | Ethernet 14 | IPv4 20 or IPv6 40 | UDP 8 + VXLAN 8, Geneve 8 + options, GTP-U 8, or GRE 4 … 16 [+ ERSPAN 8, 12] | packet …
//
// VXLAN: RFC 7348, draft-smith-vxlan-group-policy, draft-ietf-nvo3-vxlan-gpe; Geneve: RFC 8926; GRE: RFC 2784, 2890;
// MPLS in GRE: RFC 4023; MPLS in UDP: RFC 7510; GTP-U: 3GPP TS 29.281; ERSPAN: draft-foschiano-erspan-03.

/** Encapsulations. Numbers are those of Open vSwitch's vport types: they appear in tnl_push's text. */
export const TUNNEL_GRE = 3;
export const TUNNEL_VXLAN = 4;
export const TUNNEL_GENEVE = 5;
export const TUNNEL_ERSPAN = 107;
export const TUNNEL_IP6ERSPAN = 108;
export const TUNNEL_IP6GRE = 109;
export const TUNNEL_GTPU = 110;
export const TUNNEL_BAREUDP = 111;

/** Longest outer header: Ethernet, IPv6, UDP, Geneve with all options that the key has room for. */
export const TUNNEL_HEADER_MAX = 14 + 40 + 8 + 8 + 128;

// Words of ACT_TUNNEL_PUSH after its header word.
export const TP_PORT = 0; // datapath port of the tunnel
export const TP_OUT_PORT = 1; // datapath port by which the tunnel leaves: the underlay bridge's own
export const TP_TYPE = 2; // TUNNEL_* | bytes of the header << 16
export const TP_SOURCE_PORTS = 3; // lowest UDP source port | number of them << 16
export const TP_HEADER = 4; // the header, padded to whole words

// GRE
export const GRE_CSUM = 0x8000;
export const GRE_KEY = 0x2000;
export const GRE_SEQ = 0x1000;
export const ETH_TYPE_TEB = 0x6558; // transparent Ethernet bridging

// ERSPAN: in GRE with a sequence number and nothing else; type II is Open vSwitch's version 1, type III its version 2.
//   | version 4, VLAN 12 | COS 3, encapsulation 2, truncated 1, session 10 |
//   version 1: | reserved 12, index 20 |      version 2: | timestamp 32 | SGT 16 | P 1, FT 5, hardware id 6, direction 1, 0 3 |
export const ETH_TYPE_ERSPAN1 = 0x88be;
export const ETH_TYPE_ERSPAN2 = 0x22eb;
export const ERSPAN_SESSION = 0x3ff;
export const ERSPAN_INDEX = 0xfffff;
export const ERSPAN_HWID = 0x3f;
/** Bytes of GRE and ERSPAN header. */
export const ERSPAN1_BYTES = 8 + 8;
export const ERSPAN2_BYTES = 8 + 12;

// VXLAN: flags, the first word of the header
export const VXLAN_I = 0x08000000; // the VNI is valid
export const VXLAN_GBP = 0x80000000; // group policy
export const VXLAN_GBP_DONT_LEARN = 0x00400000;
export const VXLAN_GBP_APPLIED = 0x00080000;
export const VXLAN_GPE = 0x04000000; // generic protocol extension
export const VXLAN_GPE_OAM = 0x01000000;
export const VXLAN_GPE_VERSION = 0x30000000;
export const GPE_IPV4 = 1;
export const GPE_IPV6 = 2;
export const GPE_ETHERNET = 3;
export const GPE_NSH = 4;

export const GTPU_FLAGS_DEFAULT = 0x30; // version 1, protocol type GTP
export const GTPU_MESSAGE_GPDU = 255;

/** Namespace of K_PACKET_TYPE for packets without Ethernet header: 1 << 16 | Ethernet type. */
export const PACKET_TYPE_ETHERTYPE = 0x10000;

// Network service header (RFC 8300)
export const ETH_TYPE_NSH = 0x894f;
export const PACKET_TYPE_NSH = 0x1894f;
export const NSH_BASE_BYTES = 8;
export const NSH_MD1_BYTES = 24;
/** Longest header: its length is 6 bits of words. */
export const NSH_MAX_BYTES = 252;
/** Next protocols. */
export const NSH_IPV4 = 1;
export const NSH_IPV6 = 2;
export const NSH_ETHERNET = 3;
export const NSH_NSH = 4;
