// xvio itself: bin/ovs-vswitchd in a sandbox, one worker on the core of the switch.

import path from 'node:path';
import type { Peer, Setup, Testbed, Wiring } from '../types.ts';
import { coreMask, type OvsOptions, startOvs } from './ovs.ts';

export const xvioOptions = (setup: Setup): OvsOptions => ({
  name: 'xvio',
  sandbox: {
    configure: (box) =>
      box.must(
        'ovs-vsctl',
        '--no-wait',
        'set',
        'Open_vSwitch',
        '.',
        `other_config:pmd-cpu-mask=${coreMask(setup)}`,
      ),
  },
  threadName: /^xvio-pmd/,
  cycleNs: 1,
  namesDrops: true,
  relay: (box, ports) => {
    for (const [i, port] of ports.entries()) {
      box.vsctl('set', 'interface', port, `other_config:relay=${ports[i ^ 1]}`);
    }
  },
});

const peer = (name: string, wirings: readonly Wiring[], binary?: string): Peer => ({
  name,
  wirings,
  missing: () => undefined,
  async start(setup: Setup): Promise<Testbed> {
    const options = xvioOptions(setup);
    const sandbox = { ...options.sandbox, ...(binary ? { binary } : {}) };
    return startOvs({ ...options, sandbox, name }, setup);
  },
});

/** xvio of another checkout: is a change any good? */
export function xvioOf(directory: string): Peer {
  return xvioNamed(directory, `xvio:${path.basename(directory)}`);
}

export function xvioNamed(directory: string, name: string): Peer {
  return peer(
    name,
    ['port', 'l2', 'rules', 'acl-vxlan', 'firewall', 'none'],
    path.resolve(directory, 'bin/ovs-vswitchd'),
  );
}

export const xvio = peer('xvio', ['port', 'l2', 'rules', 'acl-vxlan', 'firewall', 'none']);
export const xvioRelay = peer('xvio-relay', ['relay']);
