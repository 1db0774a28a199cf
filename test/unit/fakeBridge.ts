// A bridge without a data plane, for tests of the OpenFlow front-end: real flow tables, a clock that the test sets,
// and a record of what was asked of it.

import { FLOW_SIZE } from '../../contract/key.ts';
import type { Netdev, NetdevStatus } from '../../src/port/types.ts';
import { Classifier } from '../../src/switch/classifier.ts';
import { GroupTable } from '../../src/switch/groups.ts';
import { N_TABLES } from '../../src/switch/tableNumbers.ts';
import type { Bridge, BridgePort, FlowTable } from '../../src/switch/types.ts';
import { emptyMatch, matchField } from '../../src/wire/openflow/fieldAccess.ts';
import { fieldByName } from '../../src/wire/openflow/fields.ts';
import type { Action, FlowMod, Match, PacketIn, PortDesc } from '../../src/wire/openflow/types.ts';

export interface PacketOutCall {
  inPort: number;
  actions: readonly Action[];
  data: Uint8Array;
}

export class FakeBridge implements Bridge {
  readonly name: string;
  datapathId = 0x0000_1122_3344_5566n;
  failMode: 'standalone' | 'secure' = 'secure';
  readonly tables: FlowTable[] = [];
  readonly groups = new GroupTable(() => this.nowMs());
  readonly ports = new Map<number, BridgePort>();
  onPacketIn: ((packet: PacketIn, controllerId: number) => void) | undefined;
  fragHandling = 0;
  wantsPacketInOnMiss = false;
  /** Milliseconds; undefined = real time. */
  clockMs: number | undefined;
  changes = 0;
  syncs = 0;
  /** Runs in syncStats(): what the data plane has to tell. */
  onSync: (() => void) | undefined;
  settledWaits = 0;
  settledDelay: Promise<void> = Promise.resolve();
  packetOuts: PacketOutCall[] = [];

  constructor(name = 'br0') {
    this.name = name;
    for (let id = 0; id < N_TABLES; id++) this.tables.push(new Classifier(id));
  }

  flowsChanged(): void {
    this.changes++;
  }

  async settled(): Promise<void> {
    this.settledWaits++;
    await this.settledDelay;
  }

  syncStats(): void {
    this.syncs++;
    this.onSync?.();
  }

  packetOut(
    inPort: number,
    _match: Match | undefined,
    actions: readonly Action[],
    data: Uint8Array,
  ): void {
    this.packetOuts.push({ inPort, actions, data: data.slice() });
  }

  nowMs(): number {
    return this.clockMs ?? performance.now();
  }

  addPort(ofport: number, name: string, statistics: Record<string, number> = {}): BridgePort {
    const netdev = new FakeNetdev(name, statistics);
    // As a device does: no carrier while it is down.
    netdev.onChange = () => {
      port.desc = { ...port.desc, state: netdev.adminUp ? 4 : 1 };
    };
    const port: BridgePort = {
      ofport,
      name,
      netdev,
      dpPort: ofport,
      peer: undefined,
      bundle: {
        name,
        ports: [],
        vlanMode: 'trunk',
        tag: 0,
        trunks: undefined,
        cvlans: undefined,
        protected: false,
        priorityTags: 'no',
        qinqEthertype: 0x88a8,
      },
      desc: portDesc(ofport, name),
      mayEnable: true,
      protocols: undefined,
      createdMs: this.nowMs(),
    };
    this.ports.set(ofport, port);
    return port;
  }
}

export class FakeNetdev implements Netdev {
  readonly name: string;
  readonly type = 'dummy';
  readonly port = 1;
  adminUp = true;
  onChange: (() => void) | undefined;
  readonly #statistics: Record<string, number>;

  constructor(name: string, statistics: Record<string, number>) {
    this.name = name;
    this.#statistics = statistics;
  }

  status(): NetdevStatus {
    return { adminUp: this.adminUp, linkUp: true, linkResets: 0, ifindex: 0, status: {} };
  }

  statistics(): Record<string, number> {
    return this.#statistics;
  }

  reconfigure(): boolean {
    return true;
  }

  setAdminUp(up: boolean): void {
    this.adminUp = up;
    this.onChange?.();
  }

  async close(): Promise<void> {}
}

export function portDesc(port: number, name: string): PortDesc {
  return {
    port,
    name,
    hwAddr: Uint8Array.of(0xaa, 0x55, 0, 0, 0, port & 0xff),
    config: 0,
    state: 4,
    currSpeed: 0,
    maxSpeed: 0,
    curr: 0,
    advertised: 0,
    supported: 0,
    peer: 0,
  };
}

/** `{ in_port: 1n, eth_type: 0x800n }` as an exact match of these fields. */
export function matchOf(fields: Record<string, bigint>): Match {
  const match = emptyMatch(FLOW_SIZE);
  for (const [name, value] of Object.entries(fields)) matchField(match, fieldByName(name), value);
  return match;
}

/** A flow-mod as ovs-ofctl sends it, with what the test changes. */
export function flowMod(change: Partial<FlowMod>): FlowMod {
  return {
    command: 'add',
    table: 0,
    match: matchOf({}),
    priority: 0x8000,
    cookie: 0n,
    cookieMask: 0n,
    newCookie: 0n,
    modifyCookie: false,
    idleTimeout: 0,
    hardTimeout: 0,
    importance: 0,
    bufferId: 0xffffffff,
    outPort: 0xffffffff,
    outGroup: 0xffffffff,
    actions: [],
    ...change,
    flags: {
      sendFlowRem: false,
      checkOverlap: false,
      resetCounts: false,
      noPktCounts: false,
      noBytCounts: false,
      ...change.flags,
    },
  };
}

export function output(port: number): Action {
  return { type: 'output', port, maxLen: 0 };
}
