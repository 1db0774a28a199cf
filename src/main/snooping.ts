// Columns about multicast snooping (ovs-vswitchd.conf.db(5), tables Bridge and Port) → settings.

import type { SnoopingSettings } from '../switch/multicast/snooping.ts';
import type { BridgeIntent } from './intent.ts';

const AGING_DEFAULT_S = 300;
const TABLE_DEFAULT = 2048;

/** 0 and what is no number are the default. */
function number(text: string | undefined, fallback: number, min: number, max: number): number {
  const value = Number.parseInt(text ?? '', 10) || fallback;
  return Math.min(Math.max(value, min), max);
}

/** undefined: no snooping. */
export function snoopingSettings(intent: BridgeIntent): SnoopingSettings | undefined {
  if (!intent.mcastSnooping) return undefined;
  const config = intent.otherConfig;
  const withSetting = (key: string): ReadonlySet<string> =>
    new Set(
      intent.ports.filter(({ bond }) => bond.otherConfig[key] === 'true').map(({ name }) => name),
    );
  return {
    agingMs: 1000 * number(config['mcast-snooping-aging-time'], AGING_DEFAULT_S, 15, 3600),
    maxEntries: number(config['mcast-snooping-table-size'], TABLE_DEFAULT, 10, 1_000_000),
    floodUnregistered: config['mcast-snooping-disable-flood-unregistered'] !== 'true',
    floodPorts: withSetting('mcast-snooping-flood'),
    reportPorts: withSetting('mcast-snooping-flood-reports'),
  };
}
