// Rows of table Flow_Sample_Collector_Set become exporters of a bridge (ovs-vswitchd.conf.db(5)): sockets to their
// collectors, and a timer that sends what has waited long enough.

import { createSocket, type Socket } from 'node:dgram';
import { isIP } from 'node:net';
import type { Log } from '../control/openflow/vconn.ts';
import type { SwitchBridge } from '../switch/bridge.ts';
import { IpfixExporter } from '../switch/ipfix.ts';
import { IPFIX_PORT } from '../wire/ipfix.ts';
import type { CollectorSetIntent } from './intent.ts';

const VIRTUAL_OBS_ID_MAX = 254;
const EXPIRE_MS = 500;

/** "ADDRESS[:PORT]"; IPv6 addresses in brackets. */
export function parseCollector(target: string): { host: string; port: number } | undefined {
  const match = /^(?:\[([^\]]+)\]|([^:[\]]+))(?::(\d{1,5}))?$/.exec(target);
  if (!match) return undefined;
  const host = (match[1] ?? match[2])!;
  const port = match[3] === undefined ? IPFIX_PORT : Number(match[3]);
  if (isIP(host) !== (match[1] === undefined ? 4 : 6) || port === 0 || port > 65535)
    return undefined;
  return { host, port };
}

/** Sends the same datagrams to several collectors. */
class Collectors {
  readonly #to: { socket: Socket; host: string; port: number }[] = [];
  notSent = 0;

  constructor(targets: readonly string[], warn: (text: string) => void) {
    for (const target of targets) {
      const address = parseCollector(target);
      if (address === undefined) {
        warn(`couldn't open connection to collector ${target} (Invalid argument)`);
        continue;
      }
      const socket = createSocket(isIP(address.host) === 6 ? 'udp6' : 'udp4');
      socket.unref();
      socket.on('error', () => {});
      this.#to.push({ socket, ...address });
    }
  }

  get size(): number {
    return this.#to.length;
  }

  send(datagram: Uint8Array): void {
    for (const { socket, host, port } of this.#to) {
      socket.send(datagram, port, host, (error) => {
        if (error) this.notSent++;
      });
    }
  }

  /** What is on its way still goes. */
  close(): void {
    for (const { socket } of this.#to) setTimeout(() => socket.close(), 100).unref();
  }
}

interface Running {
  settings: string;
  exporter: IpfixExporter;
  collectors: Collectors;
}

/** The exporters of one bridge. */
export class BridgeExporters {
  readonly #bridge: SwitchBridge;
  readonly #log: Log;
  readonly #nextId: () => number;
  readonly #sets = new Map<number, Running>();
  #timer: NodeJS.Timeout | undefined;

  constructor(bridge: SwitchBridge, log: Log, nextId: () => number) {
    this.#bridge = bridge;
    this.#log = log;
    this.#nextId = nextId;
    bridge.onSample = (sample, key, bytes) => {
      this.#sets.get(sample.collectorSetId)?.exporter.sample(sample, key, bytes);
    };
  }

  apply(intents: readonly CollectorSetIntent[]): void {
    const wanted = new Map(intents.map((set) => [set.id, set]));
    for (const [id, running] of [...this.#sets]) {
      const set = wanted.get(id);
      if (set === undefined) this.#stop(id, running);
      else if (JSON.stringify(set) === running.settings) wanted.delete(id);
    }
    for (const set of wanted.values()) this.#start(set);
    this.#bridge.setExportsSamples(intents.length > 0);
    clearInterval(this.#timer);
    this.#timer = undefined;
    if (this.#sets.size === 0) return;
    this.#timer = setInterval(() => {
      for (const { exporter } of this.#sets.values()) exporter.expire();
    }, EXPIRE_MS);
    this.#timer.unref();
  }

  close(): void {
    this.apply([]);
  }

  /** Starts the set's exporter, or gives the one that runs its new settings. */
  #start(set: CollectorSetIntent): void {
    const collectors = this.#collectors(set);
    const running = this.#sets.get(set.id);
    if (collectors === undefined) {
      if (running !== undefined) this.#stop(set.id, running);
      return;
    }
    const settings = JSON.stringify(set);
    if (running !== undefined) {
      running.collectors.close();
      running.settings = settings;
      running.collectors = collectors;
      running.exporter.configure(set);
      return;
    }
    const { datapath } = this.#bridge;
    const started: Running = {
      settings,
      collectors,
      exporter: new IpfixExporter(this.#nextId(), set, {
        send: (datagram) => started.collectors.send(datagram),
        notSent: () => started.collectors.notSent,
        nowMs: () => Date.now(),
        device: (port) => {
          const found = datapath.ports.get(port)?.port;
          return found && { name: found.name, ifindex: found.netdev.status().ifindex };
        },
      }),
    };
    this.#sets.set(set.id, started);
  }

  /** undefined: the settings make no exporter, which the log says. */
  #collectors(set: CollectorSetIntent): Collectors | undefined {
    const idBytes = Buffer.byteLength(set.virtualObsId ?? '');
    if (idBytes > VIRTUAL_OBS_ID_MAX) {
      this.#log.warn(
        `Virtual obsevation ID too long (${idBytes} bytes), ` +
          `should not be longer than ${VIRTUAL_OBS_ID_MAX} bytes.`,
      );
      return undefined;
    }
    const collectors = new Collectors(set.targets, (text) => this.#log.warn(text));
    if (collectors.size > 0) return collectors;
    this.#log.warn('no collectors could be initialized, IPFIX exporter disabled');
    return undefined;
  }

  #stop(id: number, { exporter, collectors }: Running): void {
    exporter.expire(true);
    collectors.close();
    this.#sets.delete(id);
  }
}
