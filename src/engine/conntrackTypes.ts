// What the control plane sees of connection tracking: Engine.conntrack (src/engine/conntrack.ts).

/** One direction of a connection. Addresses: 4 or 16 bytes. */
export interface CtTuple {
  readonly src: Uint8Array;
  readonly dst: Uint8Array;
  /** IP protocol. */
  readonly proto: number;
  /** 0 for protocols without ports that are tracked (all but TCP and UDP), and for ICMP. */
  readonly srcPort: number;
  readonly dstPort: number;
  /** ICMP and ICMPv6 queries only, else 0. */
  readonly icmpId: number;
  readonly icmpType: number;
  readonly icmpCode: number;
}

export interface CtTcpPeer {
  /** CT_TCP_* (contract/ct.ts); names: TCP_STATE_NAMES. */
  readonly state: number;
  readonly windowScale: number;
  /** The SYN had the window scale option. */
  readonly hasWindowScale: boolean;
  /** Picked up in mid-stream. */
  readonly liberal: boolean;
}

export interface CtConnection {
  readonly orig: CtTuple;
  readonly reply: CtTuple;
  readonly zone: number;
  /** Seconds until it ends. */
  readonly timeoutSeconds: number;
  readonly mark: number;
  /** 16 bytes, network order. */
  readonly label: Uint8Array;
  /** TCP only: original sender, other end. */
  readonly tcp: readonly [CtTcpPeer, CtTcpPeer] | undefined;
  readonly snat: boolean;
  readonly dnat: boolean;
  /** Timeout policy, 0 = default. */
  readonly policy: number;
  /** That it was committed with. */
  readonly helper: 'ftp' | 'tftp' | undefined;
  /** Of a connection that a helper expected: original tuple of the one that announced it. */
  readonly parent: CtTuple | undefined;
}

/** Seconds by the names of CT_Timeout_Policy.timeouts; what is absent has the default. Unknown names are ignored. */
export type CtTimeouts = Readonly<Record<string, number>>;

export interface CtZoneLimit {
  readonly zone: number;
  readonly limit: number;
  readonly count: number;
}

/** Reassembly of fragments for tracking (ipf of Open vSwitch). */
export interface CtFragmentSettings {
  enabledV4: boolean;
  enabledV6: boolean;
  /** Least bytes of an IP packet that is a fragment, and not the last one. */
  minV4: number;
  minV6: number;
  /** Fragments that may wait. */
  max: number;
}

/** A datagram of which fragments wait for the rest. */
export interface CtDatagram {
  /** 4 or 16 bytes. */
  readonly src: Uint8Array;
  readonly dst: Uint8Array;
  readonly recircId: number;
  readonly id: number;
  readonly zone: number;
  readonly proto: number;
  readonly fragments: number;
  readonly hasFirst: boolean;
  readonly hasLast: boolean;
}

export interface Conntrack {
  /** All connections (of a zone), in the order of their records. May be read bit by bit: nothing is locked. */
  dump(zone?: number): Iterable<CtConnection>;
  /** Ends all connections (of a zone). Returns how many. */
  flush(zone?: number): number;
  /** Ends the connection with this tuple of the original direction; false if there is none. */
  flushTuple(tuple: CtTuple, zone: number): boolean;
  /** Connections now. */
  count(): number;
  getMax(): number;
  /** Beyond `capacity` it is the room that limits. Connections above a lowered limit live on. */
  setMax(limit: number): void;
  readonly capacity: number;
  /** Limit of zones without a limit of their own; undefined = none. */
  getDefaultLimit(): number | undefined;
  setDefaultLimit(limit: number | undefined): void;
  zoneLimits(): CtZoneLimit[];
  /** Connections of a zone now. */
  zoneCount(zone: number): number;
  setZoneLimit(zone: number, limit: number): void;
  deleteZoneLimit(zone: number): void;
  getTcpSeqChk(): boolean;
  setTcpSeqChk(on: boolean): void;
  /** Writes timeout policy `id` (1 … CT_POLICY_MAX-1); 0 changes the defaults of connections without a policy. */
  setTimeoutPolicy(id: number, timeouts: CtTimeouts): void;
  deleteTimeoutPolicy(id: number): void;
  getFragments(): CtFragmentSettings & { readonly waiting: number };
  /** False: a value is outside what Open vSwitch allows, or more than there is room for; nothing has changed then. */
  setFragments(settings: Partial<CtFragmentSettings>): boolean;
  /** What waits, of which readers see a state that may be a moment old. */
  datagrams(): Iterable<CtDatagram>;
  /** Counters by name, summed over the workers: packets, hits, created, expired, invalid_*, refused_* … */
  counters(): Record<string, number>;
}
