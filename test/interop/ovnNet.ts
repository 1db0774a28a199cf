// A small cloud for tests: OVN as Debian ships it (ovn-northd, two ovsdb-servers, ovn-controller), with xvio or the real
// ovs-vswitchd on each hypervisor, everything in network namespaces.
//
//   central ── 10.98.0.0/24 management, 10.99.0.0/24 underlay ── hv1, hv2 (eth0 in bridge br-phy, which has the address)
//   outside ── 172.20.0.0/24, the physical network ── eth1 of each hypervisor, in br-ex (bridge mapping physnet1)
//   machines: a namespace each, on a veth that is a port of br-int
//
// Management is a network of its own, so that ovn-controller keeps its database while a switch restarts.

import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Result, ROOT, Sandbox } from './sandbox.ts';

const UNDERLAY_MTU = '2000';
export const GUEST_MTU = '1400';
const NORTHBOUND = '/usr/share/ovn/ovn-nb.ovsschema';
const SOUTHBOUND = '/usr/share/ovn/ovn-sb.ovsschema';

export interface HostSpec {
  name: string;
  daemon: 'xvio' | 'real';
}

export interface OvnNetOptions {
  hosts: readonly HostSpec[];
  encap: 'geneve' | 'vxlan';
}

export interface MachineSpec {
  name: string;
  host: string;
  mac: string;
  /** Addresses with prefix lengths; none: it has to ask. */
  addresses: readonly string[];
  gateway?: string | undefined;
  /** Logical port, by default the machine's name. */
  port?: string | undefined;
}

/** One hypervisor: a sandbox with an ovn-controller. */
export class Host {
  readonly name: string;
  readonly box: Sandbox;
  readonly index: number;
  controller: ChildProcess | undefined;

  constructor(name: string, box: Sandbox, index: number) {
    this.name = name;
    this.box = box;
    this.index = index;
  }

  get underlayAddress(): string {
    return `10.99.0.1${this.index}`;
  }

  /** br-phy's address; after a restart of the switch the device is a new one. */
  async addressUnderlay(): Promise<void> {
    const { box } = this;
    const link = (): boolean => box.run('ip', 'link', 'show', 'br-phy').status === 0;
    await box.until(link, 20000, 'br-phy');
    box.run('ip', 'address', 'replace', `${this.underlayAddress}/24`, 'dev', 'br-phy');
    box.must('ip', 'link', 'set', 'br-phy', 'up');
  }

  startController(): void {
    this.controller = this.box.spawn('ovn-controller', [
      `unix:${this.box.path('db.sock')}`,
      `--log-file=${this.box.path('ovn-controller.log')}`,
      `--pidfile=${this.box.path('ovn-controller.pid')}`,
      '--no-chdir',
      '-vconsole:off',
      '-vsyslog:off',
    ]);
  }

  get controllerLog(): string {
    const file = this.box.path('ovn-controller.log');
    return existsSync(file) ? readFileSync(file, 'utf8') : '';
  }
}

export class OvnNet implements AsyncDisposable {
  readonly dir = mkdtempSync(join(tmpdir(), 'xv-ovn'));
  readonly hosts: Host[] = [];
  readonly options: OvnNetOptions;
  readonly #children: ChildProcess[] = [];
  readonly #namespaces: string[] = [];
  readonly #prefix = `xvo${process.pid}`;

  private constructor(options: OvnNetOptions) {
    this.options = options;
  }

  static async start(options: OvnNetOptions): Promise<OvnNet> {
    const net = new OvnNet(options);
    try {
      await net.#startCentral();
      net.#startOutside();
      for (const spec of options.hosts) await net.#startHost(spec);
      await net.until(
        () =>
          net.sb('--bare', '--columns=name', 'list', 'Chassis').trim() !== '' && net.#allThere(),
        60000,
        'chassis rows',
      );
      return net;
    } catch (error) {
      await net.stop();
      throw error;
    }
  }

