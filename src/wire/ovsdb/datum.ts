// Datums: the value of a column, always a set or map of atoms (RFC 7047 §3.2 <type>, §5.1 <value>).
//
// A datum is immutable, sorted by key and without duplicates; a scalar is a set of one. So equality
// is a walk, and the difference that "update2" messages and Open vSwitch's logs carry is a merge of
// two sorted lists.

import {
  type Atom,
  atomFromJson,
  atomToJson,
  atomToString,
  type BaseType,
  checkConstraints,
  compareAtoms,
  defaultAtom,
  type SymbolTable,
} from './atom.ts';
import { OvsdbError, syntaxError } from './error.ts';
import { isArray, type Json } from './json.ts';

export interface ColumnType {
  readonly key: BaseType;
  /** Present: a map. */
  readonly value?: BaseType | undefined;
  readonly min: number;
  /** Infinity = unlimited. */
  readonly max: number;
}

export interface Datum {
  readonly keys: readonly Atom[];
  /** Same length as keys, for maps only. */
  readonly values?: readonly Atom[] | undefined;
}

export const isScalar = (type: ColumnType): boolean =>
  type.min === 1 && type.max === 1 && !type.value;
export const isOptionalScalar = (type: ColumnType): boolean =>
  type.min === 0 && type.max === 1 && !type.value;
export const isSet = (type: ColumnType): boolean =>
  !type.value && (type.min !== 1 || type.max !== 1);

/** "set of up to 4096 integers", "map of (string, string) pairs", "string". */
export function typeToEnglish(type: ColumnType): string {
  if (isScalar(type)) return type.key.type;
  const kind = type.value ? 'map' : 'set';
  let count = ' of';
  if (type.max === Infinity) {
    if (type.min > 0) count = ` of ${type.min} or more`;
  } else {
    count = type.min > 0 ? ` of ${type.min} to ${type.max}` : ` of up to ${type.max}`;
  }
  return type.value
    ? `${kind}${count} (${type.key.type}, ${type.value.type}) pairs`
    : `${kind}${count} ${type.key.type}s`;
}

export function defaultDatum(type: ColumnType): Datum {
  const n = type.min;
  const keys = Array.from({ length: n }, () => defaultAtom(type.key.type));
  if (!type.value) return { keys };
  const valueType = type.value.type;
  return { keys, values: keys.map(() => defaultAtom(valueType)) };
}

export function datumEquals(a: Datum, b: Datum): boolean {
  if (a === b) return true;
  if (a.keys.length !== b.keys.length) return false;
  for (let i = 0; i < a.keys.length; i++) {
    if (a.keys[i] !== b.keys[i]) return false;
    if (a.values && a.values[i] !== b.values![i]) return false;
  }
  return true;
}

function isSorted(keys: readonly Atom[]): boolean {
  for (let i = 1; i < keys.length; i++) {
    if (compareAtoms(keys[i - 1]!, keys[i]!) >= 0) return false;
  }
  return true;
}

/** Sorts elements or pairs by key; the arrays become the datum's. Throws if a key occurs twice. */
export function makeDatum(keys: Atom[], values?: Atom[]): Datum {
  // What another server sends is sorted already.
  if (isSorted(keys)) return values ? { keys, values } : { keys };
  const order = keys.map((_, i) => i).sort((a, b) => compareAtoms(keys[a]!, keys[b]!));
  for (let i = 1; i < order.length; i++) {
    if (keys[order[i]!] === keys[order[i - 1]!]) {
      throw new OvsdbError(
        undefined,
        values ? 'map contains duplicate key' : 'set contains duplicate',
      );
    }
  }
  const sortedKeys = order.map((i) => keys[i]!);
  return values ? { keys: sortedKeys, values: order.map((i) => values[i]!) } : { keys: sortedKeys };
}

function unwrap(json: Json, name: 'set' | 'map'): readonly Json[] {
  if (!isArray(json) || json.length !== 2 || json[0] !== name || !isArray(json[1])) {
    throw syntaxError(json, `expected ["${name}", <array>]`);
  }
  return json[1];
}

/** Reads a <value> of the type and checks all constraints. Throws OvsdbError. */
export function datumFromJson(type: ColumnType, json: Json, symbols?: SymbolTable): Datum {
  const { value } = type;
  if (!value && !(isArray(json) && json[0] === 'set')) {
    return { keys: [atomFromJson(type.key, json, symbols)] };
  }
  const kind = value ? 'map' : 'set';
  const elements = unwrap(json, kind);
  const n = elements.length;
  if (n < type.min || n > type.max) {
    const wanted =
      type.min === 1 && type.max === 1
        ? 'exactly one member'
        : `${type.min} to ${type.max === Infinity ? 4294967295 : type.max} members`;
    throw syntaxError(json, `${kind} must have ${wanted} but ${n} are present`);
  }
  if (!value) return makeDatum(elements.map((element) => atomFromJson(type.key, element, symbols)));
  const keys: Atom[] = [];
  const values: Atom[] = [];
  for (const pair of elements) {
    if (!isArray(pair) || pair.length !== 2) throw syntaxError(pair, 'expected 2-element array');
    keys.push(atomFromJson(type.key, pair[0]!, symbols));
    values.push(atomFromJson(value, pair[1]!, symbols));
  }
  return makeDatum(keys, values);
}

