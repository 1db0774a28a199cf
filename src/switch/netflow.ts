// NetFlow of one bridge (table NetFlow of ovs-vswitchd.conf.db(5)): what the packets of IPv4 megaflows add up to, by input
// port, addresses, TOS, protocol and ports. The data plane has no part in it: translation makes such megaflows match all of
// that, and their counters, which the revalidator reads anyway, are credited here. A flow is told when its output changes,
// when its megaflow goes, and every active_timeout seconds.

import {
  F_IN_PORT,
  K_NW_DST,
  K_NW_PROTO,
  K_NW_SRC,
  K_NW_TOS,
  K_TP_DST,
  K_TP_SRC,
} from '../../contract/key.ts';
import { NETFLOW_RECORDS_MAX, type NetflowRecord, netflowMessage } from '../wire/netflow.ts';
import { be16, be32, IPPROTO_ICMP } from './flow.ts';

/** What a record says of the output, besides OpenFlow port numbers. */
export const NETFLOW_FLOOD = 0xffff;
export const NETFLOW_MULTIPLE = 0xfffe;
export const NETFLOW_DROP = 0xfffd;

const DSCP = 0xfc;
const U32_MAX = 0xffffffff;
/** More than 600 s of 10 Gbit/s: such a counter is a mistake, and would be told in very many records. */
const BYTES_MAX = 176 * 2 ** 32;

export interface NetflowSettings {
  engineType: number;
  engineId: number;
  activeTimeoutS: number;
  addIdToInterface: boolean;
}

/** Which flow the packets of a megaflow belong to. Immutable. */
export interface NetflowKey {
  readonly id: string;
  readonly inPort: number;
  readonly source: number;
  readonly destination: number;
  readonly tos: number;
  readonly protocol: number;
  readonly sourcePort: number;
  readonly destinationPort: number;
}

/** Effect of a megaflow's packets. */
export interface NetflowEffect {
  readonly exporter: NetflowExporter;
  readonly key: NetflowKey;
  readonly output: number;
}

interface Flow {
  readonly key: NetflowKey;
  output: number;
  createdMs: number;
  usedMs: number;
  /** When it was told, or could have been, 0 = never. */
  expiredMs: number;
  packets: number;
  bytes: number;
  tcpFlags: number;
}

export interface NetflowHooks {
  send(datagram: Uint8Array): void;
  /** Of the engine, as megaflows' times. */
  nowMs(): number;
  wallMs(): number;
  warn(text: string): void;
}

/** `flow`: a record of IPv4. */
export function netflowKey(flow: Uint8Array): NetflowKey {
  const key = {
    inPort: be32(flow, F_IN_PORT) & 0xffff,
    source: be32(flow, K_NW_SRC),
    destination: be32(flow, K_NW_DST),
    tos: flow[K_NW_TOS]!,
    protocol: flow[K_NW_PROTO]!,
    sourcePort: be16(flow, K_TP_SRC),
    destinationPort: be16(flow, K_TP_DST),
  };
  return { id: Object.values(key).join('/'), ...key };
}

export class NetflowExporter {
  #settings: NetflowSettings;
  readonly #hooks: NetflowHooks;
  readonly #bootMs: number;
  readonly #flows = new Map<string, Flow>();
  #records: NetflowRecord[] = [];
  #recordsTold = 0;
  #configuredMs: number;
  #closed = false;

  constructor(settings: NetflowSettings, hooks: NetflowHooks) {
    this.#settings = settings;
    this.#hooks = hooks;
    this.#bootMs = hooks.nowMs();
    this.#configuredMs = this.#bootMs;
  }

  get size(): number {
    return this.#flows.size;
  }

  configure(settings: NetflowSettings): void {
    const { activeTimeoutS } = this.#settings;
    this.#settings = settings;
    if (activeTimeoutS !== settings.activeTimeoutS) this.#configuredMs = this.#hooks.nowMs();
  }

