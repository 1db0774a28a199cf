// Conversion of column values between OVSDB's datums and plain JavaScript, by the kind of a column
// (tables.ts).

import type { Atom } from '../../wire/ovsdb/atom.ts';
import type { Datum } from '../../wire/ovsdb/datum.ts';
import type { Json } from '../../wire/ovsdb/json.ts';

interface AtomTypes {
  string: string;
  integer: number;
  boolean: boolean;
  uuid: string;
}
type AtomKind = keyof AtomTypes;

/** Every kind that a column can have. */
export type KindOf =
  | AtomKind
  | `${AtomKind}?`
  | `${AtomKind}*`
  | `string=>${AtomKind}`
  | `integer=>${AtomKind}`;

export type KindValue<K extends KindOf> = K extends AtomKind
  ? AtomTypes[K]
  : K extends `${infer A extends AtomKind}?`
    ? AtomTypes[A] | undefined
    : K extends `${infer A extends AtomKind}*`
      ? readonly AtomTypes[A][]
      : K extends `string=>${infer V extends AtomKind}`
        ? Readonly<Record<string, AtomTypes[V]>>
        : K extends `integer=>${infer V extends AtomKind}`
          ? ReadonlyMap<number, AtomTypes[V]>
          : never;

export type PlainValue =
  | string
  | number
  | boolean
  | undefined
  | readonly (string | number | boolean)[]
  | Readonly<Record<string, string | number | boolean>>
  | ReadonlyMap<number, string | number | boolean>;

const SCALAR_DEFAULTS: Readonly<Record<string, string | number | boolean>> = {
  string: '',
  integer: 0,
  boolean: false,
  uuid: '',
};

/**
 * 64-bit integers beyond ±2^53 lose their last digits here; no column that is read has such values.
 */
const plain = (atom: Atom): string | number | boolean =>
  typeof atom === 'bigint' ? Number(atom) : atom;

/** An object for string keys, without a prototype, so that any key is just a key. */
function record(): Record<string, string | number | boolean> {
  return Object.create(null);
}

export function decode(kind: KindOf, datum: Datum): PlainValue {
  if (kind.endsWith('?')) return datum.keys.length === 0 ? undefined : plain(datum.keys[0]!);
  if (kind.endsWith('*')) return datum.keys.map(plain);
  if (kind.startsWith('integer=>')) {
    return new Map(datum.keys.map((key, i) => [Number(key), plain(datum.values![i]!)]));
  }
  if (kind.includes('=>')) {
    const object = record();
    for (const [i, key] of datum.keys.entries()) object[String(key)] = plain(datum.values![i]!);
    return object;
  }
  return datum.keys.length === 0 ? SCALAR_DEFAULTS[kind] : plain(datum.keys[0]!);
}

/** Value of a column that the server's schema does not have. */
export function absent(kind: KindOf): PlainValue {
  return decode(kind, { keys: [], values: [] });
}

const atomJson = (kind: string, value: string | number | boolean): Json =>
  kind === 'uuid' ? ['uuid', value as string] : value;

/** Keys and values of a map column, either form. */
export function entries(value: PlainValue): [string | number, string | number | boolean][] {
  if (value instanceof Map) return [...value];
  return Object.entries(value as Record<string, string | number | boolean>);
}

function compare(a: unknown, b: unknown): number {
  return a === b ? 0 : (a as string) < (b as string) ? -1 : 1;
}

/** JSON of a set or map with the given elements. */
export function setJson(kind: string, keys: readonly (string | number | boolean)[]): Json {
  return ['set', [...keys].sort(compare).map((key) => atomJson(kind, key))];
}

export function mapJson(
  kind: KindOf,
  pairs: readonly (readonly [string | number, string | number | boolean])[],
): Json {
  const [keyKind, valueKind] = kind.split('=>') as [string, string];
  const sorted = [...pairs].sort((a, b) => compare(a[0], b[0]));
  return [
    'map',
    sorted.map(([key, value]) => [atomJson(keyKind, key), atomJson(valueKind, value)]),
  ];
}

export function encode(kind: KindOf, value: PlainValue): Json {
  if (kind.includes('=>')) return mapJson(kind, entries(value));
  if (kind.endsWith('*')) return setJson(kind.slice(0, -1), value as readonly string[]);
  if (value === undefined) return ['set', []];
  return atomJson(kind.replace('?', ''), value as string | number | boolean);
}

/** True if a column with these values need not be written. */
export function sameValue(kind: KindOf, a: PlainValue, b: PlainValue): boolean {
  if (a === b) return true;
  if (isMap(kind)) {
    const before = new Map(entries(a));
    const after = entries(b);
    return before.size === after.length && after.every(([key, value]) => before.get(key) === value);
  }
  if (!kind.endsWith('*')) return false;
  const before = new Set(a as readonly unknown[]);
  const after = new Set(b as readonly unknown[]);
  return before.size === after.size && [...after].every((value) => before.has(value));
}

export function isMap(kind: KindOf): boolean {
  return kind.includes('=>');
}
