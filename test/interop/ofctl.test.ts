// ovs-ofctl 3.1 against our OpenFlow front-end and against the real ovs-vswitchd, side by side: same commands, same
// output. The bridge behind ours is a stand-in without a data plane (test/unit/fakeBridge.ts), so this is about what a
// controller sees, not about packets.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { Connmgr } from '../../src/control/openflow/connmgr.ts';
import { FakeBridge } from '../unit/fakeBridge.ts';
import { OvsSide, sameOutput, startRealOvs } from './realOvs.ts';

const VERSIONS = ['OpenFlow10', 'OpenFlow13', 'OpenFlow14', 'OpenFlow15'] as const;
const NO_LOG = { dbg() {}, info() {}, warn() {}, err() {} };
const COUNTERS = { rx_packets: 0, tx_packets: 0, rx_bytes: 0, tx_bytes: 0 };

let real: OvsSide;
let ours: OvsSide;
let connmgr: Connmgr;
let bridge: FakeBridge;

before(async () => {
  real = await startRealOvs();
  const made = await real.run(
    'ovs-vsctl add-br br0 -- set bridge br0 datapath-type=dummy ' +
      '-- add-port br0 p1 -- set interface p1 type=dummy ofport_request=1 ' +
      '-- add-port br0 p2 -- set interface p2 type=dummy ofport_request=2',
  );
  assert.equal(made.stderr, '');
  ours = await OvsSide.create('ours');
  bridge = new FakeBridge();
  bridge.addPort(0xfffffffe, 'br0', COUNTERS);
  bridge.addPort(1, 'p1', COUNTERS);
  bridge.addPort(2, 'p2', COUNTERS);
  for (const port of bridge.ports.values()) port.desc = { ...port.desc, state: 4 };
  connmgr = new Connmgr({ bridge, runDir: ours.dir, log: NO_LOG });
  await connmgr.configure({ controllers: [], failMode: 'standalone' });
});

after(async () => {
  connmgr?.close();
  await ours?.[Symbol.asyncDispose]();
  await real?.[Symbol.asyncDispose]();
});

async function same(
  commands: readonly string[],
  options?: Parameters<typeof sameOutput>[2],
): Promise<void> {
  assert.deepEqual(await sameOutput([real, ours], commands, options), []);
}

const noAddresses = (text: string) => text.replace(/(addr|hwaddr)[:=][0-9a-f:]{17}/g, '$1:MAC');
/** What only the dummy devices of the real daemon have: counters of their own, and a queue. */
const noDummy = (text: string) =>
  text
    .replace(/ {11}CUSTOM Statistics\n(?: {22}.*\n)*/g, '')
    .replace(/tx pkts=\d+, bytes=\d+/g, 'tx pkts=N')
    .replace(/^ {2}port .* queue 0: bytes=\?, pkts=\?, errors=\?, duration=\?\n/gm, '')
    .replace(/: \d queues/g, ': N queues');

/** Shown from the second second on. */
const noHardAge = (text: string) => text.replace(/ hard_age=T,/g, '');

describe('a new bridge', () => {
  it('has one flow', () => same(['ovs-ofctl dump-flows br0', 'ovs-ofctl dump-aggregate br0']));
  it('cannot be snooped on without a controller', () =>
    same(['ovs-ofctl snoop br0'], {
      // Whether the peer notices while it connects or while it says hello is a matter of luck.
      normalize: (text) => text.replace(/ovs-ofctl: .*(reset by peer|Broken pipe)\)/, 'refused'),
    }));
  it('answers probe and ping', () =>
    same(['ovs-ofctl probe br0', 'ovs-ofctl ping br0 10', 'ovs-ofctl ping br0 65000'], {
      normalize: (text) => text.replace(/64 bytes/g, 'N bytes'),
    }));
});

