// What the switch tells controllers unasked: packet-ins, port-status, flow-removed, and updates of flow monitors. Who
// gets what is decided here (1.5.1 §6.1.1, §6.1.2); how often a controller may be disturbed, too.

import { F_IN_PORT } from '../../../contract/key.ts';
import type { FlowEvent } from '../../switch/flowMods.ts';
import type { Bridge, BridgePort } from '../../switch/types.ts';
import { encode } from '../../wire/openflow/message.ts';
import type { Message, TableDesc } from '../../wire/openflow/messages.ts';
import type { FlowRemoved, PacketIn, PortDesc } from '../../wire/openflow/types.ts';
import {
  flowRemovedBit,
  packetInBit,
  portStatusBit,
  requestForwardBit,
  tableStatusBit,
} from './asyncConfig.ts';
import type { ChangeLog } from './monitors.ts';
import type { Ofconn } from './ofconn.ts';
import { Pinsched, type PinschedStats } from './pinsched.ts';

/** Packet-ins that may wait in the output of one connection (Controller.controller_queue_size). */
const DEFAULT_QUEUE_SIZE = 100;
const OFPPS_LIVE = 4;

export interface PacketInLimits {
  /** Packets a second, 0 = no limit. */
  rate: number;
  burst: number;
  queueSize: number | undefined;
}

/** A connection with its limits. */
export class Peer {
  readonly conn: Ofconn;
  readonly #onDrop: () => void;
  /** Actions, misses. Undefined = no rate limit. */
  readonly #schedulers: [Pinsched<PacketIn> | undefined, Pinsched<PacketIn> | undefined] = [
    undefined,
    undefined,
  ];
  #queueSize = DEFAULT_QUEUE_SIZE;
  #inFlight = 0;

  constructor(conn: Ofconn, onDrop: () => void) {
    this.conn = conn;
    this.#onDrop = onDrop;
  }

  setLimits({ rate, burst, queueSize }: PacketInLimits): void {
    this.#queueSize = queueSize ?? DEFAULT_QUEUE_SIZE;
    for (const i of [0, 1] as const) {
      const scheduler = this.#schedulers[i];
      if (rate === 0) {
        scheduler?.close();
        this.#schedulers[i] = undefined;
      } else if (scheduler !== undefined) {
        scheduler.setLimits({ rate, burst });
      } else {
        this.#schedulers[i] = new Pinsched({ rate, burst }, (packet) => this.#send(packet));
      }
    }
  }

  /** Of the schedulers for actions and for misses. */
  get stats(): [PinschedStats | undefined, PinschedStats | undefined] {
    return [this.#schedulers[0]?.stats, this.#schedulers[1]?.stats];
  }

  packetIn(packetIn: PacketIn, miss: boolean): void {
    const scheduler = this.#schedulers[miss ? 1 : 0];
    if (scheduler === undefined) this.#send(packetIn);
    else scheduler.send(inPortOf(packetIn), packetIn);
  }

  close(): void {
    for (const scheduler of this.#schedulers) scheduler?.close();
    this.conn.close();
  }

  #send(packetIn: PacketIn): void {
    if (this.#inFlight >= this.#queueSize) {
      this.#onDrop();
      return;
    }
    this.#inFlight++;
    const { conn } = this;
    try {
      conn.sendUpdate({ type: 'packet_in', format: conn.packetInFormat, packetIn }, () => {
        this.#inFlight--;
      });
    } catch (error) {
      // A message has 64 KiB at most: some packets, with what they take along, are longer.
      if (!(error instanceof RangeError)) throw error;
      this.#inFlight--;
      this.#onDrop();
    }
  }
}

/** Sends asynchronous messages to the peers that want them. */
export class Announcer {
  readonly #bridge: Bridge;
  readonly #peers: () => Iterable<Peer>;
  readonly #changes: ChangeLog;
  #portDescs: Map<number, PortDesc>;

  constructor(bridge: Bridge, changes: ChangeLog, peers: () => Iterable<Peer>) {
    this.#bridge = bridge;
    this.#changes = changes;
    this.#peers = peers;
    this.#portDescs = descsOf(bridge.ports);
  }

  /** Ports were added or removed, or their description changed: tells controllers. */
  portsChanged(): void {
    const before = this.#portDescs;
    const after = descsOf(this.#bridge.ports);
    this.#portDescs = after;
    for (const [ofport, desc] of before) {
      if (after.get(ofport)?.name !== desc.name) this.#sendPortStatus('delete', desc);
    }
    for (const [ofport, desc] of after) {
      const old = before.get(ofport);
      if (old?.name !== desc.name) this.#sendPortAdded(desc);
      else if (old !== desc) this.#sendPortStatus('modify', desc, old);
    }
  }

  /** A new port is not live yet when it is announced, and goes live at once: controllers wait for that order. */
  #sendPortAdded(desc: PortDesc): void {
    const dormant = { ...desc, state: desc.state & ~OFPPS_LIVE };
    this.#sendPortStatus('add', dormant);
    if (dormant.state !== desc.state) this.#sendPortStatus('modify', desc, dormant);
  }

