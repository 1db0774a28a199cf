// xvio and the real ovs-vswitchd (userspace datapath) as the two ends of the same tunnels, over IPv4 and IPv6: the same
// commands on both sides, traffic both ways, Geneve options set by one and matched by the other. All that xvio sends
// meanwhile is decoded by tshark at the end, without complaint.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, before, describe, test } from 'node:test';
import type { Sandbox } from './sandbox.ts';
import { Capture, decode } from './tshark.ts';
import {
  addTunnel,
  inNamespace,
  overlay4,
  overlay6,
  pingUntil,
  startPair,
  underlay4,
  underlay6,
} from './tunnelNet.ts';

const TYPES: readonly { name: string; type: string; options: Record<string, string> }[] = [
  { name: 'vxlan', type: 'vxlan', options: { key: '101' } },
  { name: 'vxlan, key by flows', type: 'vxlan', options: { key: 'flow', csum: 'true' } },
  { name: 'vxlan-gpe', type: 'vxlan', options: { key: '5', exts: 'gpe', dst_port: '4790' } },
  { name: 'geneve', type: 'geneve', options: { key: '102', csum: 'true' } },
  { name: 'gre', type: 'gre', options: {} },
  { name: 'gre with checksums', type: 'gre', options: { key: '103', csum: 'true' } },
  // Not with csum, too: the real daemon sums up the packet before it writes the sequence number.
  { name: 'gre with sequence numbers', type: 'gre', options: { key: '103', seq: 'true' } },
  { name: 'ip6gre', type: 'ip6gre', options: { key: '105' } },
  { name: 'ip6gre with checksums', type: 'ip6gre', options: { csum: 'true' } },
  { name: 'erspan', type: 'erspan', options: { key: '106', erspan_ver: '1', erspan_idx: '0x7' } },
  {
    name: 'erspan, version 2',
    type: 'ip6erspan',
    options: { key: '107', erspan_ver: '2', erspan_dir: '1', erspan_hwid: '0x2a' },
  },
  { name: 'layer 3 gre', type: 'gre', options: { key: '104', packet_type: 'legacy_l3' } },
  // Not gtpu: this version of the real daemon sums up the UDP checksum before it writes the length, so its packets are wrong.
];

/** Those set by hand, too. */
function flushNeighbours(box: Sandbox): void {
  for (const state of ['permanent', 'all']) {
    box.must('ip', 'neigh', 'flush', 'dev', 'br-int', 'nud', state);
  }
}

let ours: Sandbox;
let theirs: Sandbox;
let capture: Capture;

before(async () => {
  [ours, theirs] = await startPair();
  for (const box of [ours, theirs]) {
    box.vsctl('add-port', 'br-int', 'sink', '--', 'set', 'interface', 'sink', 'type=internal');
  }
  capture = await Capture.start(theirs, 'eth0');
});

after(async () => {
  await capture?.stop();
  await theirs?.stop();
  await ours?.stop();
});

