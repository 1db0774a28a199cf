// Ports' QoS and ingress policing as the database asks for them (tables QoS, Queue; Interface.ingress_policing_*):
// queueing disciplines where the port is a device of the kernel, token buckets in the data plane elsewhere and for
// everything that comes in.

import type { MeterRecords } from '../engine/meters.ts';
import {
  classCounters,
  control,
  type DeviceFacts,
  KERNEL_QOS_TYPES,
  queueClass,
  rootRate,
  setUpCommands,
  tearDownCommand,
  unsigned,
  withDefault,
} from '../port/trafficControl.ts';
import type { SwitchBridge } from '../switch/bridge.ts';
import { type Limit, Policers, type QueueCounters } from '../switch/policing.ts';
import type { BridgePort } from '../switch/types.ts';
import type { PolicingIntent, QosIntent } from './intent.ts';

const KERNEL_TYPES: readonly string[] = ['system', 'internal', 'tap'];
const POLICER_TYPES: readonly string[] = ['egress-policer', 'trtcm-policer', 'linux-htb'];
/** Without a size of their own (ovs-vswitchd.conf.db(5)). */
const DEFAULT_KBITS_BURST = 8000;
const DEFAULT_KPKTS_BURST = 16;

interface PortState {
  readonly kernel: boolean;
  qos: QosIntent | undefined;
  /** What the kernel has of ours: the commands that made it. */
  installed: string;
  error: string | undefined;
}

export interface QosOptions {
  bridge: SwitchBridge;
  records: MeterRecords;
  warn: (text: string) => void;
}

export interface QosReport {
  type: string;
  config: Record<string, string>;
  queues: { id: number; config: Record<string, string>; counters: QueueCounters | undefined }[];
}

/** The QoS of one bridge's ports. */
export class PortQos {
  readonly #options: QosOptions;
  readonly #states = new WeakMap<BridgePort, PortState>();

  constructor(options: QosOptions) {
    this.#options = options;
  }

  /** Makes a port's limits what the intent says. */
  async apply(
    port: BridgePort,
    type: string,
    qos: QosIntent | undefined,
    policing: PolicingIntent,
  ): Promise<void> {
    const { bridge, records } = this.#options;
    // Marks are the switch's business, on devices of every kind and whatever they make of the QoS type.
    if (mark(port, qos?.dscp)) bridge.flowsChanged();
    if (port.dpPort < 0) return;
    const kernel = KERNEL_TYPES.includes(type);
    let state = this.#states.get(port);
    if (state === undefined) {
      const nothing = qos === undefined && policing.kbits === 0 && policing.kpkts === 0;
      if (nothing) return;
      state = { kernel, qos: undefined, installed: '', error: undefined };
      this.#states.set(port, state);
      const settled = (): Promise<void> => bridge.settled();
      port.policers = new Policers({ records, nowMs: () => bridge.nowMs(), settled });
      port.queues = () =>
        new Map(this.report(port)?.queues.map(({ id, counters }) => [id, counters]));
    }
    state.qos = supported(kernel, qos?.type) ? qos : undefined;
    const queues = kernel ? new Map<number, Limit>() : limits(state.qos, facts(port));
    if (port.policers!.configure(inputLimits(policing), queues)) bridge.flowsChanged();
    if (kernel) await this.#applyKernel(port, state);
  }

  async #applyKernel(port: BridgePort, state: PortState): Promise<void> {
    const { name } = port;
    const commands = state.qos ? setUpCommands(name, state.qos, facts(port)) : [];
    const wanted = JSON.stringify(commands);
    if (wanted === (state.installed || '[]')) return;
    if (state.installed !== '') await control([tearDownCommand(name)]);
    state.installed = commands.length > 0 ? wanted : '';
    state.error = await control(commands);
    if (state.error !== undefined) {
      state.installed = '';
      await control([tearDownCommand(name)]);
      this.#options.warn(`${name}: QoS ${state.qos?.type} cannot be set up: ${state.error}`);
    }
  }

  /** qos/show: undefined = nothing is configured. */
  report(port: BridgePort): QosReport | undefined {
    const state = this.#states.get(port);
    const qos = state?.qos;
    if (state === undefined || qos === undefined || state.error !== undefined) return undefined;
    const device = facts(port);
    const rate = rootRate(qos.config, device);
    const classful = qos.type === 'linux-htb' || qos.type === 'linux-hfsc';
    const config = classful ? { 'max-rate': `${8 * rate}` } : { ...qos.config };
    const counters = this.counters(port);
    const rows = classful ? withDefault(qos.queues) : qos.queues;
    const queues = [...rows]
      .sort(([a], [b]) => a - b)
      .map(([id, row]) => ({
        id,
        config: classful ? classConfig(queueClass(row, rate, device)) : { ...row },
        counters: counters.get(id),
      }));
    return { type: qos.type, config, queues };
  }

  counters(port: BridgePort): Map<number, QueueCounters> {
    const state = this.#states.get(port);
    if (state?.kernel === true) return state.qos ? classCounters(port.name) : new Map();
    const { policers } = port;
    return new Map((policers?.queueIds ?? []).map((id) => [id, policers!.counters(id)!]));
  }

  /** Before the port goes: gives its meters back. What the kernel has got stays with the device. */
  release(port: BridgePort): void {
    port.policers?.configure([], new Map());
    this.#states.delete(port);
  }

  /** Takes back what the kernel has got, too. */
  async remove(port: BridgePort): Promise<void> {
    const installed = this.#states.get(port)?.installed ?? '';
    this.release(port);
    if (installed !== '') await control([tearDownCommand(port.name)]);
  }
}

