// Which Geneve options the fields tun_metadata0 … 63 stand for (NXT_TLV_TABLE_MOD and _REQUEST, ovs-fields(7)
// "Tunnel Metadata"), and where in the flow record their values lie. A table of each bridge, set by controllers; OVN
// cannot work without it. A mapping keeps its place as long as it exists: flows refer to it.

import type { TlvMapping } from '../../wire/openflow/messages.ts';
import { OfError } from '../../wire/openflow/types.ts';

export const MAX_FIELDS = 64;
/** Bytes for the values of all mapped options together. */
export const MAX_SPACE = 256;
const MAX_OPTION_BYTES = 124;

export class TlvTable {
  #mappings: readonly TlvMapping[] = [];

  /** By index of the field. The array is replaced, never changed. */
  get mappings(): readonly TlvMapping[] {
    return this.#mappings;
  }

  /** All mappings or none. Throws OfError (NXTTMFC_*). */
  add(mappings: readonly TlvMapping[]): void {
    const changed = [...this.#mappings];
    for (const mapping of mappings) {
      const { optionClass, optionType, optionLen, index } = mapping;
      if (optionLen === 0 || optionLen % 4 !== 0 || optionLen > MAX_OPTION_BYTES) {
        throw new OfError('NXTTMFC_BAD_OPT_LEN');
      }
      if (index >= MAX_FIELDS) throw new OfError('NXTTMFC_BAD_FIELD_IDX');
      if (changed.some((other) => other.index === index))
        throw new OfError('NXTTMFC_ALREADY_MAPPED');
      const sameOption = (other: TlvMapping) =>
        other.optionClass === optionClass && other.optionType === optionType;
      if (changed.some(sameOption)) throw new OfError('NXTTMFC_DUP_ENTRY');
      const offset = freeSpace(changed, optionLen);
      if (offset === undefined) throw new OfError('NXTTMFC_TABLE_FULL');
      changed.push({ ...mapping, offset });
    }
    this.#mappings = changed.sort((a, b) => a.index - b.index);
  }

  /** Indexes that are not mapped are ignored. Throws NXTTMFC_INVALID_TLV_DEL for a field that flows use. */
  delete(indexes: Iterable<number>, inUse: (mapping: TlvMapping) => boolean): void {
    const gone = new Set(indexes);
    const removed = this.#mappings.filter(({ index }) => gone.has(index));
    if (removed.some(inUse)) throw new OfError('NXTTMFC_INVALID_TLV_DEL');
    this.#mappings = this.#mappings.filter(({ index }) => !gone.has(index));
  }

  clear(inUse: (mapping: TlvMapping) => boolean): void {
    this.delete(
      this.#mappings.map(({ index }) => index),
      inUse,
    );
  }
}

/** First gap of the size, as an offset. */
function freeSpace(mappings: readonly TlvMapping[], bytes: number): number | undefined {
  const taken = mappings
    .map(({ offset = 0, optionLen }) => ({ offset, end: offset + optionLen }))
    .sort((a, b) => a.offset - b.offset);
  let start = 0;
  for (const { offset, end } of taken) {
    if (offset - start >= bytes) break;
    start = end;
  }
  return start + bytes <= MAX_SPACE ? start : undefined;
}
