// "where": conditions on rows (RFC 7047 §5.1 <condition>), and their use in conditional monitors,
// where a row matches if any clause does (ovsdb-server(7), "Monitor_cond"), while an operation
// wants them all.

import { compareAtoms, type SymbolTable } from './atom.ts';
import {
  type ColumnType,
  type Datum,
  datumEquals,
  datumFromJson,
  excludesAll,
  includesAll,
  isOptionalScalar,
  isScalar,
  typeToEnglish,
} from './datum.ts';
import { OvsdbError, syntaxError } from './error.ts';
import { isArray, type Json } from './json.ts';
import { type ColumnSchema, type TableSchema, UUID_INDEX } from './schema.ts';

export interface Clause {
  readonly column: ColumnSchema;
  readonly function: string;
  readonly arg: Datum;
}
/** A clause, or a constant. */
export type Condition = readonly (Clause | boolean)[];

/** Anything that has a datum for each column index. */
export interface Fields {
  readonly fields: readonly Datum[];
}

const FUNCTIONS = ['<', '<=', '==', '>=', '>', '!=', 'includes', 'excludes'];

/**
 * The type that the argument of a function has: less strict than the column's where that makes
 * sense.
 */
function argumentType(name: string, column: ColumnSchema, json: Json): ColumnType {
  const { type } = column;
  switch (name) {
    case '<':
    case '<=':
    case '>':
    case '>=':
      if (
        !(isScalar(type) || isOptionalScalar(type)) ||
        (type.key.type !== 'integer' && type.key.type !== 'real')
      ) {
        const text = `Type mismatch: "${name}" operator may not be applied to column ${column.name} of type ${typeToEnglish(type)}.`;
        throw syntaxError(json, text);
      }
      return { ...type, min: 1 };
    case 'excludes':
      return isScalar(type) ? type : { ...type, min: 0, max: Infinity };
    case 'includes':
      return isScalar(type) ? type : { ...type, min: 0 };
    default:
      return type;
  }
}

function parseClause(table: TableSchema, json: Json, symbols?: SymbolTable): Clause | boolean {
  if (typeof json === 'boolean') return json;
  if (!isArray(json) || json.length !== 3) throw syntaxError(json, 'Parse error in condition.');
  const [columnName, name, arg] = json;
  if (typeof columnName !== 'string' || typeof name !== 'string') {
    throw syntaxError(json, 'Parse error in condition.');
  }
  const column = table.columns.get(columnName);
  if (column === undefined) {
    throw syntaxError(json, `No column ${columnName} in table ${table.name}.`, 'unknown column');
  }
  if (!FUNCTIONS.includes(name)) {
    throw new OvsdbError('unknown function', `No function named ${name}.`);
  }
  const type = argumentType(name, column, json);
  return { column, function: name, arg: datumFromJson(type, arg!, symbols) };
}

/** Reads a "where". Throws OvsdbError. */
export function parseCondition(
  table: TableSchema,
  json: Json | undefined,
  symbols?: SymbolTable,
): Condition {
  if (json === undefined) return [];
  if (!isArray(json)) throw syntaxError(json, 'array expected');
  return json.map((clause) => parseClause(table, clause, symbols));
}

function evaluate(clause: Clause | boolean, row: Fields): boolean {
  if (typeof clause === 'boolean') return clause;
  const field = row.fields[clause.column.index]!;
  const { arg } = clause;
  switch (clause.function) {
    case '==':
      return datumEquals(field, arg);
    case '!=':
      return !datumEquals(field, arg);
    case 'includes':
      return includesAll(field, arg);
    case 'excludes':
      return excludesAll(field, arg);
  }
  // An optional column without a value compares false, whatever the operator.
  if (field.keys.length === 0) return false;
  const order = compareAtoms(field.keys[0]!, arg.keys[0]!);
  switch (clause.function) {
    case '<':
      return order < 0;
    case '<=':
      return order <= 0;
    case '>':
      return order > 0;
    default:
      return order >= 0;
  }
}

/** All clauses hold; true for none. */
export function matchesAll(condition: Condition, row: Fields): boolean {
  return condition.every((clause) => evaluate(clause, row));
}

/** Any clause holds, or there is none. */
export function matchesAny(condition: Condition, row: Fields): boolean {
  return condition.length === 0 || condition.some((clause) => evaluate(clause, row));
}

/**
 * The uuid that all matching rows must have, if the condition says so: most operations name one
 * row.
 */
export function wantedUuid(condition: Condition): string | undefined {
  for (const clause of condition) {
    if (typeof clause === 'boolean' || clause.column.index !== UUID_INDEX) continue;
    if (clause.function === '==' || clause.function === 'includes') {
      return clause.arg.keys[0] as string;
    }
  }
  return undefined;
}