/** qos/show-types. */
export const qosTypes = (type: string): readonly string[] =>
  KERNEL_TYPES.includes(type) ? KERNEL_QOS_TYPES : POLICER_TYPES;

/** Gives a port the DSCP of its queues. True if they are others than before. */
function mark(port: BridgePort, wanted: ReadonlyMap<number, number> | undefined): boolean {
  const now = wanted?.size ? wanted : undefined;
  const text = (marks: ReadonlyMap<number, number> | undefined): string =>
    JSON.stringify([...(marks ?? [])]);
  if (text(now) === text(port.queueDscp)) return false;
  if (now === undefined) delete port.queueDscp;
  else port.queueDscp = now;
  return true;
}

function supported(kernel: boolean, type: string | undefined): boolean {
  return type !== undefined && (kernel ? KERNEL_QOS_TYPES : POLICER_TYPES).includes(type);
}

function facts(port: BridgePort): DeviceFacts {
  const { mtu = 1500, linkSpeed } = port.netdev.status();
  return { mtu, linkSpeedBps: linkSpeed };
}

function inputLimits({ kbits, kbitsBurst, kpkts, kpktsBurst }: PolicingIntent): Limit[] {
  const found: Limit[] = [];
  if (kbits > 0) {
    found.push({ rate: kbits, burst: kbitsBurst || DEFAULT_KBITS_BURST, pktps: false });
  }
  if (kpkts > 0) {
    const burst = 1000 * (kpktsBurst || DEFAULT_KPKTS_BURST);
    found.push({ rate: 1000 * kpkts, burst, pktps: true });
  }
  return found;
}

/** Buckets by queue for a port that is no kernel device. Bytes become kbit. */
function limits(qos: QosIntent | undefined, device: DeviceFacts): Map<number, Limit> {
  const found = new Map<number, Limit>();
  if (qos === undefined) return found;
  const kbit = (bytes: number): number => (bytes * 8) / 1000;
  if (qos.type === 'linux-htb') {
    const rate = rootRate(qos.config, device);
    for (const [id, row] of withDefault(qos.queues)) {
      const { maxRate, burst } = queueClass(row, rate, device);
      // A bucket that polices has to hold what a shaper would queue for a while.
      const held = Math.max(burst, maxRate / 20);
      found.set(id, { rate: kbit(maxRate), burst: kbit(held), pktps: false });
    }
    return found;
  }
  // Bytes a second: committed, and what may be in excess of it (RFC 4115).
  const policer = (config: Readonly<Record<string, string>>): Limit => ({
    rate: kbit(unsigned(config, 'cir') + unsigned(config, 'eir')),
    burst: kbit(unsigned(config, 'cbs') + unsigned(config, 'ebs')),
    pktps: false,
  });
  found.set(0, policer(qos.config));
  if (qos.type === 'trtcm-policer') {
    for (const [id, row] of qos.queues) found.set(id, policer(row));
  }
  return found;
}

function classConfig(c: ReturnType<typeof queueClass>): Record<string, string> {
  return {
    'min-rate': `${8 * c.minRate}`,
    ...(c.minRate === c.maxRate ? {} : { 'max-rate': `${8 * c.maxRate}` }),
    burst: `${8 * c.burst}`,
    ...(c.priority > 0 ? { priority: `${c.priority}` } : {}),
  };
}