for (const family of ['IPv4', 'IPv6'] as const) {
  const underlay = family === 'IPv4' ? underlay4 : underlay6;
  describe(`tunnels over ${family} to the real ovs-vswitchd`, () => {
    for (const { name, type, options } of TYPES) {
      test(name, () => {
        addTunnel(ours, 'tun', type, { remote_ip: underlay(2), ...options });
        addTunnel(theirs, 'tun', type, { remote_ip: underlay(1), ...options });
        const bare = options.packet_type === 'legacy_l3';
        try {
          for (const box of [ours, theirs]) {
            assert.equal(box.vsctl('get', 'interface', 'tun', 'error').trim(), '[]');
            if (bare) setBareFlows(box);
          }
          if (bare) setBareNeighbours();
          pingUntil(() => ours.must('ping', '-c', '1', '-W', '1', overlay4(2)));
          ours.must('ping', '-c', '3', '-i', '0.2', '-W', '5', '-s', '1200', overlay4(2));
          theirs.must('ping', '-c', '3', '-i', '0.2', '-W', '5', overlay4(1));
          if (!bare) pingUntil(() => theirs.must('ping', '-c', '1', '-W', '1', overlay6(1)));
          const status = ours.ofctl('dump-ports', 'br-int', 'tun');
          assert.doesNotMatch(status, /[rt]x pkts=0/, status);
        } catch (error) {
          throw new Error(`${(error as Error).message}\n${diagnosis()}`);
        } finally {
          for (const box of [ours, theirs]) {
            box.vsctl('del-port', 'br-int', 'tun');
            flushNeighbours(box);
            box.ofctl('del-flows', 'br-int');
            box.ofctl('add-flow', 'br-int', 'priority=0,actions=NORMAL');
          }
        }
      });
    }

    test('Geneve options', () => {
      for (const [box, remote] of [
        [ours, 2],
        [theirs, 1],
      ] as const) {
        addTunnel(box, 'tun', 'geneve', { remote_ip: underlay(remote), key: 'flow' });
        box.ofctl(
          'add-tlv-map',
          'br-int',
          '{class=0x102,type=0x80,len=4}->tun_metadata0,{class=0xffff,type=1,len=8}->tun_metadata1',
        );
        const port = box.vsctl('get', 'interface', 'tun', 'ofport').trim();
        box.ofctl('del-flows', 'br-int');
        const flow = (text: string): string => box.ofctl('add-flow', 'br-int', text);
        flow(
          `in_port=LOCAL,actions=set_field:0x4d->tun_id,set_field:0x12345->tun_metadata0,` +
            `load:0x77->NXM_NX_TUN_METADATA1[0..31],output:${port}`,
        );
        flow(
          `in_port=${port},tun_id=0x4d,tun_metadata0=0x12345,tun_metadata1=0x77/0xff,` +
            'actions=move:NXM_NX_TUN_METADATA0[0..15]->NXM_NX_REG1[0..15],resubmit(,1)',
        );
        flow('table=1,reg1=0x2345,actions=LOCAL');
      }
      try {
        pingUntil(() => ours.must('ping', '-c', '1', '-W', '1', overlay4(2)));
        ours.must('ping', '-c', '3', '-i', '0.2', '-W', '5', overlay4(2));
        const options =
          'options({class=0x102,type=0x80,len=4,0x12345}{class=0xffff,type=0x1,len=8,0x77})';
        assert.ok(ours.appctl('dpctl/dump-flows').includes(options));
        assert.ok(theirs.appctl('dpctl/dump-flows').includes(options));
        const received =
          /geneve\(\{class=0x102,type=0x80,len=4,0x12345\}\{class=0xffff,type=0x1,len=8,0x77\/0xff\}\)/;
        assert.match(ours.appctl('dpctl/dump-flows'), received);
        assert.match(theirs.appctl('dpctl/dump-flows'), received);
      } catch (error) {
        throw new Error(`${(error as Error).message}\n${diagnosis()}`);
      } finally {
        for (const box of [ours, theirs]) {
          box.vsctl('del-port', 'br-int', 'tun');
          flushNeighbours(box);
          box.ofctl('del-flows', 'br-int');
          box.ofctl('del-tlv-map', 'br-int');
          box.ofctl('add-flow', 'br-int', 'priority=0,actions=NORMAL');
        }
      }
    });
  });
}

