// The table of match fields: every field that OpenFlow 1.0 … 1.5, NXM and the OXM experimenters of Open vSwitch name,
// with its place in the flow record (contract/key.ts), its numbers on the wire and its rules. Values: ovs-fields(7),
// OpenFlow 1.5.1 §7.2.3.
//
// Several fields may share one place: in_port (16 bits) and in_port_oxm (32 bits), vlan_tci, dl_vlan, vlan_vid …,
// tcp_src and udp_src, arp_spa and ip_src, nd_sll and arp_sha, and the registers at three widths. A field is
//
//     slot  = big-endian number in record[offset, offset + size)
//     field = (slot >> shift) & ((1 << valueBits) - 1)
//
// A field whose `widen` is set covers, when it is matched, its whole slot (an ICMP type is 8 bits of a 16-bit port).
// Reading and writing: fieldAccess.ts. Text: fieldText.ts. TLVs: oxm.ts.

import { FIELDS } from './fieldTable.ts';

export { FIELDS };

export type FieldFormat =
  | 'decimal'
  | 'hex'
  | 'ethernet'
  | 'ipv4'
  | 'ipv6'
  | 'frag'
  | 'tcp_flags'
  | 'tun_flags'
  | 'ct_state'
  | 'port10'
  | 'port11'
  | 'packet_type';

export type Prereq =
  | 'none'
  | 'ethernet'
  | 'vlan'
  | 'arp'
  | 'ipv4'
  | 'ipv6'
  | 'ip'
  | 'mpls'
  | 'nsh'
  | 'ct'
  | 'tcp'
  | 'udp'
  | 'sctp'
  | 'icmp4'
  | 'icmp6'
  | 'nd'
  | 'nd_solicit'
  | 'nd_advert';

/** One way to name the field in a TLV. */
export interface OxmId {
  oxmClass: number;
  number: number;
  /** Class 0xffff: 4 bytes that follow the header; 0 otherwise. */
  experimenter: number;
  /** First wire version that prefers this id (0 = NXM, any). */
  since: number;
  /** Name in ovs-ofctl's move and load, for example NXM_NX_REG0. */
  name: string;
}

export interface Field {
  readonly name: string;
  readonly aliases: readonly string[];
  /** Width that subfields may use. */
  readonly bits: number;
  /** Bytes of a value in a TLV or action. */
  readonly bytes: number;
  /** Bits that may be 1 in a value: `bits`, but 13 for vlan_vid (OFPVID_PRESENT). */
  readonly valueBits: number;
  readonly offset: number;
  readonly size: number;
  readonly shift: number;
  /** Matching the field covers the whole slot. */
  readonly widen: boolean;
  /** Bits of the slot that setting or matching the field sets too (VLAN_PRESENT). */
  readonly present: number;
  readonly maskable: boolean;
  readonly writable: boolean;
  readonly prereq: Prereq;
  readonly format: FieldFormat;
  readonly oxm: readonly OxmId[];
  /** The bits of a value that is matched with a mask are its mask: so do ovs-ofctl (its masks are wrong) and the real daemon. */
  readonly masksItself: boolean;
  /** Length decided by the TLV table; offset and bytes are those of the largest option until resolved. */
  readonly tlvIndex?: number;
}

const byName = new Map<string, Field>();
/** By the experimenter of class 0xffff (0: another class), then by class and number. */
const byOxm = new Map<number, Map<number, Field>>();
for (const f of FIELDS) {
  byName.set(f.name, f);
  for (const alias of f.aliases) byName.set(alias, f);
  for (const id of f.oxm) {
    byName.set(id.name, f);
    const fields = byOxm.get(id.experimenter) ?? new Map<number, Field>();
    fields.set((id.oxmClass << 8) | id.number, f);
    byOxm.set(id.experimenter, fields);
  }
}

/** By name, alias or NXM/OXM name. */
export function findField(name: string): Field | undefined {
  return byName.get(name);
}

/** For names that the program itself wrote; throws on a name that does not exist. */
export function fieldByName(name: string): Field {
  const f = byName.get(name);
  if (f === undefined) throw new RangeError(`no match field ${name}`);
  return f;
}

export function fieldByOxm(
  oxmClass: number,
  number: number,
  experimenter: number,
): Field | undefined {
  return byOxm.get(experimenter)?.get((oxmClass << 8) | number);
}

/** The TLV id that Open vSwitch writes for the field in `version` (0 = prefer NXM); undefined: no TLV names it. */
export function oxmIdFor(f: Field, version: number): OxmId | undefined {
  let best: OxmId | undefined;
  for (const id of f.oxm) if (best === undefined || version >= id.since) best = id;
  return best;
}
