// A trie over bit strings (IPv4, IPv6 addresses, port pairs) that answers: which prefix lengths of the stored
// prefixes match this value, and how many leading bits had to be looked at to know?
//
// The classifier uses the answer to leave address bits wildcarded in megaflows: with only 10.0.0.0/8 installed, a packet
// to 192.168.1.1 is known not to match after its first bit. A node holds up to 32 bits of path.
//
// Nodes are five numbers each in one typed array, and links are places in it: a table of a hundred thousand flows has two
// hundred thousand nodes, which the garbage collector would copy and mark as objects, again and again.
//
//   | prefix | bits | rules | zero | one |      node 0 is no node: its `zero` is the link to the root

const PREFIX = 0;
/** Bits of path in this node; they are left-aligned in `prefix`. */
const BITS = 1;
/** Prefixes stored that end here. */
const RULES = 2;
/** Links: the node that goes on with this bit, 0 = none. A free node is linked by ZERO. */
const ZERO = 3;
const ONE = 4;
const NODE_WORDS = 5;
const FIRST_WORDS = 4 * NODE_WORDS;
const ROOT = ZERO;

/** Up to `count` (at most 32) bits of `value` from bit `offset` (0 = most significant), left-aligned. */
function bitsAt(value: ArrayLike<number>, offset: number, count: number): number {
  const word = offset >>> 5;
  const shift = offset & 31;
  let bits = value[word]! << shift;
  if (shift > 0 && word + 1 < value.length) bits |= value[word + 1]! >>> (32 - shift);
  return count >= 32 ? bits : bits & ~(0xffffffff >>> count);
}

export class PrefixTrie {
  readonly width: number;
  #nodes = new Int32Array(FIRST_WORDS);
  /** Words of #nodes that were ever used. */
  #used = NODE_WORDS;
  /** Head of the list of free nodes, 0 = none. */
  #free = 0;
  /** Result of the last lookup: 1 at [n] if a stored prefix of n bits matches. */
  readonly lengths: Uint8Array;

  /** `width`: bits of a value, a multiple of 32. Values are big-endian arrays of 32-bit words. */
  constructor(width: number) {
    this.width = width;
    this.lengths = new Uint8Array(width + 1);
  }

  get empty(): boolean {
    return this.#nodes[ROOT] === 0;
  }

  #newNode(prefix: number, bits: number, rules: number): number {
    let node = this.#free;
    if (node !== 0) {
      this.#free = this.#nodes[node + ZERO]!;
    } else {
      node = this.#used;
      this.#used += NODE_WORDS;
      if (this.#used > this.#nodes.length) {
        const bigger = new Int32Array(2 * this.#nodes.length);
        bigger.set(this.#nodes);
        this.#nodes = bigger;
      }
    }
    const nodes = this.#nodes;
    nodes[node + PREFIX] = prefix;
    nodes[node + BITS] = bits;
    nodes[node + RULES] = rules;
    nodes[node + ZERO] = 0;
    nodes[node + ONE] = 0;
    return node;
  }

  #freeNode(node: number): void {
    this.#nodes[node + ZERO] = this.#free;
    this.#free = node;
  }

  #equalBits(node: number, value: ArrayLike<number>, offset: number, limit: number): number {
    const count = Math.min(this.#nodes[node + BITS]!, limit - offset);
    if (count <= 0) return 0;
    const difference = (bitsAt(value, offset, count) ^ this.#nodes[node + PREFIX]!) >>> 0;
    return Math.min(Math.clz32(difference), count);
  }

  /** A chain of nodes for the bits from `offset` on. */
  #branch(value: ArrayLike<number>, offset: number, length: number): number {
    const bits = Math.min(length - offset, 32);
    const node = this.#newNode(bitsAt(value, offset, bits), bits, offset + bits === length ? 1 : 0);
    if (offset + bits < length) this.#link(node, this.#branch(value, offset + bits, length));
    return node;
  }

