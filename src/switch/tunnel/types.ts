// What native tunnelling wants to know of the host's network: routes, addresses, neighbours.
//
// Open vSwitch's userspace datapath builds the outer headers itself: it looks up the kernel's routes for the tunnel's remote
// address, and the neighbour's MAC in a cache of its own that learns from ARP and neighbour discovery packets that cross its
// bridges ("tnl/neigh"). The answer to a question depends on this state, so whoever asks has to ask again after `change`
// has grown.
//
// Addresses are 16 bytes, IPv4 mapped (::ffff:a.b.c.d), in network byte order.

/** The way to a tunnel's remote end. */
export interface TunnelRoute {
  /** Device of the route: the LOCAL port of the bridge of that name. */
  readonly device: string;
  /** Address to send from. */
  readonly source: Uint8Array;
  /** Neighbour to send to: the gateway, or the destination itself. */
  readonly nextHop: Uint8Array;
}

export interface Underlay {
  /** Grows whenever an answer of route, neighbour or isLocal may have changed. */
  readonly change: number;
  /** One listener: told after `change` has grown. */
  onChange: (() => void) | undefined;
  /** Longest prefix among the routes that are for packets with this mark; undefined: no route. */
  route(destination: Uint8Array, packetMark: number, source?: Uint8Array): TunnelRoute | undefined;
  /** MAC (6 bytes) of a neighbour behind a bridge; undefined: unknown. */
  neighbour(bridge: string, address: Uint8Array): Uint8Array | undefined;
  /**
   * Asks for a neighbour by ARP or neighbour solicitation, at most once a second for each address. `atOnce`: before this
   * returns, which is for callers that are in the middle of nothing; else soon.
   */
  solicit(device: string, route: TunnelRoute, atOnce?: boolean): void;
  /**
   * A packet that crosses a bridge with a tunnel endpoint: an ARP reply or neighbour advertisement teaches. `flow` is a record
   * of contract/key.ts. Returns true if the packet is one that may teach (its fields were looked at).
   */
  snoop(bridge: string, flow: Uint8Array): boolean;
  /** A tunnel packet has come in by a bridge: its sender is a neighbour there, with the address that it came from. */
  heard(bridge: string, flow: Uint8Array): void;
  /** The bridge is gone: what was known of its neighbours is not true any more. */
  forget(bridge: string): void;
  /** Addresses of a device. */
  addressesOf(device: string): readonly { readonly address: Uint8Array }[];
  /** Device that has this address, undefined if none has. */
  isLocal(address: Uint8Array): string | undefined;
}
