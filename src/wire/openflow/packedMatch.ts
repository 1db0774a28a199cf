// Matches as flow tables keep them. A match is two records of FLOW_SIZE bytes, nearly all of them zero, and a table has
// a hundred thousand: here only the words that are matched on are kept, and what masks have in common (which words, which
// bits) is one object for all matches with that mask. So equal masks are one object, and a table finds a subtable by it.
//
//   shape: words [3, 27, 31]  parts [0xffffffff, …]        values: 3 words in a slab that many matches share
//
// A packed match still is a Match, but `key` is made anew each time that it is asked for: ask once.

import { FLOW_SIZE } from '../../../contract/key.ts';
import type { Match } from './types.ts';

const WORDS = FLOW_SIZE / 4;
/** One match that stays keeps its slab: so slabs are small. */
const SLAB_WORDS = 1024;
/** Shapes from which on those that nothing uses any more are looked for. */
const SWEEP_MIN = 256;

/** A mask: which bits matches look at. There is one for each mask in use. */
export class MatchShape {
  /** FLOW_SIZE bytes; never changed. */
  readonly mask: Uint8Array;
  readonly maskWords: Int32Array;
  /** Words of the record that are looked at, ascending, and the bits in them. */
  readonly words: Int32Array;
  readonly parts: Int32Array;
  /** Where in `words` a word of the record is; -1 = nowhere. */
  readonly places: Int16Array;

  constructor(maskWords: Int32Array) {
    this.maskWords = maskWords.slice();
    this.mask = new Uint8Array(this.maskWords.buffer);
    const words: number[] = [];
    this.places = new Int16Array(WORDS).fill(-1);
    for (let i = 0; i < WORDS; i++) {
      if (maskWords[i] === 0) continue;
      this.places[i] = words.length;
      words.push(i);
    }
    this.words = Int32Array.from(words);
    this.parts = this.words.map((word) => maskWords[word]!);
  }
}

export class PackedMatch implements Match {
  readonly shape: MatchShape;
  /** Masked words, in host order: values[at + i] is that of shape.words[i]. */
  readonly values: Int32Array;
  readonly at: number;

  constructor(shape: MatchShape, values: Int32Array, at: number) {
    this.shape = shape;
    this.values = values;
    this.at = at;
  }

  get key(): Uint8Array {
    const words = new Int32Array(WORDS);
    const { shape, values, at } = this;
    for (let i = 0; i < shape.words.length; i++) words[shape.words[i]!] = values[at + i]!;
    return new Uint8Array(words.buffer);
  }

  get mask(): Uint8Array {
    return this.shape.mask;
  }

  /** Word `word` of the masked key. */
  word(word: number): number {
    const place = this.shape.places[word]!;
    return place < 0 ? 0 : this.values[this.at + place]!;
  }
}

let slab = new Int32Array(SLAB_WORDS);
let slabUsed = 0;

const shapes = new Map<number, WeakRef<MatchShape>[]>();
let shapeCount = 0;
let sweepAt = SWEEP_MIN;
/** The shape used last: flow-mods that come together look alike. */
let recent = new MatchShape(new Int32Array(WORDS));
register(recent, 0);

function register(shape: MatchShape, hash: number): void {
  const same = shapes.get(hash);
  if (same === undefined) shapes.set(hash, [new WeakRef(shape)]);
  else same.push(new WeakRef(shape));
  if (++shapeCount >= sweepAt) sweep();
}

/** Forgets shapes that nothing uses any more. */
function sweep(): void {
  shapeCount = 0;
  for (const [hash, refs] of shapes) {
    const left = refs.filter((ref) => ref.deref() !== undefined);
    shapeCount += left.length;
    if (left.length === 0) shapes.delete(hash);
    else shapes.set(hash, left);
  }
  sweepAt = Math.max(SWEEP_MIN, 2 * shapeCount);
}

function isMask(shape: MatchShape, mask: Int32Array): boolean {
  const { maskWords } = shape;
  for (let i = 0; i < WORDS; i++) if (maskWords[i] !== mask[i]) return false;
  return true;
}

/** The shape of this mask (FLOW_SIZE bytes as host words). */
export function shapeOf(mask: Int32Array): MatchShape {
  if (isMask(recent, mask)) return recent;
  let hash = 0;
  for (let i = 0; i < WORDS; i++) {
    if (mask[i] !== 0) hash = Math.imul(hash ^ mask[i]! ^ (i << 16), 0x9e3779b1) >>> 1;
  }
  for (const ref of shapes.get(hash) ?? []) {
    const shape = ref.deref();
    if (shape === undefined || !isMask(shape, mask)) continue;
    recent = shape;
    return shape;
  }
  recent = new MatchShape(mask);
  register(recent, hash);
  return recent;
}

/** 32-bit host words of a flow record: the record's own if it is aligned, else a copy. */
export function wordsOf(record: Uint8Array): Int32Array {
  const aligned = (record.byteOffset & 3) === 0 ? record : record.slice();
  return new Int32Array(aligned.buffer, aligned.byteOffset, WORDS);
}

/** A match from the words of its records. */
export function packWords(key: Int32Array, mask: Int32Array): PackedMatch {
  const shape = shapeOf(mask);
  const { words, parts } = shape;
  const count = words.length;
  if (slabUsed + count > slab.length) {
    slab = new Int32Array(SLAB_WORDS);
    slabUsed = 0;
  }
  const at = slabUsed;
  for (let i = 0; i < count; i++) slab[at + i] = key[words[i]!]! & parts[i]!;
  slabUsed += count;
  return new PackedMatch(shape, slab, at);
}

/** The match in packed form: itself, if it is. */
export function packMatch(match: Match): PackedMatch {
  if (match instanceof PackedMatch) return match;
  return packWords(wordsOf(match.key), wordsOf(match.mask));
}