test('what the underlay cannot carry is dropped at its port, and nobody is told', () => {
  const options = { key: '301', df_default: 'false' };
  addTunnel(ours, 'tun', 'vxlan', { remote_ip: underlay4(2), ...options });
  addTunnel(theirs, 'tun', 'vxlan', { remote_ip: underlay4(1), ...options });
  const pairs = [
    [ours, 2],
    [theirs, 1],
  ] as const;
  try {
    pingUntil(() => ours.must('ping', '-c', '1', '-W', '1', overlay4(2)));
    pingUntil(() => theirs.must('ping', '-c', '1', '-W', '1', overlay4(1)));
    for (const [box, remote] of pairs) {
      const ping = (bytes: number, count: number): number => {
        const sizes = ['-c', String(count), '-i', '0.2', '-W', '2', '-s', String(bytes)];
        const text = box.run('ping', ...sizes, overlay4(remote)).stdout;
        assert.doesNotMatch(text, /[Ff]rag needed|too (big|long)|mtu/, text);
        return Number(/(\d+) received/.exec(text)?.[1]);
      };
      // The real daemon takes its port out and puts it in again for a new MTU: what comes meanwhile is lost.
      const setMtu = (mtu: string): void => {
        box.must('ip', 'link', 'set', 'eth0', 'mtu', mtu);
        const known = (): string => box.vsctl('get', 'interface', 'eth0', 'mtu').trim();
        for (let i = 0; i < 100 && known() !== mtu; i++) box.must('sleep', '0.05');
        assert.equal(known(), mtu);
        pingUntil(() => box.must('ping', '-c', '1', '-W', '1', overlay4(remote)));
      };
      setMtu('1300');
      const dropped = (): number =>
        Number(/drop=(\d+), errs=\d+, coll/.exec(box.ofctl('dump-ports', 'br-phy', 'eth0'))?.[1]);
      // 28 bytes of IPv4 and ICMP, 14 of Ethernet, 36 of IPv4, UDP and VXLAN: 1300 of the underlay.
      assert.equal(ping(1222, 2), 2);
      const before = dropped(); // the real daemon does not count them
      assert.equal(ping(1260, 3), 0);
      if (box === ours) assert.ok(dropped() >= before + 3, `${dropped()} after ${before}`);
      setMtu('1500');
      assert.equal(ping(1260, 2), 2);
    }
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${diagnosis()}`);
  } finally {
    for (const box of [ours, theirs]) {
      box.must('ip', 'link', 'set', 'eth0', 'mtu', '1500');
      box.vsctl('del-port', 'br-int', 'tun');
      flushNeighbours(box);
    }
  }
});

test('MPLS between the two', () => {
  const labels = (box: Sandbox, out: string, inLabel: number, outLabel: number): void => {
    box.ofctl('del-flows', 'br-int');
    box.ofctl(
      'add-flow',
      'br-int',
      `in_port=LOCAL,actions=push_mpls:0x8847,set_field:${outLabel}->mpls_label,set_field:5->mpls_tc,` +
        `push_mpls:0x8847,set_field:99->mpls_label,dec_mpls_ttl,output:${out}`,
    );
    box.ofctl(
      'add-flow',
      'br-int',
      `in_port=${out},dl_type=0x8847,mpls_label=99,actions=pop_mpls:0x8847,resubmit(,1)`,
    );
    for (const type of ['0x0800', '0x0806']) {
      // Which of the two is below, the inner label's class tells.
      const label = type === '0x0800' ? inLabel : inLabel + 1;
      box.ofctl(
        'add-flow',
        'br-int',
        `table=1,dl_type=0x8847,mpls_label=${label},mpls_tc=5,mpls_bos=1,actions=pop_mpls:${type},LOCAL`,
      );
    }
    box.ofctl(
      'add-flow',
      'br-int',
      `priority=40000,arp,in_port=LOCAL,actions=push_mpls:0x8847,set_field:${outLabel + 1}->mpls_label,` +
        `set_field:5->mpls_tc,push_mpls:0x8847,set_field:99->mpls_label,output:${out}`,
    );
  };
  for (const [box, remote] of [
    [ours, 2],
    [theirs, 1],
  ] as const) {
    addTunnel(box, 'tun', 'vxlan', { remote_ip: underlay4(remote), key: '7' });
    labels(
      box,
      box.vsctl('get', 'interface', 'tun', 'ofport').trim(),
      100 + remote * 10,
      230 - 100 - remote * 10,
    );
  }
  try {
    pingUntil(() => ours.must('ping', '-c', '1', '-W', '1', overlay4(2)));
    ours.must('ping', '-c', '3', '-i', '0.2', '-W', '5', overlay4(2));
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${diagnosis()}`);
  } finally {
    for (const box of [ours, theirs]) box.vsctl('del-port', 'br-int', 'tun');
  }
});

