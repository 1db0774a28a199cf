// What the dpctl/… commands have in common: options, and the name of the datapath (ovs-dpctl(8)).

import { CommandFailure } from './commandTypes.ts';

/** Options of dpctl commands, and what is left. */
export function dpctlOptions(args: readonly string[]): {
  verbose: boolean;
  names: boolean;
  statistics: boolean;
  rest: string[];
} {
  const rest = [...args];
  const out = { verbose: false, statistics: false, names: undefined as boolean | undefined };
  while (rest[0]?.startsWith('-')) {
    const option = rest.shift()!;
    if (option === '-m' || option === '--more') out.verbose = true;
    else if (option === '-s' || option === '--statistics') out.statistics = true;
    else if (option === '--names') out.names = true;
    else if (option === '--no-names') out.names = false;
    else if (option !== '--clear' && option !== '--may-create') {
      throw new CommandFailure(`Unrecognized option ${option}`);
    }
  }
  return { ...out, names: out.names ?? out.verbose, rest };
}

/** Is this the name of our datapath, as it is or as a dummy? Without a name it is. */
export function isOurDatapath(name: string | undefined): boolean {
  return name === undefined || /^(netdev@)?(ovs-netdev)$|^netdev$|^(dummy@)?ovs-dummy$/.test(name);
}

/** Refuses the name of a datapath that is not ours. */
export function checkDatapath(name: string | undefined): void {
  if (isOurDatapath(name)) return;
  throw new CommandFailure('ovs-vswitchd: opening datapath (No such device)');
}
