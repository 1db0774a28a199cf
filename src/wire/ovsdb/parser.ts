// Takes a JSON object apart member by member, as every OVSDB request is: a missing, mistyped or
// surplus member is an error that names it (the texts are those of Open vSwitch's ovsdb_parser,
// which tools and test suites compare).

import { type OvsdbError, syntaxError } from './error.ts';
import { isObject, type Json, type JsonObject, toInteger } from './json.ts';

export type MemberType = 'array' | 'object' | 'string' | 'id' | 'boolean' | 'integer' | 'number';

/** RFC 7047 §3.1 <id>. */
export function isId(text: string): boolean {
  return /^[A-Za-z_][A-Za-z0-9_]*$/.test(text);
}

function matches(json: Json, type: MemberType): boolean {
  switch (type) {
    case 'array':
      return Array.isArray(json);
    case 'object':
      return isObject(json);
    case 'string':
      return typeof json === 'string';
    case 'id':
      return typeof json === 'string' && isId(json);
    case 'boolean':
      return typeof json === 'boolean';
    case 'integer':
      return (
        (typeof json === 'number' || typeof json === 'bigint') && toInteger(json) !== undefined
      );
    case 'number':
      return typeof json === 'number' || typeof json === 'bigint';
  }
}

export class ObjectParser {
  readonly #json: JsonObject | undefined;
  readonly #original: Json;
  readonly #name: string;
  readonly #used = new Set<string>();
  #failed = false;

  /**
   * `name` appears in the errors: "Parsing NAME failed: …". Throws OvsdbError if `json` is no
   * object.
   */
  constructor(json: Json, name: string) {
    this.#name = name;
    this.#original = json;
    if (!isObject(json)) throw this.error('Object expected.');
    this.#json = json;
  }

  /** What is taken apart. */
  get json(): Json {
    return this.#original;
  }

  /**
   * The error "Parsing NAME failed: DETAILS"; a failed parser no longer complains about surplus
   * members.
   */
  error(details: string): OvsdbError {
    this.#failed = true;
    const quoted = isObject(this.#original) ? this.#original : undefined;
    return syntaxError(quoted, `Parsing ${this.#name} failed: ${details}`);
  }

  /** Value of a member that must be there and have one of the types. Throws OvsdbError. */
  member(name: string, ...types: MemberType[]): Json {
    const value = this.optional(name, ...types);
    if (value === undefined) throw this.error(`Required '${name}' member is missing.`);
    return value;
  }

  /**
   * Value of a member, undefined if it is absent. Throws OvsdbError if it has none of the types.
   */
  optional(name: string, ...types: MemberType[]): Json | undefined {
    const json = this.#json!;
    if (!Object.hasOwn(json, name)) return undefined;
    const value = json[name]!;
    if (!types.some((type) => matches(value, type))) {
      throw this.error(`Type mismatch for member '${name}'.`);
    }
    this.#used.add(name);
    return value;
  }

  /**
   * Complains about members that nobody asked for, unless an earlier error of this parser was
   * reported.
   */
  finish(): void {
    if (this.#failed) return;
    const unused = Object.keys(this.#json!).filter((name) => !this.#used.has(name));
    const [first] = unused;
    if (first === undefined) return;
    const others = unused.length - 1;
    throw this.error(
      others === 0
        ? `Member '${first}' is present but not allowed here.`
        : `Member '${first}' and ${others} other member${others > 1 ? 's' : ''} are present but not allowed here.`,
    );
  }
}
