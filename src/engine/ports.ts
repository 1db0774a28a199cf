// Port and queue records (contract/port.ts): numbers, states, counters. Which worker polls a queue: queues.ts.

import {
  PC_DROPS,
  PC_INTERRUPTS,
  PC_RX_BROADCAST,
  PC_RX_BYTES,
  PC_RX_GSO,
  PC_RX_MULTICAST,
  PC_RX_PACKETS,
  PC_RX_SIZES,
  PC_TX_BROADCAST,
  PC_TX_BYTES,
  PC_TX_CHECKSUMMED,
  PC_TX_MULTICAST,
  PC_TX_PACKETS,
  PC_TX_RETRIES,
  PC_TX_SEGMENTED,
  PC_TX_SIZES,
  PORT_COUNTERS_SIZE,
  portCountersAddress,
} from '../../contract/counters.ts';
import { DROP_COUNT, DROP_INJECT_FULL } from '../../contract/drop.ts';
import {
  MAX_PORTS,
  MAX_QUEUES,
  MAX_QUEUES_PER_PORT,
  PORT_UP,
  PT_FLAGS,
  PT_KEY_PORT,
  PT_MTU,
  PT_OFFLOADS,
  PT_REGION_COUNT,
  PT_REGIONS,
  PT_RELAY,
  PT_RXQ,
  PT_RXQ_COUNT,
  PT_STATE,
  PT_TX_RETRIES,
  PT_TXQ,
  PT_TXQ_COUNT,
  portAddress,
  Q_DIR,
  Q_ENABLED,
  Q_INDEX,
  Q_KIND,
  Q_PORT,
  Q_WAIT_FD,
  QUEUE_FRAME,
  QUEUE_FREE,
  QUEUE_SIZE,
  QUEUE_XDP,
  queueAddress,
} from '../../contract/port.ts';
import type { EngineMemory } from './memory.ts';
import type { PortCounters, QueueSpec } from './types.ts';

export interface PortSettings {
  flags?: number;
  mtu?: number;
  offloads?: number;
  usableTxQueues?: number;
  /** Port to which all packets of this one go unparsed; -1 = none. */
  relay?: number;
  txRetries?: number;
}

export class Ports {
  private readonly memory: EngineMemory;
  private readonly ports = new Set<number>();
  private readonly queues = new Set<number>();
  private nextQueue = 0;
  /** Transmit queues attached, by port, and how many of them may be used. */
  private readonly txQueues = new Map<number, { attached: number[]; usable: number }>();
  /** Workers that have ever run: counters of others are zero. */
  workersSeen = 1;
  /** Injections lost, by port: counted here because a worker's counters have one writer. */
  private readonly injectionsLost = new Map<number, number>();

  constructor(memory: EngineMemory) {
    this.memory = memory;
  }

  add(wanted: number | undefined): number {
    let port = wanted ?? 1; // 0 is the local port of the kernel datapath, taken only if asked for
    if (port < 0 || port >= MAX_PORTS || this.ports.has(port)) port = 1;
    while (port < MAX_PORTS && this.ports.has(port)) port++;
    if (port === MAX_PORTS) port = this.ports.has(0) ? MAX_PORTS : 0;
    if (port === MAX_PORTS) throw new Error(`all ${MAX_PORTS} datapath ports are in use`);
    this.ports.add(port);
    const at = portAddress(port);
    const { memory } = this;
    memory.set(at + PT_FLAGS, PORT_UP);
    memory.set(at + PT_MTU, 1500);
    memory.set(at + PT_OFFLOADS, 0);
    memory.set(at + PT_RELAY, 0);
    memory.set(at + PT_KEY_PORT, swap32(port));
    for (const word of [PT_RXQ_COUNT, PT_TXQ_COUNT, PT_REGIONS, PT_REGION_COUNT, PT_TX_RETRIES]) {
      memory.set(at + word, 0);
    }
    for (let worker = 0; worker < this.workersSeen; worker++) {
      const counters = portCountersAddress(worker, port) / 8;
      memory.f64.fill(0, counters, counters + PORT_COUNTERS_SIZE / 8);
    }
    this.injectionsLost.delete(port);
    this.txQueues.set(port, { attached: [], usable: Number.POSITIVE_INFINITY });
    memory.store(at + PT_STATE, 1);
    return port;
  }

  has(port: number): boolean {
    return this.ports.has(port);
  }

  /** Packets to it are dropped from now on; the number may be used again after a grace period and free(). */
  retire(port: number): void {
    this.memory.store(portAddress(port) + PT_STATE, 0);
    this.memory.store(portAddress(port) + PT_TXQ_COUNT, 0);
  }

  free(port: number): void {
    this.ports.delete(port);
  }

  set(port: number, settings: PortSettings): void {
    if (!this.ports.has(port)) throw new Error(`no datapath port ${port}`);
    const at = portAddress(port);
    const { flags, mtu, offloads, usableTxQueues, txRetries } = settings;
    if (flags !== undefined) this.memory.store(at + PT_FLAGS, flags);
    if (mtu !== undefined) this.memory.store(at + PT_MTU, mtu);
    if (offloads !== undefined) this.memory.store(at + PT_OFFLOADS, offloads);
    if (settings.relay !== undefined) this.memory.store(at + PT_RELAY, settings.relay + 1);
    if (txRetries !== undefined) this.memory.store(at + PT_TX_RETRIES, txRetries);
    if (usableTxQueues !== undefined) {
      this.txQueues.get(port)!.usable = usableTxQueues;
      this.publishTx(port);
    }
  }

