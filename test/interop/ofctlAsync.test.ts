// Asynchronous messages of the whole daemon, beside those of the real one: two ovs-ofctl monitors get the same
// instructions (set-config, roles, masks, controller ids), the switches live through the same events, and both monitors
// have to print the same. Needs root and the built data plane, as ofctlDaemon.test.ts does.

import { after, describe, it } from 'node:test';
import { encode } from '../../src/wire/openflow/message.ts';
import type { AsyncMasks, Message } from '../../src/wire/openflow/messages.ts';
import type { OfVersion } from '../../src/wire/openflow/types.ts';
import { startPair } from './realOvs.ts';

const VERSIONS: [string, OfVersion][] = [
  ['OpenFlow10', 1],
  ['OpenFlow13', 4],
  ['OpenFlow14', 5],
  ['OpenFlow15', 6],
];
const FRAME = '0001020304050010203040501234';

const { same, stop } = await startPair([
  'ovs-vsctl --timeout=20 add-br br0 -- set-fail-mode br0 secure',
]);
after(stop);

/** Everything that a controller may hear of. */
function events(ofctl: string): string[] {
  const barrier = 'ovs-appctl -t ovs-ofctl ofctl/barrier';
  return [
    `${ofctl} packet-out br0 "in_port=controller packet=${FRAME} actions=controller"`,
    `${ofctl} packet-out br0 "in_port=controller packet=${FRAME} actions=controller(reason=no_match,id=123)"`,
    barrier,
    'ovs-vsctl add-port br0 test -- set interface test type=patch options:peer=none ofport_request=9',
    barrier,
    'ovs-vsctl del-port br0 test',
    barrier,
    `${ofctl} add-flow br0 "send_flow_rem,cookie=0x77 actions=drop"`,
    `${ofctl} --strict del-flows br0 ""`,
    // The real daemon tells of removals when its threads have let go of the flow.
    'sleep 0.3',
    barrier,
  ];
}

function noMasks(): AsyncMasks {
  return {
    packetIn: 0,
    portStatus: 0,
    flowRemoved: 0,
    roleStatus: 0,
    tableStatus: 0,
    requestForward: 0,
  };
}

/** What the monitor is told before each round of events. */
function instructions(version: OfVersion): Message[] {
  const nxt = version === 1;
  const patchwork: [AsyncMasks, AsyncMasks] = [
    { ...noMasks(), packetIn: 2, portStatus: 5, flowRemoved: 2 },
    { ...noMasks(), packetIn: 5, portStatus: 2, flowRemoved: 13 },
  ];
  const role = (name: 'primary' | 'secondary' | 'other', generationId: bigint): Message =>
    nxt
      ? { type: 'role_request', role: name, nxt }
      : { type: 'role_request', role: name, generationId, nxt };
  return [
    { type: 'get_config_request' },
    { type: 'set_config', flags: 0, missSendLen: 128 },
    role('secondary', 1n),
    { type: 'set_async', masks: patchwork },
    { type: 'set_controller_id', controllerId: 123 },
    role('primary', 2n),
    { type: 'set_controller_id', controllerId: 0 },
    role('primary', 1n),
    role('other', 0n),
  ];
}

function hex(version: OfVersion, message: Message): string {
  return Buffer.from(encode(version, 0x1234, message)[0]).toString('hex');
}

for (const [name, version] of VERSIONS) {
  describe(name, () => {
    const ofctl = `ovs-ofctl -O ${name}`;

    it('monitors print the same', async () => {
      const script = [
        `${ofctl} monitor br0 -P standard --detach --no-chdir --pidfile > monitor.txt 2>&1`,
        'ovs-appctl -t ovs-ofctl ofctl/barrier',
      ];
      for (const message of instructions(version)) {
        script.push(`ovs-appctl -t ovs-ofctl ofctl/send ${hex(version, message)}`);
        script.push(...events(ofctl));
      }
      script.push('ovs-appctl -t ovs-ofctl exit', 'cat monitor.txt');
      await same([script.join('; ')], {
        normalize: (text) =>
          text.replace(/addr:[0-9a-f:]{17}/g, 'addr:MAC').replace(/duration\S* /g, ''),
      });
    });
  });
}
