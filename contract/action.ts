// Datapath actions: the program of a megaflow, run by dataplane/act on every packet of it.
//
// A program is an array of 32-bit words (little-endian host words) ending in ACT_END. Each action starts with a
// header word  op | words << 16,  where `words` counts the header too. Values that go into a packet are stored in
// network byte order, at the same relative positions as in the flow key (contract/key.ts), each followed by a mask
// of the same size: packet = packet & ~mask | value & mask. Checksums are fixed incrementally by the executor
// (or left to the offload, for checksum-partial packets: the pseudo-header sum is fixed then).
//
// The list mirrors OVS_ACTION_ATTR_* so that dpctl/dump-flows can print it in Open vSwitch's words.

export const ACT_END = 0; // words 1. An empty program is a drop (DROP_FLOW_EXPLICIT unless an ACT_DROP says more)
export const ACT_OUTPUT = 1; // words 2: [1] datapath port
export const ACT_TRUNC = 2; // words 2: [1] maximum bytes of the next output or userspace action
export const ACT_PUSH_VLAN = 3; // words 2: [1] tpid | tci << 16, both as host numbers, tci without VLAN_PRESENT
export const ACT_POP_VLAN = 4; // words 1
export const ACT_SET_ETH = 5; // words 7: [1-3] dst, src (12 bytes) [4-6] mask
export const ACT_SET_IPV4 = 6; // words 7: [1] src [2] dst [3] tos, ttl (2 bytes + 2 zero) [4-6] mask
export const ACT_SET_IPV6 = 7; // words 21: [1-4] src [5-8] dst [9] label [10] tclass, hlimit (2 bytes + 2 zero) [11-20] mask
export const ACT_SET_TP = 8; // words 3: [1] src, dst ports (or ICMP type, code as u16 each) [2] mask
export const ACT_SET_ARP = 9; // words 13: [1] spa [2] tpa [3-5] sha, tha [6] op (u16 + 2 zero) [7-12] mask
export const ACT_SET_ND = 10; // words 15: [1-4] target [5-7] sll, tll [8-14] mask
export const ACT_SET_META = 11; // words 4: [1] offset in the key (K_PKT_MARK, K_PRIORITY ...) [2] value [3] mask
export const ACT_USERSPACE = 12; // words 4: [1] UPCALL_* reason [2] cookie [3] maximum bytes (0xffff = whole)
export const ACT_RECIRC = 13; // words 2: [1] recirculation id
export const ACT_DROP = 14; // words 2: [1] drop reason
export const ACT_SET_VLAN = 15; // words 2: [1] tci value | mask << 16 (host numbers) of the outermost VLAN

// Connection tracking (dataplane/ct). Runs each packet through the connection table: translates it where NAT applies,
// and writes ct_state, ct_zone, ct_mark, ct_label and the original tuple into its key. The program goes on; tables see
// the fields after ACT_RECIRC. Addresses, mark and label in network byte order, the rest in host order.
//   [1] CT_* flags (CT_CLEAR alone: ct_clear, the other words are 0)  [2] zone  [3] timeout policy, 0 = default
//   [4] mark [5] its mask  [6-9] label [10-13] its mask
//   [14-17] lowest NAT address (IPv4 in [14]) [18-21] highest  [22] lowest port | highest << 16, 0 = none
export const ACT_CT = 32; // words 23
export const ACT_CT_WORDS = 23;

export const CT_COMMIT = 1;
export const CT_FORCE = 2; // the packet's direction becomes the original one: a connection the other way is ended
export const CT_NAT = 4; // without SRC and DST: translate packets of connections that have a translation
export const CT_NAT_SRC = 8;
export const CT_NAT_DST = 16;
export const CT_NAT_PERSISTENT = 32;
export const CT_NAT_HASH = 64;
export const CT_NAT_RANDOM = 128;
export const CT_HAS_MARK = 256;
export const CT_HAS_LABEL = 512;
export const CT_ALG_FTP = 1024;
export const CT_ALG_TFTP = 2048;
export const CT_CLEAR = 4096;
export const CT_NAT_V6 = 8192; // the NAT addresses are IPv6

export const ACT_HASH = 33; // words 3: [1] HASH_L4 | HASH_L4_SYMMETRIC [2] basis: a hash, never 0, into K_DP_HASH

export const ACT_METER = 34; // words 2: [1] meter (contract/meter.ts); packets over its rate are dropped
export const ACT_CLONE = 35; // [1] CLONE_* [2 …] program, run on a clone of the packet
export const ACT_CHECK_PKT_LEN = 36; // [1] bytes [2] words of the first program [3 …] programs for longer and for other frames
export const ACT_SAMPLE = 37; // [1] probability, of 2^32 - 1 [2 …] program, run on clones of that share of the packets

// Tunnels (contract/tunnel.ts)
export const ACT_TUNNEL_PUSH = 40; // [1-4] TP_* [5 …] the outer header
export const ACT_TUNNEL_POP = 41; // words 4: [1] datapath port of the tunnel [2] TUNNEL_* [3] Ethernet type inside (bareudp)
// MPLS (RFC 3032). Label stack entries as host numbers.
export const ACT_PUSH_MPLS = 42; // words 3: [1] label stack entry [2] Ethernet type, 0x8847 or 0x8848
export const ACT_POP_MPLS = 43; // words 2: [1] Ethernet type of what is below
export const ACT_SET_MPLS = 44; // words 3: [1] label stack entry [2] mask, of the outermost entry
// Packets without Ethernet header (K_PACKET_TYPE)
export const ACT_PUSH_ETH = 45; // words 4: [1-3] dst, src (12 bytes); the type is the packet's
export const ACT_POP_ETH = 46; // words 1
// What a tunnel's port would have to know if it encapsulated by itself. Ours do not: it does nothing, but traces show it.
export const ACT_SET_TUNNEL = 47; // [1] destination port [2-17] tunnel fields, K_TUN_ID … K_TUN_IPV6_DST [18 …] Geneve options
// A label around the whole packet, which has no Ethernet header of its own then. Popped with type 0x6558, it has again.
export const ACT_ADD_MPLS = 48; // words 3: [1] label stack entry [2] Ethernet type, 0x8847 or 0x8848
// Network service headers (RFC 8300) around packets, which have no Ethernet header of their own then; the fields of
// ACT_SET_NSH as in the key, K_NSH_FLAGS … K_NSH_CONTEXT.
export const ACT_PUSH_NSH = 49; // [1 …] the header, as long as it says
export const ACT_POP_NSH = 50; // words 1. Recirculation follows: what is inside has to be parsed
export const ACT_SET_NSH = 51; // words 13: [1-6] flags … context [7-12] mask

/** Open vSwitch would say "sample" with a probability of 100 %: the text shows it so. */
export const CLONE_SAMPLE = 1;
export const HASH_L4 = 0;
export const HASH_L4_SYMMETRIC = 1; // the same for both directions of a connection

/** Longest program in words: a flow that needs more is translated to "to userspace" (slow path). */
export const ACTIONS_MAX_WORDS = 4096;

// Reasons of an upcall.
export const UPCALL_MISS = 0; // no megaflow
export const UPCALL_SLOW = 1; // the megaflow says: the control plane decides for each packet (cookie = slow reason)
export const UPCALL_CONTROLLER = 2; // cookie = id under which the translation left the packet-in's description
export const UPCALL_CAPTURE = 3;
export const UPCALL_SAMPLE = 4; // for an IPFIX exporter; cookie as with UPCALL_CONTROLLER
