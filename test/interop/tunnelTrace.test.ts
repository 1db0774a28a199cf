// ofproto/trace of packets that go into tunnels, on xvio and on the real ovs-vswitchd: the same ports, flows and neighbours on
// both, the same text. It shows what the options do (TOS, TTL and ECN, do not fragment, marks, keys, checksums), which
// fields a megaflow has to look at for them, and the tunnel fields that stay in the flow.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Sandbox } from './sandbox.ts';
import { addTunnel, startHost, underlay4, underlay6 } from './tunnelNet.ts';

const BASE = 'in_port=LOCAL,eth_src=02:00:00:00:00:01,eth_dst=02:00:00:00:00:02';
const udp = (ecn: number): string =>
  `${BASE},udp,nw_src=10.0.0.1,nw_dst=10.0.0.2,nw_tos=184,nw_ecn=${ecn},nw_ttl=17,udp_src=1,udp_dst=2`;
const PACKETS = [
  udp(1),
  udp(3),
  `${BASE},udp6,ipv6_src=fd00::1,ipv6_dst=fd00::2,nw_tos=40,nw_ecn=2,nw_ttl=9,udp_src=1,udp_dst=2`,
  `${BASE},arp`,
  `${udp(1)},dl_vlan=5`,
];
const FAR_MAC = '02:00:00:00:00:bb';

interface Case {
  readonly type: string;
  readonly options: Record<string, string>;
  /** Before the output. */
  readonly actions?: string;
}

const cases = (underlay: (host: number) => string): readonly Case[] => [
  { type: 'vxlan', options: { key: '1' } },
  { type: 'vxlan', options: { key: '2', tos: 'inherit' } },
  { type: 'vxlan', options: { key: '3', tos: '0x20', ttl: '9' } },
  { type: 'vxlan', options: { key: '4', ttl: 'inherit' } },
  { type: 'vxlan', options: { key: '5', df_default: 'false', csum: 'true' } },
  { type: 'vxlan', options: { key: '6', egress_pkt_mark: '77' } },
  { type: 'vxlan', options: { key: 'flow' }, actions: 'set_field:55->tun_id' },
  // Not gbp: this version of the real daemon never puts a group policy into what it sends.
  { type: 'vxlan', options: { key: '8', exts: 'gpe', packet_type: 'ptap', dst_port: '4801' } },
  {
    type: 'geneve',
    options: { key: '1', tos: 'inherit', ttl: 'inherit', df_default: 'false', csum: 'true' },
  },
  { type: 'gre', options: { tos: 'inherit', ttl: 'inherit', df_default: 'false' } },
  { type: 'gre', options: { key: '9', csum: 'true', seq: 'true' } },
  { type: 'gre', options: { key: '10', packet_type: 'legacy_l3' } },
  { type: 'gre', options: { key: '11', packet_type: 'ptap' } },
  {
    // The tunnel fields are still there at the end.
    type: 'gre',
    options: { key: 'flow', remote_ip: 'flow', local_ip: 'flow' },
    actions: underlay(1).includes(':')
      ? `set_field:3->tun_id,set_field:${underlay(2)}->tun_ipv6_dst,set_field:${underlay(1)}->tun_ipv6_src`
      : `set_field:3->tun_id,set_field:${underlay(2)}->tun_dst,set_field:${underlay(1)}->tun_src`,
  },
  { type: 'gtpu', options: { key: '9' } },
  { type: 'erspan', options: { key: '14', erspan_ver: '1', erspan_idx: '0xabcde' } },
  {
    type: 'erspan',
    options: { key: 'flow', erspan_ver: 'flow', remote_ip: underlay(2) },
    actions:
      'set_field:15->tun_id,set_field:2->tun_erspan_ver,set_field:1->tun_erspan_dir,set_field:0x3f->tun_erspan_hwid',
  },
  // Ports that carry nothing.
  { type: 'lisp', options: { key: '12' } },
  { type: 'stt', options: { key: '13' } },
];

let ours: Sandbox;
let theirs: Sandbox;

async function start(daemon: 'xvio' | 'real'): Promise<Sandbox> {
  const box = await startHost(daemon, 1, (one) => {
    one.must('ip', 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'far0');
    one.must('ip', 'link', 'set', 'far0', 'up');
  });
  box.vsctl('set', 'bridge', 'br-phy', 'other_config:hwaddr="02:00:00:00:00:aa"');
  // The real daemon takes the device down to give it the address: what IPv6 had set up goes.
  const address = `${underlay6(1)}/64`;
  box.must('ip', '-6', 'addr', 'replace', address, 'dev', 'br-phy', 'nodad');
  box.must('ip', 'link', 'set', 'br-phy', 'up');
  box.ofctl('del-flows', 'br-phy');
  box.ofctl('add-flow', 'br-phy', 'actions=eth0');
  const isReady = (): boolean => {
    const routes = box.appctl('ovs/route/show');
    return routes.includes('fd00:31::/64') && routes.includes('172.31.0.0/24');
  };
  await box.until(isReady, 15000, 'the routes of the underlay');
  return box;
}

before(async () => {
  ours = await start('xvio');
  theirs = await start('real');
});

after(async () => {
  await theirs?.stop();
  await ours?.stop();
});

/** Numbers of datapath ports are the daemon's own business. */
function trace(box: Sandbox, packet: string): string {
  return box
    .appctl('ofproto/trace', 'br-int', packet)
    .replace(/(tnl|out)_port\(\d+\)/g, '$1_port(N)')
    .replace(/^(Datapath actions: .*\)),\d+$/m, '$1,N');
}

for (const [family, underlay] of [
  ['IPv4', underlay4],
  ['IPv6', underlay6],
] as const) {
  describe(`ofproto/trace into tunnels over ${family}`, () => {
    for (const [i, { type, options, actions }] of cases(underlay).entries()) {
      test(`${type} ${JSON.stringify(options)}`, async () => {
        const name = `t${family.slice(-1)}x${i}`;
        for (const box of [ours, theirs]) {
          addTunnel(box, name, type, { remote_ip: underlay(2), ...options });
          const port = box.vsctl('get', 'interface', name, 'ofport').trim();
          assert.match(port, /^\d+$/);
          const known = box.appctl('tnl/neigh/show');
          if (!known.includes(`${underlay(2)} `)) {
            box.appctl('tnl/neigh/set', 'br-phy', underlay(2), FAR_MAC);
          }
          box.ofctl('del-flows', 'br-int');
          // The name is the same on both, the number may not be.
          const output = `output:${name},load:5->NXM_NX_REG0[]`;
          const all = actions === undefined ? output : `${actions},${output}`;
          box.ofctl('add-flow', 'br-int', `actions=${all}`);
        }
        try {
          for (const packet of PACKETS) {
            const expected = trace(theirs, packet).replace(/output:\d+/g, 'output:N');
            // No route knows the mark, so that the packet stays where it is.
            if (type === 'lisp' || type === 'stt') {
              assert.match(expected, /native tunnel header build failed/);
            } else if (options.egress_pkt_mark === undefined) {
              assert.match(expected, /tnl_push\(tnl_port\(N\),header\(size=/);
            } else
              assert.match(
                expected,
                /native tunnel routing failed\n[\s\S]*set\(skb_mark\(0x4d\)\)/,
              );
            assert.equal(trace(ours, packet).replace(/output:\d+/g, 'output:N'), expected);
          }
        } finally {
          for (const box of [ours, theirs]) box.vsctl('del-port', 'br-int', name);
        }
      });
    }
  });
}
