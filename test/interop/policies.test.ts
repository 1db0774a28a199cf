// Groups, meters, conjunctions, learn and Nicira's other actions beside the real ovs-vswitchd: ovs-ofctl changes and
// dumps them, ofproto/trace shows what packets do with them. Needs root (a network namespace) and the built data plane.

import { after, describe, it } from 'node:test';
import { PATCHED_BRIDGES, startPair } from './realOvs.ts';

const { same, stop } = await startPair(PATCHED_BRIDGES);
after(stop);

const ofctl = (version: number, command: string): string =>
  `ovs-ofctl -O OpenFlow1${version} ${command}`;

describe('groups', () => {
  const changes = [
    "add-group br0 'group_id=1,type=all,bucket=output:1,bucket=set_field:1.2.3.4->ip_src,output:2'",
    "add-group br0 'group_id=2,type=indirect,bucket=group:1'",
    "add-group br0 'group_id=3,type=ff,bucket=watch_port:1,output:1,bucket=watch_group:1,output:2'",
    "add-group br0 'group_id=4,type=select,bucket=weight:10,output:1,bucket=weight:20,output:2'",
    "add-group br0 'group_id=1,type=all,bucket=drop'",
    "add-group br0 'group_id=5,type=indirect'",
    "add-group br0 'group_id=5,type=indirect,bucket=drop,bucket=drop'",
    "add-group br0 'group_id=5,type=ff,bucket=output:1'",
    "add-group br0 'group_id=5,type=all,bucket=watch_port:1,output:1'",
    "add-group br0 'group_id=5,type=all,bucket=weight:4,output:1'",
    "add-group br0 'group_id=4294967041,type=all,bucket=output:1'",
    "mod-group br0 'group_id=9,type=all,bucket=output:1'",
    "mod-group br0 'group_id=1,type=all,bucket=output:3'",
    "--may-create mod-group br0 'group_id=9,type=all,bucket=output:1'",
    "add-flow br0 'cookie=1,in_port=1 actions=group:1'",
    "add-flow br0 'cookie=2,in_port=2 actions=group:77'",
    'dump-groups br0',
    'del-groups br0 group_id=77',
    'del-groups br0 group_id=1',
    'dump-flows br0',
  ];
  for (const version of [0, 1, 3, 5]) {
    it(`are changed by OpenFlow 1.${version}`, async () => {
      await same(
        [...changes.map((change) => ofctl(version, change)), ofctl(version, 'dump-groups br0')],
        { sortLines: true },
      );
      await same([ofctl(version, 'dump-group-features br0')]);
      await same([
        ofctl(version, 'del-groups br0'),
        ofctl(version, 'dump-groups br0'),
        ofctl(version, 'del-flows br0'),
      ]);
    });
  }

  it('gain and lose buckets', async () => {
    const bucket = (n: number) => `bucket=bucket_id=${n},weight:1,output:1`;
    const commands = [
      `add-group br0 'group_id=1,type=select,${bucket(1)},${bucket(2)}'`,
      `insert-buckets br0 'group_id=1,command_bucket_id=first,${bucket(5)}'`,
      `insert-buckets br0 'group_id=1,command_bucket_id=last,${bucket(6)},${bucket(7)}'`,
      `insert-buckets br0 'group_id=1,command_bucket_id=5,${bucket(8)}'`,
      `insert-buckets br0 'group_id=1,command_bucket_id=5,${bucket(8)}'`,
      `insert-buckets br0 'group_id=1,command_bucket_id=55,${bucket(9)}'`,
      `insert-buckets br0 'group_id=2,command_bucket_id=first,${bucket(9)}'`,
      'dump-groups br0',
      "remove-buckets br0 'group_id=1,command_bucket_id=first'",
      "remove-buckets br0 'group_id=1,command_bucket_id=last'",
      "remove-buckets br0 'group_id=1,command_bucket_id=2'",
      "remove-buckets br0 'group_id=1,command_bucket_id=2'",
      'dump-groups br0',
      "remove-buckets br0 'group_id=1,command_bucket_id=all'",
      'dump-groups br0 1',
      'dump-groups br0 2',
    ];
    for (const version of [0, 5]) {
      await same([...commands, 'del-groups br0'].map((command) => ofctl(version, command)));
    }
  });

  it('have selection methods', async () => {
    const group = (rest: string) =>
      `add-group br0 'group_id=1,type=select,${rest},bucket=weight:1,output:1'`;
    for (const version of [0, 5]) {
      for (const rest of [
        'selection_method=dp_hash',
        'selection_method=dp_hash,selection_method_param=4294967303',
        'selection_method=hash',
        'selection_method=hash,fields(ip_src,ip_dst)',
        'selection_method=hash,selection_method_param=7,fields(eth_dst,ip_src=255.255.0.0,tcp_src)',
      ]) {
        await same(
          [group(rest), 'dump-groups br0', 'del-groups br0'].map((c) => ofctl(version, c)),
        );
      }
    }
  });

  it('count what packets do', async () => {
    const frame = '505400000001505400000002080045000014000000004000f96d0a0000010a000002';
    await same(
      [
        "add-group br0 'group_id=1,type=all,bucket=output:1,bucket=output:2'",
        "add-group br0 'group_id=2,type=ff,bucket=watch_port:1,output:1,bucket=watch_port:2,output:2'",
        "add-group br0 'group_id=3,type=indirect,bucket=group:1'",
        "add-flow br0 'in_port=3 actions=group:3,group:2'",
        "add-flow br0 'in_port=2 actions=group:2'",
        `packet-out br0 'in_port=3 packet=${frame} actions=resubmit(,0)'`,
        `packet-out br0 'in_port=3 packet=${frame} actions=group:1'`,
        'dump-group-stats br0 1',
        'dump-group-stats br0 2',
        'dump-group-stats br0 3',
        'dump-flows br0',
        'del-groups br0',
        'dump-flows br0',
      ].map((command) => ofctl(3, command)),
    );
  });
});

