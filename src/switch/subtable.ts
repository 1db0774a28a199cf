// One subtable of the classifier: all rules that share a mask, by a hash of the masked words of the flow (ruleIndex.ts).
//
// The mask's words are split into stages (metadata, L2, L3, L4). A lookup hashes stage by stage and stops at the first
// stage in which no rule agrees: only the fields of the stages visited have then been looked at. An element of a stage
// is (word of the record, part of the mask in it); a word may be in two stages with different parts.

import {
  FLOW_SIZE,
  K_ARP_SHA,
  K_CT_IPV6_SRC,
  K_CT_LABEL,
  K_CT_NW_PROTO,
  K_CT_NW_SRC,
  K_CT_STATE,
  K_CT_TP_SRC,
  K_ETH_DST,
  K_IPV6_SRC,
  K_MPLS_LSE,
  K_ND_RESERVED,
  K_NSH,
  K_NW_PROTO,
  K_NW_SRC,
  K_PACKET_TYPE,
  K_PKT_MARK,
  K_TP_DST,
  K_TP_SRC,
  NSH_KEY_BYTES,
} from '../../contract/key.ts';
import { type MatchShape, type PackedMatch, packMatch } from '../wire/openflow/packedMatch.ts';
import { be16, isZero } from './flow.ts';
import { PrefixTrie } from './prefixTrie.ts';
import { HashCounts, HashList } from './ruleIndex.ts';
import type { Rule } from './types.ts';

const STAGES = 4;

/** Stage of each byte of the record: 0 metadata, 1 L2, 2 L3, 3 L4. */
const STAGE_OF_BYTE = new Uint8Array(FLOW_SIZE);
STAGE_OF_BYTE.fill(1, K_ETH_DST, K_NW_PROTO);
STAGE_OF_BYTE.fill(1, K_MPLS_LSE, K_PACKET_TYPE);
STAGE_OF_BYTE.fill(2, K_NW_PROTO, K_TP_SRC);
STAGE_OF_BYTE.fill(2, K_NW_SRC, K_CT_STATE);
STAGE_OF_BYTE.fill(2, K_IPV6_SRC, K_ARP_SHA);
STAGE_OF_BYTE.fill(2, K_CT_NW_SRC, K_CT_TP_SRC);
STAGE_OF_BYTE.fill(2, K_CT_IPV6_SRC, K_CT_IPV6_SRC + 32);
STAGE_OF_BYTE.fill(3, K_TP_SRC, K_NW_SRC);
STAGE_OF_BYTE.fill(3, K_ARP_SHA, K_CT_LABEL);
STAGE_OF_BYTE.fill(3, K_NSH, K_NSH + NSH_KEY_BYTES);
STAGE_OF_BYTE.fill(3, K_CT_TP_SRC, K_CT_NW_PROTO);
STAGE_OF_BYTE.fill(3, K_ND_RESERVED, K_MPLS_LSE);
STAGE_OF_BYTE.fill(0, K_PKT_MARK, K_ND_RESERVED);

/** A field that may have a prefix trie: where it is, and in which stage it is looked at. */
export interface PrefixField {
  name: string;
  offset: number;
  bytes: number;
  ethType: number;
}

export function mix(hash: number, word: number): number {
  const h = Math.imul(hash ^ word, 0x9e3779b1);
  return h ^ (h >>> 15);
}

/** A host word of the record (which is in network byte order) as a number, and back. */
export function networkWord(word: number): number {
  return (word << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24);
}

/** Bits of the prefix if the mask of the field is one, else 0. */
function prefixLength(mask: Uint8Array, field: PrefixField): number {
  let bits = 0;
  let ended = false;
  for (let i = 0; i < field.bytes; i++) {
    const byte = mask[field.offset + i]!;
    if (ended && byte !== 0) return 0;
    if (byte === 0xff) {
      bits += 8;
      continue;
    }
    ended = true;
    const inverted = ~byte & 0xff;
    if ((inverted & (inverted + 1)) !== 0) return 0; // not contiguous
    bits += 8 - (32 - Math.clz32(inverted));
  }
  return bits;
}

export class Subtable {
  readonly shape: MatchShape;
  readonly mask: Uint8Array;
  readonly maskWords: Int32Array;
  /** For each element, where its word is among the values of a match. */
  readonly #places: Int32Array;
  /** Elements in the order of stages. */
  readonly words: Int32Array;
  readonly parts: Int32Array;
  /** End (in elements) of each stage that is not empty; the last is the whole. */
  readonly stageEnds: number[] = [];
  /** Number (0 … 3) of each stage in stageEnds. */
  readonly stageNumbers: number[] = [];
  /** Prefix length of the mask in each prefix field of the table, 0 = not a prefix. */
  prefixes: number[];
  /**
   * Matches headers of an Ethernet frame and does not say of which packet type: then it is for frames (OpenFlow 1.5.1,
   * 7.2.3.11). Known here, not in the mask of every rule: only a packet without an Ethernet header has to be told.
   */
  readonly framesOnly: boolean;
  readonly portsBits: number;
  readonly portsMask: number;
  readonly portsTrie: PrefixTrie | undefined;
  /** Of each match in use the rule of the highest priority. */
  readonly #heads = new HashList<Rule>();
  /** The other rules of the same match, by falling priority. */
  readonly #lower = new Map<Rule, Rule[]>();
  /** How many rules, and places held, reach each intermediate stage with this hash. */
  readonly #reached: HashCounts[] = [];
  readonly #portsValue = [0];
  /** Number of rules of each priority, to know the maximum cheaply. */
  readonly priorities = new Map<number, number>();
  maxPriority = -1;
  size = 0;
  /** Rules, and places held for rules to come. */
  holders = 0;