test('NSH between the two, in Ethernet and in VXLAN-GPE', () => {
  const chain = (box: Sandbox, remote: number, gpe: boolean): void => {
    const options: Record<string, string> = gpe
      ? { exts: 'gpe', dst_port: '4790', packet_type: 'ptap' }
      : {};
    addTunnel(box, 'tun', 'vxlan', { remote_ip: underlay4(remote), key: '8', ...options });
    assert.equal(box.vsctl('get', 'interface', 'tun', 'error').trim(), '[]');
    const out = box.vsctl('get', 'interface', 'tun', 'ofport').trim();
    const around = 'encap(ethernet),set_field:02:00:00:00:00:09->eth_dst,';
    const nsh =
      `encap(nsh(md_type=1)),set_field:0x${remote}234->nsh_spi,set_field:7->nsh_si,` +
      `set_field:0x50607080->nsh_c4,dec_nsh_ttl`;
    const kind = gpe ? 'packet_type=(1,0x894f)' : 'dl_type=0x894f';
    const flows = [
      `in_port=LOCAL,actions=${nsh},${gpe ? '' : around}output:${out}`,
      `in_port=${out},${kind},nsh_mdtype=1,nsh_np=3,nsh_spi=0x${3 - remote}234,nsh_si=7,` +
        `nsh_ttl=62,nsh_c4=0x50607080,actions=${gpe ? '' : 'decap(),'}decap(),LOCAL`,
    ];
    box.ofctl('del-flows', 'br-int');
    for (const flow of flows) box.ofctl('-O', 'OpenFlow15', 'add-flow', 'br-int', flow);
  };
  for (const gpe of [false, true]) {
    for (const [box, remote] of [
      [ours, 2],
      [theirs, 1],
    ] as const) {
      chain(box, remote, gpe);
    }
    try {
      pingUntil(() => ours.must('ping', '-c', '1', '-W', '1', overlay4(2)));
      ours.must('ping', '-c', '3', '-i', '0.2', '-W', '5', '-s', '1200', overlay4(2));
    } finally {
      for (const box of [ours, theirs]) {
        box.vsctl('del-port', 'br-int', 'tun');
        box.ofctl('del-flows', 'br-int');
        box.ofctl('add-flow', 'br-int', 'actions=NORMAL');
      }
    }
  }
});

test('a tunnel that another port has already is refused until that one goes', async () => {
  const columns = (box: Sandbox, name: string): string =>
    box.vsctl('--columns=error,ofport,link_state', 'list', 'Interface', name);
  const same = { remote_ip: '172.31.0.77', key: 'flow' };
  for (const box of [ours, theirs]) {
    addTunnel(box, 'one', 'vxlan', same);
    addTunnel(box, 'other', 'vxlan', { ...same, dst_port: '4799' });
    addTunnel(box, 'two', 'vxlan', same);
  }
  for (const box of [ours, theirs]) {
    assert.match(
      columns(box, 'two'),
      /could not add network device two to ofproto \(File exists\)/,
    );
    assert.match(columns(box, 'other'), /error +: \[\]/);
    box.vsctl('del-port', 'br-int', 'one');
    // The real daemon may try again too early, and then only after the next change.
    if (box === ours) {
      await box.until(() => /error +: \[\]/.test(columns(box, 'two')), 10000, 'port two');
    }
    for (const port of ['two', 'other']) box.vsctl('del-port', 'br-int', port);
  }
});

test('the question for a neighbour leaves before the packet that raises it', async () => {
  const [own, nobody] = [overlay4(77), underlay4(77)];
  const patch = (name: string, peer: string): string[] => [
    ...['--', 'set', 'interface', name, 'type=patch', `options:peer=${peer}`],
  ];
  for (const box of [theirs, ours]) {
    addTunnel(box, 'ask', 'vxlan', { remote_ip: nobody, key: '77' });
    box.vsctl(
      ...['add-port', 'br-int', 'up', ...patch('up', 'down')],
      ...['--', 'add-port', 'br-phy', 'down', ...patch('down', 'up')],
    );
    // Nothing else, lest the bridges send each other's broadcasts in circles.
    box.ofctl('del-flows', 'br-int');
    const actions = 'actions=output:up,output:ask';
    box.ofctl('add-flow', 'br-int', `in_port=LOCAL,arp,arp_tpa=${own},${actions}`);
    const self = box === ours ? 1 : 2;
    const words = ['netns', 'exec', box.namespace!, 'tcpdump', '-lnnti', 'eth0', 'arp'];
    const child = spawn('ip', words, { stdio: ['ignore', 'pipe', 'pipe'] });
    let text = '';
    child.stdout.on('data', (chunk) => {
      text += chunk;
    });
    await new Promise((resolve) => child.stderr.once('data', resolve));
    // The other one's last questions may be on their way.
    const asked = (): string[] =>
      [...text.matchAll(/who-has ([\d.]+) tell ([\d.]+)/g)]
        .filter(([, , who]) => who === underlay4(self) || who === overlay4(self))
        .map(([, whom]) => whom!);
    try {
      box.run('ping', '-c', '1', '-W', '1', own);
      await box.until(() => asked().includes(nobody) && asked().includes(own), 20000, 'questions');
    } finally {
      child.kill('SIGKILL');
      for (const port of ['ask', 'up']) box.vsctl('del-port', 'br-int', port);
      box.vsctl('del-port', 'br-phy', 'down');
      box.ofctl('add-flow', 'br-int', 'actions=NORMAL');
      box.ofctl('del-flows', 'br-int', 'arp');
      flushNeighbours(box);
    }
    assert.deepEqual(asked().slice(0, 2), [nobody, own], box === ours ? 'ours' : 'theirs');
  }
});