describe('bundles', () => {
  it('change groups and flows together, or not at all', async () => {
    const bundle = (lines: string[]) =>
      `printf '%s\\n' ${lines.map((line) => `'${line}'`).join(' ')} | ${ofctl(4, 'bundle br0 -')}`;
    const good = [
      'group add group_id=1,type=all,bucket=output:1',
      'flow add in_port=1,actions=group:1',
    ];
    const bad = [
      'group add group_id=2,type=all,bucket=output:1',
      'flow add in_port=2,actions=group:2',
      'flow add in_port=3,actions=group:99',
    ];
    const show = [ofctl(4, 'dump-groups br0'), ofctl(4, 'dump-flows br0')];
    await same([bundle(good), ...show], { sortLines: true });
    await same([bundle(bad)]);
    await same([...show, bundle(bad.slice(0, 2)), ...show], { sortLines: true });
    await same([ofctl(4, 'del-groups br0'), ofctl(4, 'del-flows br0')]);
  });
});

describe('meters', () => {
  it('are changed and shown', async () => {
    const commands = [
      "add-meter br0 'meter=1,kbps,burst,stats,bands=type=drop,rate=1000,burst_size=200'",
      "add-meter br0 'meter=2,pktps,bands=type=drop,rate=10'",
      "add-meter br0 'meter=2,pktps,bands=type=drop,rate=10'",
      "add-meter br0 'meter=controller,pktps,bands=type=drop,rate=100'",
      "add-meter br0 'meter=4,pktps,bands=type=dscp_remark,rate=10,prec_level=1'",
      "mod-meter br0 'meter=2,kbps,bands=type=drop,rate=20,type=drop,rate=40'",
      "mod-meter br0 'meter=7,kbps,bands=type=drop,rate=20'",
      "add-flow br0 'in_port=1 actions=meter:1,output:2'",
      "add-flow br0 'in_port=2 actions=meter:9,output:2'",
      'dump-meters br0',
      'dump-meter br0 meter=1',
      'dump-meter br0 meter=9',
      'meter-stats br0 meter=9',
      'meter-stats br0 meter=1',
      'del-meter br0 meter=9',
      'dump-flows br0',
      'del-meter br0 meter=1',
      'dump-flows br0',
      'del-meters br0',
      'dump-meters br0',
    ];
    for (const version of [3, 5]) {
      await same(
        commands.map((command) => ofctl(version, command)),
        { sortLines: true, normalize: (text) => text.replace(/duration:[\d.]+s/g, 'duration:T') },
      );
    }
  });
});

/** Flows, and traces of packets that meet them. */
const IP =
  'in_port=1,tcp,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02,nw_ttl=64,tp_src=1000,tp_dst=80';
