// LACP and bonding of one bundle: hands over what comes in, sends what is due, tells the ports whether they may carry
// traffic, and the other switch by which member it reaches the addresses behind us.

import { K_ETH_SRC, K_ETH_TYPE } from '../../../contract/key.ts';
import {
  ETH_ADDR_LACP,
  ETH_TYPE_LACP,
  LacpAggregator,
  type LacpMemberSettings,
  type LacpSettings,
} from '../../protocol/lacp.ts';
import { OFPP_NONE } from '../../wire/openflow/types.ts';
import { parseMac } from '../../wire/rtnetlink.ts';
import type { SwitchBridge } from '../bridge.ts';
import { be16, newRecord } from '../flow.ts';
import { payloadOffset } from '../monitor/portMonitor.ts';
import { type ProtocolPort, SLOW_LACP } from '../protocolPort.ts';
import { hashedState } from '../translate/bondOutput.ts';
import type { BridgePort, Bundle } from '../types.ts';
import { Bond, type BondSettings, type LacpStatus } from './bond.ts';

/** States settle in a few rounds: LACP enables a member, the member makes the bond choose, … */
const ROUNDS = 4;
const ETH_TYPE_RARP = 0x8035;
const RARP_FRAME_LENGTH = 60;

export interface BundleHostModules {
  bridge: SwitchBridge;
  bundle: Bundle;
  /** Is the port usable, as far as its own monitors know? */
  isAlive: (port: BridgePort) => boolean;
  /** port.mayEnable was written: port descriptions and the database follow. */
  onChange: () => void;
  log: { bond: (text: string) => void; lacp: (text: string) => void };
}

export interface BundleHostSettings {
  bond: BondSettings | undefined;
  lacp: LacpSettings | undefined;
  members: ReadonlyMap<BridgePort, LacpMemberSettings>;
}

export class BundleHost {
  readonly #modules: BundleHostModules;
  readonly #carriers = new Map<BridgePort, boolean>();
  lacp: LacpAggregator<BridgePort> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #soon: NodeJS.Immediate | undefined;
  #closed = false;
  #status = '';

  constructor(modules: BundleHostModules) {
    this.#modules = modules;
  }

  get name(): string {
    return this.#modules.bundle.name;
  }

  nowMs(): number {
    return this.#modules.bridge.nowMs();
  }

  get bond(): Bond | undefined {
    return this.#modules.bundle.bond;
  }

