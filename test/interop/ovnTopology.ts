// What the tests of OVN build: logical switches, a router with a gateway, and everything that an orchestrator would ask
// for on them, on one hypervisor or two. `first` has the gateway, `second` the other machines (it may be the same).
//
//   ls1 10.1.0.0/24   vm1 (first), vm2 (second), vm4 (first, DHCP), sub1 (VLAN 42 behind vm3), md1 (localport)
//   ls2 10.2.0.0/24   vm3 (second)
//   ls6 fd00:6::/64   vm6 (first), vm7 (second)
//   prov              vm8 (second), VLAN 30 of the physical network
//   ext 172.20.0.0/24, fd00:20::/64 the physical network, through lr1

import type { OvnNet } from './ovnNet.ts';

export const MAC = {
  vm1: '02:00:00:00:01:01',
  vm2: '02:00:00:00:01:02',
  vm3: '02:00:00:00:02:03',
  vm4: '02:00:00:00:01:04',
  vm6: '02:00:00:00:06:06',
  vm7: '02:00:00:00:06:07',
  vm8: '02:00:00:00:08:08',
  sub1: '02:00:00:00:01:42',
  md1: '02:00:00:00:01:fd',
};

/** An address that the router answers ARP for without having it. */
export const PROXIED = '169.254.100.1';
/** Who may use the web servers of the port group. */
export const CLIENTS = 'addresses="10.1.0.0/24","10.2.0.0/24","172.20.0.0/24"';

/** One transaction of ovn-nbctl from many commands. */
function nbAll(net: OvnNet, ...commands: string[]): void {
  net.nb(...commands.flatMap((command, i) => [...(i > 0 ? ['--'] : []), ...command.split(' ')]));
}

function logicalSwitch(name: string, ...ports: [name: string, addresses: string][]): string[] {
  return [`ls-add ${name}`, ...ports.map(([port]) => `lsp-add ${name} ${port}`)];
}

function routerPort(
  router: string,
  network: string,
  mac: string,
  ...addresses: string[]
): string[] {
  const up = `${router}-${network}`;
  const down = `${network}-${router}`;
  return [
    `lrp-add ${router} ${up} ${mac} ${addresses.join(' ')}`,
    `lsp-add ${network} ${down}`,
    `lsp-set-type ${down} router`,
    `lsp-set-addresses ${down} router`,
    `lsp-set-options ${down} router-port=${up}`,
  ];
}

function localnet(network: string): string[] {
  const port = `${network}-ln`;
  return [
    `lsp-add ${network} ${port}`,
    `lsp-set-type ${port} localnet`,
    `lsp-set-addresses ${port} unknown`,
    `lsp-set-options ${port} network_name=physnet1`,
  ];
}

