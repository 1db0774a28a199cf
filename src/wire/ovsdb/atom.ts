// Atoms: the scalar values of OVSDB (RFC 7047 §3.2 <atomic-type>, §5.1 <atom>) and the constraints
// on them.
//
// A uuid is a lower-case string and needs its type to be told from a string: every function takes
// the base type.

import { randomUUID } from 'node:crypto';
import { constraintViolation, syntaxError } from './error.ts';
import { isArray, type Json, toInteger } from './json.ts';
import { isId } from './parser.ts';

export type AtomicType = 'integer' | 'real' | 'boolean' | 'string' | 'uuid';
/** integer: number or bigint (see json.ts); real: number; uuid: lower-case string. */
export type Atom = number | bigint | boolean | string;

export interface BaseType {
  readonly type: AtomicType;
  /** Sorted, if the schema lists the allowed values. */
  readonly enum?: readonly Atom[];
  readonly minInteger?: number | bigint;
  readonly maxInteger?: number | bigint;
  readonly minReal?: number;
  readonly maxReal?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly refTable?: string;
  readonly refType?: 'strong' | 'weak';
}

export const ZERO_UUID = '00000000-0000-0000-0000-000000000000';

/** Names of rows to be inserted in the same transaction (RFC 7047 §5.1 <named-uuid>). */
export class SymbolTable {
  readonly #symbols = new Map<string, { uuid: string; created: boolean }>();

  get(name: string): { uuid: string; created: boolean } {
    let symbol = this.#symbols.get(name);
    if (symbol === undefined) {
      symbol = { uuid: randomUUID(), created: false };
      this.#symbols.set(name, symbol);
    }
    return symbol;
  }
}

/** The uuid in lower case, or undefined. */
export function parseUuid(text: string): string | undefined {
  return /^[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$/.test(text)
    ? text.toLowerCase()
    : undefined;
}

export function defaultAtom(type: AtomicType): Atom {
  switch (type) {
    case 'integer':
    case 'real':
      return 0;
    case 'boolean':
      return false;
    case 'string':
      return '';
    case 'uuid':
      return ZERO_UUID;
  }
}

/** Puts UTF-16 code units in the order of code points: surrogates stand for the highest ones. */
function codeUnitRank(unit: number): number {
  if (unit < 0xd800) return unit;
  return unit >= 0xe000 ? unit - 0x800 : unit + 0x2000;
}

/** Negative, zero, positive. Strings compare by their UTF-8 bytes, that is by code points. */
export function compareAtoms(a: Atom, b: Atom): number {
  if (a === b) return 0;
  if (typeof a !== 'string' || typeof b !== 'string') return a < b ? -1 : 1;
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const x = a.charCodeAt(i);
    const y = b.charCodeAt(i);
    if (x !== y) return codeUnitRank(x) - codeUnitRank(y);
  }
  return a.length - b.length;
}

function parseUuidAtom(json: Json, symbols: SymbolTable | undefined): string {
  if (isArray(json) && json.length === 2 && typeof json[1] === 'string') {
    if (json[0] === 'uuid') {
      const uuid = parseUuid(json[1]);
      if (uuid === undefined) throw syntaxError(json, `"${json[1]}" is not a valid UUID`);
      return uuid;
    }
    if (json[0] === 'named-uuid' && symbols !== undefined) {
      if (!isId(json[1])) throw syntaxError(json, 'named-uuid string is not a valid <id>');
      return symbols.get(json[1]).uuid;
    }
  }
  throw syntaxError(json, 'expected ["uuid", <string>]');
}

/** Reads an atom and checks its constraints. Throws OvsdbError. */
export function atomFromJson(base: BaseType, json: Json, symbols?: SymbolTable): Atom {
  const atom = unconstrainedAtom(base.type, json, symbols);
  checkConstraints(base, atom);
  return atom;
}

function unconstrainedAtom(type: AtomicType, json: Json, symbols?: SymbolTable): Atom {
  switch (type) {
    case 'integer':
      if (typeof json === 'number' || typeof json === 'bigint') {
        const integer = toInteger(json);
        if (integer !== undefined) return integer;
      }
      break;
    case 'real':
      if (typeof json === 'number' || typeof json === 'bigint') return Number(json);
      break;
    case 'boolean':
      if (typeof json === 'boolean') return json;
      break;
    case 'string':
      if (typeof json === 'string') return json;
      break;
    case 'uuid':
      return parseUuidAtom(json, symbols);
  }
  throw syntaxError(json, `expected ${type}`);
}

export function atomToJson(type: AtomicType, atom: Atom): Json {
  return type === 'uuid' ? ['uuid', atom as string] : atom;
}

/** As ovs-vsctl writes it: strings that are no plain words in quotes. */
export function atomToString(type: AtomicType, atom: Atom): string {
  if (type !== 'string') return String(atom);
  const text = atom as string;
  const plain =
    /^[A-Za-z_][A-Za-z0-9_.-]*$/.test(text) &&
    text !== 'true' &&
    text !== 'false' &&
    parseUuid(text) === undefined;
  return plain ? text : JSON.stringify(text);
}

function checkRange(value: Atom, text: string, min: Atom | undefined, max: Atom | undefined): void {
  if ((min === undefined || value >= min) && (max === undefined || value <= max)) return;
  if (min === undefined) {
    throw constraintViolation(`${text} is greater than maximum allowed value ${max}`);
  }
  if (max === undefined) {
    throw constraintViolation(`${text} is less than minimum allowed value ${min}`);
  }
  throw constraintViolation(`${text} is not in the valid range ${min} to ${max} (inclusive)`);
}

/** Throws "constraint violation". References are checked when the transaction ends, not here. */
export function checkConstraints(base: BaseType, atom: Atom): void {
  if (base.enum !== undefined && !base.enum.includes(atom)) {
    const valid = base.enum.map((value) => atomToString(base.type, value)).join(', ');
    throw constraintViolation(
      `${atomToString(base.type, atom)} is not one of the allowed values ([${valid}])`,
    );
  }
  if (base.type === 'integer') {
    checkRange(atom, String(atom), base.minInteger, base.maxInteger);
  } else if (base.type === 'real') {
    checkRange(atom, String(atom), base.minReal, base.maxReal);
  } else if (base.type === 'string') {
    if (base.minLength === undefined && base.maxLength === undefined) return;
    const length = [...(atom as string)].length;
    if (base.minLength !== undefined && length < base.minLength) {
      throw constraintViolation(
        `"${atom}" length ${length} is less than minimum allowed length ${base.minLength}`,
      );
    }
    if (base.maxLength !== undefined && length > base.maxLength) {
      throw constraintViolation(
        `"${atom}" length ${length} is greater than maximum allowed length ${base.maxLength}`,
      );
    }
  }
}
