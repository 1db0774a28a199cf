// Two xvio hypervisors of one OVN, over VXLAN.

import { testAcross } from './ovnTunnel.ts';

testAcross({
  encap: 'vxlan',
  hosts: [
    { name: 'hv1', daemon: 'xvio' },
    { name: 'hv2', daemon: 'xvio' },
  ],
});
