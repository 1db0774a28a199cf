// What the parts of the benchmark suite say to each other: a peer is a switch of some kind that is compared, a
// testbed a peer that runs, a scenario what is measured on it. Rates are packets a second, times nanoseconds unless the
// name says otherwise.

import type { Wire } from './generator/wire.ts';
import type { Placement } from './placement.ts';

/** How a switch under test forwards between the ports that the generator drives. */
export type Wiring =
  /** in_port → output, ports in pairs: 0 ↔ 1, 2 ↔ 3, … */
  | 'port'
  /** NORMAL: MAC learning. */
  | 'l2'
  /** 1 000 overlapping wildcard rules over addresses and ports; everything that matches goes to the other port. */
  | 'rules'
  /** A stateful firewall: connections begin at even ports, and packets of established ones pass both ways. */
  | 'firewall'
  /** Port 0 behind the rules of `rules`, port 1 the wire under a VXLAN tunnel. */
  | 'acl-vxlan'
  /** Pairs without parsing or tables. */
  | 'relay'
  /** Nothing installed: the scenario does it. */
  | 'none';

export interface Setup {
  wiring: Wiring;
  /** vhost-user ports. */
  ports: number;
  mtu?: number;
  /** Guests with checksum and segmentation offload, and buffers for such frames. */
  offloads?: boolean;
  switchCore: number;
  /** Cores of several forwarding threads, instead of switchCore alone. */
  switchCores?: readonly number[];
  generatorCore: number;
}

/** A thread that forwards packets. */
export interface SwitchThread {
  pid: number;
  tid: number;
}

/** Since the last clear, of all forwarding threads together. */
export interface BusyTime {
  packets: number;
  /** Time in polls that found packets. */
  busyNs: number;
}

/** A switch that runs and waits for guests at `sockets`. */
export interface Testbed extends AsyncDisposable {
  readonly name: string;
  /** vhost-user sockets; guests listen there and the switch connects. */
  readonly sockets: readonly string[];
  /** Resolves when all ports forward, after the guests have connected. */
  ready(): Promise<void>;
  /** Forwarding threads. May be called only when ports are up. */
  threads(): SwitchThread[];
  /** The guest that has to send and receive frames in a tunnel, if there is one. */
  readonly wire?: Wire | undefined;
  /** Processes to be stopped while it is another one's turn. */
  readonly pids: readonly number[];
  clearBusy?(): void;
  busy?(): BusyTime | undefined;
  ofctl?(...args: string[]): string;
  appctl?(...args: string[]): string;
  /** Drops that the switch itself has counted, by name. */
  drops?(): Record<string, number>;
  /** All packets that the switch has dropped under a name, since it started; undefined: not every drop has one. */
  namedDrops?(): number | undefined;
}

export interface Peer {
  readonly name: string;
  readonly wirings: readonly Wiring[];
  /** What is missing on this machine and what to do about it; undefined = it can run. */
  missing(): string | undefined;
  start(setup: Setup): Promise<Testbed>;
}

/** One figure of one peer, measured in several rounds. */
export interface Series {
  peer: string;
  /** One value for each round. */
  rounds: number[];
  /** Further figures, medians over the rounds: CPU-ns a packet, latencies, loss. */
  details: Record<string, number>;
  /** Of those details that are waits the greatest of all rounds, which a median does not show. */
  greatest?: Record<string, number>;
  /** Histogram of ages over all rounds, where that is what is measured: upper end in microseconds, packets. */
  latency?: [us: number, packets: number][];
  /** Rounds that were played although the cores were far from each other (placement.ts). */
  far?: number;
  /** Of all that was ever sent: packets that did not arrive, and those that the switch has dropped under a name. */
  loss?: { packets: number; named: number };
}

export interface Measurement {
  scenario: string;
  /** Which variant of it: "64 B, 1 000 flows". */
  variant: string;
  unit: string;
  /** false: less is better. */
  higherIsBetter: boolean;
  /** Ratios are taken to this peer. */
  baseline: string;
  series: Series[];
  /** What limits the figures: peers left out, rounds not played, drops counted. */
  notes: string[];
  /** What went wrong, though it did not keep the others from being measured. */
  failures?: string[];
}

export interface Options {
  rounds: number;
  durationMs: number;
  /** Scheduling of switch and generator threads ahead of everything else during a trial. */
  realtime: boolean;
  switchCore: number;
  generatorCore: number;
  peers: readonly string[] | undefined;
  /** Other checkouts of xvio to compare with. */
  compare: readonly string[];
  queueSize: number;
  /** Rings that the guests ask for. */
  packed: boolean;
  inOrder: boolean;
  /** What a cache line has taken from core to core at best (bench/placement.ts). */
  cacheLineNs?: number;
  /** Waits for the cores to be near each other; undefined: rounds are played wherever they lie. */
  placement?: Placement;
  /** Whether a run has one. */
  near?: boolean;
  /** Date.now() from which on no further round begins, if there have been three. */
  deadlineMs?: number;
  log: (text: string) => void;
  /** Told of each variant that has been played, for the case that the scenario does not come to its end. */
  played?: (measurement: Measurement) => void;
}

export interface Scenario {
  readonly name: string;
  readonly title: string;
  run(options: Options): Promise<Measurement[]>;
}
