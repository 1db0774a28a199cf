// The whole daemon against the real one, through ovs-ofctl: errors of flows that cannot be, counters of flows that
// packet-outs meet on their way through two bridges and a patch port, bundles and controllers configured by ovs-vsctl.
// Needs root (a network namespace for the bridges' local ports) and the built data plane.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { flowMod } from '../../src/wire/openflow/flowMod.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import { inPortMatch } from '../../src/wire/openflow/packetOut.ts';
import { OFPP_CONTROLLER } from '../../src/wire/openflow/types.ts';
import { OfClient, OfController } from '../unit/ofClient.ts';
import { type OvsSide, startPair } from './realOvs.ts';

const IP = '505400000001505400000002080045000014000000004000f96d0a0000010a000002';
const FRAME = Uint8Array.from(Buffer.from(IP, 'hex'));

const { real, ours, same, stop } = await startPair([
  'ovs-vsctl --timeout=20 add-br br0 -- set-fail-mode br0 secure -- add-port br0 pa ' +
    '-- set interface pa type=patch options:peer=pb ofport_request=1 ' +
    '-- add-br br1 -- set-fail-mode br1 secure -- add-port br1 pb ' +
    '-- set interface pb type=patch options:peer=pa ofport_request=7',
  'ovs-vsctl get interface pa ofport error -- get interface pb ofport error',
]);
after(stop);

/** The error's name; the message that it quotes is printed by ovs-ofctl from the same bytes. */
const onlyErrors = (text: string) => (text.match(/[A-Z0-9]+_[A-Z_]+\b/g) ?? []).join(' ');

describe('flows that cannot be', () => {
  const flows: Record<string, string[]> = {
    OpenFlow10: [
      'in_port=1 actions=output:65280',
      'in_port=1 actions=output:65534',
      'in_port=1 actions=resubmit(,255)',
      'in_port=1 actions=resubmit(,254)',
      'actions=group:7',
      'actions=mod_nw_src:1.2.3.4',
      'actions=mod_tp_dst:5',
      'actions=dec_ttl',
      'tcp actions=mod_tp_dst:5,dec_ttl',
      'table=255 actions=drop',
      'table=254 actions=drop',
      'actions=load:1->NXM_OF_VLAN_TCI[]',
      'actions=move:NXM_OF_IP_SRC[]->NXM_OF_IP_DST[]',
      'actions=load:7->NXM_NX_REG3[0..3],output:NXM_NX_REG3[]',
      'actions=exit',
      'actions=strip_vlan,strip_vlan',
    ],
    OpenFlow13: [
      'actions=goto_table:0',
      'table=5 actions=goto_table:4',
      'actions=goto_table:254',
      'actions=goto_table:253',
      'actions=meter:3,drop',
      'actions=write_actions(group:9)',
      'actions=set_field:1.2.3.4->ip_src',
      'tcp actions=set_field:1.2.3.4->ip_src,dec_ttl',
      'actions=set_field:5->tcp_dst',
      'actions=pop_vlan',
      'dl_vlan=3 actions=pop_vlan',
      'actions=push_vlan:0x8100,set_field:4099->vlan_vid',
      'actions=set_field:7->vlan_vid',
      'actions=write_metadata:5/0xff,clear_actions,write_actions(output:2),goto_table:1',
      'ip,nw_src=1.2.3.4 actions=output:0',
      'actions=output:ANY',
    ],
    OpenFlow15: [
      'actions=set_field:0x5/0xf->reg0',
      'actions=set_field:0x800->eth_type',
      'actions=group:1',
      'actions=meter:1',
      'importance=3,idle_timeout=5 actions=1',
      'actions=move:eth_src->eth_dst',
    ],
  };
  for (const [version, list] of Object.entries(flows)) {
    for (const flow of list) {
      it(`${version}: ${flow}`, () =>
        same([`ovs-ofctl -O ${version} add-flow br0 "${flow}"`], { normalize: onlyErrors }));
    }
    it(`${version}: the others are there`, () =>
      same([`ovs-ofctl -O ${version} dump-flows br0`, `ovs-ofctl -O ${version} del-flows br0`], {
        sortLines: true,
      }));
  }
});