  constructor(shape: MatchShape, fields: readonly PrefixField[]) {
    this.shape = shape;
    this.mask = shape.mask;
    this.framesOnly =
      isZero(this.mask, K_PACKET_TYPE, 4) && !isZero(this.mask, K_ETH_DST, K_NW_PROTO - K_ETH_DST);
    this.maskWords = shape.maskWords;
    const words: number[] = [];
    const parts: number[] = [];
    const stageBytes = new Uint8Array(FLOW_SIZE);
    const stageWords = new Int32Array(stageBytes.buffer);
    for (let stage = 0; stage < STAGES; stage++) {
      for (let i = 0; i < FLOW_SIZE; i++) {
        stageBytes[i] = STAGE_OF_BYTE[i] === stage ? this.mask[i]! : 0;
      }
      const before = words.length;
      for (let w = 0; w < stageWords.length; w++) {
        if (stageWords[w] !== 0) {
          words.push(w);
          parts.push(stageWords[w]!);
        }
      }
      if (words.length > before) {
        this.stageEnds.push(words.length);
        this.stageNumbers.push(stage);
      }
    }
    for (let i = 1; i < this.stageEnds.length; i++) this.#reached.push(new HashCounts());
    this.words = Int32Array.from(words);
    this.parts = Int32Array.from(parts);
    this.#places = this.words.map((word) => shape.places[word]!);
    this.prefixes = fields.map((field) => prefixLength(this.mask, field));
    this.portsMask = ((be16(this.mask, K_TP_SRC) << 16) | be16(this.mask, K_TP_DST)) >>> 0;
    // Length of the shortest prefix of the pair that covers the mask: up to its lowest bit that is set.
    this.portsBits = this.portsMask === 0 ? 0 : Math.clz32(this.portsMask & -this.portsMask) + 1;
    this.portsTrie = this.portsBits > 0 ? new PrefixTrie(32) : undefined;
  }

  setPrefixFields(fields: readonly PrefixField[]): void {
    this.prefixes = fields.map((field) => prefixLength(this.mask, field));
  }

  /** Stage in which a byte of the record is looked at. */
  static stageOf(offset: number): number {
    return STAGE_OF_BYTE[offset]!;
  }

  hashRange(flow: Int32Array, from: number, to: number, hash: number): number {
    const { words, parts } = this;
    for (let i = from; i < to; i++) hash = mix(hash, flow[words[i]!]! & parts[i]!);
    return hash;
  }

  stageReached(index: number, hash: number): boolean {
    return this.#reached[index]!.has(hash);
  }

  /** The first rule whose values agree with the flow; `hash` is that of all elements. */
  find(flow: Int32Array, hash: number): Rule | undefined {
    const { words, parts } = this.shape;
    const count = words.length;
    const heads = this.#heads;
    for (let slot = heads.first(hash); slot >= 0; slot = heads.next(slot, hash)) {
      const rule = heads.at(slot);
      const { values, at } = packMatch(rule.match);
      let i = 0;
      while (i < count && (flow[words[i]!]! & parts[i]!) === values[at + i]) i++;
      if (i === count) return rule;
    }
    return undefined;
  }

  /** The first rule of a flow's words, all looked at. */
  findWords(flow: Int32Array): Rule | undefined {
    return this.find(flow, this.hashRange(flow, 0, this.words.length, 0));
  }

  /** The rule of a match of this shape and a priority. */
  findStrict(match: PackedMatch, priority: number, hash = this.hashOf(match)): Rule | undefined {
    const slot = this.#slotOf(match, hash);
    if (slot < 0) return undefined;
    const head = this.#heads.at(slot);
    if (head.priority === priority) return head;
    return this.lowerThan(head)?.find((rule) => rule.priority === priority);
  }

  /** The rules of the same match that stand below a first one, by falling priority. */
  lowerThan(head: Rule): readonly Rule[] | undefined {
    return this.#lower.size === 0 ? undefined : this.#lower.get(head);
  }

