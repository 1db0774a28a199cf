// The first configuration of `npm start`: one bridge with two vhost-user ports, one of each type, if the database has no
// bridge br0 yet. Whatever the user has configured since stays.

import { OvsdbClient } from '../control/ovsdb/client.ts';
import type { Embedded } from '../control/ovsdb/embedded.ts';
import type { Json } from '../wire/ovsdb/json.ts';

export const DEMO_BRIDGE = 'br0';
/** Port of type dpdkvhostuserclient: the guest listens. */
export const DEMO_CLIENT_PORT = 'vm1';
/** Port of type dpdkvhostuser: the switch listens. */
export const DEMO_SERVER_PORT = 'vm2';

/** Inserts an interface and its port; returns the operations and the named uuid of the port. */
function portOperations(name: string, type: string, options: Record<string, string>): Json[] {
  const map: Json = ['map', Object.entries(options)];
  return [
    {
      op: 'insert',
      table: 'Interface',
      'uuid-name': `i_${name}`,
      row: { name, type, options: map },
    },
    {
      op: 'insert',
      table: 'Port',
      'uuid-name': `p_${name}`,
      row: { name, interfaces: ['named-uuid', `i_${name}`] },
    },
  ];
}

function bridgeOperations(guestSocket: string): Json[] {
  const ports = [DEMO_BRIDGE, DEMO_CLIENT_PORT, DEMO_SERVER_PORT];
  return [
    ...portOperations(DEMO_BRIDGE, 'internal', {}),
    ...portOperations(DEMO_CLIENT_PORT, 'dpdkvhostuserclient', {
      'vhost-server-path': guestSocket,
    }),
    ...portOperations(DEMO_SERVER_PORT, 'dpdkvhostuser', {}),
    {
      op: 'insert',
      table: 'Bridge',
      'uuid-name': 'b',
      row: {
        name: DEMO_BRIDGE,
        datapath_type: 'netdev',
        ports: ['set', ports.map((name) => ['named-uuid', `p_${name}`])],
      },
    },
    {
      op: 'mutate',
      table: 'Open_vSwitch',
      where: [],
      mutations: [
        ['bridges', 'insert', ['set', [['named-uuid', 'b']]]],
        ['next_cfg', '+=', 1],
      ],
    },
  ];
}

/** Resolves when the bridge is in the database, made now or earlier. */
export function ensureDemoBridge(embedded: Embedded, guestSocket: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const client = new OvsdbClient({
      remote: () => embedded.connect(),
      lock: 'xvio_demo',
      onChange: ({ initial, snapshot }) => {
        if (!initial) return;
        const there = [...snapshot.table('Bridge').values()].some((b) => b.name === DEMO_BRIDGE);
        const done = there
          ? Promise.resolve()
          : client.transact(bridgeOperations(guestSocket), { assertLock: false });
        done.then(() => resolve(), reject).finally(() => client.close());
      },
    });
    client.start();
  });
}