describe('actions that do not fit their match', () => {
  // ovs-ofctl itself would not send some of these: the messages are made here.
  const flows = [
    ['', 'mod_nw_src:1.2.3.4'],
    ['', 'mod_nw_tos:8'],
    ['tcp', 'mod_nw_src:1.2.3.4,mod_tp_dst:5'],
    ['udp6', 'mod_tp_src:5'],
    ['', 'mod_tp_dst:5'],
    ['', 'dec_ttl'],
    ['ip', 'dec_ttl'],
    ['arp', 'dec_ttl'],
    ['', 'strip_vlan'],
    ['dl_vlan=3', 'strip_vlan'],
    ['dl_vlan=3', 'strip_vlan,strip_vlan'],
    ['', 'mod_vlan_vid:5'],
    ['', 'mod_vlan_pcp:5'],
    ['', 'push_vlan:0x8100,mod_vlan_pcp:5'],
    ['vlan_tci=0x1000/0x1000', 'mod_vlan_vid:7'],
    ['', 'load:5->NXM_OF_TCP_DST[]'],
    ['ip', 'load:5->NXM_OF_TCP_DST[]'],
    ['', 'move:NXM_OF_IP_SRC[]->NXM_NX_REG0[]'],
  ] as const;
  // OpenFlow 1.0, 1.1, 1.3, 1.5
  for (const version of [1, 2, 4, 6] as const) {
    it(`version ${version}: each is refused, or taken, as there`, async () => {
      const answers = async (side: OvsSide): Promise<string[]> => {
        using client = await OfClient.connect(join(side.dir, 'br0.mgmt'), version);
        client.strict = false;
        const codes: string[] = [];
        for (const [match, actions] of flows) {
          const parts = { match: parseMatch(match), actions: parseActions(actions) };
          const what = `${match || 'any'} ${actions}`;
          let message: Parameters<OfClient['errorOf']>[0];
          message = { type: 'flow_mod', nxt: false, flowMod: flowMod(parts) };
          codes.push(`flow ${what}: ${await client.errorOf(message)}`);
          const packetOut = { bufferId: 0xffffffff, inPort: OFPP_CONTROLLER, data: FRAME };
          message = {
            type: 'packet_out',
            packetOut: {
              ...packetOut,
              match: inPortMatch(OFPP_CONTROLLER),
              actions: parts.actions,
            },
          };
          codes.push(`packet ${what}: ${await client.errorOf(message)}`);
        }
        return codes;
      };
      const [theirs, mine] = [await answers(real), await answers(ours)];
      assert.deepEqual(mine, theirs);
      // The lists are not all of one kind.
      const refused = theirs.filter((line) => line.includes('OFPBAC_MATCH_INCONSISTENT')).length;
      assert.ok(refused >= 2 && refused < theirs.length, `${refused} of ${theirs.length}`);
      await same(['ovs-ofctl del-flows br0']);
    });
  }
});

describe('packets', () => {
  const dump = ['ovs-ofctl dump-flows br0', 'ovs-ofctl dump-flows br1'];
  const clean = { sortLines: true, normalize: (text: string) => text.replace(/\w+_age=T, ?/g, '') };

  it('count in the flows of both bridges', async () => {
    await same([
      'ovs-ofctl add-flow br0 "table=0,in_port=LOCAL,ip actions=load:5->NXM_NX_REG1[],resubmit(,1)"',
      'ovs-ofctl add-flow br0 "table=1,reg1=5 actions=mod_dl_dst:00:00:00:00:00:99,output:1"',
      'ovs-ofctl add-flow br1 "in_port=7,dl_dst=00:00:00:00:00:99 actions=dec_ttl,IN_PORT"',
      'ovs-ofctl add-flow br1 "priority=1 actions=drop"',
      'ovs-ofctl add-flow br0 "in_port=1,dl_dst=00:00:00:00:00:99 actions=drop"',
      `ovs-ofctl packet-out br0 "in_port=LOCAL packet=${IP} actions=TABLE"`,
      `ovs-ofctl packet-out br0 "in_port=LOCAL packet=${IP} actions=TABLE"`,
      `ovs-ofctl packet-out br0 "in_port=CONTROLLER packet=${IP} actions=1"`,
    ]);
    await same(dump, clean);
    await same(['ovs-ofctl dump-aggregate br1']);
  });

  it('keep their counts through modifications, and lose them when told to', async () => {
    await same(['ovs-ofctl mod-flows br1 "in_port=7 actions=drop"', ...dump], clean);
    await same(['ovs-ofctl -O OpenFlow13 add-flow br1 "priority=1 actions=drop"', ...dump], clean);
    await same(['ovs-ofctl add-flow br1 "priority=1 actions=drop"', ...dump], clean);
  });
});

