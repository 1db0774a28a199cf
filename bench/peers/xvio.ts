// xvio itself: bin/ovs-vswitchd in a sandbox, one worker on the core of the switch.

import type { Peer, Setup, Testbed, Wiring } from '../types.ts';
import { type OvsOptions, startOvs } from './ovs.ts';

const OPTIONS = (setup: Setup): OvsOptions => ({
  name: 'xvio',
  sandbox: {
    configure: (box) =>
      box.must(
        'ovs-vsctl',
        '--no-wait',
        'set',
        'Open_vSwitch',
        '.',
        `other_config:pmd-cpu-mask=${(1 << setup.switchCore).toString(16)}`,
      ),
  },
  threadName: /^xvio-pmd/,
  cycleNs: 1,
  relay: (box, ports) => {
    for (const [i, port] of ports.entries()) {
      box.vsctl('set', 'interface', port, `other_config:relay=${ports[i ^ 1]}`);
    }
  },
});

const peer = (name: string, wirings: readonly Wiring[]): Peer => ({
  name,
  wirings,
  missing: () => undefined,
  async start(setup: Setup): Promise<Testbed> {
    return startOvs({ ...OPTIONS(setup), name }, setup);
  },
});

export const xvio = peer('xvio', ['port', 'l2', 'rules', 'none']);
export const xvioRelay = peer('xvio-relay', ['relay']);
