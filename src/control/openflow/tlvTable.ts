// Which Geneve options the fields tun_metadata0 … 63 stand for (NXT_TLV_TABLE_MOD and _REQUEST, ovs-fields(7)
// "Tunnel Metadata"). A table of each bridge, set by controllers; OVN cannot work without it.

import type { TlvMapping } from '../../wire/openflow/messages.ts';
import { OfError } from '../../wire/openflow/types.ts';

export const MAX_FIELDS = 64;
/** Bytes for the values of all mapped options together. */
export const MAX_SPACE = 256;
const MAX_OPTION_BYTES = 124;

export class TlvTable {
  #mappings = new Map<number, TlvMapping>();

  /** By index of the field. */
  get mappings(): TlvMapping[] {
    return [...this.#mappings.values()].sort((a, b) => a.index - b.index);
  }

  /** All mappings or none. Throws OfError (NXTTMFC_*). */
  add(mappings: readonly TlvMapping[]): void {
    const changed = new Map(this.#mappings);
    let space = 0;
    for (const { optionLen } of changed.values()) space += optionLen;
    for (const mapping of mappings) {
      const { optionClass, optionType, optionLen, index } = mapping;
      if (optionLen === 0 || optionLen % 4 !== 0 || optionLen > MAX_OPTION_BYTES) {
        throw new OfError('NXTTMFC_BAD_OPT_LEN');
      }
      if (index >= MAX_FIELDS) throw new OfError('NXTTMFC_BAD_FIELD_IDX');
      if (changed.has(index)) throw new OfError('NXTTMFC_ALREADY_MAPPED');
      for (const other of changed.values()) {
        if (other.optionClass === optionClass && other.optionType === optionType) {
          throw new OfError('NXTTMFC_DUP_ENTRY');
        }
      }
      space += optionLen;
      if (space > MAX_SPACE) throw new OfError('NXTTMFC_TABLE_FULL');
      changed.set(index, { ...mapping });
    }
    this.#mappings = changed;
  }

  /** Indexes that are not mapped are ignored. */
  delete(indexes: Iterable<number>): void {
    for (const index of indexes) this.#mappings.delete(index);
  }

  clear(): void {
    this.#mappings.clear();
  }
}