test('tshark decodes what was sent without complaint, also GTP-U and MPLS over UDP', async () => {
  // Those that the real daemon does not understand, or has not: sent all the same.
  const neighbour = ['lladdr', '02:00:00:00:00:01', 'dev', 'br-int'];
  inNamespace(ours.namespace!, 'ip', 'neigh', 'replace', overlay4(2), ...neighbour);
  for (const { type, map, actions } of [
    { type: 'gtpu', map: { key: '9' }, actions: '' },
    {
      type: 'bareudp',
      map: { payload_type: 'mpls', dst_port: '6635' },
      actions: 'push_mpls:0x8847,',
    },
  ]) {
    addTunnel(ours, 'tun', type, { remote_ip: underlay4(2), ...map });
    assert.equal(ours.vsctl('get', 'interface', 'tun', 'error').trim(), '[]');
    const port = ours.vsctl('get', 'interface', 'tun', 'ofport').trim();
    ours.ofctl('del-flows', 'br-int');
    ours.ofctl('add-flow', 'br-int', `in_port=LOCAL,ip,actions=${actions}${port}`);
    ours.run('ping', '-c', '3', '-i', '0.2', '-W', '1', overlay4(2));
    ours.vsctl('del-port', 'br-int', 'tun');
  }
  flushNeighbours(ours);
  await capture.stop();
  const { stacks, complaints } = decode(
    theirs,
    capture.file,
    `ip.src == ${underlay4(1)} || ipv6.src == ${underlay6(1)}`,
  );
  const seen = [...stacks.keys()].join('\n');
  assert.deepEqual(complaints, [], seen);
  const inside = ':eth:ethertype:ip:icmp:data';
  for (const outer of ['ip', 'ipv6']) {
    for (const tunnel of [`udp:vxlan${inside}`, `udp:geneve${inside}`, `gre${inside}`]) {
      assert.ok(seen.includes(`:${outer}:${tunnel}`), `${outer}:${tunnel} in\n${seen}`);
    }
  }
  for (const tunnel of [
    'udp:eth:ethertype:ip:icmp',
    'gre:ip:icmp',
    'vxlan:eth:ethertype:mpls:',
    'gtp:ip:icmp',
    'udp:mpls:',
  ]) {
    assert.ok(seen.includes(tunnel), `${tunnel} in\n${seen}`);
  }
});

/** Packets without Ethernet header come out with addresses of zero: they are for whoever is there. */
function setBareFlows(box: Sandbox): void {
  const mac = box.must('cat', '/sys/class/net/br-int/address').trim();
  const port = box.vsctl('get', 'interface', 'tun', 'ofport').trim();
  box.ofctl('add-flow', 'br-int', `priority=10,in_port=${port},actions=mod_dl_dst:${mac},LOCAL`);
  // With a tag, that another port gets to see: what goes into the tunnel has lost it together with the Ethernet header.
  const sink = box.vsctl('get', 'interface', 'sink', 'ofport').trim();
  const tagged = `mod_vlan_vid:5,output:${sink}`;
  box.ofctl('add-flow', 'br-int', `priority=10,in_port=LOCAL,ip,actions=${tagged},output:${port}`);
}

function setBareNeighbours(): void {
  for (const [box, remote] of [
    [ours, 2],
    [theirs, 1],
  ] as const) {
    const entry = [overlay4(remote), 'lladdr', '02:00:00:00:00:01', 'dev', 'br-int'];
    inNamespace(box.namespace!, 'ip', 'neigh', 'replace', ...entry);
  }
}

function diagnosis(): string {
  return [ours, theirs]
    .map((box) =>
      [
        box.appctl('dpctl/dump-flows'),
        box.appctl('tnl/neigh/show'),
        box
          .appctl('coverage/show')
          .split('\n')
          .filter((line) => /drop/.test(line))
          .join('\n'),
      ].join('\n'),
    )
    .join('\n----\n');
}
