// Bridges over the real data plane in the test's own thread (rig.ts): frames in, frames out, time by hand.

import type { Engine, Injection, Upcall, WorkerStats } from '../../src/engine/types.ts';
import type { Netdev, NetdevStatus } from '../../src/port/types.ts';
import { type BundleConfig, SwitchBridge } from '../../src/switch/bridge.ts';
import { Datapath, type DatapathOptions } from '../../src/switch/datapath.ts';
import type { BridgePort, Rule } from '../../src/switch/types.ts';
import type { Action, Match } from '../../src/wire/openflow/types.ts';
import { Rig, type RigOptions } from './rig.ts';

/** A device without system calls: its packets are the rig's frame queues. */
export class FakeNetdev implements Netdev {
  readonly name: string;
  readonly type: string;
  readonly port: number;
  readonly counters = { rxPackets: 0, rxBytes: 0, txPackets: 0, txBytes: 0 };
  state: NetdevStatus = { adminUp: true, linkUp: true, linkResets: 0, ifindex: 0, status: {} };
  onChange: (() => void) | undefined;

  constructor(name: string, port: number, type = 'tap') {
    this.name = name;
    this.port = port;
    this.type = type;
  }

  status(): NetdevStatus {
    return this.state;
  }
  statistics(): Record<string, number> {
    return {};
  }
  reconfigure(): boolean {
    return true;
  }
  setAdminUp(up: boolean): void {
    this.state = { ...this.state, adminUp: up };
  }
  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** The part of Engine that the switch uses, over a rig. */
function rigEngine(rig: Rig, clock: { nowMs: number }): Engine {
  const used = {
    nowMs: () => clock.nowMs,
    addPort: (wanted?: number) => rig.ports.add(wanted),
    portCounters: (port: number) => rig.counters(port),
    putFlow: (key: Uint8Array, mask: Uint8Array, actions: Uint32Array) =>
      rig.flows.put(key, mask, actions),
    findFlow: (key: Uint8Array, mask: Uint8Array) => rig.flows.find(key, mask),
    setFlowActions: (id: number, actions: Uint32Array) => rig.flows.setActions(id, actions),
    deleteFlow: (id: number) => rig.flows.delete(id),
    flowStats: (id: number) => {
      const stats = rig.flows.stats(id);
      // The rig's clock is nanoseconds of its own; what matters is that a packet was seen about now.
      return { ...stats, usedMs: stats.packets > 0 ? clock.nowMs : 0 };
    },
    flowCount: () => 0,
    maskCount: () => 0,
    memory: rig.memory.memory,
    conntrack: rig.conntrack,
    inject: (injection: Injection) => rig.inject(injection),
    quiesce: async () => {
      const done = rig.grace.quiesce();
      await rig.settle();
      return done;
    },
    workerStats: (): WorkerStats[] => [],
    clearWorkerStats: () => {},
  };
  return used as unknown as Engine;
}

export interface SentFrame {
  port: BridgePort;
  frame: Uint8Array;
}

export class SwitchRig {
  readonly rig: Rig;
  readonly clock = { nowMs: 1000 };
  readonly datapath: Datapath;
  #patchCount = 0;

  /** `logs`: of the datapath. */
  static async create(
    options: RigOptions = {},
    logs: Omit<DatapathOptions, 'engine'> = {},
  ): Promise<SwitchRig> {
    return new SwitchRig(await Rig.create(options), logs);
  }

  private constructor(rig: Rig, logs: Omit<DatapathOptions, 'engine'>) {
    this.rig = rig;
    this.datapath = new Datapath({
      ...logs,
      engine: rigEngine(rig, this.clock),
      upcallBudget: Number.POSITIVE_INFINITY,
    });
  }

  addBridge(name: string): SwitchBridge {
    return new SwitchBridge({ name, datapath: this.datapath, datapathId: 1n });
  }

  addPort(
    bridge: SwitchBridge,
    name: string,
    config: BundleConfig = {},
    ofport?: number,
  ): BridgePort {
    const netdev = new FakeNetdev(name, this.rig.addPort());
    const bundle = bridge.addBundle(name, config);
    return bridge.addPort(ofport === undefined ? { netdev, bundle } : { netdev, bundle, ofport });
  }

  /** The bridge's own port, without queues, as this number in the datapath. */
  addLocalPort(bridge: SwitchBridge, dpPort: number): BridgePort {
    const netdev = new FakeNetdev(bridge.name, this.rig.ports.add(dpPort), 'internal');
    return bridge.addPort({ netdev, bundle: bridge.addBundle(bridge.name) });
  }

  /** Patch ports that join two bridges; named after the bridges. */
  patch(a: SwitchBridge, b: SwitchBridge): [BridgePort, BridgePort] {
    const n = this.#patchCount++;
    const names = [`patch-${a.name}-${n}`, `patch-${b.name}-${n}`] as const;
    const ends = [a, b].map((bridge, i) =>
      bridge.addPort({
        netdev: new FakeNetdev(names[i]!, -1, 'patch'),
        bundle: bridge.addBundle(names[i]!),
        peer: names[1 - i]!,
      }),
    );
    return [ends[0]!, ends[1]!];
  }

  /** Sends frames into a port and runs the data plane until nothing moves. */
  send(port: BridgePort, ...frames: Uint8Array[]): void {
    for (const frame of frames) this.rig.send(port.dpPort, frame);
    this.run();
  }

  run(): void {
    for (let i = 0; i < 100; i++) {
      const packets = this.rig.poll();
      const upcalls = this.rig.upcalls();
      for (const upcall of upcalls) this.#upcall(upcall);
      if (packets === 0 && upcalls.length === 0) return;
    }
    throw new Error('packets go round in circles');
  }

  #upcall(upcall: Upcall): void {
    this.datapath.onUpcall(upcall);
  }

  /** Takes what the ports of a bridge have sent since the last call. */
  sent(bridge: SwitchBridge): SentFrame[] {
    const out: SentFrame[] = [];
    for (const port of bridge.ports.values()) {
      if (port.dpPort < 0) continue;
      for (const { frame } of this.rig.sent(port.dpPort)) out.push({ port, frame });
    }
    return out;
  }

  async settled(): Promise<void> {
    await this.datapath.revalidator.settled();
  }

  close(): void {
    this.datapath.close();
  }
}

/** A flow that is not in a table yet. */
export function makeRule(
  table: number,
  priority: number,
  match: Match,
  actions: readonly Action[],
  cookie = 0n,
): Rule {
  return {
    table,
    priority,
    match,
    cookie,
    actions,
    idleTimeout: 0,
    hardTimeout: 0,
    importance: 0,
    flags: {
      sendFlowRem: false,
      checkOverlap: false,
      resetCounts: false,
      noPktCounts: false,
      noBytCounts: false,
    },
    createdMs: 0,
    modifiedMs: 0,
    usedMs: 0,
    packets: 0,
    bytes: 0,
    hidden: false,
    removed: false,
  };
}
