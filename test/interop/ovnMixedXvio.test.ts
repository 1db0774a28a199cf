// One OVN over Geneve, then VXLAN, whose gateway runs xvio, the other hypervisor the real ovs-vswitchd: they interoperate.

import { testAcross } from './ovnTunnel.ts';

testAcross({
  encap: 'geneve',
  hosts: [
    { name: 'hv1', daemon: 'xvio' },
    { name: 'hv2', daemon: 'real' },
  ],
});
