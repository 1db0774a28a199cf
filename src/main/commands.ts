// unixctl commands of the switch: those of src/switch/commands.ts, and the few that need the whole daemon.

import { type Command, CommandError } from '../control/appctl/server.ts';
import { switchCommandTable } from '../switch/commands.ts';
import type { Vswitchd } from './vswitchd.ts';

export function switchCommands(daemon: Vswitchd): Command[] {
  const { datapath, reconciler } = daemon;
  return [
    ...switchCommandTable(datapath),
    {
      name: 'bridge/reconnect',
      usage: '[bridge]',
      minArgs: 0,
      maxArgs: 1,
      run: ([name]) => {
        if (name !== undefined && !reconciler.bridges.has(name)) {
          throw new CommandError('unknown bridge');
        }
        for (const [key, unit] of reconciler.bridges) {
          if (name === undefined || key === name) unit.connmgr.reconnect();
        }
        return '';
      },
    },
  ];
}
