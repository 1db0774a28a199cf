// controller(pause) and NXT_RESUME, beside the real daemon: ovs-ofctl monitors resume what they get, packets take the same
// ways through tables, stack, groups, clones, patch ports and connection tracking, and the monitors print the same.
// Needs root and the built data plane.

import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { encode } from '../../src/wire/openflow/message.ts';
import { inPortMatch } from '../../src/wire/openflow/packetOut.ts';
import type { Continuation, OfVersion } from '../../src/wire/openflow/types.ts';
import { PATCHED_BRIDGES, startPair } from './realOvs.ts';

/** A UDP packet 10.0.0.1:1 → 10.0.0.2:2 with two bytes of payload. */
const PACKET =
  '000000000002000000000001080045000' +
  '01e00004000401126cd0a0000010a0000020001000200' +
  '0a00006162';

const { ours, same, stop } = await startPair(PATCHED_BRIDGES);
after(stop);

/** Names that only this run of a daemon knows. */
const anonymous = (text: string): string =>
  text
    .replace(/continuation\.bridge=\S+/g, 'continuation.bridge=UUID')
    .replace(/continuation\.odp_port=\d+/g, 'continuation.odp_port=N')
    .replace(/duration=\S+ /g, '')
    .replace(/idle_age=\d+, /g, '');

/** Sends the packet through the tables, lets monitors resume it, and shows what they saw and what flows counted. */
async function sameWay(
  version: string,
  flows: string,
  more: readonly string[] = [],
): Promise<void> {
  const monitor = (bridge: string): string =>
    `ovs-ofctl -O ${version} monitor ${bridge} resume -P nxt_packet_in2 --detach --no-chdir ` +
    `--pidfile=${bridge}.pid --unixctl=$PWD/${bridge}.ctl > ${bridge}.txt 2>&1`;
  const barrier = (bridge: string): string => `ovs-appctl -t $PWD/${bridge}.ctl ofctl/barrier`;
  const exit = (bridge: string): string => `ovs-appctl -t $PWD/${bridge}.ctl exit`;
  const script = [
    'ovs-appctl dpctl/flush-conntrack',
    'ovs-ofctl del-flows br0',
    ...more,
    `printf '%s\\n' ${flows} | ovs-ofctl -O OpenFlow13 add-flows br0 -`,
    monitor('br0'),
    barrier('br0'),
    `ovs-ofctl packet-out br0 "in_port=1 packet=${PACKET} actions=resubmit(,0)"`,
    'sleep 0.7',
    barrier('br0'),
    exit('br0'),
    'sleep 0.1',
    'cat br0.txt',
    'ovs-ofctl -O OpenFlow13 dump-flows br0',
  ];
  await same([script.join('; ')], { normalize: anonymous });
}

const q = (...flows: string[]): string => flows.map((flow) => `'${flow}'`).join(' ');

for (const version of ['OpenFlow10', 'OpenFlow13', 'OpenFlow15']) {
  describe(`resumed pipelines, ${version}`, () => {
    it('actions behind the pause, in the table and in those that led to it', () =>
      sameWay(
        version,
        q(
          'in_port=1,actions=set_field:7->reg1,resubmit(,1),set_field:9->reg2,resubmit(,2)',
          'table=1,cookie=0x12,actions=controller(pause,userdata=01.02.03),set_field:8->reg1,resubmit(,2)',
          'table=2,reg1=8,reg2=0,actions=output:2',
          'table=2,reg1=8,reg2=9,actions=output:3',
        ),
      ));

    it('at the end of the pipeline, twice, and with a stack', () =>
      sameWay(
        version,
        q(
          'in_port=1,actions=push:NXM_NX_REG0[],set_field:5->reg0,push:NXM_NX_REG0[],controller(pause),pop:NXM_NX_REG3[],resubmit(,1)',
          'table=1,reg3=5,actions=output:2,controller(pause)',
        ),
      ));

    it('instructions: goto_table, write_metadata, the action set', () =>
      sameWay(
        version,
        q(
          'in_port=1,actions=write_actions(output:3),write_metadata:0x1234,goto_table:2',
          'table=2,metadata=0x1234,actions=set_field:1->reg0,controller(pause),write_metadata:0x12,goto_table:3',
          'table=3,metadata=0x12,reg0=1,actions=output:2',
        ),
      ));

    it('a clone waits, the packet itself goes on', () =>
      sameWay(
        version,
        q(
          'in_port=1,actions=clone(set_field:3->reg0,controller(pause),resubmit(,1)),resubmit(,1)',
          'table=1,reg0=3,actions=output:3',
          'table=1,reg0=0,actions=output:2',
        ),
      ));
  });
}

