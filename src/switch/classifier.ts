// The flows of one OpenFlow table, found by tuple space search.
//
// Rules with equal masks form a subtable; subtables are visited by falling maximum priority until no later one can win.
// A lookup returns the best rule and, in `wildcards`, every bit that was looked at on the way: translation builds
// megaflows from that, so a lookup tries hard to look at little: stages inside a subtable (subtable.ts), and
// tries over address prefixes and transport ports that prove with few bits that a subtable cannot match.

import {
  F_CONJ_ID,
  K_ETH_TYPE,
  K_IPV6_DST,
  K_IPV6_SRC,
  K_NW_DST,
  K_NW_SRC,
  K_TP_DST,
  K_TP_SRC,
} from '../../contract/key.ts';
import type { Match } from '../wire/openflow/types.ts';
import { conjunctionsOf, resolveConjunctions, type SoftMatch } from './conjunction.ts';
import { be16, be32, ETH_TYPE_IP, ETH_TYPE_IPV6, or16, wordsOf } from './flow.ts';

import { PrefixTrie } from './prefixTrie.ts';
import { type Entry, mix, type PrefixField, Subtable } from './subtable.ts';
import type { FlowTable, Rule } from './types.ts';

/** Fields that may have a trie (Flow_Table.prefixes). */
const PREFIX_FIELDS: Readonly<Record<string, PrefixField>> = {
  ip_dst: { name: 'ip_dst', offset: K_NW_DST, bytes: 4, ethType: ETH_TYPE_IP },
  ip_src: { name: 'ip_src', offset: K_NW_SRC, bytes: 4, ethType: ETH_TYPE_IP },
  ipv6_dst: { name: 'ipv6_dst', offset: K_IPV6_DST, bytes: 16, ethType: ETH_TYPE_IPV6 },
  ipv6_src: { name: 'ipv6_src', offset: K_IPV6_SRC, bytes: 16, ethType: ETH_TYPE_IPV6 },
};
const PREFIX_ALIASES: Readonly<Record<string, string>> = { nw_dst: 'ip_dst', nw_src: 'ip_src' };

/** What Open vSwitch uses when Flow_Table.prefixes is empty. */
export const DEFAULT_PREFIXES: readonly string[] = ['ip_dst', 'ip_src'];

/** A trie and what the running lookup knows from it. */
interface Trie {
  readonly field: PrefixField;
  readonly trie: PrefixTrie;
  readonly value: number[];
  /** -1 = not asked yet, -2 = the packet has no such field. */
  bits: number;
}

const F_CONJ_WORD = F_CONJ_ID / 4;

