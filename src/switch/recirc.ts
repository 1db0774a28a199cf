// Recirculation: a packet leaves the pipeline in the middle, for the data plane to do something to it (connection
// tracking, hashing), and comes back to be looked up again. What the key of a packet cannot carry is frozen here, under
// the recirculation id that the packet bears: bridge, table, registers, metadata, action set.
//
// Megaflows use the ids in their programs and the one in their own key. A megaflow whose id means nothing any more
// cannot be reached either; the revalidator removes it.

import {
  F_ACTSET_OUTPUT,
  F_CONJ_ID,
  F_IN_PORT,
  F_METADATA,
  F_SKB_SPARE,
  F_TUN_METADATA,
  FLOW_SIZE,
  K_CT_IPV6_SRC,
  K_TUN_ID,
} from '../../contract/key.ts';
import type { Action } from '../wire/openflow/types.ts';
import { isZero } from './flow.ts';
import { IdPool, type Numbers, ObjectNumbers } from './idPool.ts';
import type { FrozenState, RecircStore } from './translate/types.ts';

/** Ids in use at a time. */
export const RECIRC_IDS_MAX = 262_144;

/** What is kept of a flow record besides the packet's own fields: tunnel, metadata and registers, input port. */
const KEPT: readonly (readonly [start: number, end: number])[] = [
  [K_TUN_ID, K_CT_IPV6_SRC],
  [F_METADATA, F_ACTSET_OUTPUT],
  [F_IN_PORT, F_CONJ_ID],
  [F_TUN_METADATA, F_SKB_SPARE],
];

/** Pipeline metadata of a flow, in a record of its own. */
export function freezeMetadata(flow: Uint8Array): Uint8Array {
  const metadata = new Uint8Array(FLOW_SIZE);
  for (const [start, end] of KEPT) metadata.set(flow.subarray(start, end), start);
  return metadata;
}

/** Puts frozen metadata back. */
export function thawMetadata(metadata: Uint8Array, flow: Uint8Array): void {
  for (const [start, end] of KEPT) flow.set(metadata.subarray(start, end), start);
}

function actionsText(actions: readonly Action[]): string {
  if (actions.length === 0) return '';
  return JSON.stringify(actions, (_, value: unknown) =>
    typeof value === 'bigint' ? `${value}n` : value instanceof Uint8Array ? value.toHex() : value,
  );
}

/** States of one bridge are equal if their keys are. */
export function frozenKey(state: FrozenState, bridge: number): string {
  const { table, conntracked, metadata, actionSet, actions, stack, mirrors } = state;
  const kept = KEPT.map(([start, end]) =>
    isZero(metadata, start, end - start) ? '' : metadata.subarray(start, end).toHex(),
  );
  return [
    bridge,
    table,
    conntracked ? 1 : 0,
    mirrors ?? 0,
    ...kept,
    actionsText(actionSet),
    actionsText(actions),
    stack.map((value) => value.toHex()).join(' '),
  ].join('/');
}

export class RecircIds implements RecircStore {
  readonly #pool: IdPool<FrozenState>;
  readonly #bridges = new ObjectNumbers();

  constructor(now: () => number, numbers?: Numbers) {
    this.#pool = new IdPool(now, RECIRC_IDS_MAX, numbers);
  }

  get size(): number {
    return this.#pool.size;
  }

  add(state: FrozenState): number {
    return this.#pool.add(frozenKey(state, this.#bridges.of(state.bridge)), state);
  }

  get(id: number): FrozenState | undefined {
    return this.#pool.get(id);
  }

  retain(id: number): boolean {
    return this.#pool.retain(id);
  }

  release(ids: readonly number[]): void {
    this.#pool.release(ids);
  }

  mark(): number {
    return this.#pool.mark();
  }

  forget(ids: readonly number[], mark: number): void {
    this.#pool.forget(ids, mark);
  }

  sweep(): void {
    this.#pool.sweep();
  }
}