  #allThere(): boolean {
    const names = this.sb('--bare', '--columns=name', 'list', 'Chassis').split(/\s+/);
    return this.hosts.every(({ name }) => names.includes(name));
  }

  host(name: string): Host {
    const host = this.hosts.find((one) => one.name === name);
    if (host === undefined) throw new Error(`no hypervisor ${name}`);
    return host;
  }

  // ---- central

  namespace(name: string): string {
    return `${this.#prefix}-${name}`;
  }

  #addNamespace(name: string): string {
    const full = this.namespace(name);
    execFileSync('ip', ['netns', 'add', full]);
    this.#namespaces.push(full);
    this.in(name, 'ip', 'link', 'set', 'lo', 'up');
    return full;
  }

  /** Runs a program in a namespace of ours to its end. */
  run(name: string, ...command: string[]): Result {
    const words = ['netns', 'exec', this.namespace(name), ...command];
    const r = spawnSync('ip', words, { encoding: 'utf8', timeout: 60000, env: this.#env });
    return { stdout: r.stdout ?? '', stderr: r.stderr ?? '', status: r.status ?? -1 };
  }

  /** The same, and it must succeed. */
  in(name: string, ...command: string[]): string {
    const r = this.run(name, ...command);
    if (r.status !== 0) {
      throw new Error(`${name}: ${command.join(' ')}: status ${r.status}\n${r.stdout}${r.stderr}`);
    }
    return r.stdout;
  }

  /** Starts a program in a namespace; it ends with the net at the latest. */
  start(name: string, command: string, ...args: string[]): ChildProcess {
    const words = ['netns', 'exec', this.namespace(name), command, ...args];
    const child = spawn('ip', words, { stdio: ['ignore', 'pipe', 'ignore'], env: this.#env });
    child.stdout?.resume();
    this.#children.push(child);
    return child;
  }

  get #env(): NodeJS.ProcessEnv {
    const dir = this.dir;
    return { ...process.env, OVN_RUNDIR: dir, OVS_RUNDIR: dir, OVN_LOGDIR: dir, OVS_LOGDIR: dir };
  }

  nb(...args: string[]): string {
    return this.#ctl('ovn-nbctl', 'nb', args);
  }

  sb(...args: string[]): string {
    return this.#ctl('ovn-sbctl', 'sb', args);
  }

  #ctl(command: string, database: string, args: readonly string[]): string {
    const words = ['--timeout=60', `--db=unix:${this.dir}/${database}.sock`, ...args];
    const r = spawnSync(command, words, { encoding: 'utf8', env: this.#env });
    if (r.status !== 0) throw new Error(`${command} ${args.join(' ')}: ${r.stdout}${r.stderr}`);
    return r.stdout;
  }

  /** Resolves when every hypervisor has what the northbound database says. */
  sync(): void {
    this.nb('--wait=hv', 'sync');
  }

  async #startCentral(): Promise<void> {
    this.#addNamespace('c');
    for (const [bridge, address] of [
      ['mgmt', '10.98.0.1/24'],
      ['under', '10.99.0.1/24'],
    ] as const) {
      this.in('c', 'ip', 'link', 'add', bridge, 'type', 'bridge');
      this.in('c', 'ip', 'link', 'set', bridge, 'mtu', UNDERLAY_MTU, 'up');
      this.in('c', 'ip', 'address', 'add', address, 'dev', bridge);
    }
    for (const [name, schema, remotes] of [
      ['nb', NORTHBOUND, []],
      ['sb', SOUTHBOUND, ['--remote=ptcp:6642:10.98.0.1']],
    ] as const) {
      const file = join(this.dir, `${name}.db`);
      execFileSync('ovsdb-tool', ['create', file, schema]);
      const common = ['-vconsole:off', '-vsyslog:off', '--no-chdir'];
      const sockets = [
        `--remote=punix:${this.dir}/${name}.sock`,
        `--unixctl=${this.dir}/${name}.ctl`,
      ];
      this.start('c', 'ovsdb-server', file, ...sockets, ...remotes, ...common);
    }
    await this.until(
      () => existsSync(join(this.dir, 'nb.sock')) && existsSync(join(this.dir, 'sb.sock')),
      20000,
      'databases of OVN',
    );
    this.nb('init');
    this.sb('init');
    this.start(
      ...(['c', 'ovn-northd', `--ovnnb-db=unix:${this.dir}/nb.sock`] as const),
      ...[`--ovnsb-db=unix:${this.dir}/sb.sock`, `--unixctl=${this.dir}/northd.ctl`],
      ...[`--log-file=${this.dir}/northd.log`, '--no-chdir', '-vconsole:off', '-vsyslog:off'],
    );
  }

  /** The physical network: a bridge with the outside's address, a port for each hypervisor. */
  #startOutside(): void {
    this.#addNamespace('out');
    this.in('out', 'ip', 'link', 'add', 'phys', 'type', 'bridge');
    this.in('out', 'ip', 'link', 'set', 'phys', 'up');
    for (const address of ['172.20.0.254/24', 'fd00:20::254/64']) {
      this.in('out', 'ip', 'address', 'add', address, 'dev', 'phys');
    }
  }

  // ---- hypervisors

  /** Other tunnels between the hypervisors from now on; resolves when they are there and used. */
  async changeEncap(encap: 'geneve' | 'vxlan'): Promise<void> {
    for (const { box } of this.hosts) {
      box.vsctl('set', 'Open_vSwitch', '.', `external_ids:ovn-encap-type=${encap}`);
    }
    // One of each type between each two, as each chassis learns of the other's change.
    const tunnels = ({ box }: Host): string[] =>
      box
        .vsctl('--bare', '--columns=type', 'find', 'Interface', 'options:key=flow')
        .split('\n')
        .filter((line) => line !== '');
    const changed = (): boolean =>
      this.hosts.every((host) => {
        const types = tunnels(host);
        return types.length === this.hosts.length - 1 && types.every((type) => type === encap);
      });
    await this.until(changed, 30000, `${encap} tunnels`);
    this.sync();
  }

  async #startHost({ name, daemon }: HostSpec): Promise<void> {
    const index = this.hosts.length + 1;
    const ids: Record<string, string> = {
      'system-id': name,
      hostname: name,
      'ovn-remote': 'tcp:10.98.0.1:6642',
      'ovn-encap-type': this.options.encap,
      'ovn-encap-ip': `10.99.0.1${index}`,
      'ovn-bridge-datapath-type': 'netdev',
      'ovn-bridge-mappings': 'physnet1:br-ex',
    };
    const box = await Sandbox.start({
      daemon,
      configure: (fresh) => {
        for (const key of ['OVN_RUNDIR', 'OVN_LOGDIR', 'OVN_DBDIR']) fresh.env[key] = fresh.dir;
        const words = Object.entries(ids).map(([key, value]) => `external_ids:${key}="${value}"`);
        fresh.must('ovs-vsctl', '--no-wait', 'set', 'Open_vSwitch', '.', ...words);
      },
    });
    const host = new Host(name, box, index);
    this.hosts.push(host);
    this.#plug('c', `m${index}`, 'mgmt', box, 'mgmt0', UNDERLAY_MTU);
    box.must('ip', 'address', 'add', `10.98.0.1${index}/24`, 'dev', 'mgmt0');
    this.#plug('c', `u${index}`, 'under', box, 'eth0', UNDERLAY_MTU);
    this.#plug('out', `x${index}`, 'phys', box, 'eth1', '1500');
    const mac = box.must('cat', '/sys/class/net/eth0/address').trim();
    box.vsctl(
      ...['add-br', 'br-phy', '--', 'set', 'Bridge', 'br-phy', 'datapath_type=netdev'],
      ...[`other_config:hwaddr="${mac}"`, '--', 'add-port', 'br-phy', 'eth0'],
      ...['--', 'add-br', 'br-ex', '--', 'set', 'Bridge', 'br-ex', 'datapath_type=netdev'],
      ...['--', 'add-port', 'br-ex', 'eth1'],
    );
    await host.addressUnderlay();
    host.startController();
  }

  /** A veth from a bridge of one of our namespaces into a hypervisor. */
  #plug(from: string, near: string, bridge: string, box: Sandbox, far: string, mtu: string): void {
    this.in(
      ...([from, 'ip', 'link', 'add', near, 'type', 'veth'] as const),
      ...['peer', 'name', far, 'netns', box.namespace!],
    );
    this.in(from, 'ip', 'link', 'set', near, 'mtu', mtu, 'master', bridge, 'up');
    this.run(from, 'ethtool', '-K', near, 'tx', 'off');
    box.must('ip', 'link', 'set', far, 'mtu', mtu, 'up');
    box.run('ethtool', '-K', far, 'tx', 'off');
  }

  // ---- machines

  /** A machine on a logical port that exists already. */
  addMachine(spec: MachineSpec): void {
    const { name, mac, addresses, gateway } = spec;
    const { box } = this.host(spec.host);
    const space = this.#addNamespace(name);
    const device = `v-${name}`;
    box.must(
      ...(['ip', 'link', 'add', device, 'up', 'type', 'veth'] as const),
      ...['peer', 'name', 'eth0', 'netns', space],
    );
    // In one process, as there are many machines. Duplicate address detection only costs time here.
    const steps = [
      'sysctl -qw net.ipv6.conf.eth0.accept_dad=0',
      `ip link set eth0 address ${mac} mtu ${GUEST_MTU} up`,
      '{ ethtool -K eth0 tx off || true; }',
      ...addresses.map((address) => {
        const family = address.includes(':') ? ' nodad' : '';
        return `ip address add ${address} dev eth0${family}`;
      }),
      ...(gateway === undefined ? [] : [`ip route add default via ${gateway}`]),
    ];
    this.in(name, 'sh', '-c', steps.join(' && '));
    const ids = `external_ids:iface-id=${spec.port ?? name}`;
    box.vsctl('add-port', 'br-int', device, '--', 'set', 'Interface', device, ids);
  }

  /** A server that says its name and the client's address to whoever asks: see `get`. */
  async serve(name: string, ...ports: number[]): Promise<ChildProcess> {
    const program = join(ROOT, 'test', 'interop', 'ovnServer.ts');
    return this.#ready(this.start(name, process.execPath, program, name, ...ports.map(String)));
  }

  /** A host in a VLAN behind a device of a namespace: it answers ARP and pings. */
  async vlanPeer(
    name: string,
    device: string,
    vlan: number,
    mac: string,
    address: string,
  ): Promise<ChildProcess> {
    const program = join(ROOT, 'test', 'interop', 'vlanPeer.py');
    const words = [program, device, String(vlan), mac, address];
    return this.#ready(this.start(name, 'python3', ...words));
  }

  async #ready(child: ChildProcess): Promise<ChildProcess> {
    await new Promise((resolve, reject) => {
      child.stdout?.once('data', resolve);
      child.once('exit', () => reject(new Error(`${child.spawnargs.join(' ')} has ended`)));
    });
    return child;
  }

  /** Frames that a machine's device sees while `work` runs, as tcpdump prints them. */
  async capture(
    name: string,
    filter: string,
    work: () => void | Promise<void>,
    device = 'eth0',
  ): Promise<string[]> {
    const words = ['netns', 'exec', this.namespace(name), 'tcpdump', '-lneqti', device, filter];
    const child = spawn('ip', words, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#children.push(child);
    let text = '';
    child.stdout.on('data', (chunk) => {
      text += chunk;
    });
    await new Promise((resolve) => child.stderr.once('data', resolve));
    await sleep(300);
    await work();
    await sleep(300);
    const ended = new Promise((resolve) => child.once('close', resolve));
    child.kill('SIGTERM');
    await ended;
    return text.split('\n').filter((line) => line !== '');
  }

  macOf(name: string, device: string): string {
    return this.in(name, 'cat', `/sys/class/net/${device}/address`).trim();
  }

  /** What a server answers, '' if it does not. */
  get(name: string, address: string, timeoutS = 3): string {
    const words = ['-gs', '-m', String(timeoutS), `http://${address}/`];
    return this.run(name, 'curl', ...words).stdout.trim();
  }

  /** Do all of three echo requests come back? */
  ping(name: string, address: string, ...options: string[]): boolean {
    return (
      this.run(name, 'ping', '-q', '-i', '0.2', '-c', '3', '-W', '2', ...options, address)
        .status === 0
    );
  }

  async until(condition: () => boolean, timeoutMs: number, what: string): Promise<void> {
    const endMs = Date.now() + timeoutMs;
    while (!condition()) {
      if (Date.now() > endMs) throw new Error(`no ${what} in ${timeoutMs} ms\n${this.logs()}`);
      await sleep(100);
    }
  }

  /** The end of every log, for failures. */
  logs(): string {
    const tail = (text: string): string => text.split('\n').slice(-15).join('\n');
    return this.hosts
      .map(
        (host) =>
          `-- ${host.name}\n${host.box.logTail(15)}\n-- its ovn-controller\n${tail(host.controllerLog)}`,
      )
      .join('\n');
  }

  async stop(): Promise<void> {
    for (const { controller } of this.hosts) controller?.kill('SIGKILL');
    for (const child of this.#children) child.kill('SIGKILL');
    for (const { box } of this.hosts) await box.stop();
    for (const name of this.#namespaces) spawnSync('ip', ['netns', 'delete', name]);
    rmSync(this.dir, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}