  #sendPortStatus(
    reason: 'add' | 'delete' | 'modify',
    port: PortDesc,
    old?: PortDesc,
    source?: Ofconn,
  ): void {
    for (const { conn } of this.#peers()) {
      if (!conn.wantsAsync('portStatus', portStatusBit(reason))) continue;
      // Until OpenFlow 1.5 a controller does not hear of what its own port-mod did.
      if (conn === source && conn.version < 6) continue;
      const message: Message = { type: 'port_status', reason, port };
      // A change that this version cannot express is none.
      if (old !== undefined && sameBytes(conn, message, { ...message, port: old })) continue;
      conn.sendUpdate(message);
    }
  }

  flowsChanged(events: readonly FlowEvent[]): void {
    const monitors = [...this.#peers()].map(({ conn }) => conn.monitors).filter((m) => m.active);
    // Who watches nothing now begins with all flows that there are.
    if (monitors.length > 0) this.#changes.note(events);
    for (const one of monitors) one.report(events);
    for (const event of events) {
      if (event.event === 'removed' && event.rule.flags.sendFlowRem) this.#sendFlowRemoved(event);
    }
  }

  #sendFlowRemoved({ rule, reason }: Extract<FlowEvent, { event: 'removed' }>): void {
    const flowRemoved: FlowRemoved = {
      match: rule.match,
      cookie: rule.cookie,
      priority: rule.priority,
      reason,
      table: rule.table,
      durationMs: Math.max(0, this.#bridge.nowMs() - rule.createdMs),
      idleTimeout: rule.idleTimeout,
      hardTimeout: rule.hardTimeout,
      packets: BigInt(rule.packets),
      bytes: BigInt(rule.bytes),
    };
    for (const { conn } of this.#peers()) {
      if (!conn.wantsAsync('flowRemoved', flowRemovedBit(reason))) continue;
      conn.sendUpdate({ type: 'flow_removed', nxt: conn.nxm, flowRemoved });
    }
  }

  /** The free space of a table crossed a threshold. */
  tableStatus(desc: TableDesc, reason: 'down' | 'up'): void {
    for (const { conn } of this.#peers()) {
      if (conn.version < 5 || !conn.wantsAsync('tableStatus', tableStatusBit(reason))) continue;
      conn.sendUpdate({ type: 'table_status', reason, desc });
    }
  }

  packetIn(packetIn: PacketIn, controllerId: number): void {
    const { reason } = packetIn;
    const miss = reason === 'no_match' || reason.endsWith('_miss');
    for (const peer of this.#peers()) {
      const { conn } = peer;
      if (conn.controllerId !== controllerId) continue;
      if (conn.wantsAsync('packetIn', packetInBit(reason))) peer.packetIn(packetIn, miss);
    }
  }

  /** A controller changed a group or a meter: others may want to know. */
  requestForward(
    message: Extract<Message, { type: 'group_mod' | 'meter_mod' }>,
    xid: number,
    source: Ofconn,
  ): void {
    for (const { conn } of this.#peers()) {
      if (conn === source) continue;
      if (!conn.wantsAsync('requestForward', requestForwardBit(message.type))) continue;
      // Meters came with OpenFlow 1.3.
      if (message.type === 'meter_mod' && conn.version < 4) continue;
      conn.sendUpdate({ type: 'requestforward', xid, message });
    }
  }

  /** A controller changed a port: everybody else hears of it. */
  portModified(port: BridgePort, old: PortDesc, source: Ofconn | undefined): void {
    this.#portDescs.set(port.ofport, port.desc);
    this.#sendPortStatus('modify', port.desc, old, source);
  }
}

function descsOf(ports: ReadonlyMap<number, BridgePort>): Map<number, PortDesc> {
  return new Map([...ports].map(([ofport, { desc }]) => [ofport, desc]));
}

function sameBytes(conn: Ofconn, a: Message, b: Message): boolean {
  const [first] = encode(conn.version, 0, a);
  const [second] = encode(conn.version, 0, b);
  return Buffer.compare(first, second) === 0;
}

function inPortOf(packetIn: PacketIn): number {
  return new DataView(packetIn.match.key.buffer, packetIn.match.key.byteOffset).getUint32(
    F_IN_PORT,
  );
}
