// A trie over bit strings (IPv4, IPv6 addresses, port pairs) that answers: which prefix lengths of the stored
// prefixes match this value, and how many leading bits had to be looked at to know?
//
// The classifier uses the answer to leave address bits wildcarded in megaflows: with only 10.0.0.0/8 installed, a packet
// to 192.168.1.1 is known not to match after its first bit. A node holds up to 32 bits of path.

interface TrieNode {
  /** Bits of this node, left-aligned in 32. */
  prefix: number;
  bits: number;
  /** Prefixes stored that end here. */
  rules: number;
  zero: TrieNode | undefined;
  one: TrieNode | undefined;
}

/** Up to `count` (at most 32) bits of `value` from bit `offset` (0 = most significant), left-aligned. */
function bitsAt(value: ArrayLike<number>, offset: number, count: number): number {
  const word = offset >>> 5;
  const shift = offset & 31;
  let bits = value[word]! << shift;
  if (shift > 0 && word + 1 < value.length) bits |= value[word + 1]! >>> (32 - shift);
  return count >= 32 ? bits : bits & ~(0xffffffff >>> count);
}

function equalBits(
  node: TrieNode,
  value: ArrayLike<number>,
  offset: number,
  limit: number,
): number {
  const count = Math.min(node.bits, limit - offset);
  if (count <= 0) return 0;
  const difference = (bitsAt(value, offset, count) ^ node.prefix) >>> 0;
  return Math.min(Math.clz32(difference), count);
}

function branch(value: ArrayLike<number>, offset: number, length: number): TrieNode {
  const bits = Math.min(length - offset, 32);
  const node: TrieNode = {
    prefix: bitsAt(value, offset, bits),
    bits,
    rules: 0,
    zero: undefined,
    one: undefined,
  };
  if (offset + bits === length) {
    node.rules = 1;
  } else {
    const rest = branch(value, offset + bits, length);
    if (rest.prefix < 0) node.one = rest;
    else node.zero = rest;
  }
  return node;
}

export class PrefixTrie {
  readonly width: number;
  #root: TrieNode | undefined;
  /** Result of the last lookup: 1 at [n] if a stored prefix of n bits matches. */
  readonly lengths: Uint8Array;

  /** `width`: bits of a value, a multiple of 32. Values are big-endian arrays of 32-bit words. */
  constructor(width: number) {
    this.width = width;
    this.lengths = new Uint8Array(width + 1);
  }

  get empty(): boolean {
    return this.#root === undefined;
  }

  /** Adds one reference to the prefix of `length` bits (at least 1). */
  insert(value: ArrayLike<number>, length: number): void {
    this.#root = this.#insert(this.#root, value, 0, length);
  }

  #insert(
    node: TrieNode | undefined,
    value: ArrayLike<number>,
    offset: number,
    length: number,
  ): TrieNode {
    if (node === undefined) return branch(value, offset, length);
    const equal = equalBits(node, value, offset, length);
    offset += equal;
    if (equal < node.bits) {
      // Split: the common part becomes the parent of the old node and, if the prefix goes on, of a new branch.
      const parent: TrieNode = {
        prefix: equal === 0 ? 0 : node.prefix & ~(0xffffffff >>> equal),
        bits: equal,
        rules: 0,
        zero: undefined,
        one: undefined,
      };
      node.prefix <<= equal;
      node.bits -= equal;
      if (node.prefix < 0) parent.one = node;
      else parent.zero = node;
      if (offset === length) {
        parent.rules = 1;
      } else {
        const fresh = branch(value, offset, length);
        if (fresh.prefix < 0) parent.one = fresh;
        else parent.zero = fresh;
      }
      return parent;
    }
    if (offset === length) {
      node.rules++;
    } else if (bitsAt(value, offset, 1) < 0) {
      node.one = this.#insert(node.one, value, offset, length);
    } else {
      node.zero = this.#insert(node.zero, value, offset, length);
    }
    return node;
  }

  /** Drops one reference. The prefix must have been inserted. */
  remove(value: ArrayLike<number>, length: number): void {
    this.#root = this.#remove(this.#root, value, 0, length);
  }

  #remove(
    node: TrieNode | undefined,
    value: ArrayLike<number>,
    offset: number,
    length: number,
  ): TrieNode | undefined {
    if (node === undefined) return undefined;
    offset += node.bits;
    if (offset === length) {
      node.rules--;
    } else if (bitsAt(value, offset, 1) < 0) {
      node.one = this.#remove(node.one, value, offset, length);
    } else {
      node.zero = this.#remove(node.zero, value, offset, length);
    }
    if (node.rules > 0) return node;
    if (node.zero === undefined && node.one === undefined) return undefined;
    const only =
      node.zero === undefined ? node.one : node.one === undefined ? node.zero : undefined;
    if (only !== undefined && node.bits + only.bits <= 32) {
      only.prefix = node.bits === 0 ? only.prefix : node.prefix | (only.prefix >>> node.bits);
      only.bits += node.bits;
      return only;
    }
    return node;
  }

  /** Bits of `value` that must be known to tell the answer, which is left in `lengths`. */
  lookup(value: ArrayLike<number>): number {
    this.lengths.fill(0);
    let node = this.#root;
    let leaf = true;
    let matched = 0;
    while (node !== undefined) {
      const equal = equalBits(node, value, matched, this.width);
      matched += equal;
      if (equal < node.bits) return matched + 1; // the first bit that differs was looked at
      if (node.rules > 0) this.lengths[matched] = 1;
      if (matched >= this.width) return this.width;
      leaf = node.zero === undefined && node.one === undefined;
      node = bitsAt(value, matched, 1) < 0 ? node.one : node.zero;
    }
    // The branch that the value would take does not exist; its sibling, if any, had to be excluded.
    return leaf ? matched : matched + 1;
  }
}
