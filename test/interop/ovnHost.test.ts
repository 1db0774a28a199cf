// One hypervisor: a real, unmodified ovn-controller drives xvio, and everything that OVN offers within a host works for
// machines in namespaces.

import { after, before, test } from 'node:test';
import { CHECKS } from './ovnChecks.ts';
import { OvnNet } from './ovnNet.ts';
import { addMachines, buildTopology } from './ovnTopology.ts';

let net: OvnNet;
const daemon = process.env.XVIO_OVN_DAEMON === 'real' ? 'real' : 'xvio';

before(async () => {
  net = await OvnNet.start({ hosts: [{ name: 'hv1', daemon }], encap: 'geneve' });
  buildTopology(net, 'hv1', 'hv1');
  await addMachines(net, 'hv1', 'hv1');
});

after(() => net?.stop());

for (const check of CHECKS) test(check.name, () => check.run(net, 'hv1', 'hv1'));