for (const version of VERSIONS) {
  const ofctl = `ovs-ofctl -O ${version}`;
  describe(version, () => {
    it('describes the switch', async () => {
      await same([`${ofctl} show br0`, `${ofctl} dump-ports-desc br0`], {
        normalize: noAddresses,
        sortLines: true,
      });
      await same([`${ofctl} dump-desc br0`, `${ofctl} get-frags br0`]);
    });

    it('adds, modifies and deletes flows', async () => {
      const steps = [
        'del-flows br0',
        'add-flow br0 "in_port=1,tcp,nw_src=10.0.0.0/8,tp_dst=80 actions=output:2"',
        'add-flow br0 "priority=5,dl_vlan=7,dl_src=00:11:22:33:44:55 actions=mod_vlan_vid:9,NORMAL"',
        'add-flow br0 "cookie=0x1234,idle_timeout=60,hard_timeout=90,ipv6,icmp6 actions=drop"',
        'add-flow br0 "arp,arp_tpa=10.1.2.3 actions=mod_dl_dst:aa:bb:cc:dd:ee:ff,LOCAL"',
        'mod-flows br0 "tcp actions=IN_PORT"',
        'mod-flows br0 "in_port=2 actions=FLOOD"',
        '--strict mod-flows br0 "priority=5,dl_vlan=7,dl_src=00:11:22:33:44:55 actions=CONTROLLER"',
        '--strict del-flows br0 "arp,arp_tpa=10.1.2.3"',
        'del-flows br0 "cookie=0x1234/-1"',
      ];
      for (const step of steps) {
        await same([`${ofctl} ${step}`, `${ofctl} dump-flows br0`], {
          sortLines: true,
          normalize: noHardAge,
        });
      }
      await same([`${ofctl} dump-aggregate br0`, `${ofctl} dump-flows br0 tcp`], {
        sortLines: true,
        normalize: noHardAge,
      });
      await same([`${ofctl} dump-flows br0 out_port=LOCAL`, `${ofctl} dump-aggregate br0 ip`]);
    });

    it('keeps tables apart', async () => {
      const metadata = version === 'OpenFlow10' ? 'reg0=3' : 'metadata=3';
      const jump = version === 'OpenFlow10' ? 'resubmit(,3)' : 'goto_table:3';
      await same([
        `${ofctl} del-flows br0`,
        `${ofctl} add-flow br0 "table=2,${metadata} actions=${jump}"`,
        `${ofctl} add-flow br0 "table=3,reg1=0x5/0xff actions=move:NXM_NX_REG1[]->NXM_NX_REG2[],2"`,
        `${ofctl} dump-flows br0 table=2`,
        `${ofctl} dump-flows br0 table=3`,
        `${ofctl} dump-flows br0 table=4`,
        `${ofctl} del-flows br0 table=3`,
        `${ofctl} dump-flows br0`,
        `${ofctl} add-flow br0 "table=254,actions=drop"`,
      ]);
    });

    it('tells tables', () =>
      same([`${ofctl} dump-tables br0`], {
        normalize: (text) => text.replace(/lookup=\d+, matched=\d+/g, 'lookup=N'),
      }));

    it('tells ports and queues', async () => {
      await same([`${ofctl} dump-ports br0`, `${ofctl} dump-ports br0 1`], {
        normalize: noDummy,
        sortLines: true,
      });
      await same(
        [
          `${ofctl} dump-ports br0 9`,
          `${ofctl} queue-stats br0`,
          `${ofctl} queue-stats br0 1`,
          `${ofctl} queue-stats br0 1 4`,
          `${ofctl} queue-stats br0 9`,
          `${ofctl} queue-get-config br0 9`,
        ],
        { normalize: noDummy },
      );
    });

    it('changes ports', async () => {
      for (const change of ['down', 'no-flood', 'no-receive', 'up', 'flood', 'receive']) {
        await same([`${ofctl} mod-port br0 p2 ${change}`], {});
        await same([`${ofctl} dump-ports-desc br0 2`], { normalize: noAddresses });
      }
      await same([`${ofctl} mod-port br0 nosuch up`]);
    });

    it('sets fragment handling', () =>
      same([
        `${ofctl} set-frags br0 drop`,
        `${ofctl} get-frags br0`,
        `${ofctl} set-frags br0 nx-match`,
        `${ofctl} get-frags br0`,
        `${ofctl} set-frags br0 reassemble`,
        `${ofctl} get-frags br0`,
        `${ofctl} set-frags br0 normal`,
        `${ofctl} get-frags br0`,
      ]));

    it('sends packets', async () => {
      const frame = '505400000001505400000002080045000014000000004000f96d0a0000010a000002';
      bridge.packetOuts = [];
      await same([`${ofctl} packet-out br0 "in_port=1 packet=${frame} actions=output:2"`]);
      assert.equal(bridge.packetOuts.length, 1);
      const [{ inPort, actions, data }] = bridge.packetOuts;
      assert.equal(inPort, 1);
      assert.equal(Buffer.from(data).toString('hex'), frame);
      assert.equal(actions[0].type, 'output');
    });

    it('has no groups and meters', async () => {
      await same([`${ofctl} del-flows br0`]);
      if (version === 'OpenFlow10') return;
      await same([
        `${ofctl} dump-groups br0`,
        `${ofctl} dump-group-stats br0`,
        `${ofctl} del-groups br0`,
      ]);
      if (version === 'OpenFlow13') {
        await same([`${ofctl} dump-meters br0`, `${ofctl} meter-stats br0`]);
      }
    });

    it('replaces and compares flows from a file', async () => {
      const file = 'priority=1,in_port=1 actions=2\npriority=2,in_port=2 actions=1\n';
      const other = 'priority=1,in_port=1 actions=2\npriority=3,tcp actions=drop\n';
      await same([`${ofctl} add-flows br0 -`], { input: file });
      await same([`${ofctl} diff-flows br0 -`], { input: other });
      await same([`${ofctl} replace-flows br0 -`], { input: other });
      await same([`${ofctl} dump-flows br0`], { sortLines: true });
    });

    if (version !== 'OpenFlow10') {
      it('applies bundles as a whole or not at all', async () => {
        const good = 'add in_port=1 actions=2\nadd in_port=2 actions=1\ndelete tcp\n';
        await same([`${ofctl} del-flows br0`]);
        await same([`${ofctl} --bundle add-flows br0 -`], { input: good });
        await same([`${ofctl} dump-flows br0`], { sortLines: true });
        const overlapping =
          'add in_port=1 actions=drop\nadd check_overlap,priority=32768,tcp actions=2\n';
        await same([`${ofctl} --bundle add-flows br0 - 2>&1 | grep -o OFP[A-Z]*_[A-Z_]*`], {
          input: overlapping,
        });
        await same([`${ofctl} dump-flows br0`], { sortLines: true });
        await same([`${ofctl} --bundle replace-flows br0 -`], { input: 'tcp actions=1\n' });
        await same([`${ofctl} dump-flows br0`], { sortLines: true });
      });

      it('describes features of tables', () => same([`${ofctl} dump-table-features br0`]));
    }

    if (version === 'OpenFlow14' || version === 'OpenFlow15') {
      it('describes tables', async () => {
        await same([`${ofctl} dump-table-desc br0`]);
        await same([
          `${ofctl} mod-table br0 1 evict`,
          `${ofctl} dump-table-desc br0 | head -4`,
          `${ofctl} mod-table br0 1 noevict`,
          `${ofctl} dump-table-desc br0 | head -4`,
        ]);
      });
    }

    it('watches flows', async () => {
      // ofctl/barrier returns when the monitor has printed what the switch had to say.
      const change = (command: string) =>
        `${ofctl} ${command}; ovs-appctl -t ovs-ofctl ofctl/barrier`;
      const script = [
        `${ofctl} del-flows br0`,
        `${ofctl} add-flow br0 "in_port=1 actions=2"`,
        `${ofctl} monitor br0 watch: --detach --no-chdir --pidfile > monitor.txt 2>&1`,
        change('add-flow br0 "in_port=2,cookie=5 actions=1"'),
        change('mod-flows br0 "in_port=2 actions=LOCAL"'),
        change('mod-flows br0 "in_port=2 actions=LOCAL"'),
        change('add-flow br0 "in_port=2,cookie=5 actions=1"'),
        change('del-flows br0 in_port=1'),
        change('del-flows br0'),
        'ovs-appctl -t ovs-ofctl exit; cat monitor.txt',
      ].join('; ');
      await same([script]);
    });
  });
}

