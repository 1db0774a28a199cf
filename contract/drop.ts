// Every way in which xvio drops a packet. One number, one name; counted per port and worker.
// The order is part of the memory layout of the counters: append only. Names: contract/names.ts.

export const DROP_NONE = 0;
// receive side: what a guest or device handed us
export const DROP_RX_RUNT = 1; // shorter than an Ethernet header
export const DROP_RX_TOO_LONG = 2; // over 64 KiB, or too many segments
export const DROP_RX_BAD_DESC = 3; // descriptor outside guest memory, loop, wrong direction, bad index
export const DROP_RX_BAD_VNET = 4; // impossible offload fields in the virtio-net header
export const DROP_RX_DISABLED = 5; // ring disabled: taken and thrown away
// decisions of the pipeline
export const DROP_FLOW_EXPLICIT = 6; // the matching flow has no output
export const DROP_UPCALL_FULL = 7; // upcall ring full: the control plane cannot keep up
export const DROP_UPCALL_NO_FLOW = 8; // the control plane decided to drop (no match, secure mode)
export const DROP_NO_PORT = 9; // output to a port that does not exist (any more)
export const DROP_RECIRC_LIMIT = 10; // too many recirculations
export const DROP_BAD_ACTION = 11; // action does not fit the packet
// transmit side
export const DROP_TX_RING_FULL = 12; // the guest or device does not take packets fast enough
export const DROP_TX_NOT_READY = 13; // peer not connected, or no driver
export const DROP_TX_MTU = 14; // longer than the port's MTU
export const DROP_TX_NO_BUFFER = 15; // receive buffer of the guest too small (without mergeable buffers)
export const DROP_TX_BAD_DESC = 16; // receive ring of the guest is invalid
export const DROP_TX_GSO = 17; // segmentation impossible (headers not understood)
export const DROP_TX_LINK_DOWN = 18; // OFPPC_NO_FWD, admin down
// switch policy
export const DROP_VLAN_FILTER = 19; // VLAN not allowed on the input port
export const DROP_STP = 20; // port not forwarding (OFPPC_NO_RECV, spanning tree)
export const DROP_TTL = 21; // TTL expired
export const DROP_RESUBMIT_LIMIT = 22; // translation too deep
export const DROP_MALFORMED = 23; // headers lie about lengths; fragment with bad offset; frags refused by config
export const DROP_CONTROLLER_RATE = 24; // packet-in over the queue or rate limit
export const DROP_INJECT_FULL = 25; // inject ring full (packet-out)
export const DROP_NO_LEARNED_PORT = 26; // NORMAL: would go back out of the input port, or multicast to nowhere
export const DROP_RESERVED_MAC = 27; // NORMAL: 01:80:c2:00:00:0x without forward-bpdu
export const DROP_NO_WINDOW = 28; // a chunk of guest memory could not be mapped: window space is exhausted
export const DROP_METER = 29; // over the rate of a meter
// tunnels
export const DROP_TUNNEL_HEADER = 30; // outer headers of a tunnel packet that cannot be: lengths, version, flags, IP options
export const DROP_TUNNEL_CHECKSUM = 31; // outer IP, UDP or GRE checksum is wrong
export const DROP_TUNNEL_PROTOCOL = 32; // what the tunnel carries is not known, or not carried by this tunnel
export const DROP_TUNNEL_OPTIONS = 33; // more Geneve options than the flow key has room for
export const DROP_TUNNEL_HEADROOM = 34; // the tunnel header does not fit in front of the packet, or the packet gets longer than 64 KiB
export const DROP_TUNNEL_NO_ROUTE = 35; // no route to the remote end of a tunnel
export const DROP_TUNNEL_NO_NEIGHBOUR = 36; // the next hop of a tunnel has not answered (yet)
export const DROP_TUNNEL_NO_PORT = 37; // a tunnel packet that belongs to no tunnel port
export const DROP_TUNNEL_CONGESTION = 38; // congestion was experienced in the tunnel by a packet that cannot say so (RFC 6040)
export const DROP_COUNT = 64; // room in the counter arrays