const PACKETS = [
  `${IP},nw_src=10.0.0.1,nw_dst=10.0.0.2`,
  `${IP.replace('tcp', 'udp').replaceAll('tp_', 'udp_')},nw_src=10.0.0.7,nw_dst=10.0.0.9`,
  'in_port=2,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:03,dl_type=0x88b5',
  `${IP.replace('tcp', 'tcp6')},ipv6_src=fd00::1,ipv6_dst=fd00::2`,
];
const HASHES = [
  'eth_src',
  'symmetric_l4',
  'symmetric_l3l4',
  'symmetric_l3l4+udp',
  'nw_src',
  'nw_dst',
  'symmetric_l3',
];

const SCENARIOS: readonly [name: string, version: number, flows: string[], before?: string[]][] = [
  [
    'conjunctions',
    3,
    [
      'priority=100,ip,nw_src=10.0.0.1 actions=conjunction(7,1/2)',
      'priority=100,ip,nw_src=10.0.0.7 actions=conjunction(7,1/2),conjunction(8,1/2)',
      'priority=100,tcp,tp_dst=80 actions=conjunction(7,2/2)',
      'priority=100,udp,tp_dst=80 actions=conjunction(8,2/2),note:00.00.00.00.00.00',
      'priority=50,conj_id=7,ip actions=output:2',
      'priority=50,conj_id=8,ip actions=output:3',
      'priority=1 actions=drop',
    ],
  ],
  ...HASHES.map((fields, i): [string, number, string[]] => [
    `multipath and bundle by ${fields}`,
    0,
    [
      `actions=multipath(${fields},${i * 100},modulo_n,7,0,NXM_NX_REG0[]),` +
        `multipath(${fields},50,hash_threshold,7,0,NXM_NX_REG1[]),` +
        `multipath(${fields},50,hrw,7,0,NXM_NX_REG2[]),` +
        `multipath(${fields},50,iter_hash,7,0,NXM_NX_REG3[0..3]),` +
        `multipath(${fields},9,hrw,100,0,NXM_NX_REG4[]),` +
        `bundle(${fields},60,hrw,ofport,members:2,3,1),` +
        `bundle_load(${fields},60,active_backup,ofport,NXM_NX_REG5[],members:9,2)`,
    ],
  ]),
  [
    'stacks, clones, lengths',
    3,
    [
      'table=0,in_port=1 actions=push:NXM_OF_IN_PORT[],push:NXM_NX_REG0[0..3],load:0x1234->NXM_NX_REG1[],' +
        'push:NXM_NX_REG1[],pop:NXM_NX_REG2[0..7],pop:NXM_NX_REG3[],pop:NXM_NX_REG4[0..15],pop:NXM_NX_REG5[],goto_table:1',
      'table=1,tcp actions=clone(set_field:02:00:00:00:00:09->eth_dst,output:2,clone(dec_ttl,output:3)),output:3',
      'table=1,udp actions=check_pkt_larger(100)->NXM_NX_REG0[0],resubmit(,2)',
      'table=1 actions=clone(meter:1,output:2),output:3',
      'table=2,reg0=1 actions=output:2',
      'table=2 actions=dec_ttl,output:3',
    ],
    ["ovs-ofctl -O OpenFlow13 add-meter br0 'meter=1,pktps,bands=type=drop,rate=10'"],
  ],
  [
    'metered packets to controllers',
    3,
    [
      'in_port=1 actions=controller(max_len=100,meter_id=1),output:2',
      'in_port=2 actions=controller',
    ],
    ["ovs-ofctl -O OpenFlow13 add-meter br0 'meter=1,pktps,bands=type=drop,rate=10'"],
  ],
  [
    'groups',
    3,
    [
      'in_port=1,tcp actions=group:1,output:3',
      'in_port=1,udp actions=write_actions(group:2)',
      'actions=group:3,group:4',
    ],
    [
      "ovs-ofctl -O OpenFlow15 add-group br0 'group_id=1,type=all,bucket=bucket_id=4,set_field:02:00:00:00:00:09->eth_dst,output:2,bucket=bucket_id=9,output:3,dec_ttl'",
      "ovs-ofctl -O OpenFlow15 add-group br0 'group_id=2,type=select,selection_method=hash,fields(ip_src,ip_dst=255.255.0.0),bucket=weight:10,output:1,bucket=weight:5,output:2,bucket=weight:0,output:3'",
      "ovs-ofctl -O OpenFlow15 add-group br0 'group_id=3,type=ff,bucket=watch_port:99,output:1,bucket=watch_port:3,output:2'",
      "ovs-ofctl -O OpenFlow15 add-group br0 'group_id=4,type=select,selection_method=hash,bucket=weight:10,output:2,bucket=weight:5,output:3'",
    ],
  ],
  [
    'hashes of the datapath',
    3,
    ['in_port=1 actions=set_field:02:00:00:00:00:05->eth_dst,group:1', 'in_port=2 actions=group:2'],
    [
      "ovs-ofctl -O OpenFlow15 add-group br0 'group_id=1,type=select,bucket=output:2,bucket=output:3'",
      "ovs-ofctl -O OpenFlow15 add-group br0 'group_id=2,type=select,selection_method=dp_hash,selection_method_param=7,bucket=output:2,bucket=output:3'",
    ],
  ],
  [
    'notes, outputs to registers, timeouts at the end of connections',
    0,
    [
      'table=0,in_port=1,tcp actions=note:00.11.22.33.44.55.66,load:2->NXM_NX_REG0[0..15],output:NXM_NX_REG0[0..15],' +
        'fin_timeout(idle_timeout=5,hard_timeout=9),load:0xfff8->NXM_NX_REG1[],output:NXM_NX_REG1[],resubmit(,1)',
      'table=0,in_port=1,udp actions=load:0x1ffff->NXM_NX_REG2[],output:NXM_NX_REG2[],output:NXM_NX_REG2[4..7],note:ff',
      'table=0,in_port=2 actions=load:0xfffe->NXM_NX_REG3[],output:NXM_NX_REG3[],output:NXM_OF_IN_PORT[]',
      'table=0,tcp6 actions=fin_timeout(idle_timeout=1),move:NXM_NX_REG0[]->NXM_NX_REG4[],output:NXM_NX_REG4[],output:3',
      'table=1,tcp actions=load:0xfffd->NXM_NX_REG5[],output:NXM_NX_REG5[],output(max_len=100,port=3)',
    ],
  ],
  [
    'learning',
    0,
    [
      'table=0 actions=learn(table=10,idle_timeout=60,cookie=0x5,NXM_OF_VLAN_TCI[0..11],NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],load:NXM_OF_IN_PORT[]->NXM_NX_REG0[0..15],output:NXM_OF_IN_PORT[]),resubmit(,10)',
      'table=10,priority=0 actions=output:2',
    ],
  ],
];

