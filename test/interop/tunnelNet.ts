// Hosts with tunnels for tests: each a sandbox with an underlay bridge (br-phy, the address that tunnels use on its own
// port) and an overlay bridge (br-int, whose own port stands for a guest). Or a namespace with the Linux kernel's tunnels.

import { execFileSync } from 'node:child_process';
import { Sandbox } from './sandbox.ts';

export function inNamespace(namespace: string, ...args: string[]): string {
  return execFileSync('ip', ['netns', 'exec', namespace, ...args], {
    encoding: 'utf8',
    timeout: 60000,
  });
}

export const underlay4 = (host: number): string => `172.31.0.${host}`;
export const underlay6 = (host: number): string => `fd00:31::${host}`;
export const overlay4 = (host: number): string => `10.31.0.${host}`;
export const overlay6 = (host: number): string => `fd00:32::${host}`;

/** Options of an Interface row as arguments of ovs-vsctl. */
export const options = (map: Readonly<Record<string, string | number>>): string[] =>
  Object.entries(map).map(([key, value]) => `options:${key}="${value}"`);

/** Starts a host whose br-phy has the device `eth0`, still to be created, and gives it the addresses of `host`. */
export async function startHost(
  daemon: 'xvio' | 'real',
  host: number,
  connect: (box: Sandbox) => void,
): Promise<Sandbox> {
  const box = await Sandbox.start({ daemon });
  connect(box);
  box.must('ip', 'link', 'set', 'eth0', 'up');
  const bridge = (name: string): string[] => [
    ...['--', 'add-br', name, '--', 'set', 'bridge', name, 'datapath_type=netdev'],
  ];
  box.vsctl(...bridge('br-phy').slice(1), ...bridge('br-int'), '--', 'add-port', 'br-phy', 'eth0');
  for (const [device, v4, v6] of [
    ['br-phy', underlay4(host), underlay6(host)],
    ['br-int', overlay4(host), overlay6(host)],
  ] as const) {
    box.must('ip', 'addr', 'add', `${v4}/24`, 'dev', device);
    box.must('ip', '-6', 'addr', 'add', `${v6}/64`, 'dev', device, 'nodad');
    box.must('ip', 'link', 'set', device, 'up', ...(device === 'br-int' ? ['mtu', '1400'] : []));
  }
  return box;
}

/** xvio and the real daemon, with a cable between their eth0. */
export async function startPair(): Promise<[ours: Sandbox, theirs: Sandbox]> {
  const ours = await startHost('xvio', 1, (box) => {
    box.must('ip', 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'far0');
  });
  const theirs = await startHost('real', 2, (box) => {
    ours.must('ip', 'link', 'set', 'far0', 'netns', box.namespace!);
    box.must('ip', 'link', 'set', 'far0', 'name', 'eth0');
  }).catch(async (error) => {
    await ours.stop();
    throw error;
  });
  // The real daemon takes checksums from a veth as they are: the kernels have to complete them.
  for (const box of [ours, theirs]) {
    for (const device of ['eth0', 'br-int', 'br-phy']) {
      box.run('ethtool', '-K', device, 'tx', 'off', 'tso', 'off', 'gso', 'off', 'gro', 'off');
    }
  }
  return [ours, theirs];
}

/** Adds a tunnel port to br-int. */
export function addTunnel(
  box: Sandbox,
  name: string,
  type: string,
  map: Readonly<Record<string, string | number>>,
): void {
  box.vsctl(
    ...['add-port', 'br-int', name, '--', 'set', 'interface', name, `type=${type}`],
    ...options(map),
  );
}

/** Pings until an answer comes, since routes and neighbours have to become known. */
export function pingUntil(ping: () => string, tries = 10): string {
  for (let i = 1; ; i++) {
    try {
      return ping();
    } catch (error) {
      if (i === tries) throw error;
    }
  }
}
