// Open_vSwitch.other_config → data plane and revalidator (ovs-vswitchd.conf.db(5)). Values that make no sense count as
// absent, as with the real daemon.

import { cpus } from 'node:os';
import type { Engine } from '../engine/types.ts';
import type { Datapath } from '../switch/datapath.ts';

export interface DataPlaneSettings {
  /** Cores of the workers; undefined = one worker that the kernel places. */
  cores: readonly number[] | undefined;
  cacheInsertInvProb: number;
  vlanLimit: number;
  flowLimit: number;
  maxIdleMs: number;
  /** A core with pinned queues polls no others. */
  isolate: boolean;
}

const VLAN_LIMIT_MAX = 2;
const EMC_INV_PROB_DEFAULT = 100;

/** Cores named by a hexadecimal mask ("0x6", "6") that the machine has; undefined if there is none. */
export function coresOfMask(
  mask: string | undefined,
  machineCores = cpus().length,
): number[] | undefined {
  if (mask === undefined || !/^(0x)?[0-9a-f]+$/i.test(mask)) return undefined;
  const bits = BigInt(`0x${mask.replace(/^0x/i, '')}`);
  const cores: number[] = [];
  for (let core = 0; core < machineCores; core++) {
    if ((bits >> BigInt(core)) & 1n) cores.push(core);
  }
  return cores.length > 0 ? cores : undefined;
}

/** "0:3,1:7" → queue 0 on core 3, queue 1 on core 7. Pairs that make no sense are left out. */
export function parseAffinity(text: string | undefined): ReadonlyMap<number, number> {
  const affinity = new Map<number, number>();
  for (const pair of (text ?? '').split(/[ ,]+/)) {
    const match = /^(\d+):(\d+)$/.exec(pair);
    if (match) affinity.set(Number(match[1]), Number(match[2]));
  }
  return affinity;
}

const natural = (text: string | undefined, fallback: number): number =>
  text !== undefined && /^\d+$/.test(text) ? Number(text) : fallback;

export function settingsFrom(other: Readonly<Record<string, string>>): DataPlaneSettings {
  const vlanLimit = natural(other['vlan-limit'], 1);
  return {
    cores: coresOfMask(other['pmd-cpu-mask']),
    cacheInsertInvProb: natural(other['emc-insert-inv-prob'], EMC_INV_PROB_DEFAULT),
    vlanLimit: vlanLimit === 0 ? VLAN_LIMIT_MAX : Math.min(vlanLimit, VLAN_LIMIT_MAX),
    flowLimit: natural(other['flow-limit'], 200_000),
    maxIdleMs: natural(other['max-idle'], 10_000),
    isolate: other['pmd-rxq-isolate'] !== 'false',
  };
}

/** Brings the engine and the revalidator to the settings; only what differs from `before` costs anything. */
export async function applySettings(
  engine: Engine,
  datapath: Datapath,
  before: DataPlaneSettings | undefined,
  settings: DataPlaneSettings,
): Promise<void> {
  const { cores } = settings;
  if (JSON.stringify(cores) !== JSON.stringify(before?.cores)) await engine.setCores(cores ?? []);
  // The microflow cache costs 8 bytes a flow, so by default every flow goes in; only an explicit setting limits that.
  const inverse = settings.cacheInsertInvProb;
  engine.setCacheInsertInvProb(inverse === EMC_INV_PROB_DEFAULT ? 1 : inverse);
  engine.setIsolation(settings.isolate);
  engine.setVlanLimit(settings.vlanLimit);
  datapath.revalidator.maxFlowLimit = settings.flowLimit;
  datapath.revalidator.maxIdleMs = settings.maxIdleMs;
}