describe('traces', () => {
  for (const [name, version, flows, setUp = []] of SCENARIOS) {
    it(name, async () => {
      await same([
        ofctl(3, 'del-flows br0'),
        ofctl(3, 'del-groups br0'),
        ofctl(3, 'del-meters br0'),
        ...setUp,
        ...flows.map((flow) => ofctl(version, `add-flow br0 '${flow}'`)),
        ofctl(version, 'dump-flows br0'),
      ]);
      const normal = (text: string) =>
        text
          .replace(/recirc_id=\d+,rule_cookie/g, 'recirc_id=N,rule_cookie')
          .replace(/recirc\(0x[0-9a-f]+\)/g, 'recirc(N)')
          // The ports that are no patch ports have other numbers in each.
          .replace(/^Datapath actions: .*$/gm, (line) =>
            line
              .replace(/(?<=[ ,(])(101|2)(?=$|[,)])/g, 'LOCAL')
              .replace(/(?<=[ ,])(100|1)(?=$|,)/g, 'BR0'),
          );
      await same(
        PACKETS.filter((packet) => !/_l3l4/.test(name) || !packet.includes('0x88b5')).map(
          (packet) => `ovs-appctl ofproto/trace br0 '${packet}'`,
        ),
        { normalize: normal },
      );
    });
  }
});