  configure({ bond, lacp, members }: BundleHostSettings): void {
    const { bundle, bridge, log } = this.#modules;
    const nowMs = bridge.nowMs();
    if (lacp === undefined) this.lacp = undefined;
    else if (this.lacp === undefined) this.lacp = new LacpAggregator(lacp, log.lacp);
    else this.lacp.configure(lacp);
    if (bond === undefined) {
      if (bundle.bond !== undefined) bridge.flowsChanged();
      if (bundle.bond) bridge.datapath.recircs.release([bundle.bond.recircId]);
      bundle.bond = undefined;
    } else {
      bundle.bond ??= new Bond(bond, log.bond);
      bundle.bond.configure(bond, nowMs);
    }
    for (const port of [...this.#carriers.keys()]) if (!members.has(port)) this.forget(port);
    for (const [port, settings] of members) {
      this.#carriers.set(port, this.#carriers.get(port) ?? port.netdev.status().linkUp);
      this.lacp?.register(port, settings, nowMs);
      bundle.bond?.register(port);
    }
    this.run();
  }

  /** The port goes. */
  forget(port: BridgePort): void {
    this.#carriers.delete(port);
    this.lacp?.unregister(port);
    this.bond?.unregister(port);
  }

  /** Interface.lacp_current; undefined without LACP. */
  lacpCurrent(port: BridgePort): boolean | undefined {
    return this.lacp?.isCurrent(port);
  }

  /** Does the port take part in LACP? Then this is its protocol. */
  protocolOf(port: BridgePort): ProtocolPort | undefined {
    if (this.lacp === undefined) return undefined;
    return {
      claims: (flow) => (be16(flow, K_ETH_TYPE) === ETH_TYPE_LACP ? SLOW_LACP : 0),
      receive: (reason, _flow, packet) => {
        if (reason !== SLOW_LACP) return;
        const payload = packet.subarray(payloadOffset(packet));
        this.lacp?.receive(port, payload, this.#modules.bridge.nowMs());
        this.runSoon();
      },
      accountRx: () => {},
    };
  }

  /** Something happened to a port, or to the configuration. */
  run(): void {
    if (this.#closed) return;
    const { bridge, bundle } = this.#modules;
    const nowMs = bridge.nowMs();
    let changed = false;
    for (let round = 0; round < ROUNDS; round++) {
      const before = this.#state();
      if (this.#updatePorts(nowMs)) changed = true;
      for (const { port, pdu } of this.lacp?.run(nowMs) ?? []) this.#sendPdu(port, pdu);
      const { bond } = bundle;
      if (bond !== undefined) {
        for (const member of bond.members) member.mayEnable = member.port.mayEnable;
        bond.run(this.#lacpStatus(), nowMs);
        bond.rebalance(nowMs);
      }
      if (this.#state() === before && round > 0) break;
    }
    this.#holdRecircId();
    this.#afterRun(changed);
    this.#arm();
  }

  /** The id under which hashed packets come back is the bond's as long as there may be any. */
  #holdRecircId(): void {
    const { bridge, bundle } = this.#modules;
    const { bond } = bundle;
    if (bond === undefined) return;
    const { recircs } = bridge.datapath;
    if (bond.settings.mode !== 'balance-tcp' || this.#closed) {
      if (bond.recircId > 0) recircs.release([bond.recircId]);
      bond.recircId = 0;
    } else if (bond.recircId === 0) {
      bond.recircId = recircs.add(hashedState(bridge, bundle.name));
    }
  }

  #afterRun(portsChanged: boolean): void {
    const { bridge, onChange } = this.#modules;
    const { bond } = this;
    if (bond?.revalidate) {
      bond.revalidate = false;
      bridge.flowsChanged();
    }
    if (bond?.sendLearning) {
      bond.sendLearning = false;
      if (bond.maySendLearning) this.#sendLearning(bond);
    }
    const status = this.#state();
    if (!portsChanged && status === this.#status) return;
    this.#status = status;
    onChange();
  }

  /** What the database shows, and what may still settle. */
  #state(): string {
    const { bond, lacp } = this;
    return JSON.stringify([
      lacp?.negotiated,
      [...this.#carriers.keys()].map((port) => [lacp?.isCurrent(port), port.mayEnable]),
      bond?.activeMac,
      bond?.active?.port.name,
      bond?.members.map(({ enabled }) => enabled),
    ]);
  }

  #lacpStatus(): LacpStatus {
    if (this.lacp === undefined) return 'off';
    return this.lacp.negotiated ? 'negotiated' : 'configured';
  }

  /** True: some port may now carry traffic, or may not. */
  #updatePorts(nowMs: number): boolean {
    let changed = false;
    for (const [port, before] of this.#carriers) {
      const carrier = port.netdev.status().linkUp;
      if (carrier !== before) {
        this.#carriers.set(port, carrier);
        this.lacp?.carrierChanged(port, carrier, nowMs);
      }
      let enable = carrier && this.#modules.isAlive(port);
      if (enable && this.lacp !== undefined) enable = this.lacp.mayEnable(port);
      if (port.mayEnable !== enable) changed = true;
      port.mayEnable = enable;
    }
    return changed;
  }

  runSoon(): void {
    this.#soon ??= setImmediate(() => {
      this.#soon = undefined;
      this.run();
    });
  }

  #arm(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const wakeMs = Math.min(this.lacp?.wakeMs() ?? Infinity, this.bond?.wakeMs() ?? Infinity);
    if (this.#closed || wakeMs === Infinity) return;
    const delayMs = Math.max(1, Math.ceil(wakeMs - this.#modules.bridge.nowMs()));
    this.#timer = setTimeout(() => this.run(), delayMs);
    this.#timer.unref();
  }

  #sendPdu(port: BridgePort, pdu: Uint8Array): void {
    const mac = parseMac(port.netdev.status().mac ?? '') ?? new Uint8Array(6);
    const type = [ETH_TYPE_LACP >> 8, ETH_TYPE_LACP & 0xff];
    this.#send(port, Uint8Array.of(...ETH_ADDR_LACP, ...mac, ...type, ...pdu));
  }

  /** For each address that lives elsewhere in the bridge, a RARP from it by the member that would carry its traffic. */
  #sendLearning(bond: Bond): void {
    const { bridge, bundle } = this.#modules;
    const flow = newRecord();
    for (const { mac, vlan, bundle: home } of bridge.macs) {
      if (home === bundle) continue;
      flow.set(mac, K_ETH_SRC);
      const port = bond.choose(flow, undefined, vlan)?.port;
      if (port !== undefined) this.#send(port, composeRarp(mac, vlan));
    }
  }

  #send(port: BridgePort, frame: Uint8Array): void {
    const { bridge } = this.#modules;
    const action = { type: 'output', port: port.ofport, maxLen: 0 } as const;
    bridge.packetOut(OFPP_NONE, undefined, [action], frame);
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    clearImmediate(this.#soon);
    this.#holdRecircId();
    this.#modules.bundle.bond = undefined;
    this.lacp = undefined;
  }
}

/** A reverse ARP request (RFC 903) that announces an address. */
function composeRarp(mac: Uint8Array, vlan: number): Uint8Array {
  const tag = vlan === 0 ? [] : [0x81, 0, vlan >> 8, vlan & 0xff];
  const head = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, ...mac, ...tag];
  const body = [ETH_TYPE_RARP >> 8, ETH_TYPE_RARP & 0xff, 0, 1, 8, 0, 6, 4, 0, 3];
  const addresses = [...mac, 0, 0, 0, 0, ...mac, 0, 0, 0, 0];
  const frame = new Uint8Array(RARP_FRAME_LENGTH + tag.length);
  frame.set([...head, ...body, ...addresses]);
  return frame;
}
