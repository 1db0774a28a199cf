// One OVN over Geneve, then VXLAN, whose gateway runs the real ovs-vswitchd, the other hypervisor xvio: they interoperate.

import { testAcross } from './ovnTunnel.ts';

testAcross({
  encap: 'geneve',
  hosts: [
    { name: 'hv1', daemon: 'real' },
    { name: 'hv2', daemon: 'xvio' },
  ],
});