/** A number as a host word of the record, which is in network byte order. */
function swapped(value: number): number {
  return (value << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | (value >>> 24);
}

function maskHash(mask: Int32Array): number {
  let hash = 0;
  for (let i = 0; i < mask.length; i++) if (mask[i] !== 0) hash = mix(mix(hash, i), mask[i]!);
  return hash;
}

function sameWords(a: Int32Array, b: Int32Array): boolean {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** A flow table. Make one with `new Classifier(tableId)`. */
export class Classifier implements FlowTable {
  readonly id: number;
  lookups = 0;
  matched = 0;
  #size = 0;
  #byMask = new Map<number, Subtable[]>();
  /** By falling maximum priority. */
  #order: Subtable[] = [];
  #sorted = true;
  #tries: Trie[] = [];
  #stages: number[] = [];

  constructor(id: number, prefixes: readonly string[] = DEFAULT_PREFIXES) {
    this.id = id;
    this.setPrefixes(prefixes);
  }

  get size(): number {
    return this.#size;
  }

  get subtableCount(): number {
    return this.#order.length;
  }

  /** Fields with a prefix trie (Flow_Table.prefixes); names that have none are ignored. At most 4. */
  setPrefixes(names: readonly string[]): void {
    const fields = names
      .map((name) => PREFIX_FIELDS[PREFIX_ALIASES[name] ?? name])
      .filter((field) => field !== undefined);
    this.#tries = fields.map((field) => ({
      field,
      trie: new PrefixTrie(field.bytes * 8),
      value: new Array<number>(field.bytes / 4).fill(0),
      bits: -1,
    }));
    this.#stages = fields.map((field) => Subtable.stageOf(field.offset));
    for (const subtable of this.#order) {
      subtable.setPrefixFields(fields);
      for (const rule of subtable.rules()) this.#insertPrefixes(subtable, rule);
    }
  }

  insert(rule: Rule): void {
    const mask = wordsOf(rule.match.mask);
    let subtable = this.#subtable(mask);
    if (subtable === undefined) {
      subtable = new Subtable(
        rule.match.mask,
        this.#tries.map((trie) => trie.field),
      );
      const hash = maskHash(mask);
      const same = this.#byMask.get(hash);
      if (same === undefined) this.#byMask.set(hash, [subtable]);
      else same.push(subtable);
      this.#order.push(subtable);
      this.#sorted = false;
    }
    if (rule.priority > subtable.maxPriority) this.#sorted = false;
    subtable.insert(rule, wordsOf(rule.match.key));
    this.#insertPrefixes(subtable, rule);
    this.#size++;
  }

  remove(rule: Rule): void {
    const mask = wordsOf(rule.match.mask);
    const subtable = this.#subtable(mask);
    if (subtable === undefined) return;
    const { maxPriority } = subtable;
    if (!subtable.remove(rule, wordsOf(rule.match.key))) return;
    for (let i = 0; i < this.#tries.length; i++) {
      const length = subtable.prefixes[i]!;
      const { trie, field } = this.#tries[i]!;
      if (length > 0) trie.remove(prefixValue(rule.match.key, field), length);
    }
    this.#size--;
    if (subtable.size === 0) {
      this.#order.splice(this.#order.indexOf(subtable), 1);
      const hash = maskHash(mask);
      const same = this.#byMask.get(hash)!;
      same.splice(same.indexOf(subtable), 1);
      if (same.length === 0) this.#byMask.delete(hash);
    } else if (subtable.maxPriority !== maxPriority) {
      this.#sorted = false;
    }
  }

  findStrict(match: Match, priority: number): Rule | undefined {
    const entry = this.#subtable(wordsOf(match.mask))?.findKey(wordsOf(match.key));
    return entry?.rules.find((rule) => rule.priority === priority);
  }

  *findLoose(match: Match): Generator<Rule> {
    const key = wordsOf(match.key);
    const mask = wordsOf(match.mask);
    const words: number[] = [];
    for (let i = 0; i < mask.length; i++) if (mask[i] !== 0) words.push(i);
    // Copies, so that the caller may remove what it is given.
    for (const subtable of [...this.#order]) {
      if (!words.every((w) => (subtable.maskWords[w]! & mask[w]!) === mask[w])) continue;
      const found: Rule[] = [];
      for (const rule of subtable.rules()) {
        const ruleKey = wordsOf(rule.match.key);
        if (words.every((w) => ((ruleKey[w]! ^ key[w]!) & mask[w]!) === 0)) found.push(rule);
      }
      yield* found;
    }
  }

  findOverlap(match: Match, priority: number): Rule | undefined {
    const key = wordsOf(match.key);
    const mask = wordsOf(match.mask);
    for (const subtable of this.#order) {
      if (!subtable.priorities.has(priority)) continue;
      const common: number[] = [];
      for (let i = 0; i < mask.length; i++) {
        if ((mask[i]! & subtable.maskWords[i]!) !== 0) common.push(i);
      }
      for (const rule of subtable.rules()) {
        if (rule.priority !== priority) continue;
        const other = wordsOf(rule.match.key);
        if (
          common.every((w) => ((key[w]! ^ other[w]!) & mask[w]! & subtable.maskWords[w]!) === 0)
        ) {
          return rule;
        }
      }
    }
    return undefined;
  }

  lookup(
    flow: Uint8Array,
    wildcards: Uint8Array | undefined,
    flowWords?: Int32Array,
    wildcardWords?: Int32Array,
  ): Rule | undefined {
    if (this.#size === 0) return undefined;
    if (!this.#sorted) this.#sort();
    const words = flowWords ?? wordsOf(flow);
    if (wildcards === undefined) return this.#search(flow, words, undefined, undefined, true);
    const aligned = (wildcards.byteOffset & 3) === 0;
    const wcBytes = aligned ? wildcards : wildcards.slice();
    const wc = wildcardWords ?? wordsOf(wcBytes);
    const rule = this.#search(flow, words, wcBytes, wc, true);
    if (!aligned) wildcards.set(wcBytes);
    return rule;
  }

  /** `conjunctions`: flows of conjunctions count, which ends when the flow of a complete one is looked for. */
  #search(
    flow: Uint8Array,
    words: Int32Array,
    wcBytes: Uint8Array | undefined,
    wc: Int32Array | undefined,
    conjunctions: boolean,
  ): Rule | undefined {
    for (const trie of this.#tries) trie.bits = -1;
    let best: Rule | undefined;
    let soft: SoftMatch[] | undefined;
    for (const subtable of this.#order) {
      if (best !== undefined && subtable.maxPriority <= best.priority) break;
      const entry =
        wc === undefined
          ? subtable.findKey(words)
          : this.#lookupIn(subtable, flow, words, wcBytes!, wc);
      if (entry === undefined) continue;
      const rule = entry.rules[0]!;
      if (best !== undefined && rule.priority <= best.priority) continue;
      if (conjunctionsOf(rule) === undefined) best = rule;
      else if (conjunctions) {
        soft ??= [];
        soft.push({ entry, index: 0 });
      }
    }
    if (soft === undefined) return best;
    return resolveConjunctions(soft, best, (id) => {
      const saved = words[F_CONJ_WORD]!;
      words[F_CONJ_WORD] = swapped(id);
      const rule = this.#search(flow, words, wcBytes, wc, false);
      words[F_CONJ_WORD] = saved;
      return rule;
    });
  }

  *[Symbol.iterator](): Generator<Rule> {
    for (const subtable of [...this.#order]) yield* [...subtable.rules()];
  }

  /** Looks into one subtable, or-ing what was looked at into the mask. */
  #lookupIn(
    subtable: Subtable,
    flow: Uint8Array,
    words: Int32Array,
    wcBytes: Uint8Array,
    wc: Int32Array,
  ): Entry | undefined {
    const ends = subtable.stageEnds;
    const last = ends.length - 1;
    let hash = 0;
    let from = 0;
    for (let i = 0; i < last; i++) {
      if (this.#excludedByTrie(subtable, subtable.stageNumbers[i]!, flow, wcBytes)) {
        fold(subtable, from, wc);
        return undefined;
      }
      hash = subtable.hashRange(words, from, ends[i]!, hash);
      from = ends[i]!;
      if (!subtable.stageReached(i, hash)) {
        fold(subtable, from, wc);
        return undefined;
      }
    }
    if (last >= 0) {
      if (this.#excludedByTrie(subtable, subtable.stageNumbers[last]!, flow, wcBytes)) {
        fold(subtable, from, wc);
        return undefined;
      }
      hash = subtable.hashRange(words, from, ends[last]!, hash);
    }
    const entry = subtable.find(words, hash);
    if (entry === undefined && subtable.portsTrie !== undefined) {
      // Few leading bits of the ports may prove the miss; all other fields count as looked at.
      const ports =
        (((be16(flow, K_TP_SRC) << 16) | be16(flow, K_TP_DST)) & subtable.portsMask) | 0;
      const bits = subtable.portsTrie.lookup([ports]);
      const looked = bits >= 32 ? subtable.portsMask : subtable.portsMask & ~(0xffffffff >>> bits);
      const before = (be16(wcBytes, K_TP_SRC) << 16) | be16(wcBytes, K_TP_DST);
      fold(subtable, subtable.words.length, wc);
      wcBytes.fill(0, K_TP_SRC, K_TP_DST + 2);
      or16(wcBytes, K_TP_SRC, ((before | looked) >>> 16) & 0xffff);
      or16(wcBytes, K_TP_DST, (before | looked) & 0xffff);
      return undefined;
    }
    fold(subtable, subtable.words.length, wc);
    return entry;
  }

  /** Can a trie prove that no rule of the subtable matches? Notes the bits that it took. */
  #excludedByTrie(
    subtable: Subtable,
    stage: number,
    flow: Uint8Array,
    wildcards: Uint8Array,
  ): boolean {
    for (let i = 0; i < this.#tries.length; i++) {
      const length = subtable.prefixes[i]!;
      if (length === 0 || this.#stages[i] !== stage) continue;
      const trie = this.#tries[i]!;
      if (trie.bits === -1) trie.bits = askTrie(trie, flow);
      if (trie.bits === -2 || trie.trie.lengths[length] === 1) continue;
      // The trie serves all subtables, so it may have looked at more bits than this one has: then it is
      // of use only if those bits are known already.
      if (trie.bits <= length) {
        setPrefix(wildcards, trie.field.offset, trie.bits);
        return true;
      }
      if (hasPrefix(wildcards, trie.field.offset, trie.bits)) return true;
    }
    return false;
  }

  #insertPrefixes(subtable: Subtable, rule: Rule): void {
    for (let i = 0; i < this.#tries.length; i++) {
      const length = subtable.prefixes[i]!;
      const { trie, field } = this.#tries[i]!;
      if (length > 0) trie.insert(prefixValue(rule.match.key, field), length);
    }
  }

  #subtable(mask: Int32Array): Subtable | undefined {
    return this.#byMask.get(maskHash(mask))?.find((s) => sameWords(s.maskWords, mask));
  }

  #sort(): void {
    this.#order.sort((a, b) => b.maxPriority - a.maxPriority);
    this.#sorted = true;
  }
}

