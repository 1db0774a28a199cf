// The underlay of tunnels, put together: the kernel's routes and addresses, those of dummy devices, and the commands.

import type { NetdevContext } from '../port/types.ts';
import type { SwitchCommand } from '../switch/commandTypes.ts';
import type { Datapath } from '../switch/datapath.ts';
import type { DeviceAddress } from '../switch/underlay/address.ts';
import { underlayCommands } from '../switch/underlay/commands.ts';
import { HostUnderlay } from '../switch/underlay/underlay.ts';
import { RouteMonitor } from '../sys/routeNetlink.ts';
import { mapped } from '../wire/rtnetlinkRoute.ts';
import type { Dummies } from './dummies.ts';

export interface UnderlayModules {
  datapath: Datapath;
  /** false: --disable-system-route. */
  systemRoutes: boolean;
  dummies: Dummies | undefined;
  log: Pick<NetdevContext['log'], 'warn'>;
  /** Tunnels may leave by other interfaces than before: what the database says of them is to be looked at again. */
  onEgress: () => void;
}

export interface OpenUnderlay extends Disposable {
  readonly commands: SwitchCommand[];
}

function addressesOfDummy(dummies: Dummies, name: string): DeviceAddress[] | undefined {
  const device = dummies.devices.get(name);
  if (device === undefined) return undefined;
  const found: DeviceAddress[] = [];
  const { address, address6 } = device;
  if (address) found.push({ address: mapped(address.bytes), prefixBits: address.prefix + 96 });
  if (address6) found.push({ address: address6.bytes, prefixBits: address6.prefix });
  return found;
}

function dummyWith(dummies: Dummies, address: Uint8Array): string | undefined {
  for (const name of dummies.devices.keys()) {
    const own = addressesOfDummy(dummies, name) ?? [];
    if (own.some((one) => Buffer.compare(one.address, address) === 0)) return name;
  }
  return undefined;
}

/** Makes the underlay of a datapath and keeps it current until disposed. */
export function openUnderlay(modules: UnderlayModules): OpenUnderlay {
  const { datapath, systemRoutes, dummies, log, onEgress } = modules;
  // The monitor hears of changes before the tables are read, so none is missed.
  let heard: (() => void) | undefined;
  const monitor = systemRoutes ? new RouteMonitor(() => heard?.()) : undefined;
  const underlay = new HostUnderlay({
    datapath,
    readKernel: monitor && (() => monitor.read()),
    ownAddresses: dummies && ((name) => addressesOfDummy(dummies, name)),
    ownDeviceOf: dummies && ((address) => dummyWith(dummies, address)),
    warn: (text) => log.warn(text),
  });
  heard = () => underlay.kernelChanged();
  datapath.underlay = underlay;
  const revalidate = underlay.onChange;
  underlay.onChange = () => {
    revalidate?.();
    if (datapath.tunnels.size > 0) onEgress();
  };
  return {
    commands: underlayCommands(underlay),
    [Symbol.dispose]: () => {
      datapath.underlay = undefined;
      monitor?.[Symbol.dispose]();
      underlay[Symbol.dispose]();
    },
  };
}
