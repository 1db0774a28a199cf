// The protocols that ports may speak, for all bridges: BFD and CFM, LACP with bonds, spanning trees; each with its module of
// the log and its commands.

import { type Logger, rateLimit, type Vlog } from '../observe/vlog.ts';
import { Bonds } from '../switch/bond/bonds.ts';
import type { SwitchCommand } from '../switch/commandTypes.ts';
import { Monitors } from '../switch/monitor/monitors.ts';
import { Trees } from '../switch/spanningTree/trees.ts';
import type { ProtocolModules } from './portProtocols.ts';

export function createProtocolModules(vlog: Vlog): ProtocolModules {
  // Whoever is at the other end of a port can provoke these messages: as many as from the real daemon.
  const limited = (module: string, perMinute: number): Pick<Logger, 'info' | 'warn'> => {
    const log = vlog.module(module);
    const limit = rateLimit(perMinute);
    return { info: (text) => log.info(text, limit), warn: (text) => log.warn(text, limit) };
  };
  const monitors = new Monitors({ bfd: limited('bfd', 20), cfm: limited('cfm', 20) });
  const bondLog = vlog.module('bond');
  const bonds = new Bonds({
    bond: (text) => bondLog.info(text),
    lacp: limited('lacp', 5).warn,
  });
  const dpifLog = vlog.module('ofproto_dpif');
  const trees = new Trees({
    ...limited('stp', 60),
    state: (text) => dpifLog.dbg(text),
  });
  return { monitors, bonds, trees };
}

/** bfd/show, lacp/show, bond/show, stp/show and their like. */
export function protocolCommands({ monitors, bonds, trees }: ProtocolModules): SwitchCommand[] {
  return [...monitors.commands(), ...bonds.commands(), ...trees.commands()];
}
