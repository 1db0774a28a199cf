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
  K_PACKET_TYPE,
  K_TP_DST,
  K_TP_SRC,
} from '../../contract/key.ts';
import {
  type MatchShape,
  type PackedMatch,
  packMatch,
  wordsOf,
} from '../wire/openflow/packedMatch.ts';
import type { Match } from '../wire/openflow/types.ts';
import { conjunctionsOf, resolveConjunctions, type SoftMatch } from './conjunction.ts';
import { be16, be32, ETH_TYPE_IP, ETH_TYPE_IPV6, or16 } from './flow.ts';

import { PrefixTrie } from './prefixTrie.ts';
import { networkWord, type PrefixField, Subtable } from './subtable.ts';
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
const PACKET_TYPE_WORD = K_PACKET_TYPE / 4;

/** A place in the table that is held for a rule to come. */
export interface Place {
  readonly subtable: Subtable;
  readonly match: PackedMatch;
  /** Of the match, in its subtable. */
  readonly hash: number;
  /** Which of the table's sets of tries know of it. */
  readonly tries: readonly Trie[];
}

/** A flow table. Make one with `new Classifier(tableId)`. */
export class Classifier implements FlowTable {
  readonly id: number;
  lookups = 0;
  matched = 0;
  #size = 0;
  readonly #byShape = new Map<MatchShape, Subtable>();
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
    // Places that are held come into the new tries when their rules come.
    for (const subtable of this.#order) {
      subtable.setPrefixFields(fields);
      for (const { match } of subtable.rules()) this.#insertPrefixes(subtable, packMatch(match));
    }
  }

  insert(rule: Rule): void {
    this.put(this.hold(rule.match), rule);
  }

  /** Makes room for a rule with this match: what putting it there costs later is next to nothing. */
  hold(match: Match): Place {
    const packed = packMatch(match);
    let subtable = this.#byShape.get(packed.shape);
    if (subtable === undefined) {
      subtable = new Subtable(
        packed.shape,
        this.#tries.map((trie) => trie.field),
      );
      this.#byShape.set(packed.shape, subtable);
      this.#order.push(subtable);
      this.#sorted = false;
    }
    const hash = subtable.hold(packed);
    this.#insertPrefixes(subtable, packed);
    return { subtable, match: packed, hash, tries: this.#tries };
  }

  /** The rule of this priority that stands in the place already. */
  inPlace({ subtable, match, hash }: Place, priority: number): Rule | undefined {
    return subtable.findStrict(match, priority, hash);
  }

  /** Puts a rule into a place held for its match. */
  put({ subtable, match, hash, tries }: Place, rule: Rule): void {
    if (rule.priority > subtable.maxPriority) this.#sorted = false;
    if (tries !== this.#tries) this.#insertPrefixes(subtable, match);
    subtable.put(rule, match, hash);
    this.#size++;
  }

  /** Gives up a place without having put a rule there. */
  release({ subtable, match, tries }: Place): void {
    subtable.release(match);
    if (tries === this.#tries) this.#removePrefixes(subtable, match);
    this.#released(subtable);
  }

  remove(rule: Rule): void {
    const packed = packMatch(rule.match);
    const subtable = this.#byShape.get(packed.shape);
    if (subtable === undefined) return;
    const { maxPriority } = subtable;
    if (!subtable.remove(rule, packed)) return;
    this.#size--;
    if (subtable.maxPriority !== maxPriority) this.#sorted = false;
    this.#removePrefixes(subtable, packed);
    this.#released(subtable);
  }

  #released(subtable: Subtable): void {
    if (subtable.holders > 0) return;
    this.#order.splice(this.#order.indexOf(subtable), 1);
    this.#byShape.delete(subtable.shape);
  }

  findStrict(match: Match, priority: number): Rule | undefined {
    const packed = packMatch(match);
    return this.#byShape.get(packed.shape)?.findStrict(packed, priority);
  }

  *findLoose(match: Match): Generator<Rule> {
    const wanted = packMatch(match);
    const { words, parts } = wanted.shape;
    // Copies, so that the caller may remove what it is given.
    for (const subtable of [...this.#order]) {
      if (!words.every((w, i) => (subtable.maskWords[w]! & parts[i]!) === parts[i])) continue;
      const found: Rule[] = [];
      for (const rule of subtable.rules()) if (isWithin(rule.match, wanted)) found.push(rule);
      yield* found;
    }
  }

  findOverlap(match: Match, priority: number): Rule | undefined {
    const packed = packMatch(match);
    const { words, parts } = packed.shape;
    for (const subtable of this.#order) {
      if (!subtable.priorities.has(priority)) continue;
      const common = parts.map((part, i) => part & subtable.maskWords[words[i]!]!);
      const { values, at } = packed;
      for (const rule of subtable.rules()) {
        if (rule.priority !== priority) continue;
        const own = packMatch(rule.match);
        if (words.every((w, i) => ((own.word(w) ^ values[at + i]!) & common[i]!) === 0)) {
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
    const isBare = words[PACKET_TYPE_WORD] !== 0;
    for (const subtable of this.#order) {
      if (best !== undefined && subtable.maxPriority <= best.priority) break;
      if (isBare && subtable.framesOnly) continue;
      const rule =
        wc === undefined
          ? subtable.findWords(words)
          : this.#lookupIn(subtable, flow, words, wcBytes!, wc);
      if (rule === undefined) continue;
      if (best !== undefined && rule.priority <= best.priority) continue;
      if (conjunctionsOf(rule) === undefined) best = rule;
      else if (conjunctions) {
        soft ??= [];
        soft.push({ head: rule, lower: subtable.lowerThan(rule), index: 0 });
      }
    }
    if (soft === undefined) return best;
    return resolveConjunctions(soft, best, (id) => {
      const saved = words[F_CONJ_WORD]!;
      words[F_CONJ_WORD] = networkWord(id);
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
  ): Rule | undefined {
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
    const rule = subtable.find(words, hash);
    if (rule === undefined && subtable.portsTrie !== undefined) {
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
    return rule;
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

  #insertPrefixes(subtable: Subtable, match: PackedMatch): void {
    for (let i = 0; i < this.#tries.length; i++) {
      const length = subtable.prefixes[i]!;
      const { trie, field } = this.#tries[i]!;
      if (length > 0) trie.insert(prefixValue(match, field), length);
    }
  }

  #removePrefixes(subtable: Subtable, match: PackedMatch): void {
    for (let i = 0; i < this.#tries.length; i++) {
      const length = subtable.prefixes[i]!;
      const { trie, field } = this.#tries[i]!;
      if (length > 0) trie.remove(prefixValue(match, field), length);
    }
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

/** The words of a prefix, for the moment. */
const PREFIX_VALUE = [0, 0, 0, 0];

function prefixValue(match: PackedMatch, field: PrefixField): number[] {
  const first = field.offset >> 2;
  for (let i = 0; i < field.bytes >> 2; i++) PREFIX_VALUE[i] = networkWord(match.word(first + i));
  return PREFIX_VALUE;
}

/** Has the match the values that a wider one asks for? Its mask has been looked at. */
function isWithin(match: Match, wanted: PackedMatch): boolean {
  const { shape, values, at } = wanted;
  const own = packMatch(match);
  for (let i = 0; i < shape.words.length; i++) {
    if ((own.word(shape.words[i]!) & shape.parts[i]!) !== values[at + i]) return false;
  }
  return true;
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
