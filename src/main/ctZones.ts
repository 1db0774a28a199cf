// Timeout policies of connection tracking by zone: Datapath.ct_zones, CT_Zone and CT_Timeout_Policy of the database
// (ovs-vswitchd.conf.db(5)) become numbered policies of the data plane. Zones with equal timeouts share a policy.

import { CT_POLICY_MAX } from '../../contract/ct.ts';
import type { Snapshot } from '../control/ovsdb/replica.ts';
import type { Conntrack, CtTimeouts } from '../engine/conntrackTypes.ts';

/** Timeouts of the zones that have some: the datapath is one, whatever type the database calls it. Pure. */
export function ctZonesFrom(snapshot: Snapshot): ReadonlyMap<number, CtTimeouts> {
  const zones = new Map<number, CtTimeouts>();
  for (const type of ['system', 'netdev']) {
    const datapath = snapshot.get('Datapath', snapshot.root?.datapaths[type]);
    for (const [zone, uuid] of datapath?.ct_zones ?? []) {
      const policy = snapshot.get(
        'CT_Timeout_Policy',
        snapshot.get('CT_Zone', uuid)?.timeout_policy,
      );
      if (policy !== undefined) zones.set(zone, policy.timeouts);
    }
  }
  return zones;
}

function keyOf(timeouts: CtTimeouts): string {
  return JSON.stringify(Object.entries(timeouts).sort(([a], [b]) => (a < b ? -1 : 1)));
}

export interface CtZonesOptions {
  conntrack: Conntrack;
  warn: (text: string) => void;
  /** Policy numbers by zone differ from before. */
  onChange: (policies: ReadonlyMap<number, number>) => void;
}

export class CtZones {
  readonly #options: CtZonesOptions;
  /** Number of a policy by its timeouts. */
  readonly #numbers = new Map<string, number>();
  #zones: ReadonlyMap<number, number> = new Map();

  constructor(options: CtZonesOptions) {
    this.#options = options;
  }

  /** Makes the data plane follow. */
  apply(zones: ReadonlyMap<number, CtTimeouts>): void {
    const { conntrack, onChange } = this.#options;
    const wanted = new Map<number, number>();
    const used = new Set([...zones.values()].map(keyOf));
    // What is not used any more goes first: numbers are few.
    for (const [key, id] of this.#numbers) {
      if (used.has(key)) continue;
      this.#numbers.delete(key);
      conntrack.deleteTimeoutPolicy(id);
    }
    // New zones take what those that have a number leave.
    const isNew = ([zone]: readonly [number, CtTimeouts]): number =>
      this.#zones.has(zone) ? 0 : 1;
    for (const [zone, timeouts] of [...zones].sort((a, b) => isNew(a) - isNew(b))) {
      const id = this.#number(timeouts, this.#zones.get(zone));
      if (id !== 0) wanted.set(zone, id);
    }
    const same =
      wanted.size === this.#zones.size &&
      [...wanted].every(([zone, id]) => this.#zones.get(zone) === id);
    if (same) return;
    this.#zones = wanted;
    onChange(wanted);
  }

  /**
   * The zone's number of before if it can be, so that its live connections get the new timeouts. 0: no number is left,
   * the zone has the default timeouts.
   */
  #number(timeouts: CtTimeouts, before: number | undefined): number {
    const key = keyOf(timeouts);
    const known = this.#numbers.get(key);
    if (known !== undefined) return known;
    const taken = new Set(this.#numbers.values());
    let id = before === undefined || taken.has(before) ? 1 : before;
    while (taken.has(id)) id++;
    if (id < CT_POLICY_MAX) {
      this.#numbers.set(key, id);
      this.#options.conntrack.setTimeoutPolicy(id, timeouts);
      return id;
    }
    this.#options.warn(`more than ${CT_POLICY_MAX - 1} different CT_Timeout_Policy rows in use`);
    return 0;
  }
}
