// The sFlow agent of one bridge (table sFlow of ovs-vswitchd.conf.db(5)): samples of packets, which the data plane takes, and
// counters of interfaces, which it polls, gathered into datagrams that go out when they are full, or with the next second.
// Which element is where follows Open vSwitch.

import {
  K_TUN_DST,
  K_TUN_ID,
  K_TUN_SRC,
  K_TUN_TOS,
  K_TUN_TP_SRC,
  K_VLAN0_TCI,
} from '../../contract/key.ts';
import type { Upcall } from '../engine/types.ts';
import {
  countersSample,
  datagramHeaderLength,
  flowSample,
  headerElement,
  mplsElement,
  SFLOW_DATAGRAM_MAX,
  type SflowElement,
  type SflowSource,
  SOURCE_ENTITY,
  SOURCE_INTERFACE,
  sflowDatagram,
  switchElement,
  tunnelElements,
} from '../wire/sflow.ts';
import { be16, be32 } from './flow.ts';
import type { SflowSample } from './translate/types.ts';

/** Index of the bridge's own data source, before its number is added. */
const BRIDGE_INDEX = 1000;
const U32 = 2 ** 32;

export interface SflowSettings {
  /** 4 or 16 bytes. */
  agent: Uint8Array;
  /** Number of the bridge among those with sFlow. */
  subAgent: number;
  sampling: number;
  /** Seconds between counters, 0 = never. */
  pollingS: number;
  headerBytes: number;
}

/** The port by which a sampled packet has come in. */
export interface SflowInput {
  /** 0 = unknown. */
  ifindex: number;
  /** Of the tunnel's outer header, 0 = unknown. */
  tunnelProtocol: number;
  tunnelPort: number;
}

export interface SflowHooks {
  send(datagram: Uint8Array): void;
  nowMs(): number;
  input(upcall: Upcall): SflowInput;
  /** Interface indexes of the bridge's ports, and their counters in the order of the datagram. */
  ports(): ReadonlyMap<number, () => readonly SflowElement[]>;
  /** Counters of the whole switch; undefined: another bridge tells. */
  global(): readonly SflowElement[] | undefined;
}

interface Poller {
  countdown: number;
  sequence: number;
}

/** Share of 2^32 - 1 for one of so many packets. */
export function sflowProbability(sampling: number): number {
  return Math.max(1, Math.floor(0xffffffff / sampling));
}

export class SflowAgent {
  readonly #settings: SflowSettings;
  readonly #hooks: SflowHooks;
  readonly #bootS: number;
  #nowS: number;
  #samples: Uint8Array[] = [];
  #bytes = 0;
  #datagrams = 0;
  #flowSamples = 0;
  #pool = 0;
  readonly #bridge: Poller;
  readonly #ports = new Map<number, Poller>();

  constructor(settings: SflowSettings, hooks: SflowHooks) {
    this.#settings = settings;
    this.#hooks = hooks;
    this.#bootS = Math.floor(hooks.nowMs() / 1000);
    this.#nowS = this.#bootS;
    this.#bridge = this.#poller();
    for (const ifindex of hooks.ports().keys()) this.#ports.set(ifindex, this.#poller());
  }

  /** A packet that the data plane has sampled. */
  sample(sample: SflowSample, upcall: Upcall): void {
    const { key, packetLen } = upcall;
    const { sampling, headerBytes } = this.#settings;
    this.#pool = (this.#pool + sampling) % U32;
    const input = this.#hooks.input(upcall);
    const elements = [
      switchElement(be16(key, K_VLAN0_TCI), sample.vlanTci),
      headerElement(upcall.data.subarray(0, headerBytes), packetLen),
    ];
    if (sample.labels.length > 0) elements.push(mplsElement(sample.labels));
    if (sample.tunnel !== undefined) elements.push(...tunnelElements('egress', sample.tunnel));
    if (be32(key, K_TUN_DST) !== 0) {
      elements.push(
        ...tunnelElements('ingress', {
          protocol: input.tunnelProtocol,
          tos: key[K_TUN_TOS]!,
          source: be32(key, K_TUN_SRC),
          destination: be32(key, K_TUN_DST),
          sourcePort: be16(key, K_TUN_TP_SRC),
          destinationPort: input.tunnelPort,
          vni: be32(key, K_TUN_ID + 4),
        }),
      );
    }
    const header = {
      sequence: ++this.#flowSamples,
      source: this.#source,
      samplingRate: sampling,
      samplePool: this.#pool,
      input: input.ifindex,
      output: sample.output,
    };
    this.#add(flowSample(header, elements));
  }

  /** To be called every second. */
  tick(): void {
    this.#nowS = Math.floor(this.#hooks.nowMs() / 1000);
    if (this.#isDue(this.#bridge)) {
      const elements = this.#hooks.global();
      if (elements !== undefined) this.#addCounters(this.#bridge, this.#source, elements);
    }
    const ports = this.#hooks.ports();
    for (const ifindex of this.#ports.keys()) if (!ports.has(ifindex)) this.#ports.delete(ifindex);
    // The highest first, as in Open vSwitch.
    for (const [ifindex, counters] of [...ports].sort(([a], [b]) => b - a)) {
      let poller = this.#ports.get(ifindex);
      if (poller === undefined) {
        poller = this.#poller();
        this.#ports.set(ifindex, poller);
      }
      if (!this.#isDue(poller)) continue;
      this.#addCounters(poller, { class: SOURCE_INTERFACE, index: ifindex }, counters());
    }
    this.#flush();
  }

  get #source(): SflowSource {
    return { class: SOURCE_ENTITY, index: BRIDGE_INDEX + this.#settings.subAgent };
  }

  /** Interfaces are not all polled in the same second. */
  #poller(): Poller {
    const { pollingS } = this.#settings;
    return { countdown: pollingS && 1 + Math.floor(Math.random() * pollingS), sequence: 0 };
  }

  #isDue(poller: Poller): boolean {
    if (poller.countdown === 0 || --poller.countdown > 0) return false;
    poller.countdown = this.#settings.pollingS;
    return true;
  }

  #addCounters(poller: Poller, source: SflowSource, elements: readonly SflowElement[]): void {
    this.#add(countersSample(++poller.sequence, source, elements));
  }

  #add(sample: Uint8Array): void {
    // What is half as long as a datagram does not go into one.
    if (sample.length > SFLOW_DATAGRAM_MAX / 2) return;
    const header = datagramHeaderLength(this.#settings.agent);
    if (header + this.#bytes + sample.length >= SFLOW_DATAGRAM_MAX) this.#flush();
    this.#samples.push(sample);
    this.#bytes += sample.length;
  }

  #flush(): void {
    if (this.#samples.length === 0) return;
    const { agent, subAgent } = this.#settings;
    const uptimeMs = ((this.#nowS - this.#bootS) * 1000) % U32;
    const header = { agent, subAgent, sequence: ++this.#datagrams, uptimeMs };
    const datagram = sflowDatagram(header, this.#samples);
    this.#samples = [];
    this.#bytes = 0;
    this.#hooks.send(datagram);
  }
}
