// What all peers with the interface of Open vSwitch have in common: a sandbox with ovsdb-server and a daemon, a bridge
// with vhost-user ports, flows for each wiring, and the statistics of the forwarding threads.

import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Sandbox, type SandboxOptions } from '../../test/interop/sandbox.ts';
import type { Wire } from '../generator/wire.ts';
import { FIREWALL_ZONE, firewallLines, ruleLines } from '../rules.ts';
import type { BusyTime, Setup, SwitchThread, Testbed } from '../types.ts';
import { addTunnel, addUnderlay, UNDERLAY_BRIDGE, UNDERLAY_PORT } from './underlay.ts';

export interface OvsOptions {
  name: string;
  sandbox: SandboxOptions;
  /** Of the bridge and all ports. */
  bridgeArgs?: readonly string[];
  /** Matches names of forwarding threads (/proc/PID/task/TID/comm). */
  threadName: RegExp;
  /** A cycle of pmd-stats-show. */
  cycleNs: number;
  /** Every drop has a name in coverage/show. */
  namesDrops?: boolean;
  /** How the ports of `setup` are made to be pairs without services, if the switch can do that. */
  relay?: (box: Sandbox, ports: readonly string[]) => void;
}

/** pmd-cpu-mask of the cores that forward. */
export function coreMask({ switchCore, switchCores = [switchCore] }: Setup): string {
  return switchCores.reduce((mask, core) => mask | (1n << BigInt(core)), 0n).toString(16);
}

export async function startOvs(options: OvsOptions, setup: Setup): Promise<OvsTestbed> {
  const box = await Sandbox.start(options.sandbox);
  try {
    // A peer that waits for its turn must not find all its flows expired.
    box.vsctl('set', 'Open_vSwitch', '.', 'other_config:max-idle=3600000');
    box.vsctl(
      'add-br',
      'br0',
      '--',
      'set',
      'bridge',
      'br0',
      'datapath_type=netdev',
      'fail_mode=secure',
    );
    const tunnel = setup.wiring === 'acl-vxlan';
    if (tunnel) addUnderlay(box);
    const ports = Array.from({ length: setup.ports }, (_, i) => `vm${i}`);
    const args: string[] = [];
    for (const [i, port] of ports.entries()) {
      const bridge = tunnel && i === UNDERLAY_PORT ? UNDERLAY_BRIDGE : 'br0';
      args.push('--', 'add-port', bridge, port, '--', 'set', 'interface', port);
      args.push('type=dpdkvhostuserclient', `options:vhost-server-path=${box.path(port)}`);
      args.push(`ofport_request=${i + 1}`);
      if (setup.mtu) args.push(`mtu_request=${setup.mtu}`);
    }
    if (args.length > 0) box.vsctl(...args.slice(1));
    if (setup.wiring !== 'relay') box.appctl('upcall/set-flow-limit', '200000');
    if (setup.wiring === 'relay') options.relay?.(box, ports);
    else installFlows(box, setup);
    if (setup.wiring === 'firewall') keepConnections(box);
    const wire = tunnel ? await addTunnel(box) : undefined;
    return new OvsTestbed(
      options,
      box,
      ports.map((port) => box.path(port)),
      wire,
    );
  } catch (error) {
    await box.stop();
    throw error;
  }
}

/** Connections must not end while a peer waits for its turn. */
function keepConnections(box: Sandbox): void {
  const datapath = ['--id=@m', 'create', 'Datapath', 'datapath_version=0'];
  box.vsctl('--', ...datapath, '--', 'set', 'Open_vSwitch', '.', 'datapaths:netdev=@m');
  const timeouts = ['udp_first', 'udp_single', 'udp_multiple'].map((name) => `${name}=3600`);
  box.vsctl('add-zone-tp', 'netdev', `zone=${FIREWALL_ZONE}`, ...timeouts);
}

function installFlows(box: Sandbox, { wiring, ports }: Setup): void {
  const lines: string[] = [];
  if (wiring === 'l2') lines.push('priority=1,actions=NORMAL');
  for (let i = 0; i < ports; i++) {
    const [from, to] = [i + 1, (i ^ 1) + 1];
    if (wiring === 'port') lines.push(`priority=1,in_port=${from},actions=output:${to}`);
    // With a tunnel, what is behind it has port 2, as guest 1 without.
    if (wiring === 'rules' || wiring === 'acl-vxlan') lines.push(...ruleLines(from, to));
    if (wiring === 'firewall') lines.push(...firewallLines(from, to, i % 2 === 0));
  }
  if (lines.length === 0) return;
  const file = box.path('flows.txt');
  writeFileSync(file, `${lines.join('\n')}\n`);
  box.ofctl('add-flows', 'br0', file);
}

export class OvsTestbed implements Testbed {
  readonly name: string;
  readonly box: Sandbox;
  readonly sockets: readonly string[];
  readonly wire: Wire | undefined;
  readonly #options: OvsOptions;

  constructor(options: OvsOptions, box: Sandbox, sockets: readonly string[], wire?: Wire) {
    this.name = options.name;
    this.#options = options;
    this.box = box;
    this.sockets = sockets;
    this.wire = wire;
  }

  get pids(): readonly number[] {
    return [this.box.daemonPid];
  }

  async ready(): Promise<void> {
    const up = () => {
      const states = this.box.vsctl(
        '--bare',
        '--columns=link_state',
        'find',
        'interface',
        'type=dpdkvhostuserclient',
      );
      return states.split('\n').filter((state) => state === 'up').length === this.sockets.length;
    };
    await this.box.until(up, 30_000, 'link on all ports');
  }

  threads(): SwitchThread[] {
    const pid = this.box.daemonPid;
    const directory = `/proc/${pid}/task`;
    return readdirSync(directory)
      .filter((tid) =>
        this.#options.threadName.test(readFileSync(join(directory, tid, 'comm'), 'utf8')),
      )
      .map((tid) => ({ pid, tid: Number(tid) }));
  }

  clearBusy(): void {
    this.box.appctl('dpif-netdev/pmd-stats-clear');
  }

  busy(): BusyTime | undefined {
    const text = this.box.appctl('dpif-netdev/pmd-stats-show');
    const sections = text.split(/^(?=pmd thread|main thread)/m).filter((s) => s.startsWith('pmd'));
    const sum = (pattern: RegExp) =>
      sections.reduce((total, s) => total + Number(pattern.exec(s)?.[1] ?? 0), 0);
    const packets = sum(/packets received: (\d+)/);
    return { packets, busyNs: sum(/processing cycles: (\d+)/) * this.#options.cycleNs };
  }

  ofctl(...args: string[]): string {
    return this.box.ofctl(...args);
  }

  appctl(...args: string[]): string {
    return this.box.appctl(...args);
  }

  drops(): Record<string, number> {
    const drops: Record<string, number> = {};
    const text = this.box.vsctl('--bare', '--columns=statistics', 'list', 'interface');
    for (const [, name, n] of text.matchAll(/(\w*(?:drop|error)\w*)=(\d+)/g)) {
      if (Number(n) > 0) drops[name!] = (drops[name!] ?? 0) + Number(n);
    }
    return drops;
  }

  namedDrops(): number | undefined {
    if (!this.#options.namesDrops) return undefined;
    const text = this.box.appctl('coverage/show');
    // drop_action_…: sums of others, under the names that Open vSwitch has for them.
    return [...text.matchAll(/^drop_(?!action_)\w+.* total: (\d+)/gm)].reduce(
      (sum, m) => sum + Number(m[1]),
      0,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.box.stop();
  }
}