  /** Puts `child` under `node`, where its first bit belongs. */
  #link(node: number, child: number): void {
    this.#nodes[node + (this.#nodes[child + PREFIX]! < 0 ? ONE : ZERO)] = child;
  }

  /** Adds one reference to the prefix of `length` bits (at least 1). */
  insert(value: ArrayLike<number>, length: number): void {
    let link = ROOT;
    let offset = 0;
    for (;;) {
      const node = this.#nodes[link]!;
      if (node === 0) {
        const fresh = this.#branch(value, offset, length);
        this.#nodes[link] = fresh;
        return;
      }
      const equal = this.#equalBits(node, value, offset, length);
      offset += equal;
      if (equal < this.#nodes[node + BITS]!) {
        this.#split(link, equal, value, offset, length);
        return;
      }
      if (offset === length) {
        this.#nodes[node + RULES]!++;
        return;
      }
      link = node + (bitsAt(value, offset, 1) < 0 ? ONE : ZERO);
    }
  }

  /** The common part becomes the parent of the old node and, if the prefix goes on, of a new branch. */
  #split(
    link: number,
    equal: number,
    value: ArrayLike<number>,
    offset: number,
    length: number,
  ): void {
    const node = this.#nodes[link]!;
    const common = equal === 0 ? 0 : this.#nodes[node + PREFIX]! & ~(0xffffffff >>> equal);
    const parent = this.#newNode(common, equal, offset === length ? 1 : 0);
    this.#nodes[node + PREFIX]! <<= equal;
    this.#nodes[node + BITS]! -= equal;
    this.#link(parent, node);
    if (offset < length) this.#link(parent, this.#branch(value, offset, length));
    this.#nodes[link] = parent;
  }

  /** Drops one reference. The prefix must have been inserted. */
  remove(value: ArrayLike<number>, length: number): void {
    this.#remove(ROOT, value, 0, length);
    if (this.#nodes[ROOT] !== 0) return;
    // Nothing is left: neither is the room that it took.
    this.#nodes = new Int32Array(FIRST_WORDS);
    this.#used = NODE_WORDS;
    this.#free = 0;
  }

  #remove(link: number, value: ArrayLike<number>, offset: number, length: number): void {
    const nodes = this.#nodes;
    const node = nodes[link]!;
    if (node === 0) return;
    offset += nodes[node + BITS]!;
    if (offset === length) nodes[node + RULES]!--;
    else this.#remove(node + (bitsAt(value, offset, 1) < 0 ? ONE : ZERO), value, offset, length);
    if (nodes[node + RULES]! > 0) return;
    const [zero, one] = [nodes[node + ZERO]!, nodes[node + ONE]!];
    if (zero === 0 && one === 0) {
      nodes[link] = 0;
      this.#freeNode(node);
      return;
    }
    if (zero !== 0 && one !== 0) return;
    // Only one way goes on from here: it takes in this node's bits if it has room for them.
    const only = zero === 0 ? one : zero;
    const bits = nodes[node + BITS]!;
    if (bits + nodes[only + BITS]! > 32) return;
    if (bits > 0) {
      nodes[only + PREFIX] = nodes[node + PREFIX]! | (nodes[only + PREFIX]! >>> bits);
      nodes[only + BITS]! += bits;
    }
    nodes[link] = only;
    this.#freeNode(node);
  }

  /** Bits of `value` that must be known to tell the answer, which is left in `lengths`. */
  lookup(value: ArrayLike<number>): number {
    this.lengths.fill(0);
    const nodes = this.#nodes;
    let node = nodes[ROOT]!;
    let leaf = true;
    let matched = 0;
    while (node !== 0) {
      const equal = this.#equalBits(node, value, matched, this.width);
      matched += equal;
      if (equal < nodes[node + BITS]!) return matched + 1; // the first bit that differs was looked at
      if (nodes[node + RULES]! > 0) this.lengths[matched] = 1;
      if (matched >= this.width) return this.width;
      leaf = nodes[node + ZERO] === 0 && nodes[node + ONE] === 0;
      node = nodes[node + (bitsAt(value, matched, 1) < 0 ? ONE : ZERO)]!;
    }
    // The branch that the value would take does not exist; its sibling, if any, had to be excluded.
    return leaf ? matched : matched + 1;
  }
}