function fold(subtable: Subtable, to: number, wildcards: Int32Array): void {
  const { words, parts } = subtable;
  for (let i = 0; i < to; i++) wildcards[words[i]!]! |= parts[i]!;
}

function prefixValue(key: Uint8Array, field: PrefixField): number[] {
  const value: number[] = [];
  for (let i = 0; i < field.bytes; i += 4) value.push(be32(key, field.offset + i) | 0);
  return value;
}

function askTrie(trie: Trie, flow: Uint8Array): number {
  const { field } = trie;
  if (be16(flow, K_ETH_TYPE) !== field.ethType) return -2;
  for (let i = 0; i < trie.value.length; i++) {
    trie.value[i] = be32(flow, field.offset + i * 4) | 0;
  }
  return trie.trie.lookup(trie.value);
}

function setPrefix(mask: Uint8Array, offset: number, bits: number): void {
  for (; bits >= 8; bits -= 8) mask[offset++] = 0xff;
  if (bits > 0) mask[offset]! |= 0xff00 >> bits;
}

function hasPrefix(mask: Uint8Array, offset: number, bits: number): boolean {
  for (; bits >= 8; bits -= 8) if (mask[offset++] !== 0xff) return false;
  const rest = (0xff00 >> bits) & 0xff;
  return bits === 0 || (mask[offset]! & rest) === rest;
}
