// unixctl commands of the switch: those of src/switch/commands.ts, and the few that need the whole daemon.

import { type Command, CommandError } from '../control/appctl/server.ts';
import type { SwitchBridge } from '../switch/bridge.ts';
import { switchCommandTable } from '../switch/commands.ts';
import type { Rule } from '../switch/types.ts';
import { formatActions } from '../wire/openflow/actionText.ts';
import { formatMatch } from '../wire/openflow/matchText.ts';
import { delInterfaceCommand } from './delInterface.ts';
import { qosCommands } from './qosCommands.ts';
import type { BridgeUnit } from './reconcile.ts';
import type { Vswitchd } from './vswitchd.ts';

const DEFAULT_PRIORITY = 32768;

/** One line of bridge/dump-flows: hidden flows too, which OpenFlow does not show. */
function flowLine(rule: Rule, nowMs: number, offload: boolean): string {
  const parts = [
    ...(rule.table === 0 ? [] : [`table_id=${rule.table}`]),
    `duration=${Math.floor(Math.max(0, nowMs - rule.createdMs) / 1000)}s`,
    `n_packets=${rule.packets}`,
    `n_bytes=${rule.bytes}`,
    ...(offload ? ['n_offload_packets=0', 'n_offload_bytes=0'] : []),
  ];
  const match = [
    ...(rule.priority === DEFAULT_PRIORITY ? [] : [`priority=${rule.priority}`]),
    ...[formatMatch(rule.match)].filter((text) => text !== ''),
    `actions=${formatActions(rule.actions)}`,
  ];
  return `${parts.join(', ')}, ${match.join(',')}\n`;
}

function dumpFlows(bridge: SwitchBridge, offload: boolean): string {
  bridge.syncStats();
  const now = bridge.nowMs();
  let text = '';
  for (const table of bridge.tables) {
    for (const rule of table) text += flowLine(rule, now, offload);
  }
  return text;
}

export function switchCommands(daemon: Vswitchd): Command[] {
  const { datapath, reconciler } = daemon;
  const unit = (name: string): BridgeUnit => {
    const found = reconciler.bridges.get(name);
    if (!found) throw new CommandError('Unknown bridge');
    return found;
  };
  return [
    ...switchCommandTable(datapath),
    ...qosCommands(() => reconciler.bridges.values()),
    delInterfaceCommand({
      bridges: () => reconciler.bridges.values(),
      alone: (what) => daemon.alone(what),
    }),
    {
      name: 'bridge/reconnect',
      usage: '[bridge]',
      minArgs: 0,
      maxArgs: 1,
      run: ([name]) => {
        const units = name === undefined ? reconciler.bridges.values() : [unit(name)];
        for (const { connmgr } of units) connmgr.reconnect();
        return '';
      },
    },
    {
      name: 'bridge/dump-flows',
      usage: '[--offload-stats] bridge',
      minArgs: 1,
      maxArgs: 2,
      run: (args) => dumpFlows(unit(args.at(-1)!).bridge, args[0] === '--offload-stats'),
    },
  ];
}
