// "mutations": changes of a column relative to its value (RFC 7047 §5.1 <mutation>).

import { type Atom, checkConstraints, type SymbolTable } from './atom.ts';
import {
  type ColumnType,
  type Datum,
  datumFromJson,
  isScalar,
  isSet,
  makeDatum,
  subtract,
  typeToEnglish,
  union,
} from './datum.ts';
import { constraintViolation, OvsdbError, syntaxError } from './error.ts';
import { isArray, type Json, toInteger } from './json.ts';
import type { ColumnSchema, TableSchema } from './schema.ts';

export interface Mutation {
  readonly column: ColumnSchema;
  readonly mutator: string;
  readonly arg: Datum;
}

const SCALAR_MUTATORS = ['+=', '-=', '*=', '/=', '%='];

function parseArgument(
  column: ColumnSchema,
  mutator: string,
  arg: Json,
  json: Json,
  symbols?: SymbolTable,
): Datum {
  const { type } = column;
  const mismatch = () => {
    const text = `Type mismatch: "${mutator}" operator may not be applied to column ${column.name} of type ${typeToEnglish(type)}.`;
    return syntaxError(json, text);
  };
  if (SCALAR_MUTATORS.includes(mutator)) {
    const key = type.key.type;
    const numeric = key === 'integer' || (key === 'real' && mutator !== '%=');
    if ((!isScalar(type) && !isSet(type)) || !numeric) throw mismatch();
    return datumFromJson({ key: { type: key }, min: 1, max: 1 }, arg, symbols);
  }
  if (mutator !== 'insert' && mutator !== 'delete') {
    throw new OvsdbError('unknown mutator', `No mutator named ${mutator}.`);
  }
  if (!type.value && !isSet(type)) throw mismatch();
  if (mutator === 'insert') return datumFromJson({ ...type, min: 0 }, arg, symbols);
  const wide: ColumnType = { ...type, min: 0, max: Infinity };
  if (!type.value) return datumFromJson(wide, arg, symbols);
  try {
    return datumFromJson(wide, arg, symbols);
  } catch {
    // Pairs can also be deleted by naming their keys only.
    return datumFromJson({ ...wide, value: undefined }, arg, symbols);
  }
}

function parseMutation(table: TableSchema, json: Json, symbols?: SymbolTable): Mutation {
  if (!isArray(json) || json.length !== 3) throw syntaxError(json, 'Parse error in mutation.');
  const [columnName, mutator, arg] = json;
  if (typeof columnName !== 'string' || typeof mutator !== 'string') {
    throw syntaxError(json, 'Parse error in mutation.');
  }
  const column = table.columns.get(columnName);
  if (column === undefined) {
    throw syntaxError(json, `No column ${columnName} in table ${table.name}.`, 'unknown column');
  }
  if (!column.mutable) {
    const text = `Cannot mutate immutable column ${columnName} in table ${table.name}.`;
    throw syntaxError(json, text, 'constraint violation');
  }
  return { column, mutator, arg: parseArgument(column, mutator, arg!, json, symbols) };
}

/** Reads "mutations". Throws OvsdbError. */
export function parseMutations(table: TableSchema, json: Json, symbols?: SymbolTable): Mutation[] {
  return (json as readonly Json[]).map((mutation) => parseMutation(table, mutation, symbols));
}

function rangeError(mutator: string): OvsdbError {
  return new OvsdbError('range error', `Result of "${mutator}" operation is out of range.`);
}

function calculateInteger(mutator: string, x: bigint, y: bigint): bigint {
  switch (mutator) {
    case '+=':
      return x + y;
    case '-=':
      return x - y;
    case '*=':
      return x * y;
    default:
      if (y === 0n) throw new OvsdbError('domain error', 'Division by zero.');
      return mutator === '/=' ? x / y : x % y;
  }
}

function calculateReal(mutator: string, x: number, y: number): number {
  switch (mutator) {
    case '+=':
      return x + y;
    case '-=':
      return x - y;
    case '*=':
      return x * y;
    default:
      if (y === 0) throw new OvsdbError('domain error', 'Division by zero.');
      return x / y;
  }
}

function calculate(type: ColumnType, mutator: string, x: Atom, y: Atom): Atom {
  if (type.key.type === 'integer') {
    const result = toInteger(calculateInteger(mutator, BigInt(x as number), BigInt(y as number)));
    if (result === undefined) throw rangeError(mutator);
    return result;
  }
  const result = calculateReal(mutator, x as number, y as number);
  if (!Number.isFinite(result)) throw rangeError(mutator);
  return result;
}

/** The column's new value. Throws OvsdbError. */
export function applyMutation(mutation: Mutation, datum: Datum): Datum {
  const { column, mutator, arg } = mutation;
  const { type } = column;
  if (mutator === 'insert' || mutator === 'delete') {
    const result = mutator === 'insert' ? union(datum, arg) : subtract(datum, arg);
    const n = result.keys.length;
    if (n < type.min || n > type.max) {
      throw constraintViolation(`Attempted to store ${n} elements in ${typeToEnglish(type)}.`);
    }
    return result;
  }
  const keys = datum.keys.map((key) => calculate(type, mutator, key, arg.keys[0]!));
  for (const key of keys) checkConstraints(type.key, key);
  try {
    return makeDatum(keys);
  } catch {
    throw constraintViolation(`Result of "${mutator}" operation contains duplicates.`);
  }
}