describe('other ways', () => {
  // The real daemon's datapath has no way back into OpenFlow for packets of controllers that it has tracked.
  it('connection tracking', async () => {
    const flows = q(
      'in_port=1,ct_state=-trk,udp,actions=ct(table=1,zone=7)',
      'table=1,ct_state=+trk+new,udp,actions=controller(pause),ct(commit,zone=7,exec(set_field:5->ct_mark)),resubmit(,2)',
      'table=2,actions=output:2',
    );
    const { stdout } = await ours.run(
      [
        'ovs-ofctl del-flows br0',
        `printf '%s\\n' ${flows} | ovs-ofctl -O OpenFlow13 add-flows br0 -`,
        'ovs-ofctl monitor br0 resume -P nxt_packet_in2 --detach --no-chdir --pidfile=c.pid --unixctl=$PWD/c.ctl > c.txt 2>&1',
        `ovs-ofctl packet-out br0 "in_port=1 packet=${PACKET} actions=resubmit(,0)"`,
        'sleep 0.7',
        'ovs-appctl -t $PWD/c.ctl exit',
        'sleep 0.1',
        'cat c.txt',
        'ovs-ofctl dump-flows br0 table=2',
        'ovs-appctl dpctl/dump-conntrack zone=7',
      ].join('; '),
    );
    assert.match(stdout, /ct_state=new\|trk,ct_zone=7,ct_nw_src=10\.0\.0\.1/);
    assert.match(stdout, /^ continuation\.conntracked=true$/m);
    assert.match(stdout, /table=2, n_packets=1,/);
    assert.match(stdout, /^udp,orig=\(src=10\.0\.0\.1.*zone=7,mark=5$/m);
  });

  it('a group of all buckets, one of which pauses', () =>
    sameWay(
      'OpenFlow13',
      q('in_port=1,actions=group:1,output:3', 'table=1,actions=controller(pause),output:2'),
      [
        'ovs-ofctl -O OpenFlow13 del-groups br0',
        'ovs-ofctl -O OpenFlow13 add-group br0 "group_id=1,type=all,bucket=resubmit(,1),bucket=output:2"',
      ],
    ));

  it('a bridge behind a patch port: each bridge has controllers of its own', async () => {
    const script = [
      'ovs-ofctl del-flows br0',
      'ovs-ofctl del-flows br1',
      'ovs-ofctl add-flow br0 in_port=1,actions=output:2,output:3',
      'ovs-ofctl add-flow br1 "in_port=2,actions=controller(pause),resubmit(,1)"',
      'ovs-ofctl add-flow br1 "in_port=3,actions=LOCAL"',
      'ovs-ofctl add-flow br1 "table=1,actions=LOCAL"',
      'ovs-ofctl monitor br1 resume -P nxt_packet_in2 --detach --no-chdir --pidfile=m.pid --unixctl=$PWD/m.ctl > m.txt 2>&1',
      `ovs-ofctl packet-out br0 "in_port=1 packet=${PACKET} actions=resubmit(,0)"`,
      'sleep 0.7',
      'ovs-appctl -t $PWD/m.ctl exit',
      'sleep 0.1',
      'cat m.txt',
      'ovs-ofctl dump-flows br1',
      'ovs-ofctl del-flows br1',
      'ovs-ofctl add-flow br1 actions=LOCAL',
    ];
    await same([script.join('; ')], {
      normalize: anonymous,
    });
  });

  it('ofproto/trace', async () => {
    const commands = [
      'ovs-ofctl del-flows br0',
      'ovs-ofctl add-flow br0 "in_port=1,actions=set_field:1->reg1,resubmit(,1),output:3"',
      'ovs-ofctl add-flow br0 "table=1,actions=output:2,controller(pause,userdata=aa),resubmit(,2)"',
      'ovs-appctl ofproto/trace br0 in_port=1,dl_type=0x1234',
      `ovs-appctl ofproto/trace br0 in_port=1 ${PACKET}`,
      'ovs-appctl ofproto/trace-packet-out br0 in_port=1,udp "mod_vlan_vid:123,resubmit(,1)"',
      'ovs-appctl ofproto/trace-packet-out br0 in_port=1 "mod_nw_src:1.2.3.4,output:2"',
      'ovs-appctl ofproto/trace-packet-out -consistent br0 in_port=1 "mod_nw_src:1.2.3.4,output:2"',
      'ovs-appctl ofproto/trace-packet-out br0 in_port=1 "no_such_action"',
    ];
    // Numbers of datapath ports and of recirculations are each daemon's own.
    await same(commands, {
      normalize: (text) =>
        text
          .replace(/recirc_id=\d+/g, 'recirc_id=N')
          .replace(/^(Datapath actions: )\d+/gm, '$1N')
          .replace(/(,)\d+$/gm, '$1N'),
    });
  });
});

describe('NXT_RESUME that cannot be right', () => {
  const hex = (version: OfVersion, continuation?: Continuation): string => {
    const packetIn = {
      bufferId: 0xffffffff,
      totalLen: PACKET.length / 2,
      reason: 'action' as const,
      table: 0,
      cookie: 0n,
      match: inPortMatch(1),
      data: Uint8Array.from(Buffer.from(PACKET, 'hex')),
      ...(continuation === undefined ? {} : { continuation }),
    };
    return Buffer.from(encode(version, 0x1234, { type: 'resume', packetIn })[0]!).toString('hex');
  };
  const unknownBridge: Continuation = {
    bridge: new Uint8Array(16).fill(7),
    stack: [],
    mirrors: 0,
    conntracked: false,
    actions: [],
    actionSet: [],
    odpPort: 1,
  };

  for (const [name, version] of [
    ['OpenFlow10', 1],
    ['OpenFlow13', 4],
  ] as const) {
    it(`${name}: stale, and broken continuations`, async () => {
      const good = hex(version, unknownBridge);
      const sends = [
        hex(version),
        good,
        hex(version, { ...unknownBridge, stack: [new Uint8Array(129)] }),
        // The type of the bridge's property becomes one that nobody knows, its length one that it cannot have.
        good.replace('80000014', '80770014'),
        good.replace('80000014', '80000010'),
      ];
      const script = [
        `ovs-ofctl -O ${name} monitor br0 --detach --no-chdir --pidfile=r.pid --unixctl=$PWD/r.ctl > r.txt 2>&1`,
        ...sends.flatMap((send) => [
          `ovs-appctl -t $PWD/r.ctl ofctl/send ${send}`,
          'ovs-appctl -t $PWD/r.ctl ofctl/barrier',
        ]),
        'ovs-appctl -t $PWD/r.ctl exit',
        'sleep 0.1',
        'grep -E "^OFPT_ERROR" r.txt',
      ];
      await same([script.join('; ')]);
    });
  }
});
