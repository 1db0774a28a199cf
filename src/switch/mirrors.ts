// The mirrors of a bridge (SPAN and RSPAN; table Mirror of ovs-vswitchd.conf.db(5)): which packets are copied, and where
// to. Translation (translate/mirror.ts) asks for bit sets: bit N is the mirror in slot N, so that "has been mirrored
// there already" is one number that travels with the packet.

import type { Bundle } from './types.ts';

export const MIRRORS_MAX = 32;

export interface MirrorSettings {
  /** Of the row: the mirror keeps its counters as long as it exists. */
  uuid: string;
  name: string;
  /** Packets that come in here, and that go out there. */
  sources: ReadonlySet<Bundle>;
  destinations: ReadonlySet<Bundle>;
  /** Only packets of these VLANs; undefined = all. */
  vlans: ReadonlySet<number> | undefined;
  /** Either a bundle or a VLAN. */
  out: Bundle | undefined;
  outVlan: number | undefined;
  /** Bytes of each packet that are copied, 0 = all. */
  snaplen: number;
}

export interface Mirror extends MirrorSettings {
  readonly slot: number;
  /** This mirror and those with the same output: a packet goes to one of them. */
  duplicates: number;
  packets: number;
  bytes: number;
}

/** What happens to packets of one bundle. */
interface Masks {
  source: number;
  destination: number;
  out: number;
}

const same = <T>(a: ReadonlySet<T> | undefined, b: ReadonlySet<T> | undefined): boolean =>
  a === b ||
  (a !== undefined && b !== undefined && a.size === b.size && [...a].every((v) => b.has(v)));

const unchanged = (a: MirrorSettings, b: MirrorSettings): boolean =>
  same(a.sources, b.sources) &&
  same(a.destinations, b.destinations) &&
  same(a.vlans, b.vlans) &&
  a.out === b.out &&
  a.outVlan === b.outVlan &&
  a.snaplen === b.snaplen;

export class MirrorTable {
  readonly #slots: (Mirror | undefined)[] = [];
  readonly #masks = new Map<Bundle, Masks>();

  get any(): boolean {
    return this.#masks.size > 0;
  }

  get(slot: number): Mirror | undefined {
    return this.#slots[slot];
  }

  find(uuid: string): Mirror | undefined {
    return this.#slots.find((mirror) => mirror?.uuid === uuid);
  }

  /** Mirrors that copy what comes in by the bundle. */
  sourceMask(bundle: Bundle): number {
    return this.#masks.get(bundle)?.source ?? 0;
  }

  /** Mirrors that copy what goes out by the bundle. */
  destinationMask(bundle: Bundle): number {
    return this.#masks.get(bundle)?.destination ?? 0;
  }

  /** Is the bundle some mirror's output? Then it carries nothing else. */
  isOutput(bundle: Bundle): boolean {
    return (this.#masks.get(bundle)?.out ?? 0) !== 0;
  }

  /** Makes the mirrors these. Names those that found no slot. True in `changed`: megaflows have to be looked at again. */
  configure(wanted: readonly MirrorSettings[]): { changed: boolean; refused: string[] } {
    const refused: string[] = [];
    let changed = false;
    for (const [slot, mirror] of this.#slots.entries()) {
      if (mirror === undefined || wanted.some(({ uuid }) => uuid === mirror.uuid)) continue;
      this.#slots[slot] = undefined;
      changed = true;
    }
    for (const settings of wanted) {
      const old = this.find(settings.uuid);
      if (old !== undefined) {
        if (!unchanged(old, settings)) changed = true;
        Object.assign(old, settings);
        continue;
      }
      const slot = this.#freeSlot();
      if (slot < 0) {
        refused.push(settings.name);
        continue;
      }
      this.#slots[slot] = { ...settings, slot, duplicates: 0, packets: 0, bytes: 0 };
      changed = true;
    }
    if (changed) this.#index();
    return { changed, refused };
  }

  #freeSlot(): number {
    for (let slot = 0; slot < MIRRORS_MAX; slot++) if (this.#slots[slot] === undefined) return slot;
    return -1;
  }

  #index(): void {
    this.#masks.clear();
    for (const mirror of this.#slots) {
      if (mirror === undefined) continue;
      const bit = 1 << mirror.slot;
      for (const bundle of mirror.sources) this.#maskOf(bundle).source |= bit;
      for (const bundle of mirror.destinations) this.#maskOf(bundle).destination |= bit;
      if (mirror.out !== undefined) this.#maskOf(mirror.out).out |= bit;
      mirror.duplicates = 0;
      for (const other of this.#slots) {
        if (other === undefined) continue;
        if (other.out !== mirror.out || other.outVlan !== mirror.outVlan) continue;
        mirror.duplicates |= 1 << other.slot;
      }
    }
  }

  #maskOf(bundle: Bundle): Masks {
    let masks = this.#masks.get(bundle);
    if (masks === undefined) {
      masks = { source: 0, destination: 0, out: 0 };
      this.#masks.set(bundle, masks);
    }
    return masks;
  }
}
