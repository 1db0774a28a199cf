// Bridge.sflow (table sFlow of ovs-vswitchd.conf.db(5)) becomes an agent with its collectors: which address it has, and what
// the counters of its ports are.

import { networkInterfaces } from 'node:os';
import { K_IN_PORT, K_TUN_DST } from '../../contract/key.ts';
import type { Upcall } from '../engine/types.ts';
import type { NetdevContext } from '../port/types.ts';
import type { SwitchBridge } from '../switch/bridge.ts';
import { lookups } from '../switch/commands.ts';
import { be32 } from '../switch/flow.ts';
import { SflowAgent, type SflowInput, sflowProbability } from '../switch/sflow.ts';
import type { BridgeSampling, SflowSample } from '../switch/translate/types.ts';
import { ipProtocolOf } from '../switch/tunnel/header.ts';
import { tunnelOf } from '../switch/tunnel/ports.ts';
import type { BridgePort } from '../switch/types.ts';
import { isMapped, parseAddress } from '../switch/underlay/address.ts';
import {
  datapathElement,
  ethernetElement,
  genericElement,
  lacpElement,
  openflowPortElement,
  portNameElement,
  resourcesElement,
  SFLOW_PORT,
  type SflowElement,
} from '../wire/sflow.ts';
import { Collectors, parseCollector } from './collectors.ts';
import type { SharedExports } from './exporters.ts';
import type { SflowIntent } from './intent.ts';
import type { PortProtocols } from './portProtocols.ts';

const TICK_MS = 1000;
/** Speed of a device that does not say, as Open vSwitch has it. */
const SPEED_DEFAULT = 100_000_000;
/** Tunnels whose outer headers sFlow tells. */
const TUNNEL_TYPES: readonly string[] = ['gre', 'vxlan', 'geneve'];

const DUPLEX = { full: 1, half: 2 } as const;
const UNKNOWN_INPUT: SflowInput = { ifindex: 0, tunnelProtocol: 0, tunnelPort: 0 };

/** First address of a device of the host. */
function ofDevice(name: string): Uint8Array | undefined {
  const [first] = networkInterfaces()[name] ?? [];
  return first && parseAddress(first.address);
}