  /** Attaches or detaches a transmit queue: the published list is compact. */
  setTxQueue(port: number, queue: number, attached: boolean): void {
    const tx = this.txQueues.get(port);
    if (tx === undefined) return;
    tx.attached = tx.attached.filter((other) => other !== queue);
    if (attached) tx.attached.push(queue);
    tx.attached.sort((a, b) => this.indexOf(a) - this.indexOf(b));
    this.publishTx(port);
  }

  indexOf(queue: number): number {
    return this.memory.get(queueAddress(queue) + Q_INDEX);
  }

  portOf(queue: number): number {
    return this.memory.get(queueAddress(queue) + Q_PORT);
  }

  isRx(queue: number): boolean {
    return this.memory.get(queueAddress(queue) + Q_DIR) === 0;
  }

  private publishTx(port: number): void {
    const { attached, usable } = this.txQueues.get(port)!;
    this.setList(port, 'tx', attached.slice(0, usable));
  }

  addQueue(port: number, spec: QueueSpec): number {
    if (!this.ports.has(port)) throw new Error(`no datapath port ${port}`);
    if (spec.index < 0 || spec.index >= MAX_QUEUES_PER_PORT) {
      throw new Error(`queue index ${spec.index} is not below ${MAX_QUEUES_PER_PORT}`);
    }
    if (this.queues.size === MAX_QUEUES) throw new Error(`all ${MAX_QUEUES} queues are in use`);
    while (this.queues.has(this.nextQueue)) this.nextQueue = (this.nextQueue + 1) % MAX_QUEUES;
    const queue = this.nextQueue;
    this.nextQueue = (queue + 1) % MAX_QUEUES;
    this.queues.add(queue);
    const at = queueAddress(queue);
    const { memory } = this;
    memory.u8.fill(0, at, at + QUEUE_SIZE);
    memory.set(at + Q_PORT, port);
    memory.set(at + Q_INDEX, spec.index);
    memory.set(at + Q_DIR, spec.direction === 'rx' ? 0 : 1);
    memory.i32[(at + Q_WAIT_FD) / 4] = spec.waitFd;
    // Rings in guest memory are enabled by their front-end.
    const isDevice = spec.kind === QUEUE_FRAME || spec.kind === QUEUE_XDP;
    memory.set(at + Q_ENABLED, isDevice ? 1 : 0);
    memory.set(at + Q_KIND, spec.kind);
    return queue;
  }

  removeQueue(queue: number): void {
    if (!this.queues.delete(queue)) return;
    this.memory.store(queueAddress(queue) + Q_KIND, QUEUE_FREE);
  }

  hasQueue(queue: number): boolean {
    return this.queues.has(queue);
  }

  queueNumbers(): Iterable<number> {
    return this.queues;
  }

  /** Publishes the list: entries first, then the count when it grows, the other way round when it shrinks. */
  setList(port: number, direction: 'rx' | 'tx', queues: readonly number[]): void {
    const at = portAddress(port);
    const countAt = at + (direction === 'rx' ? PT_RXQ_COUNT : PT_TXQ_COUNT);
    const base = at + (direction === 'rx' ? PT_RXQ : PT_TXQ);
    const shrinks = queues.length < this.memory.get(countAt);
    if (shrinks) this.memory.store(countAt, queues.length);
    queues.forEach((queue, i) => {
      this.memory.store(base + i * 4, queue);
    });
    if (!shrinks) this.memory.store(countAt, queues.length);
  }

  countLostInjection(port: number): void {
    this.injectionsLost.set(port, (this.injectionsLost.get(port) ?? 0) + 1);
  }

  /** Packets that a worker has sent to ports so far. */
  sentBy(worker: number): number {
    let total = 0;
    for (let port = 0; port < MAX_PORTS; port++) {
      total += this.memory.f64[(portCountersAddress(worker, port) + PC_TX_PACKETS) / 8]!;
    }
    return total;
  }

  counters(port: number): PortCounters {
    const sum = (offset: number): number => {
      let total = 0;
      for (let worker = 0; worker < this.workersSeen; worker++) {
        total += this.memory.f64[(portCountersAddress(worker, port) + offset) / 8]!;
      }
      return total;
    };
    const array = (offset: number, length: number): number[] =>
      Array.from({ length }, (_, i) => sum(offset + i * 8));
    const drops = array(PC_DROPS, DROP_COUNT);
    drops[DROP_INJECT_FULL]! += this.injectionsLost.get(port) ?? 0;
    return {
      rxPackets: sum(PC_RX_PACKETS),
      rxBytes: sum(PC_RX_BYTES),
      txPackets: sum(PC_TX_PACKETS),
      txBytes: sum(PC_TX_BYTES),
      rxMulticast: sum(PC_RX_MULTICAST),
      txMulticast: sum(PC_TX_MULTICAST),
      rxBroadcast: sum(PC_RX_BROADCAST),
      txBroadcast: sum(PC_TX_BROADCAST),
      rxGso: sum(PC_RX_GSO),
      txSegmented: sum(PC_TX_SEGMENTED),
      txChecksummed: sum(PC_TX_CHECKSUMMED),
      txRetries: sum(PC_TX_RETRIES),
      interrupts: sum(PC_INTERRUPTS),
      rxSizes: array(PC_RX_SIZES, 7),
      txSizes: array(PC_TX_SIZES, 7),
      drops,
    };
  }
}

function swap32(value: number): number {
  return (
    ((value & 0xff) << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | (value >>> 24)
  );
}