describe('bundles', () => {
  it('change nothing when one of their flows is refused', async () => {
    const input =
      'add table=9,in_port=1 actions=2\ndelete table=1\nadd table=9,in_port=2 actions=group:5\n';
    await same(['ovs-ofctl -O OpenFlow14 --bundle add-flows br0 -'], {
      input,
      normalize: onlyErrors,
    });
    await same(['ovs-ofctl dump-flows br0 table=9', 'ovs-ofctl dump-aggregate br0 table=1']);
  });
});

describe('settings that controllers make', () => {
  it('names of tables', () =>
    same(
      [
        'ovs-ofctl -O OpenFlow13 mod-table br0 3 name:main',
        'ovs-ofctl -O OpenFlow15 mod-table br0 4 name:second',
        'ovs-ofctl -O OpenFlow15 dump-tables br0 | grep "table [34]"',
        'ovs-ofctl add-flow br0 "table=second actions=resubmit(,main)"',
        'ovs-ofctl --names dump-flows br0 table=second',
        'ovs-ofctl -O OpenFlow14 mod-table br0 254 evict',
      ],
      { normalize: (text) => text.replace(/\w+_age=T, ?/g, '') },
    ));

  it('mappings of tunnel options', () => {
    const map = (command: string, index: number) =>
      `ovs-ofctl ${command} br0 "{class=0x102,type=0x80,len=4}->tun_metadata${index}"`;
    return same(
      [
        'ovs-ofctl dump-tlv-map br0',
        'ovs-ofctl add-flow br0 "tun_metadata0=5 actions=2"',
        map('add-tlv-map', 0),
        map('add-tlv-map', 1),
        'ovs-ofctl dump-tlv-map br0',
        'ovs-ofctl add-flow br0 "tun_metadata0=5 actions=2"',
        'ovs-ofctl dump-flows br0 tun_metadata0=5',
        map('del-tlv-map', 0),
        'ovs-ofctl del-flows br0 tun_metadata0=5',
        'ovs-ofctl del-tlv-map br0',
        'ovs-ofctl dump-tlv-map br0',
      ],
      { normalize: (text) => text.replace(/\w+_age=T, ?/g, '') },
    );
  });

  it('bits of ports', () =>
    same([
      'ovs-ofctl mod-port br0 1 no-stp',
      'ovs-ofctl mod-port br0 1 no-packet-in',
      'ovs-ofctl mod-port br0 pa no-forward',
      'ovs-ofctl show br0 | grep -A1 pa | tail -1',
      'ovs-ofctl mod-port br0 9 up',
    ]));
});

describe('controllers', () => {
  it('are shown in the database', async () => {
    // Sockets in the run directories: the daemons' loopback interfaces are not ours.
    using forReal = await OfController.listenAt(join(real.dir, 'controller.sock'), 4);
    using forOurs = await OfController.listenAt(join(ours.dir, 'controller.sock'), 4);
    await same(['ovs-vsctl set-controller br0 unix:$PWD/controller.sock']);
    for (const [side, controller] of [
      [real, forReal],
      [ours, forOurs],
    ] as const) {
      const peer = await controller.connection();
      await peer.request({ type: 'barrier_request' }, 'barrier_reply');
      await side.waitFor('is_connected', async () => {
        const { stdout } = await side.run(
          'ovs-vsctl --bare --columns=is_connected list controller',
        );
        return stdout.trim() === 'true';
      });
    }
    const columns = 'is_connected,role,connection_mode,max_backoff';
    await same([`ovs-vsctl --columns=${columns} list controller`]);
    await same(
      ['ovs-vsctl --bare --columns=status list controller | grep -o state=.*', 'ovs-vsctl show'],
      {
        // Rows come in the order of their UUIDs.
        sortLines: true,
        normalize: (text) => text.replace(/^[0-9a-f-]{36}$/gm, 'UUID'),
      },
    );
    await same(['ovs-vsctl del-controller br0']);
  });
});
