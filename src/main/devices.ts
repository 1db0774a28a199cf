// Interface types: which opener serves which Interface.type, and what the daemon announces in iface_types.

import { openAfxdp } from '../port/afxdp.ts';
import { DUMMY_TYPES } from '../port/dummy.ts';
import { openPatch } from '../port/patch.ts';
import { openSystem } from '../port/system.ts';
import { openInternal, openTap } from '../port/tap.ts';
import { openTunnel } from '../port/tunnel.ts';
import { TUNNEL_KINDS } from '../port/tunnelConfig.ts';
import {
  type Netdev,
  type NetdevConfig,
  type NetdevContext,
  NetdevError,
  type NetdevOpener,
} from '../port/types.ts';
import { openVhostUser, openVhostUserClient } from '../port/vhostuser/port.ts';
import type { Dummies } from './dummies.ts';

const OPENERS: Readonly<Record<string, NetdevOpener>> = {
  system: openSystem,
  internal: openInternal,
  tap: openTap,
  afxdp: openAfxdp,
  'afxdp-nonpmd': openAfxdp,
  patch: openPatch,
  ...Object.fromEntries(Object.keys(TUNNEL_KINDS).map((type) => [type, openTunnel])),
  dpdkvhostuser: openVhostUser,
  dpdkvhostuserclient: openVhostUserClient,
};

/** Open_vSwitch.iface_types. */
export function ifaceTypes(dummies?: Dummies): string[] {
  return [...Object.keys(OPENERS), ...(dummies ? DUMMY_TYPES : [])].sort();
}

/** Interface.type as the switch takes it: '' is system, and a bridge's own interface is internal. */
export function effectiveType(type: string, isLocal: boolean, internal = 'internal'): string {
  if (isLocal || type === 'internal') return internal;
  return type === '' ? 'system' : type;
}

/** Opens a device, `dummies` standing in for the types that they serve. Throws NetdevError with the text for Interface.error, also for types that nobody serves. */
export function openDevice(
  config: NetdevConfig,
  context: NetdevContext,
  dummies?: Dummies,
): Promise<Netdev> {
  const opener = dummies?.serves(config.type) ? dummies.open : OPENERS[config.type];
  if (!opener) {
    throw new NetdevError(
      `could not open network device ${config.name} (Address family not supported by protocol)`,
    );
  }
  return opener(config, context);
}
