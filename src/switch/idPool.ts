// Numbers that stand for values inside megaflow programs, which can carry nothing else: descriptions of packet-ins
// (packetIns.ts), frozen pipelines (recirc.ts).
//
// Equal values share a number, so that translating a megaflow again gives the same program. A number outlives its last
// user for a while: packets that carry it may still be on their way.

const LINGER_MS = 5000;

interface Slot<T> {
  readonly value: T;
  readonly key: string;
  users: number;
  freeAtMs: number;
}

/** Where numbers come from. Pools that share one give different numbers. */
export interface Numbers {
  last: number;
}

export class IdPool<T> {
  readonly #now: () => number;
  readonly #max: number;
  readonly #slots = new Map<number, Slot<T>>();
  readonly #byKey = new Map<string, number>();
  /** Numbers without users, in the order in which they lost them. */
  readonly #lingering = new Set<number>();
  readonly #numbers: Numbers;

  /** `max`: numbers in use at a time. */
  constructor(now: () => number, max: number, numbers: Numbers = { last: 0 }) {
    this.#now = now;
    this.#max = max;
    this.#numbers = numbers;
  }

  get size(): number {
    return this.#slots.size;
  }

  /** The caller is a user of the number until it releases it. Values of equal keys are the same. 0 = too many. */
  add(key: string, value: T): number {
    const known = this.#byKey.get(key);
    if (known !== undefined) {
      this.retain(known);
      return known;
    }
    if (this.#slots.size >= this.#max) this.sweep();
    if (this.#slots.size >= this.#max) return 0;
    const numbers = this.#numbers;
    do {
      numbers.last = (numbers.last % 0xffffffff) + 1;
    } while (this.#slots.has(numbers.last));
    const id = numbers.last;
    this.#slots.set(id, { value, key, users: 1, freeAtMs: 0 });
    this.#byKey.set(key, id);
    return id;
  }

  get(id: number): T | undefined {
    return this.#slots.get(id)?.value;
  }

  /** One more user of a number; false if it means nothing any more. */
  retain(id: number): boolean {
    const slot = this.#slots.get(id);
    if (slot === undefined) return false;
    if (slot.users++ === 0) this.#lingering.delete(id);
    return true;
  }

  release(ids: readonly number[]): void {
    for (const id of ids) {
      const slot = this.#slots.get(id);
      if (slot === undefined || slot.users === 0 || --slot.users > 0) continue;
      slot.freeAtMs = this.#now() + LINGER_MS;
      this.#lingering.add(id);
    }
    if (ids.length > 0) this.sweep();
  }

  /** Numbers that are made from now on are distinguished by it. */
  mark(): number {
    return this.#numbers.last;
  }

  /** Releases; numbers made since `mark` are nobody else's afterwards, though they still mean what they meant. */
  forget(ids: readonly number[], mark: number): void {
    this.release(ids);
    for (const id of ids) {
      if (id > mark && this.#lingering.has(id)) this.#unshare(id);
    }
  }

  #unshare(id: number): void {
    const { key } = this.#slots.get(id)!;
    if (this.#byKey.get(key) === id) this.#byKey.delete(key);
  }

  /** Forgets numbers that nobody has used for long enough. */
  sweep(): void {
    const now = this.#now();
    for (const id of this.#lingering) {
      const slot = this.#slots.get(id)!;
      if (slot.freeAtMs > now) return;
      this.#lingering.delete(id);
      this.#unshare(id);
      this.#slots.delete(id);
    }
  }
}

/** Numbers objects in the order in which they are met: an object's part of a key. */
export class ObjectNumbers {
  readonly #numbers = new WeakMap<object, number>();
  #count = 0;

  of(object: object): number {
    let number = this.#numbers.get(object);
    if (number === undefined) {
      number = ++this.#count;
      this.#numbers.set(object, number);
    }
    return number;
  }
}