/** The logical network. */
export function buildTopology(net: OvnNet, first: string, second: string): void {
  const ls1: [string, string][] = [
    ['vm1', `${MAC.vm1} 10.1.0.11`],
    ['vm2', `${MAC.vm2} 10.1.0.12`],
    ['vm4', `${MAC.vm4} 10.1.0.14`],
  ];
  const ls6: [string, string][] = [
    ['vm6', `${MAC.vm6} 10.6.0.16 fd00:6::16`],
    ['vm7', `${MAC.vm7} 10.6.0.17 fd00:6::17`],
  ];
  const ports = [
    ...ls1,
    ['vm3', `${MAC.vm3} 10.2.0.13`],
    ...ls6,
    ['vm8', `${MAC.vm8} 172.30.0.18`],
  ];
  nbAll(
    net,
    ...logicalSwitch('ls1', ...ls1),
    ...logicalSwitch('ls2', ['vm3', '']),
    ...logicalSwitch('ls6', ...ls6),
    ...logicalSwitch('prov', ['vm8', '']),
    'ls-add ext',
    'lr-add lr1',
    'lsp-add ls1 md1',
    'lsp-set-type md1 localport',
  );
  nbAll(
    net,
    ...routerPort('lr1', 'ls1', '02:00:00:00:01:fe', '10.1.0.1/24'),
    ...routerPort('lr1', 'ls2', '02:00:00:00:02:fe', '10.2.0.1/24'),
    ...routerPort('lr1', 'ls6', '02:00:00:00:06:fe', '10.6.0.1/24', 'fd00:6::1/64'),
    ...routerPort('lr1', 'ext', '02:00:00:00:03:fe', '172.20.0.1/24', 'fd00:20::1/64'),
    `set Logical_Switch_Port ls1-lr1 options:arp_proxy=${PROXIED}`,
    ...localnet('ext'),
  );
  for (const [port, addresses] of ports) net.nb('lsp-set-addresses', port!, addresses!);
  net.nb('lsp-set-addresses', 'md1', `${MAC.md1} 10.1.0.2`);
  net.nb('lsp-set-port-security', 'vm1', `${MAC.vm1} 10.1.0.11`);
  // A provider network with a VLAN of its own.
  nbAll(net, ...localnet('prov'));
  net.nb('set', 'Logical_Switch_Port', 'prov-ln', 'tag_request=30', 'tag=30');
  // The trunk: a container behind vm3, in VLAN 42.
  net.nb('lsp-add', 'ls1', 'sub1', 'vm3', '42');
  net.nb('lsp-set-addresses', 'sub1', `${MAC.sub1} 10.1.0.42`);
  net.nb('lrp-set-gateway-chassis', 'lr1-ext', first, '20');
  if (second !== first) net.nb('lrp-set-gateway-chassis', 'lr1-ext', second, '10');
  net.nb('lr-nat-add', 'lr1', 'snat', '172.20.0.1', '10.1.0.0/24');
  net.nb(
    ...['lr-nat-add', 'lr1', 'dnat_and_snat', '172.20.0.50', '10.1.0.12', 'vm2'],
    '02:00:00:00:03:50',
  );
  net.nb('lr-nat-add', 'lr1', 'dnat_and_snat', '172.20.0.60', '10.2.0.13');
  net.nb('lr-nat-add', 'lr1', 'dnat', '172.20.0.70', '10.2.0.13');
  net.nb('lr-nat-add', 'lr1', 'snat', 'fd00:20::1', 'fd00:6::/64');
  net.nb('lr-nat-add', 'lr1', 'dnat_and_snat', 'fd00:20::60', 'fd00:6::17');
  addPolicies(net);
  addServices(net);
}

/** Access control: a port group that lets in ICMP and two TCP ports, rejects telnet, drops and logs the rest. */
function addPolicies(net: OvnNet): void {
  net.nb('pg-add', 'pg', 'vm2', 'vm3');
  net.nb('create', 'Address_Set', 'name=clients', CLIENTS);
  net.nb('meter-add', 'mlog', 'drop', '10', 'pktps', '5');
  const acl = (
    direction: string,
    priority: number,
    match: string,
    verdict: string,
    ...o: string[]
  ) => net.nb(...o, 'acl-add', 'pg', direction, String(priority), match, verdict);
  acl('from-lport', 1001, 'inport == @pg && ip4', 'allow-related');
  acl('to-lport', 1001, 'outport == @pg && ip4 && icmp4', 'allow-related');
  const web = 'outport == @pg && ip4.src == $clients && tcp.dst == {80, 8000}';
  acl('to-lport', 1001, web, 'allow-related');
  acl('to-lport', 1001, 'outport == @pg && ip4 && udp.dst == 5201', 'allow-related');
  acl('to-lport', 1002, 'outport == @pg && tcp.dst == 23', 'reject');
  const log = ['--log', '--severity=info', '--name=dropall', '--meter=mlog'];
  acl('to-lport', 1000, 'outport == @pg && ip', 'drop', ...log);
}