  /** Slot of the first rule of a match of this shape; -1 = there is none. */
  #slotOf({ values, at }: PackedMatch, hash: number): number {
    const count = this.shape.words.length;
    const heads = this.#heads;
    for (let slot = heads.first(hash); slot >= 0; slot = heads.next(slot, hash)) {
      const own = packMatch(heads.at(slot).match);
      let i = 0;
      while (i < count && own.values[own.at + i] === values[at + i]) i++;
      if (i === count) return slot;
    }
    return -1;
  }

  hashOf(match: PackedMatch): number {
    return this.#hashMatch(match, 0, this.words.length, 0);
  }

  /** As hashRange, of a match. */
  #hashMatch({ values, at }: PackedMatch, from: number, to: number, hash: number): number {
    const { parts } = this;
    for (let i = from; i < to; i++) hash = mix(hash, values[at + this.#places[i]!]! & parts[i]!);
    return hash;
  }

  /** Makes room for a rule with this match. Until it is put there, no packet and no request meets it. Gives the hash. */
  hold(match: PackedMatch): number {
    let hash = 0;
    let from = 0;
    for (let i = 0; i < this.stageEnds.length; i++) {
      hash = this.#hashMatch(match, from, this.stageEnds[i]!, hash);
      from = this.stageEnds[i]!;
      this.#reached[i]?.add(hash);
    }
    this.#heads.reserve(++this.holders);
    if (this.portsTrie !== undefined) {
      this.#portsValue[0] = this.#ports(match);
      this.portsTrie.insert(this.#portsValue, this.portsBits);
    }
    return hash;
  }

  /** Gives up a place in which there is no rule (any more). */
  release(match: PackedMatch): void {
    let hash = 0;
    let from = 0;
    for (let i = 0; i < this.#reached.length; i++) {
      hash = this.#hashMatch(match, from, this.stageEnds[i]!, hash);
      from = this.stageEnds[i]!;
      this.#reached[i]!.drop(hash);
    }
    this.holders--;
    if (this.portsTrie !== undefined) {
      this.#portsValue[0] = this.#ports(match);
      this.portsTrie.remove(this.#portsValue, this.portsBits);
    }
  }

  /** Puts a rule into a place held for its match, which has this hash. */
  put(rule: Rule, match: PackedMatch, hash: number): void {
    const { priority } = rule;
    const slot = this.#slotOf(match, hash);
    if (slot < 0) this.#heads.add(hash, rule);
    else this.#stack(slot, rule);
    this.priorities.set(priority, (this.priorities.get(priority) ?? 0) + 1);
    if (priority > this.maxPriority) this.maxPriority = priority;
    this.size++;
  }

  /** A rule beside others of the same match. */
  #stack(slot: number, rule: Rule): void {
    const head = this.#heads.at(slot);
    const lower = this.#lower.get(head) ?? [];
    if (rule.priority > head.priority) {
      this.#lower.delete(head);
      lower.unshift(head);
      this.#heads.replace(slot, rule);
      this.#lower.set(rule, lower);
      return;
    }
    let at = lower.length;
    while (at > 0 && lower[at - 1]!.priority < rule.priority) at--;
    if (at === lower.length) lower.push(rule);
    else lower.splice(at, 0, rule);
    this.#lower.set(head, lower);
  }

  /** Removes a rule and gives up its place; false if it is not here. */
  remove(rule: Rule, match: PackedMatch): boolean {
    if (!this.#takeOut(rule, match)) return false;
    const { priorities } = this;
    const same = priorities.get(rule.priority)! - 1;
    if (same > 0) {
      priorities.set(rule.priority, same);
    } else {
      priorities.delete(rule.priority);
      if (rule.priority === this.maxPriority) {
        this.maxPriority = -1;
        for (const p of priorities.keys()) if (p > this.maxPriority) this.maxPriority = p;
      }
    }
    this.size--;
    this.release(match);
    return true;
  }

  #takeOut(rule: Rule, match: PackedMatch): boolean {
    const slot = this.#slotOf(match, this.hashOf(match));
    if (slot < 0) return false;
    const head = this.#heads.at(slot);
    const lower = this.#lower.get(head);
    if (head !== rule) {
      const at = lower?.indexOf(rule) ?? -1;
      if (at < 0) return false;
      lower!.splice(at, 1);
      if (lower!.length === 0) this.#lower.delete(head);
      return true;
    }
    if (lower === undefined) {
      this.#heads.removeAt(slot);
      return true;
    }
    this.#lower.delete(head);
    const next = lower.shift()!;
    this.#heads.replace(slot, next);
    if (lower.length > 0) this.#lower.set(next, lower);
    return true;
  }

  #ports(match: PackedMatch): number {
    // Source port at the end of one word, destination port at the start of the next.
    const source = networkWord(match.word(K_TP_SRC >> 2));
    const destination = networkWord(match.word(K_TP_DST >> 2));
    return ((source << 16) | (destination >>> 16)) & this.portsMask;
  }

  /** All rules, those of the same match together and by falling priority. Only as long as none is removed. */
  *rules(): Generator<Rule> {
    for (const head of this.#heads) {
      yield head;
      const lower = this.lowerThan(head);
      if (lower !== undefined) yield* lower;
    }
  }
}
