// Hosts in network namespaces around one bridge, for tests of stateful firewalls and NAT, with our daemon or the real one.
// Each host has a veth port (OpenFlow port = its place, from 1), fixed addresses, and a Python script for sockets with
// chosen ports, so that what the tables show can be predicted.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Result, Sandbox } from './sandbox.ts';

/** echo PROTO ADDRESS PORT | ask PROTO LOCAL-PORT ADDRESS PORT: prints "ok", "refused" or "timeout". */
const PEER = `
import socket, sys
mode, proto = sys.argv[1:3]
kind = socket.SOCK_STREAM if proto == 'tcp' else socket.SOCK_DGRAM
def make(address):
    s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return s
if mode == 'echo':
    s = make(sys.argv[3])
    s.bind((sys.argv[3], int(sys.argv[4])))
    if proto == 'udp':
        while True:
            data, peer = s.recvfrom(2000)
            s.sendto(data, peer)
    s.listen(10)
    held = []
    while True:
        c, _ = s.accept()
        held.append(c)
        c.sendall(c.recv(2000))
else:
    local, address, port = int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
    s = make(address)
    s.settimeout(float(sys.argv[6]) if len(sys.argv) > 6 else 1.5)
    if local: s.bind(('', local))
    try:
        s.connect((address, port))
        s.send(b'hello')
        print('ok' if s.recv(2000) == b'hello' else 'wrong')
    except ConnectionError:
        print('refused')
    except OSError:
        print('timeout')
`;

export interface Host {
  readonly name: string;
  readonly namespace: string;
  readonly port: number;
  readonly mac: string;
}

export interface HostSpec {
  name: string;
  /** With prefix lengths. */
  addresses: readonly string[];
  /** Gateway of the default route; its MAC address is GATEWAY_MAC. */
  gateway?: string;
}

export const GATEWAY_MAC = '02:00:00:00:00:fe';

export class FirewallNet implements AsyncDisposable {
  readonly box: Sandbox;
  readonly hosts = new Map<string, Host>();
  readonly #children: ChildProcess[] = [];

  private constructor(box: Sandbox) {
    this.box = box;
  }

  static async create(daemon: 'xvio' | 'real', specs: readonly HostSpec[]): Promise<FirewallNet> {
    const net = new FirewallNet(await Sandbox.start({ daemon }));
    try {
      writeFileSync(net.box.path('peer.py'), PEER);
      net.box.vsctl(
        'add-br',
        'br0',
        '--',
        'set',
        'bridge',
        'br0',
        'datapath_type=netdev',
        'fail_mode=secure',
      );
      for (const spec of specs) net.#addHost(spec);
      return net;
    } catch (error) {
      await net.stop();
      throw error;
    }
  }

  #addHost(spec: HostSpec): void {
    const port = this.hosts.size + 1;
    const namespace = this.box.addNamespace(spec.name);
    const mac = `02:00:00:00:00:0${port}`;
    const device = `v${port}`;
    this.box.must(
      'ip',
      'link',
      'add',
      device,
      'type',
      'veth',
      'peer',
      'name',
      'eth0',
      'netns',
      namespace,
    );
    this.box.must('ip', 'link', 'set', device, 'up');
    const host = { name: spec.name, namespace, port, mac };
    this.hosts.set(spec.name, host);
    this.run(spec.name, 'ip', 'link', 'set', 'eth0', 'address', mac);
    for (const address of spec.addresses) {
      const nodad = address.includes(':') ? ['nodad'] : [];
      this.run(spec.name, 'ip', 'addr', 'add', address, 'dev', 'eth0', ...nodad);
    }
    // The real daemon's userspace datapath does not finish checksums that a host has left to the device.
    this.run(spec.name, 'ethtool', '-K', 'eth0', 'tx', 'off');
    this.run(spec.name, 'ip', 'link', 'set', 'eth0', 'up');
    if (spec.gateway !== undefined) {
      this.run(
        spec.name,
        'ip',
        'neigh',
        'replace',
        spec.gateway,
        'lladdr',
        GATEWAY_MAC,
        'dev',
        'eth0',
      );
      this.run(spec.name, 'ip', 'route', 'add', 'default', 'via', spec.gateway);
    }
    this.box.vsctl(
      'add-port',
      'br0',
      device,
      '--',
      'set',
      'interface',
      device,
      `ofport_request=${port}`,
    );
  }

  host(name: string): Host {
    return this.hosts.get(name)!;
  }

  /** Runs a command on a host to its end; its output. Throws unless it succeeds. */
  run(host: string, ...command: string[]): string {
    const { status, stdout, stderr } = this.attempt(host, ...command);
    if (status === 0) return stdout;
    throw new Error(`${host}: ${command.join(' ')}: status ${status}\n${stdout}${stderr}`);
  }

  /** The same for a command whose failure is a result. Throws only if it cannot be run or does not end. */
  attempt(host: string, ...command: string[]): Result {
    const { namespace } = this.host(host);
    const { error, status, stdout, stderr } = spawnSync(
      'ip',
      ['netns', 'exec', namespace, ...command],
      { encoding: 'utf8', timeout: 30000, env: this.box.env },
    );
    if (error) throw new Error(`${host}: ${command.join(' ')}: ${error.message}`);
    return { status: status ?? -1, stdout, stderr };
  }

  /** Replaces all flows. */
  flows(lines: readonly string[]): void {
    writeFileSync(this.box.path('flows'), `${lines.join('\n')}\n`);
    this.box.ofctl('-O', 'OpenFlow13', '--bundle', 'replace-flows', 'br0', this.box.path('flows'));
  }

  /** Starts an echo server, which stays. */
  async serve(host: string, proto: 'tcp' | 'udp', address: string, port: number): Promise<void> {
    const { namespace } = this.host(host);
    const args = ['netns', 'exec', namespace, 'python3', this.box.path('peer.py')];
    this.#children.push(
      spawn('ip', [...args, 'echo', proto, address, String(port)], { stdio: 'ignore' }),
    );
    const table = proto === 'tcp' ? '-tln' : '-uln';
    await this.box.until(() => this.run(host, 'ss', table).includes(`:${port} `), 10000, 'server');
  }

  /** Asks a server from this local port: 'ok', 'refused' (also by an ICMP error) or 'timeout'. */
  ask(
    host: string,
    proto: 'tcp' | 'udp',
    localPort: number,
    address: string,
    port: number,
  ): string {
    const args = [this.box.path('peer.py'), 'ask', proto, String(localPort), address, String(port)];
    return this.run(host, 'python3', ...args).trim();
  }

  ping(host: string, address: string): boolean {
    return this.attempt(host, 'ping', '-c', '1', '-W', '2', address).stdout.includes(
      ' 0% packet loss',
    );
  }

  /** dpctl/dump-conntrack, sorted. */
  connections(...args: string[]): string[] {
    const text = this.box.appctl('dpctl/dump-conntrack', ...args);
    return text
      .split('\n')
      .filter((line) => line !== '')
      .sort();
  }

  async stop(): Promise<void> {
    for (const child of this.#children) child.kill('SIGKILL');
    await sleep(50);
    await this.box.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}