export function datumToJson(type: ColumnType, datum: Datum): Json {
  const { keys, values } = datum;
  const keyType = type.key.type;
  if (type.value) {
    const valueType = type.value.type;
    return [
      'map',
      keys.map((key, i) => [atomToJson(keyType, key), atomToJson(valueType, values![i]!)]),
    ];
  }
  if (keys.length === 1) return atomToJson(keyType, keys[0]!);
  return ['set', keys.map((key) => atomToJson(keyType, key))];
}

/** As ovs-vsctl prints it: a, [a, b], {k=v}. */
export function datumToString(type: ColumnType, datum: Datum): string {
  const words = datum.keys.map((key, i) => {
    const text = atomToString(type.key.type, key);
    return type.value ? `${text}=${atomToString(type.value.type, datum.values![i]!)}` : text;
  });
  if (type.max <= 1 && words.length > 0) return words.join(', ');
  return type.value ? `{${words.join(', ')}}` : `[${words.join(', ')}]`;
}

export function checkDatum(type: ColumnType, datum: Datum): void {
  for (const key of datum.keys) checkConstraints(type.key, key);
  if (type.value) for (const value of datum.values!) checkConstraints(type.value, value);
}

/** Index of a key, -1 if absent. */
export function findKey(datum: Datum, key: Atom): number {
  const { keys } = datum;
  let low = 0;
  let high = keys.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    const order = compareAtoms(keys[middle]!, key);
    if (order === 0) return middle;
    if (order < 0) low = middle + 1;
    else high = middle - 1;
  }
  return -1;
}

/** True if every element (or pair) of `part` is in `whole`. */
export function includesAll(whole: Datum, part: Datum): boolean {
  return part.keys.every((key, i) => {
    const at = findKey(whole, key);
    return at >= 0 && (!part.values || part.values[i] === whole.values![at]);
  });
}

/** True if no element (or pair) of `part` is in `whole`. */
export function excludesAll(whole: Datum, part: Datum): boolean {
  return part.keys.every((key, i) => {
    const at = findKey(whole, key);
    return at < 0 || (part.values !== undefined && part.values[i] !== whole.values![at]);
  });
}

function select(datum: Datum, keep: (i: number) => boolean): Datum {
  const indexes = datum.keys.map((_, i) => i).filter(keep);
  if (indexes.length === datum.keys.length) return datum;
  const keys = indexes.map((i) => datum.keys[i]!);
  return datum.values ? { keys, values: indexes.map((i) => datum.values![i]!) } : { keys };
}

/** `a` and what `b` has more; of a key in both, a's value stays. */
export function union(a: Datum, b: Datum): Datum {
  const added = select(b, (i) => findKey(a, b.keys[i]!) < 0);
  if (added.keys.length === 0) return a;
  return makeDatum(
    [...a.keys, ...added.keys],
    a.values ? [...a.values, ...(added.values ?? [])] : undefined,
  );
}

/**
 * `a` without the elements of `b`; pairs go only if the value is the same too, unless `b` has only
 * keys.
 */
export function subtract(a: Datum, b: Datum): Datum {
  return select(a, (i) => {
    const at = findKey(b, a.keys[i]!);
    return at < 0 || (b.values !== undefined && a.values![i] !== b.values[at]);
  });
}

/**
 * What turns `from` into `to`, as "modify" of update2 carries it (ovsdb-server(7), "Update2
 * Notification").
 */
export function diffDatum(type: ColumnType, from: Datum, to: Datum): Datum {
  if (type.max <= 1) return to;
  const gone = select(from, (i) => findKey(to, from.keys[i]!) < 0);
  const come = select(to, (i) => {
    const at = findKey(from, to.keys[i]!);
    return at < 0 || (to.values !== undefined && to.values[i] !== from.values![at]);
  });
  if (gone.keys.length === 0) return come;
  return makeDatum(
    [...gone.keys, ...come.keys],
    type.value ? [...gone.values!, ...come.values!] : undefined,
  );
}

/** Type of the differences of a column: they are not bound by its number of elements. */
export function diffType(type: ColumnType): ColumnType {
  return type.max > 1 ? { ...type, min: 0, max: Infinity } : type;
}

/**
 * Applies a diffDatum: an element that is there goes (a pair with another value changes), any other
 * comes.
 */
export function applyDiff(type: ColumnType, from: Datum, diff: Datum): Datum {
  if (type.max <= 1) return diff;
  const kept = select(from, (i) => findKey(diff, from.keys[i]!) < 0);
  const come = select(diff, (i) => {
    const at = findKey(from, diff.keys[i]!);
    return at < 0 || (diff.values !== undefined && diff.values[i] !== from.values![at]);
  });
  return makeDatum(
    [...kept.keys, ...come.keys],
    type.value ? [...kept.values!, ...come.values!] : undefined,
  );
}

/** Order of two datums, for sorted results: by number of elements, then element by element. */
export function compareDatums(a: Datum, b: Datum): number {
  if (a.keys.length !== b.keys.length) return a.keys.length < b.keys.length ? -1 : 1;
  for (let i = 0; i < a.keys.length; i++) {
    const order = compareAtoms(a.keys[i]!, b.keys[i]!);
    if (order !== 0) return order;
  }
  if (a.values) {
    for (let i = 0; i < a.values.length; i++) {
      const order = compareAtoms(a.values[i]!, b.values![i]!);
      if (order !== 0) return order;
    }
  }
  return 0;
}
