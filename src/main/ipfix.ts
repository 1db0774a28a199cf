// IPFIX of one bridge: Bridge.ipfix and rows of table Flow_Sample_Collector_Set become exporters with their collectors
// (ovs-vswitchd.conf.db(5)), and a timer sends what has waited long enough.

import {
  K_ETH_TYPE,
  K_IN_PORT,
  K_NW_PROTO,
  K_TP_DST,
  K_TUN_DST,
  K_TUN_ID,
  K_TUN_SRC,
  K_TUN_TP_SRC,
} from '../../contract/key.ts';
import type { Log } from '../control/openflow/vconn.ts';
import type { Upcall } from '../engine/types.ts';
import type { SwitchBridge } from '../switch/bridge.ts';
import { be16, be32, isIp } from '../switch/flow.ts';
import { type IpfixDevice, IpfixExporter, type IpfixTunnel } from '../switch/ipfix.ts';
import type { BridgeSample, BridgeSampling, FlowSample } from '../switch/translate/types.ts';
import { ipProtocolOf } from '../switch/tunnel/header.ts';
import { tunnelOf } from '../switch/tunnel/ports.ts';
import type { BridgePort } from '../switch/types.ts';
import { IPFIX_PORT } from '../wire/ipfix.ts';
import type { IpfixStats } from '../wire/openflow/ipfixStats.ts';
import { Collectors } from './collectors.ts';
import type { BridgeIpfixIntent, CollectorSetIntent, ExporterIntent } from './intent.ts';

const VIRTUAL_OBS_ID_MAX = 254;
const EXPIRE_MS = 500;
const ODPP_NONE = 0xffffffff;
const NX_INGRESS = 1;
const NX_EGRESS = 2;
const IPPROTO_UDP = 17;
/** RFC 5881: control and echo. The switch's own packets are no traffic. */
const BFD_PORTS: readonly number[] = [3784, 3785];
/** Element tunnelType, and bytes of the key, of the tunnels that have one. */
const TUNNELS: Readonly<Record<string, { type: number; keyBytes: number } | undefined>> = {
  vxlan: { type: 1, keyBytes: 3 },
  gre: { type: 2, keyBytes: 4 },
  geneve: { type: 7, keyBytes: 3 },
};

/** Bridge.ipfix among the collector sets, whose ids are not negative. */
const BRIDGE = -1;

interface Running {
  settings: string;
  intent: ExporterIntent;
  exporter: IpfixExporter;
  collectors: Collectors;
}

