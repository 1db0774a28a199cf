// Open vSwitch with DPDK, from Debian's openvswitch-switch-dpdk: one PMD thread on the core of the switch, hugepages.

import { existsSync, mkdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { ensureHugepages } from '../hugepages.ts';
import { tscHz } from '../machine.ts';
import type { Peer, Setup, Testbed } from '../types.ts';
import { coreMask, startOvs } from './ovs.ts';

const BINARY = '/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk';
const MEGABYTES = 512;

/** The daemon names its pidfile and control socket after its program; ovs-appctl looks for those of `ovs-vswitchd`. */
function renamed(): string {
  const directory = path.join(tmpdir(), 'xvio-bench-ovs-dpdk');
  mkdirSync(directory, { recursive: true });
  const link = path.join(directory, 'ovs-vswitchd');
  rmSync(link, { force: true });
  symlinkSync(BINARY, link);
  return link;
}

export const ovsDpdk: Peer = {
  name: 'ovs-dpdk',
  wirings: ['port', 'l2', 'rules', 'acl-vxlan', 'firewall', 'none'],
  missing() {
    if (!existsSync(BINARY)) return 'apt-get install openvswitch-switch-dpdk';
    return ensureHugepages(MEGABYTES);
  },
  async start(setup: Setup): Promise<Testbed> {
    const set = (key: string, value: string) => `other_config:${key}=${value}`;
    return startOvs(
      {
        name: 'ovs-dpdk',
        sandbox: {
          binary: renamed(),
          configure: (box) =>
            box.must(
              'ovs-vsctl',
              '--no-wait',
              'set',
              'Open_vSwitch',
              '.',
              set('dpdk-init', 'true'),
              set('pmd-cpu-mask', coreMask(setup)),
              set('dpdk-lcore-mask', (1 << setup.generatorCore).toString(16)),
              set('dpdk-socket-mem', String(MEGABYTES)),
              ...(setup.offloads ? [set('userspace-tso-enable', 'true')] : []),
              set(
                'dpdk-extra',
                `"--in-memory --no-pci --no-telemetry --file-prefix=b${process.pid}"`,
              ),
            ),
        },
        threadName: /^pmd-c/,
        cycleNs: 1e9 / tscHz(),
      },
      setup,
    );
  },
};
