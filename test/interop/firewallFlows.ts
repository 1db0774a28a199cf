// Flows of a stateful firewall as Neutron's Open vSwitch firewall driver writes them: egress in tables 71 … 73, ingress in
// 81 and 82, accepted packets in 94. reg5 is the port, reg6 the network, which is the zone of connection tracking.
// Everything is denied that no rule of a security group allows; what was allowed and is not any more is marked 1.

import type { Host } from './firewallNet.ts';

export interface SecurityGroup {
  host: Host;
  addresses: readonly string[];
  /** Matches that may come in: "tcp,tp_dst=80", "udp6,tp_dst=53", "icmp". */
  ingress: readonly string[];
}

const ZONE = 'zone=NXM_NX_REG6[0..15]';
const ND = [130, 131, 132, 135, 136];

function egress({ host, addresses }: SecurityGroup, net: number): string[] {
  const reg = `reg5=${host.port}`;
  const from = `${reg},in_port=${host.port},dl_src=${host.mac}`;
  const flows = [
    `table=60,priority=100,in_port=${host.port},actions=load:${host.port}->NXM_NX_REG5[],load:${net}->NXM_NX_REG6[],resubmit(,71)`,
    `table=71,priority=10,${reg},in_port=${host.port},actions=drop`,
    ...ND.map(
      (type) => `table=71,priority=95,icmp6,${from},icmp_type=${type},actions=resubmit(,94)`,
    ),
  ];
  for (const address of addresses) {
    flows.push(
      address.includes(':')
        ? `table=71,priority=65,ipv6,${from},ipv6_src=${address},actions=ct(table=72,${ZONE})`
        : `table=71,priority=65,ip,${from},nw_src=${address},actions=ct(table=72,${ZONE})`,
    );
    if (!address.includes(':')) {
      flows.push(`table=71,priority=95,arp,${from},arp_spa=${address},actions=resubmit(,94)`);
    }
  }
  for (const ip of ['ip', 'ipv6']) {
    flows.push(
      `table=72,priority=74,ct_state=+est-rel-rpl,${ip},${reg},actions=resubmit(,73)`,
      `table=72,priority=74,ct_state=+new-est,${ip},${reg},actions=resubmit(,73)`,
      `table=72,priority=40,ct_state=+est,${ip},${reg},actions=ct(commit,${ZONE},exec(load:0x1->NXM_NX_CT_MARK[]))`,
      `table=73,priority=90,ct_state=+new-est,${ip},${reg},actions=ct(commit,${ZONE}),normal`,
    );
  }
  flows.push(
    `table=72,priority=50,ct_mark=0x1,${reg},actions=drop`,
    `table=72,priority=50,ct_state=+inv+trk,${reg},actions=drop`,
    `table=72,priority=50,ct_state=+est-rel+rpl,ct_zone=${net},ct_mark=0,${reg},actions=resubmit(,94)`,
    `table=72,priority=50,ct_state=-new-est+rel-inv,ct_zone=${net},ct_mark=0,${reg},actions=resubmit(,94)`,
    `table=72,priority=40,ct_state=-est,${reg},actions=drop`,
    `table=73,priority=80,${reg},actions=resubmit(,94)`,
  );
  return flows;
}

function ingress({ host, ingress: rules }: SecurityGroup, net: number): string[] {
  const reg = `reg5=${host.port}`;
  const out = `output:${host.port}`;
  const here = `load:${host.port}->NXM_NX_REG5[],load:${net}->NXM_NX_REG6[],resubmit(,81)`;
  const flows = [
    `table=73,priority=100,reg6=${net},dl_dst=${host.mac},actions=${here}`,
    `table=94,priority=12,reg6=${net},dl_dst=${host.mac},actions=${here}`,
    `table=81,priority=100,arp,${reg},actions=${out}`,
    ...ND.map((type) => `table=81,priority=100,icmp6,${reg},icmp_type=${type},actions=${out}`),
    `table=81,priority=95,ct_state=-trk,ip,${reg},actions=ct(table=82,${ZONE})`,
    `table=81,priority=95,ct_state=-trk,ipv6,${reg},actions=ct(table=82,${ZONE})`,
    `table=81,priority=80,ct_state=+trk,${reg},actions=resubmit(,82)`,
    `table=82,priority=50,ct_mark=0x1,${reg},actions=drop`,
    `table=82,priority=50,ct_state=+inv+trk,${reg},actions=drop`,
    `table=82,priority=50,ct_state=+est-rel+rpl,ct_zone=${net},ct_mark=0,${reg},actions=${out}`,
    `table=82,priority=50,ct_state=-new-est+rel-inv,ct_zone=${net},ct_mark=0,${reg},actions=${out}`,
    `table=82,priority=40,ct_state=-est,${reg},actions=drop`,
  ];
  for (const ip of ['ip', 'ipv6']) {
    flows.push(
      `table=82,priority=40,ct_state=+est,${ip},${reg},actions=ct(commit,${ZONE},exec(load:0x1->NXM_NX_CT_MARK[]))`,
    );
  }
  for (const rule of rules) {
    flows.push(
      `table=82,priority=77,ct_state=+est-rel-rpl,${rule},${reg},actions=${out}`,
      `table=82,priority=77,ct_state=+new-est,${rule},${reg},actions=ct(commit,${ZONE}),${out}`,
    );
  }
  return flows;
}

/** All flows of a bridge whose hosts are on one network. */
export function firewallFlows(groups: readonly SecurityGroup[], net = 1): string[] {
  return [
    'table=0,priority=0,actions=resubmit(,60)',
    'table=94,priority=10,actions=normal',
    ...groups.flatMap((group) => [...egress(group, net), ...ingress(group, net)]),
  ];
}

/** A port without a security group: a router's. */
export function passThrough(host: Host, net = 1): string[] {
  const set = `load:${host.port}->NXM_NX_REG5[],load:${net}->NXM_NX_REG6[]`;
  return [`table=60,priority=100,in_port=${host.port},actions=${set},resubmit(,94)`];
}

/**
 * Rules for a remote group: any of the addresses with any of the services may come in. A + S flows instead of A × S; id
 * is the first of two conjunctions, for established and for new connections.
 */
export function conjunctionFlows(
  host: Host,
  id: number,
  remote: readonly string[],
  services: readonly string[],
  net = 1,
): string[] {
  const flows: string[] = [];
  const out = `output:${host.port}`;
  const of = { 4: 'ip', 6: 'ipv6' } as const;
  for (const family of [4, 6] as const) {
    const states = [
      { id: id + family, state: '+est-rel-rpl', actions: out },
      { id: id + family + 1, state: '+new-est', actions: `ct(commit,${ZONE}),${out}` },
    ];
    for (const { id, state, actions } of states) {
      const head = `table=82,priority=71,ct_state=${state}`;
      for (const address of remote) {
        if (address.includes(':') !== (family === 6)) continue;
        const source = family === 6 ? `ipv6,ipv6_src=${address}` : `ip,nw_src=${address}`;
        flows.push(`${head},${source},reg6=${net},actions=conjunction(${id},1/2)`);
      }
      for (const service of services) {
        if (/^\w*6/.test(service) !== (family === 6)) continue;
        flows.push(`${head},${service},reg5=${host.port},actions=conjunction(${id},2/2)`);
      }
      flows.push(`${head},conj_id=${id},${of[family]},reg5=${host.port},actions=${actions}`);
    }
  }
  return flows;
}