export class BridgeIpfix {
  readonly #bridge: SwitchBridge;
  readonly #log: Log;
  readonly #nextId: () => number;
  readonly #running = new Map<number, Running>();
  #bridgeIntent: BridgeIpfixIntent | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(bridge: SwitchBridge, log: Log, nextId: () => number) {
    this.#bridge = bridge;
    this.#log = log;
    this.#nextId = nextId;
    bridge.ipfixStats = (kind) => this.#stats(kind);
  }

  /** Gives what the bridge's translation has to do for it; undefined: nothing at all. */
  apply(
    bridge: BridgeIpfixIntent | undefined,
    sets: readonly CollectorSetIntent[],
  ): Pick<BridgeSampling, 'flows' | 'ipfix'> | undefined {
    const wanted = new Map<number, ExporterIntent>(sets.map((set) => [set.id, set]));
    if (bridge !== undefined) wanted.set(BRIDGE, bridge);
    this.#bridgeIntent = bridge;
    const exports = wanted.size > 0;
    for (const [id, running] of [...this.#running]) {
      const intent = wanted.get(id);
      if (intent === undefined) this.#stop(id, running);
      else if (JSON.stringify(intent) === running.settings) wanted.delete(id);
    }
    for (const [id, intent] of wanted) this.#start(id, intent);
    clearInterval(this.#timer);
    this.#timer = undefined;
    if (this.#running.size > 0) {
      this.#timer = setInterval(() => {
        for (const { exporter } of this.#running.values()) exporter.expire();
      }, EXPIRE_MS);
      this.#timer.unref();
    }
    if (!exports) return undefined;
    if (bridge === undefined || !this.#running.has(BRIDGE)) return { flows: true };
    const { input, output } = bridge;
    return { flows: true, ipfix: { probability: probabilityOf(bridge), input, output } };
  }

  flowSample(sample: FlowSample, upcall: Upcall): void {
    const running = this.#running.get(sample.collectorSetId);
    if (running === undefined) return;
    const { outputPort, direction, forwarded } = sample;
    const egress =
      direction === NX_EGRESS || (direction !== NX_INGRESS && outputPort !== ODPP_NONE);
    running.exporter.sample(
      {
        // One sample stands for so many packets, all of the same length.
        packets: Math.floor(0xffff / sample.probability),
        domain: sample.obsDomainId,
        point: sample.obsPointId,
        ...{ egress, outputPort, forwarded },
        tunnel: this.#tunnelOf(running.intent, outputPort, upcall.key),
      },
      upcall.key,
      upcall.packetLen,
    );
  }

  bridgeSample({ outputPort, forwarded }: BridgeSample, upcall: Upcall): void {
    const running = this.#running.get(BRIDGE);
    const intent = this.#bridgeIntent;
    if (running === undefined || intent === undefined || isBfd(upcall.key)) return;
    running.exporter.sample(
      {
        packets: Math.floor(0xffffffff / probabilityOf(intent)),
        domain: intent.obsDomainId,
        point: intent.obsPointId,
        egress: outputPort !== ODPP_NONE,
        ...{ outputPort, forwarded },
        tunnel: this.#tunnelOf(intent, outputPort, upcall.key),
      },
      upcall.key,
      upcall.packetLen,
    );
  }

  #stats(kind: 'bridge' | 'flow'): IpfixStats[] | undefined {
    const list = [...this.#running].filter(([id]) => (id === BRIDGE) === (kind === 'bridge'));
    if (list.length === 0) return undefined;
    return list.map(([id, { exporter }]) => ({
      ...exporter.stats,
      collectorSetId: id === BRIDGE ? 0 : id,
    }));
  }

  /** The port of this bridge that a datapath port is; of several tunnels with one datapath port the packet's. */
  #portOf(dpPort: number, key: Uint8Array): BridgePort | undefined {
    const { ports, tunnels } = this.#bridge.datapath;
    const at = ports.get(dpPort) ?? (be32(key, K_TUN_DST) === 0 ? undefined : tunnels.find(key));
    return at?.bridge === this.#bridge ? at.port : undefined;
  }

  #device(dpPort: number, key: Uint8Array): IpfixDevice | undefined {
    const port = this.#portOf(dpPort, key);
    if (port === undefined) return undefined;
    const { ifindex } = port.netdev.status();
    return { name: port.name, ifindex, type: 0, description: '' };
  }

  /** Only the way in: a packet that goes into a tunnel is sampled before it has got its outer headers. */
  #tunnelOf(intent: ExporterIntent, outputPort: number, key: Uint8Array): IpfixTunnel | undefined {
    if (!intent.tunnels || outputPort !== ODPP_NONE || be32(key, K_TUN_DST) === 0) return undefined;
    const port = this.#portOf(be32(key, K_IN_PORT), key);
    const config = port && tunnelOf(port)?.tunnel;
    const kind = config && TUNNELS[config.type];
    if (config === undefined || kind === undefined) return undefined;
    return {
      type: kind.type,
      protocol: ipProtocolOf(config.type),
      source: be32(key, K_TUN_SRC),
      destination: be32(key, K_TUN_DST),
      sourcePort: be16(key, K_TUN_TP_SRC),
      destinationPort: config.type === 'gre' ? 0 : config.dstPort,
      key: key.slice(K_TUN_ID + 8 - kind.keyBytes, K_TUN_ID + 8),
    };
  }

  /** Starts an exporter, or gives the one that runs its new settings. */
  #start(id: number, intent: ExporterIntent): void {
    const collectors = this.#collectors(intent);
    const running = this.#running.get(id);
    if (collectors === undefined) {
      if (running !== undefined) this.#stop(id, running);
      return;
    }
    const settings = JSON.stringify(intent);
    if (running !== undefined) {
      running.collectors.close();
      Object.assign(running, { settings, intent, collectors });
      running.exporter.configure(intent);
      return;
    }
    const started: Running = {
      ...{ settings, intent, collectors },
      exporter: new IpfixExporter(this.#nextId(), intent, {
        send: (datagram) => started.collectors.send(datagram),
        notSent: () => started.collectors.notSent,
        nowMs: () => Date.now(),
        device: (port, key) => this.#device(port, key),
      }),
    };
    this.#running.set(id, started);
  }

  /** undefined: the settings make no exporter, which the log says. */
  #collectors({ targets, virtualObsId }: ExporterIntent): Collectors | undefined {
    const idBytes = Buffer.byteLength(virtualObsId ?? '');
    if (idBytes > VIRTUAL_OBS_ID_MAX) {
      this.#log.warn(
        `Virtual obsevation ID too long (${idBytes} bytes), ` +
          `should not be longer than ${VIRTUAL_OBS_ID_MAX} bytes.`,
      );
      return undefined;
    }
    const collectors = new Collectors(targets, IPFIX_PORT, (text) => this.#log.warn(text));
    if (collectors.size > 0) return collectors;
    this.#log.warn('no collectors could be initialized, IPFIX exporter disabled');
    return undefined;
  }

  #stop(id: number, { exporter, collectors }: Running): void {
    exporter.expire(true);
    collectors.close();
    this.#running.delete(id);
  }
}

/** Share of 2^32 - 1. */
function probabilityOf({ sampling }: BridgeIpfixIntent): number {
  return Math.max(1, Math.floor(0xffffffff / sampling));
}

function isBfd(key: Uint8Array): boolean {
  if (be16(key, K_ETH_TYPE) === 0 || !isIp(key) || key[K_NW_PROTO] !== IPPROTO_UDP) return false;
  return BFD_PORTS.includes(be16(key, K_TP_DST));
}