  /** Credits packets of a megaflow. */
  account(
    { key, output }: NetflowEffect,
    packets: number,
    bytes: number,
    usedMs: number,
    tcpFlags: number,
  ): void {
    if (this.#closed) return;
    let flow = this.#flows.get(key.id);
    if (flow === undefined) {
      flow = {
        key,
        output,
        createdMs: usedMs,
        usedMs: 0,
        expiredMs: 0,
        packets: 0,
        bytes: 0,
        tcpFlags: 0,
      };
      this.#flows.set(key.id, flow);
    } else if (flow.output !== output) {
      this.#tell(flow);
      flow.createdMs = usedMs;
      flow.output = output;
    }
    flow.packets += packets;
    flow.bytes += bytes;
    flow.tcpFlags |= tcpFlags;
    if (usedMs <= flow.usedMs) return;
    flow.usedMs = usedMs;
    if (flow.expiredMs === 0 || this.#configuredMs > flow.expiredMs) {
      flow.expiredMs = this.#hooks.nowMs();
    }
  }

  /** The megaflow is gone. */
  clear({ key }: NetflowEffect): void {
    const flow = this.#flows.get(key.id);
    if (flow === undefined) return;
    this.#tell(flow);
    this.#flows.delete(key.id);
  }

  /** Tells of flows that have been active for long. To be called every second. */
  run(): void {
    const nowMs = this.#hooks.nowMs();
    const timeoutMs = 1000 * this.#settings.activeTimeoutS;
    for (const [id, flow] of this.#flows) {
      if (nowMs <= flow.expiredMs + timeoutMs) continue;
      // Of an idle flow nobody may ever say that it is gone.
      const idle = flow.usedMs < flow.expiredMs;
      this.#tell(flow);
      if (idle) this.#flows.delete(id);
    }
    this.#flush();
  }

  /** Sends what has been told; flows end untold, as in Open vSwitch. */
  close(): void {
    this.#flush();
    this.#closed = true;
    this.#flows.clear();
  }

  #tell(flow: Flow): void {
    flow.expiredMs += 1000 * this.#settings.activeTimeoutS;
    let { packets, bytes } = flow;
    if (packets === 0) return;
    if (bytes >= BYTES_MAX) {
      this.#hooks.warn(`impossible byte counter ${bytes}`);
      return;
    }
    // Counters have 32 bits: what is more goes into several records, evenly, lest packets look longer than they were.
    while (bytes > 0) {
      const n = Math.ceil(bytes / U32_MAX);
      const some = Math.floor(packets / n);
      const size = Math.floor(bytes / n);
      this.#put(flow, some, size);
      packets -= some;
      bytes -= size;
    }
    flow.packets = 0;
    flow.bytes = 0;
    flow.tcpFlags = 0;
  }

  #put({ key, output, createdMs, usedMs, tcpFlags }: Flow, packets: number, bytes: number): void {
    const icmp = key.protocol === IPPROTO_ICMP;
    const icmpType = ((key.sourcePort & 0xff) << 8) | (key.destinationPort & 0xff);
    this.#records.push({
      source: key.source,
      destination: key.destination,
      input: this.#interface(key.inPort),
      output: this.#interface(output & 0xffff),
      packets,
      bytes,
      firstMs: createdMs - this.#bootMs,
      lastMs: Math.max(createdMs, usedMs) - this.#bootMs,
      sourcePort: icmp ? 0 : key.sourcePort,
      destinationPort: icmp ? icmpType : key.destinationPort,
      tcpFlags,
      protocol: key.protocol,
      tos: key.tos & DSCP,
    });
    if (this.#records.length === NETFLOW_RECORDS_MAX) this.#flush();
    else if (this.#records.length === 1) setImmediate(() => this.#flush());
  }

  #interface(port: number): number {
    const { addIdToInterface, engineId } = this.#settings;
    return addIdToInterface ? ((engineId & 0x7f) << 9) | (port & 0x1ff) : port;
  }

  #flush(): void {
    const records = this.#records;
    if (records.length === 0 || this.#closed) return;
    this.#records = [];
    this.#recordsTold += records.length;
    const { engineType, engineId } = this.#settings;
    const header = {
      uptimeMs: this.#hooks.nowMs() - this.#bootMs,
      nowMs: this.#hooks.wallMs(),
      // As in Open vSwitch the number of the message's last record.
      sequence: (this.#recordsTold - 1) >>> 0,
      engineType,
      engineId,
    };
    this.#hooks.send(netflowMessage(header, records));
  }
}