describe('errors', () => {
  it('have the texts of the real daemon', async () => {
    await same([
      'ovs-ofctl add-flow br0 "check_overlap,actions=1"',
      'ovs-ofctl add-flow br0 "check_overlap,in_port=1,actions=1"',
      'ovs-ofctl dump-flows nosuchbridge',
      'ovs-ofctl -O OpenFlow13 add-group br0 "nonsense"',
    ]);
  });

  it('of versions that the bridge does not allow', async () => {
    await real.run('ovs-vsctl set bridge br0 protocols=OpenFlow13');
    await connmgr.configure({ controllers: [], failMode: 'standalone', versions: 1 << 4 });
    try {
      // Whether our error or the end of the connection reaches ovs-ofctl first is a matter of luck.
      const stripped = (text: string) =>
        text
          .replace(/^.*\|WARN\|/gm, '')
          .replace(/unix:/g, '')
          .replace(/\((Broken pipe|Protocol error|Connection reset by peer)\)/, '(refused)');
      await same(['ovs-ofctl show br0', 'ovs-ofctl -O OpenFlow15 show br0'], {
        normalize: stripped,
      });
      await same(['ovs-ofctl -O OpenFlow13 dump-flows br0']);
      await same(['ovs-ofctl -O OpenFlow10,OpenFlow13 dump-flows br0']);
    } finally {
      await real.run('ovs-vsctl clear bridge br0 protocols');
      await connmgr.configure({ controllers: [], failMode: 'standalone' });
    }
  });
});

describe('many flows', () => {
  it('10 000 from a file, and back', async () => {
    const lines: string[] = [];
    for (let i = 0; i < 10_000; i++) {
      lines.push(`priority=${i},tcp,nw_dst=10.${i >> 8}.${i & 255}.1 actions=${1 + (i % 2)}`);
    }
    const input = `${lines.join('\n')}\n`;
    await same(['ovs-ofctl del-flows br0']);
    await same(['ovs-ofctl add-flows br0 -'], { input });
    await same(['ovs-ofctl dump-flows br0'], { sortLines: true });
    await same(['ovs-ofctl dump-aggregate br0', 'ovs-ofctl del-flows br0']);
  });
});