function addServices(net: OvnNet): void {
  const dhcp = net
    .nb(
      ...['create', 'DHCP_Options', 'cidr=10.1.0.0/24'],
      'options="server_id"="10.1.0.1" "server_mac"="02:00:00:00:01:fe" "lease_time"="3600" ' +
        '"router"="10.1.0.1" "dns_server"="10.1.0.1"',
    )
    .trim();
  net.nb('lsp-set-dhcpv4-options', 'vm4', dhcp);
  const dhcp6 = net
    .nb('create', 'DHCP_Options', 'cidr="fd00:6::/64"', 'options="server_id"="02:00:00:00:06:fe"')
    .trim();
  net.nb('lsp-set-dhcpv6-options', 'vm6', dhcp6);
  net.nb(
    ...['set', 'Logical_Router_Port', 'lr1-ls6', 'ipv6_ra_configs:address_mode=dhcpv6_stateful'],
    ...['ipv6_ra_configs:send_periodic=true', 'ipv6_ra_configs:mtu=1400'],
  );
  const dns = net.nb('create', 'DNS', 'records={"vm2.example"="10.1.0.12"}').trim();
  net.nb('set', 'Logical_Switch', 'ls1', `dns_records=${dns}`);
  // Load balancers: two backends with health checks; one with affinity; one whose backend is the client itself.
  net.nb('lb-add', 'lb1', '10.1.0.100:80', '10.1.0.12:8000,10.2.0.13:8000', 'tcp');
  net.nb('set', 'Load_Balancer', 'lb1', 'ip_port_mappings:10.1.0.12="vm2:10.1.0.3"');
  net.nb('set', 'Load_Balancer', 'lb1', 'ip_port_mappings:10.2.0.13="vm3:10.2.0.3"');
  net.nb('lb-add', 'lb2', '10.1.0.101:80', '10.1.0.12:8000,10.2.0.13:8000', 'tcp');
  net.nb('set', 'Load_Balancer', 'lb2', 'options:affinity_timeout=120');
  net.nb('lb-add', 'lb3', '10.1.0.102:80', '10.1.0.11:8000', 'tcp');
  net.nb('lb-add', 'lb6', '[fd00:6::100]:80', '[fd00:6::17]:8000', 'tcp');
  net.nb('ls-lb-add', 'ls6', 'lb6', '--', 'lr-lb-add', 'lr1', 'lb6');
  for (const lb of ['lb1', 'lb2', 'lb3']) {
    net.nb('ls-lb-add', 'ls1', lb);
    net.nb('lr-lb-add', 'lr1', lb); // the router answers ARP for the virtual addresses
  }
  net.nb(
    ...['qos-add', 'ls1', 'from-lport', '100', 'inport == "vm1" && udp', 'rate=2000', 'burst=200'],
    'dscp=46',
  );
  net.nb(
    ...['set', 'Logical_Switch', 'ls1', 'other_config:mcast_snoop=true'],
    ...['other_config:mcast_flood_unregistered=false', 'other_config:mcast_querier=true'],
    ...['other_config:mcast_eth_src=02:00:00:00:01:fe', 'other_config:mcast_ip4_src=10.1.0.1'],
  );
}

/** The machines, their servers, and the physical network's VLAN 30. */
export async function addMachines(net: OvnNet, first: string, second: string): Promise<void> {
  const place = (
    name: keyof typeof MAC,
    host: string,
    addresses: readonly string[],
    gateway?: string,
  ): void => net.addMachine({ name, host, mac: MAC[name], addresses, gateway });
  place('vm1', first, ['10.1.0.11/24'], '10.1.0.1');
  place('vm2', second, ['10.1.0.12/24'], '10.1.0.1');
  place('vm3', second, ['10.2.0.13/24'], '10.2.0.1');
  place('vm4', first, []);
  place('vm6', first, ['10.6.0.16/24'], '10.6.0.1');
  place('vm7', second, ['10.6.0.17/24', 'fd00:6::17/64'], '10.6.0.1');
  net.in('vm7', 'ip', '-6', 'route', 'replace', 'default', 'via', 'fd00:6::1');
  place('vm8', second, ['172.30.0.18/24']);
  for (const { name } of net.hosts) {
    const machine = { name: `md-${name}`, host: name, mac: MAC.md1, port: 'md1' };
    net.addMachine({ ...machine, addresses: ['169.254.169.254/32', '10.1.0.2/24'] });
  }
  await Promise.all([
    net.serve('vm1', 8000),
    net.serve('vm2', 8000, 22, 23),
    net.serve('vm3', 8000, 22),
    net.serve('vm7', 8000),
    net.serve('out', 80),
    ...net.hosts.map(({ name }) => net.serve(`md-${name}`, 80)),
    net.vlanPeer('vm3', 'eth0', 42, MAC.sub1, '10.1.0.42'),
    net.vlanPeer('out', 'phys', 30, net.macOf('out', 'phys'), '172.30.0.254'),
  ]);
  net.sync();
}