export class BridgeSflow {
  readonly #bridge: SwitchBridge;
  readonly #protocols: PortProtocols;
  readonly #log: NetdevContext['log'];
  readonly #shared: SharedExports;
  #settings = '';
  #agent: SflowAgent | undefined;
  #collectors: Collectors | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    bridge: SwitchBridge,
    protocols: PortProtocols,
    log: NetdevContext['log'],
    shared: SharedExports,
  ) {
    this.#bridge = bridge;
    this.#protocols = protocols;
    this.#log = log;
    this.#shared = shared;
  }

  /** Gives what the bridge's translation has to do for it. */
  apply(intent: SflowIntent | undefined): BridgeSampling['sflow'] {
    const settings = intent === undefined ? '' : JSON.stringify(intent);
    if (settings !== this.#settings || (intent !== undefined && this.#agent === undefined)) {
      this.#settings = settings;
      this.#stop();
      if (intent !== undefined) this.#start(intent);
    }
    if (intent === undefined || this.#agent === undefined) return undefined;
    const { sampling, headerBytes } = intent;
    return { probability: sflowProbability(sampling), headerBytes: Math.min(headerBytes, 0xffff) };
  }

  sample(sample: SflowSample, upcall: Upcall): void {
    this.#agent?.sample(sample, upcall);
  }

  #stop(): void {
    if (this.#shared.globalCounters === this) this.#shared.globalCounters = undefined;
    clearInterval(this.#timer);
    this.#agent = undefined;
    this.#collectors?.close();
    this.#collectors = undefined;
  }

  #start(intent: SflowIntent): void {
    const collectors = new Collectors(intent.targets, SFLOW_PORT, (text) => this.#log.warn(text));
    if (collectors.size === 0) {
      this.#log.warn('no collectors could be initialized, sFlow disabled');
      return;
    }
    const address = this.#agentAddress(intent);
    if (address === undefined) {
      this.#log.err('could not determine IP address for sFlow agent');
      collectors.close();
      return;
    }
    this.#log.info(`creating sFlow agent ${intent.subAgent}`);
    const { subAgent, sampling, pollingS, headerBytes } = intent;
    const agent = new SflowAgent(
      { agent: address, subAgent, sampling, pollingS, headerBytes },
      {
        send: (datagram) => collectors.send(datagram),
        nowMs: () => this.#bridge.nowMs(),
        input: (upcall) => this.#input(upcall.key),
        ports: () => this.#counters(),
        global: () => this.#global(),
      },
    );
    this.#collectors = collectors;
    this.#agent = agent;
    this.#timer = setInterval(() => agent.tick(), TICK_MS);
    this.#timer.unref();
  }

  /** Of the named device, as it is written, of the way to a collector, of the way to a controller: the first that is there. */
  #agentAddress({ agent, targets, controlIp }: SflowIntent): Uint8Array | undefined {
    const { underlay } = this.#bridge.datapath;
    const named =
      agent === undefined
        ? undefined
        : (underlay?.addressesOf(agent)[0]?.address ?? ofDevice(agent));
    const written = agent === undefined ? undefined : parseAddress(agent);
    const found = named ?? written ?? this.#routedAddress(targets);
    const address = found ?? (controlIp === undefined ? undefined : parseAddress(controlIp));
    return address && (isMapped(address) ? address.slice(12) : address);
  }

  #routedAddress(targets: readonly string[]): Uint8Array | undefined {
    for (const target of targets) {
      const collector = parseCollector(target, SFLOW_PORT);
      const destination = collector && parseAddress(collector.host);
      const route = destination && this.#bridge.datapath.underlay?.route(destination, 0);
      if (route !== undefined) return route.source;
    }
    return undefined;
  }

  #input(key: Uint8Array): SflowInput {
    const { ports, tunnels } = this.#bridge.datapath;
    const tunnelled = be32(key, K_TUN_DST) !== 0;
    const at = ports.get(be32(key, K_IN_PORT)) ?? (tunnelled ? tunnels.find(key) : undefined);
    if (at === undefined || at.bridge !== this.#bridge) return UNKNOWN_INPUT;
    const { type, dstPort } = tunnelOf(at.port)?.tunnel ?? { type: '', dstPort: 0 };
    const known = TUNNEL_TYPES.includes(type);
    return {
      ifindex: Math.max(0, at.port.netdev.status().ifindex),
      tunnelProtocol: known ? ipProtocolOf(type) : 0,
      tunnelPort: known && type !== 'gre' ? dstPort : 0,
    };
  }

  #counters(): ReadonlyMap<number, () => readonly SflowElement[]> {
    const counters = new Map<number, () => readonly SflowElement[]>();
    for (const port of this.#bridge.ports.values()) {
      if (port.dpPort < 0) continue;
      const { ifindex } = port.netdev.status();
      if (ifindex > 0) counters.set(ifindex, () => this.#countersOf(port));
    }
    return counters;
  }

  #countersOf(port: BridgePort): SflowElement[] {
    const { ifindex, linkSpeed, duplex, adminUp, linkUp } = port.netdev.status();
    const counters = {
      index: ifindex,
      bitsPerSecond: linkSpeed ?? SPEED_DEFAULT,
      duplex: linkSpeed === undefined ? 0 : DUPLEX[duplex ?? 'half'],
      ...{ adminUp, linkUp },
      statistics: port.netdev.statistics(),
    };
    const lacp = this.#protocols.lacpCounters(port);
    return [
      ethernetElement(counters),
      openflowPortElement(this.#bridge.datapathId, port.ofport & 0xffff),
      portNameElement(port.name),
      ...(lacp === undefined ? [] : [lacpElement(lacp)]),
      genericElement(counters),
    ];
  }

  /** The counters of the whole switch are told once, by the first who wants to. */
  #global(): SflowElement[] | undefined {
    this.#shared.globalCounters ??= this;
    if (this.#shared.globalCounters !== this) return undefined;
    const { datapath } = this.#bridge;
    const { hit, missed, lost, probes } = lookups(datapath);
    const { userCPUTime, systemCPUTime, maxRSS } = process.resourceUsage();
    return [
      resourcesElement({
        userMs: Math.floor(userCPUTime / 1000),
        systemMs: Math.floor(systemCPUTime / 1000),
        memoryBytes: maxRSS * 1024,
      }),
      datapathElement({
        ...{ hit, missed, lost, maskHit: probes },
        flows: datapath.megaflows.size,
        masks: datapath.engine.maskCount(),
      }),
    ];
  }
}
