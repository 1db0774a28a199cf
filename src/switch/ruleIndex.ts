// What a subtable (subtable.ts) keeps by hash, in typed arrays with open addressing: the rules of a table are a hundred thousand
// and more, and entries of Maps, chains and lists for each of them would cost the garbage collector more than all the rest.
//
// Linear probing; what is removed leaves no gap, because what follows moves up (Knuth, volume 3, 6.4, algorithm R).

const FIRST_SLOTS = 8;
/** Holes in the list of rules that are not worth the trouble of closing them. */
const HOLES_MIN = 32;
/** A table with so many slots for each thing in it gets smaller. */
const SPARSE = 16;

/** Slots of a table for so many: a power of two, at most three quarters of it full. */
function slotsFor(count: number): number {
  let slots = FIRST_SLOTS;
  while (slots * 3 < count * 4) slots *= 2;
  return slots;
}

/** Where the search for a hash begins, of 2 ** (32 - shift) slots. */
function home(hash: number, shift: number): number {
  return Math.imul(hash, 0x9e3779b1) >>> shift;
}

/** May what belongs at `wanted` move from slot `at` up to the gap before it? */
function mayFill(gap: number, at: number, wanted: number): boolean {
  return gap <= at ? wanted <= gap || wanted > at : wanted <= gap && wanted > at;
}

/** Moves up what follows a slot that has become free. Pairs of hash and what is not 0. */
function closeGap(slots: Int32Array, free: number, shift: number): void {
  const last = slots.length / 2 - 1;
  let gap = free;
  for (let at = (gap + 1) & last; slots[2 * at + 1] !== 0; at = (at + 1) & last) {
    if (!mayFill(gap, at, home(slots[2 * at]!, shift))) continue;
    slots[2 * gap] = slots[2 * at]!;
    slots[2 * gap + 1] = slots[2 * at + 1]!;
    slots[2 * at + 1] = 0;
    gap = at;
  }
}

/** How many have this hash. */
export class HashCounts {
  /** hash, count, hash, count …; count 0 = free. */
  #slots = new Int32Array(2 * FIRST_SLOTS);
  #shift = Math.clz32(FIRST_SLOTS) + 1;
  #size = 0;

  /** The slot of the hash, or the free one where it belongs. */
  #find(hash: number): number {
    const slots = this.#slots;
    const last = slots.length / 2 - 1;
    let at = home(hash, this.#shift);
    while (slots[2 * at + 1] !== 0 && slots[2 * at] !== hash) at = (at + 1) & last;
    return at;
  }

  has(hash: number): boolean {
    return this.#slots[2 * this.#find(hash) + 1] !== 0;
  }

  add(hash: number): void {
    const at = this.#find(hash);
    if (this.#slots[2 * at + 1]!++ > 0) return;
    this.#slots[2 * at] = hash;
    if (++this.#size * 8 > this.#slots.length * 3) this.#grow();
  }

  #grow(): void {
    const old = this.#slots;
    this.#slots = new Int32Array(2 * old.length);
    this.#shift--;
    for (let i = 0; i < old.length; i += 2) {
      if (old[i + 1] === 0) continue;
      const at = this.#find(old[i]!);
      this.#slots[2 * at] = old[i]!;
      this.#slots[2 * at + 1] = old[i + 1]!;
    }
  }

  /** One less; it must be there. */
  drop(hash: number): void {
    const slots = this.#slots;
    const gap = this.#find(hash);
    if (--slots[2 * gap + 1]! > 0) return;
    if (--this.#size === 0) {
      this.#slots = new Int32Array(2 * FIRST_SLOTS);
      this.#shift = Math.clz32(FIRST_SLOTS) + 1;
      return;
    }
    closeGap(slots, gap, this.#shift);
  }
}

/** Things by hash, several of which may have the same; iterated in the order in which they came. */
export class HashList<T extends object> {
  /** hash, place in the list + 1, hash …; 0 = free. */
  #slots = new Int32Array(2 * FIRST_SLOTS);
  #shift = Math.clz32(FIRST_SLOTS) + 1;
  #list: (T | undefined)[] = [];
  #size = 0;

  /** Room for so many: then add() never takes long. */
  reserve(count: number): void {
    if (count * 8 > this.#slots.length * 3) this.#resize(slotsFor(count));
  }

  #resize(slots: number): void {
    const old = this.#slots;
    this.#slots = new Int32Array(2 * slots);
    this.#shift = Math.clz32(slots) + 1;
    for (let i = 0; i < old.length; i += 2) {
      if (old[i + 1] !== 0) this.#enter(old[i]!, old[i + 1]!);
    }
  }

  #enter(hash: number, place: number): void {
    const slots = this.#slots;
    const last = slots.length / 2 - 1;
    let at = home(hash, this.#shift);
    while (slots[2 * at + 1] !== 0) at = (at + 1) & last;
    slots[2 * at] = hash;
    slots[2 * at + 1] = place;
  }

  add(hash: number, item: T): void {
    this.reserve(++this.#size);
    this.#enter(hash, this.#list.push(item));
  }

  /** The slot at which a search for the hash begins; `next` goes on from there. */
  first(hash: number): number {
    return this.#from(home(hash, this.#shift), hash);
  }

  next(slot: number, hash: number): number {
    return this.#from((slot + 1) & (this.#slots.length / 2 - 1), hash);
  }

  /** The next slot with this hash, -1 = there is none. */
  #from(at: number, hash: number): number {
    const slots = this.#slots;
    const last = slots.length / 2 - 1;
    for (; slots[2 * at + 1] !== 0; at = (at + 1) & last) if (slots[2 * at] === hash) return at;
    return -1;
  }

  at(slot: number): T {
    return this.#list[this.#slots[2 * slot + 1]! - 1]!;
  }

  /** Another one instead, in its place. */
  replace(slot: number, item: T): void {
    this.#list[this.#slots[2 * slot + 1]! - 1] = item;
  }

  removeAt(slot: number): void {
    const slots = this.#slots;
    this.#list[slots[2 * slot + 1]! - 1] = undefined;
    slots[2 * slot + 1] = 0;
    this.#size--;
    closeGap(slots, slot, this.#shift);
    if (this.#list.length > 2 * this.#size + HOLES_MIN) this.#close();
  }

  /** Closes the holes of the list. */
  #close(): void {
    const moved = new Int32Array(this.#list.length + 1);
    const list: T[] = [];
    for (let i = 0; i < this.#list.length; i++) {
      const item = this.#list[i];
      if (item !== undefined) moved[i + 1] = list.push(item);
    }
    this.#list = list;
    const slots = this.#slots;
    for (let i = 1; i < slots.length; i += 2) slots[i] = moved[slots[i]!]!;
    if (this.#size * SPARSE * 2 < slots.length) this.#resize(slotsFor(2 * this.#size));
  }

  /** Only as long as nothing is removed. */
  *[Symbol.iterator](): Generator<T> {
    for (const item of this.#list) if (item !== undefined) yield item;
  }
}
