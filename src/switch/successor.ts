// Megaflows for the next daemon: what a datapath tells of its own, and how its successor makes them again.
//
// Only keys travel. The successor translates each as if its packet had just missed, with its own tables, so that a
// megaflow can never say what the tables do not. Numbers in keys that are the predecessor's own are replaced: input
// ports by name; recirculation ids by place, since the same pipeline asks for them in the same order.

import { K_IN_PORT, K_RECIRC_ID, KEY_SIZE } from '../../contract/key.ts';
import type { Datapath } from './datapath.ts';
import { be32, putBe32 } from './flow.ts';
import type { Megaflow } from './megaflow.ts';

/** More are not told: they would be long on their way, and the rest takes the slow path as ever. */
const FLOWS_MAX = 8192;

export interface SavedMegaflows {
  /** Name of each input port, by its number in the keys. */
  ports: [port: number, name: string][];
  /** KEY_SIZE bytes for each, the busiest first. */
  keys: Uint8Array;
  /** Recirculation ids in each one's program. */
  recircs: number[][];
}

/** `datapath` has just counted (syncStats). */
export function saveMegaflows(datapath: Datapath, limit = FLOWS_MAX): SavedMegaflows {
  const now = datapath.engine.nowMs();
  // Of packets a second; a megaflow just made has a second to show what it is worth.
  const rate = ({ packets, createdMs }: Megaflow): number => packets / (now - createdMs + 1000);
  const rates = [...datapath.megaflows].map((flow) => ({ flow, rate: rate(flow) }));
  rates.sort((a, b) => b.rate - a.rate);
  const flows = rates.slice(0, limit).map(({ flow }) => flow);
  const keys = new Uint8Array(flows.length * KEY_SIZE);
  flows.forEach(({ key }, i) => {
    keys.set(key, i * KEY_SIZE);
  });
  const numbers = new Set(flows.map(({ key }) => be32(key, K_IN_PORT)));
  return {
    ports: [...numbers].flatMap((port): [number, string][] => {
      const name = datapath.portName(port);
      return name === undefined ? [] : [[port, name]];
    }),
    keys,
    recircs: flows.map(({ effects }) => [...effects.recircs]),
  };
}

/** Numbers of `datapath`'s ports for those in the saved keys. */
function portsOf(datapath: Datapath, saved: SavedMegaflows): Map<number, number> {
  const byName = new Map<string, number>();
  for (const { device, port } of datapath.tunnels.listeners) byName.set(device, port);
  for (const [number, { port }] of datapath.ports) byName.set(port.name, number);
  return new Map(
    saved.ports.flatMap(([number, name]): [number, number][] => {
      const own = byName.get(name);
      return own === undefined ? [] : [[number, own]];
    }),
  );
}

/**
 * Makes the megaflows again. Yields after each, with the number made so far: whoever takes them decides how many at a
 * time. `rehearse`: translates only, and leaves nothing behind but tables in caches and compiled code.
 */
export function* restoreMegaflows(
  datapath: Datapath,
  saved: SavedMegaflows,
  rehearse = false,
): Generator<number> {
  const ports = portsOf(datapath, saved);
  const recircs = new Map<number, number>();
  const reserved: number[] = [];
  let made = 0;
  let waiting = saved.recircs.map((_, i) => i);
  try {
    // Those that were recirculated wait for the id of the one before them.
    for (let before = -1; before !== waiting.length; ) {
      before = waiting.length;
      const later: number[] = [];
      for (const i of waiting) {
        const key = saved.keys.slice(i * KEY_SIZE, (i + 1) * KEY_SIZE);
        const recirc = be32(key, K_RECIRC_ID);
        const own = recirc === 0 ? 0 : recircs.get(recirc);
        if (own === undefined) {
          later.push(i);
          continue;
        }
        putBe32(key, K_RECIRC_ID, own);
        const port = ports.get(be32(key, K_IN_PORT));
        if (port === undefined) continue;
        putBe32(key, K_IN_PORT, port);
        const ids = datapath.handler.foresee(key, !rehearse);
        if (ids === undefined) continue;
        reserved.push(...ids);
        const theirs = saved.recircs[i]!;
        if (theirs.length === ids.length) {
          for (const [at, id] of theirs.entries()) recircs.set(id, ids[at]!);
        }
        yield ++made;
      }
      waiting = later;
    }
  } finally {
    datapath.recircs.release(reserved);
  }
}