describe('learning', () => {
  const learner = (rest: string) =>
    `actions=learn(table=10,${rest},cookie=0x5,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],load:NXM_OF_IN_PORT[]->NXM_NX_REG0[0..15],output:NXM_OF_IN_PORT[]),resubmit(,10)`;
  const packetOut = (port: number, mac: number) =>
    `ovs-ofctl packet-out br0 'in_port=${port} packet=0200000000ff0200000000${mac.toString().padStart(2, '0')}88b50000 actions=resubmit(,0)'`;
  const cleared = [
    ofctl(3, 'del-flows br0'),
    ofctl(3, 'del-groups br0'),
    ofctl(3, 'del-meters br0'),
  ];

  it('makes flows, and takes them along', async () => {
    await same(
      [
        ...cleared,
        `ovs-ofctl add-flow br0 '${learner('idle_timeout=60,hard_timeout=90,priority=77,send_flow_rem,delete_learned')}'`,
        `ovs-ofctl add-flow br0 'table=1,${learner('delete_learned')}'`,
        packetOut(1, 1),
        packetOut(2, 2),
        packetOut(3, 1),
        'ovs-ofctl dump-flows br0 table=10',
        "ovs-ofctl --strict del-flows br0 'table=1,priority=32768'",
        'ovs-ofctl dump-flows br0 table=10',
        'ovs-ofctl del-flows br0 table=0',
        'ovs-ofctl dump-flows br0',
      ],
      { sortLines: true },
    );
  });

  it('has limits', async () => {
    await same([
      ...cleared,
      `ovs-ofctl add-flow br0 '${learner('limit=1,result_dst=NXM_NX_REG3[5]')}'`,
      ...[7, 8, 7].map(
        (n) => `ovs-appctl ofproto/trace br0 'in_port=3,dl_src=02:00:00:00:00:0${n}' -generate`,
      ),
      'ovs-ofctl dump-flows br0 table=10',
    ]);
  });
});

describe('fin_timeout', () => {
  /** A TCP packet without payload; packet-out does not mind its checksum. */
  const packetOut = (flags: string) =>
    `ovs-ofctl packet-out br0 'in_port=1 packet=020000000002020000000001080045000028000040004006000` +
    `00a0000010a00000203e80050000000000000000050${flags}200000000000 actions=resubmit(,0)'`;
  const SYN = '02';
  const ACK = '10';
  const FIN = '11';
  const RST = '04';

  for (const [end, flags] of [
    ['FIN', FIN],
    ['RST', RST],
  ] as const) {
    it(`shortens the timeouts of the flow that met a ${end}`, async () => {
      const flow = (rest: string, timeouts: string) =>
        `ovs-ofctl add-flow br0 '${rest}${timeouts} actions=fin_timeout(idle_timeout=50,hard_timeout=70),output:2'`;
      await same([
        ofctl(3, 'del-flows br0'),
        flow('tcp,tp_dst=80,', 'idle_timeout=100,hard_timeout=200'),
        packetOut(SYN),
        packetOut(ACK),
        'ovs-ofctl dump-flows br0',
        packetOut(flags),
        'ovs-ofctl dump-flows br0',
        flow('tcp,tp_dst=80,', 'idle_timeout=10'),
        packetOut(flags),
        'ovs-ofctl dump-flows br0',
        flow('tcp,tp_dst=80,', 'hard_timeout=60'),
        packetOut(flags),
        'ovs-ofctl dump-flows br0',
      ]);
    });
  }
});

describe('flows that cannot be', () => {
  const onlyErrors = (text: string) => (text.match(/[A-Z0-9]+_[A-Z_]+\b/g) ?? []).join(' ');
  for (const flow of [
    'actions=conjunction(1,1/2),output:1',
    'actions=fin_timeout(idle_timeout=5)',
    'tcp actions=fin_timeout(idle_timeout=5,hard_timeout=3)',
    'actions=push:NXM_OF_IP_SRC[]',
    'ip actions=push:NXM_OF_IP_SRC[],pop:NXM_OF_IP_DST[]',
    'actions=pop:NXM_OF_TCP_SRC[]',
    'actions=bundle(eth_src,0,hrw,ofport,members:65300)',
    'actions=learn(table=1,NXM_OF_IP_SRC[])',
    'actions=learn(table=1,NXM_OF_ETH_TYPE[]=0x800,NXM_OF_IP_DST[]=0x01020304)',
    'actions=learn(table=1,load:NXM_OF_IP_SRC[]->NXM_NX_REG0[])',
    'actions=clone(mod_nw_src:1.2.3.4)',
    'actions=check_pkt_larger(100)->NXM_NX_REG0[4]',
    'actions=multipath(eth_src,0,modulo_n,16,0,NXM_NX_REG0[0..4])',
    'actions=sample(probability=100,collector_set_id=1)',
    'actions=group:3',
    'actions=clone(group:3)',
  ]) {
    it(flow, async () => {
      await same([`ovs-ofctl add-flow br0 '${flow}'`, ofctl(4, `add-flow br0 '${flow}'`)], {
        normalize: onlyErrors,
      });
    });
  }
});
