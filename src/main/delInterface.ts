// dpctl/del-if (ovs-dpctl(8)): takes ports out of the datapath behind the database's back. As in Open vSwitch they come back
// with the next change of the database that concerns bridges.

import { type Command, CommandError } from '../control/appctl/server.ts';
import { isOurDatapath } from '../switch/dpctl.ts';
import type { InterfaceUnit } from './ports.ts';
import type { BridgeUnit } from './reconcile.ts';

interface Found {
  owner: BridgeUnit;
  unit: InterfaceUnit;
}

export interface DelInterfaceHooks {
  bridges: () => Iterable<BridgeUnit>;
  /** Runs `what` while no reconfiguration is under way. False: it has not, for the ports are being handed over. */
  alone: (what: () => Promise<void>) => Promise<boolean>;
}

/** By name or by number in the datapath. Patch ports are none of its ports. */
function find(bridges: Iterable<BridgeUnit>, wanted: string): Found | undefined {
  for (const owner of bridges) {
    for (const unit of owner.ports.units.values()) {
      const number = unit.port?.dpPort ?? -1;
      if (number < 0) continue;
      if (unit.name === wanted || String(number) === wanted) return { owner, unit };
    }
  }
  return undefined;
}

async function deleteOne(hooks: DelInterfaceHooks, dp: string, wanted: string): Promise<string> {
  const found = find(hooks.bridges(), wanted);
  const failed = (why: string): string =>
    `ovs-vswitchd: deleting port ${wanted} from ${dp} failed (${why})`;
  if (found === undefined) {
    return /^\d+$/.test(wanted)
      ? failed('No such device')
      : `ovs-vswitchd: no port named ${wanted}`;
  }
  const { owner, unit } = found;
  // A bridge's own port is as old as the bridge.
  if (unit.name === owner.bridge.name) return failed('Invalid argument');
  await owner.ports.detach(unit);
  return '';
}

export function delInterfaceCommand(hooks: DelInterfaceHooks): Command {
  return {
    name: 'dpctl/del-if',
    usage: 'dp iface...',
    minArgs: 2,
    maxArgs: Number.MAX_SAFE_INTEGER,
    run: async ([dp = '', ...names]) => {
      if (!isOurDatapath(dp))
        throw new CommandError('ovs-vswitchd: opening datapath (No such device)');
      const problems: string[] = [];
      const done = await hooks.alone(async () => {
        for (const name of names) problems.push(await deleteOne(hooks, dp, name));
      });
      if (!done)
        throw new CommandError('ovs-vswitchd: deleting ports failed (Device or resource busy)');
      const text = problems.filter((one) => one !== '').join('\n');
      if (text !== '') throw new CommandError(text);
      return '';
    },
  };
}
