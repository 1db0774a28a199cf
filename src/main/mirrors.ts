// Rows of table Mirror become settings of a bridge's mirrors: names become ports, and what cannot be done is said in the
// log, as the real daemon does.

import type { Log } from '../control/openflow/vconn.ts';
import { mirrorStatistics, type WantedRow } from '../control/ovsdb/columns.ts';
import type { SwitchBridge } from '../switch/bridge.ts';
import { MIRRORS_MAX, type MirrorSettings } from '../switch/mirrors.ts';
import type { Bundle } from '../switch/types.ts';
import type { BridgeIntent, MirrorIntent } from './intent.ts';

/** Makes the bridge's mirrors what the intent says; its ports are there already. */
export function applyMirrors(bridge: SwitchBridge, intent: BridgeIntent, log: Log): void {
  const bundles = new Map([...bridge.bundles].map((bundle) => [bundle.name, bundle]));
  const settings: MirrorSettings[] = [];
  for (const mirror of intent.mirrors) {
    const one = settingsOf(mirror, bundles, (text) => log.err(`bridge ${bridge.name}: ${text}`));
    if (one !== undefined) settings.push(one);
  }
  for (const name of bridge.setMirrors(settings)) {
    log.warn(`maximum of ${MIRRORS_MAX} port mirrors reached, cannot create ${name}`);
  }
}

function settingsOf(
  mirror: MirrorIntent,
  bundles: ReadonlyMap<string, Bundle>,
  fail: (text: string) => void,
): MirrorSettings | undefined {
  const { uuid, name, outputPort, outputVlan, snaplen } = mirror;
  const out = outputPort === undefined ? undefined : bundles.get(outputPort);
  if (outputPort !== undefined && out === undefined) {
    fail(`mirror ${name} outputs to port not on bridge`);
    return undefined;
  }
  if (out !== undefined && outputVlan !== undefined) {
    fail(`mirror ${name} specifies both output port and output vlan; ignoring output vlan`);
  }
  if (out === undefined && outputVlan === undefined) {
    fail(`mirror ${name} does not specify output; ignoring`);
    return undefined;
  }
  const collect = (ports: readonly string[]): Set<Bundle> => {
    if (mirror.selectAll) return new Set(bundles.values());
    const found = new Set<Bundle>();
    for (const port of ports) {
      const bundle = bundles.get(port);
      if (bundle !== undefined) found.add(bundle);
      else fail(`mirror ${name} cannot match on nonexistent port ${port}`);
    }
    return found;
  };
  return {
    uuid,
    name,
    sources: collect(mirror.sourcePorts),
    destinations: collect(mirror.destinationPorts),
    vlans: mirror.vlans.length > 0 ? new Set(mirror.vlans) : undefined,
    out,
    outVlan: out === undefined ? outputVlan : undefined,
    snaplen,
  };
}

/** Mirror.statistics by row; none for a mirror that is not in force. */
export function mirrorColumns(
  bridge: SwitchBridge,
  uuids: readonly string[],
): [string, WantedRow<'Mirror'>][] {
  if (uuids.length > 0) bridge.syncStats();
  return uuids.map((uuid) => {
    const mirror = bridge.mirrors.find(uuid);
    return [uuid, mirror ? mirrorStatistics(mirror.packets, mirror.bytes) : { statistics: {} }];
  });
}
