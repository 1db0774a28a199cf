// Two gateways of one OVN router and a third hypervisor with a machine. ovn-controller asks for BFD on their tunnels, and
// a gateway that the others no longer hear loses the router's port to the next one, which announces its addresses to the
// physical network; over Geneve, then over VXLAN. It takes three: OVN moves nothing to a chassis whose tunnels are all down, so that of two that lose
// each other both would stay as they are.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { OvnNet } from './ovnNet.ts';

const daemon = process.env.XVIO_OVN_DAEMON === 'real' ? 'real' : 'xvio';
const MAC = '02:00:00:00:01:01';
const OUTSIDE = '172.20.0.254';
const FLOATING = '172.20.0.60';
const MOVE_MAX_MS = 20_000;

let net: OvnNet;

before(async () => {
  const hosts = ['hv1', 'hv2', 'hv3'].map((name) => ({ name, daemon }) as const);
  net = await OvnNet.start({ hosts, encap: 'geneve' });
  const nb = (line: string): string => net.nb(...line.split(' '));
  nb('ls-add ls1 -- lsp-add ls1 vm1 -- ls-add ext -- lr-add lr1');
  net.nb('lsp-set-addresses', 'vm1', `${MAC} 10.1.0.11`);
  nb('lrp-add lr1 lr1-ls1 02:00:00:00:01:fe 10.1.0.1/24 -- lsp-add ls1 ls1-lr1');
  nb('lsp-set-type ls1-lr1 router -- lsp-set-addresses ls1-lr1 router');
  nb('lsp-set-options ls1-lr1 router-port=lr1-ls1');
  nb('lrp-add lr1 lr1-ext 02:00:00:00:03:fe 172.20.0.1/24 -- lsp-add ext ext-lr1');
  nb('lsp-set-type ext-lr1 router -- lsp-set-addresses ext-lr1 router');
  nb('lsp-set-options ext-lr1 router-port=lr1-ext nat-addresses=router');
  nb('lsp-add ext ext-ln -- lsp-set-type ext-ln localnet -- lsp-set-addresses ext-ln unknown');
  nb('lsp-set-options ext-ln network_name=physnet1');
  nb('lr-nat-add lr1 snat 172.20.0.1 10.1.0.0/24');
  nb(`lr-nat-add lr1 dnat_and_snat ${FLOATING} 10.1.0.11`);
  nb('lrp-set-gateway-chassis lr1-ext hv1 20 -- lrp-set-gateway-chassis lr1-ext hv2 10');
  net.addMachine({
    ...{ name: 'vm1', host: 'hv3', mac: MAC, addresses: ['10.1.0.11/24'] },
    gateway: '10.1.0.1',
  });
  net.sync();
});

after(() => net?.stop());

/** The hypervisor that has the router's port on the physical network. */
function gateway(): string {
  const columns = ['--bare', '--columns=chassis', 'find', 'Port_Binding'];
  const uuid = net.sb(...columns, 'logical_port=cr-lr1-ext').trim();
  return uuid === '' ? '' : net.sb('--bare', '--columns=name', 'list', 'Chassis', uuid).trim();
}

/** The state of BFD that a hypervisor's database has about another. */
function bfdState(host: string, other: string): string {
  const { box } = net.host(host);
  return box
    .run('ovs-vsctl', 'get', 'Interface', `ovn-${other}-0`, 'bfd_status:state')
    .stdout.trim();
}

const reaches = (from: string, to: string): boolean =>
  net.run(from, 'ping', '-q', '-c', '1', '-W', '1', to).status === 0;

for (const encap of ['geneve', 'vxlan'] as const) {
  if (encap === 'vxlan') test('the tunnels become VXLAN', () => net.changeEncap(encap));
  test(`BFD runs on ${encap} tunnels, and the first gateway has the port`, async () => {
    for (const [a, b] of [
      ['hv1', 'hv2'],
      ['hv2', 'hv3'],
      ['hv3', 'hv1'],
    ] as const) {
      await net.until(() => bfdState(a, b) === 'up', 30000, `BFD from ${a} to ${b}`);
    }
    await net.until(() => gateway() === 'hv1', 20000, 'gateway hv1');
    await net.until(() => reaches('out', FLOATING), 20000, 'answer of the floating address');
    assert.ok(reaches('vm1', OUTSIDE), net.logs());
  });

  test(`a gateway cut off from the underlay loses the port to the second one, over ${encap}`, async (t) => {
    net.in('c', 'ip', 'link', 'set', 'u1', 'down');
    const startedMs = Date.now();
    await net.until(() => gateway() === 'hv2', MOVE_MAX_MS, 'gateway hv2');
    const bindingMs = Date.now() - startedMs;
    await net.until(() => reaches('vm1', OUTSIDE), MOVE_MAX_MS, 'way to the outside by hv2');
    await net.until(() => reaches('out', FLOATING), MOVE_MAX_MS, 'floating address at hv2');
    t.diagnostic(`binding moved in ${bindingMs} ms, traffic in ${Date.now() - startedMs} ms`);
  });

  test(`and gets it back when it is there again, over ${encap}`, async () => {
    net.in('c', 'ip', 'link', 'set', 'u1', 'up');
    await net.until(() => gateway() === 'hv1', MOVE_MAX_MS * 2, 'gateway hv1');
    await net.until(() => reaches('vm1', OUTSIDE), MOVE_MAX_MS, 'way to the outside by hv1');
    await net.until(() => reaches('out', FLOATING), MOVE_MAX_MS, 'floating address at hv1');
  });
}
