// Two xvio hypervisors of one OVN, over Geneve.

import { testAcross } from './ovnTunnel.ts';

testAcross({
  encap: 'geneve',
  hosts: [
    { name: 'hv1', daemon: 'xvio' },
    { name: 'hv2', daemon: 'xvio' },
  ],
});
