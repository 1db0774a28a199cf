// JSON as OVSDB uses it: a stream of values without framing, and 64-bit integers.
//
// RFC 7047 §3.1 takes JSON (RFC 4627) as it is and puts messages one after the other on a byte
// stream, so the only way to find the end of a message is to count brackets. Its <integer> has 64
// bits (§3.1), more than a JavaScript number holds: an integer outside ±2^53 is a bigint here, any
// other a number, so that equal values are equal by `===`.

export type Json = null | boolean | number | bigint | string | readonly Json[] | JsonObject;
export interface JsonObject {
  readonly [key: string]: Json;
}

/** The byte stream is not JSON that a peer may send; the connection cannot be used any further. */
export class JsonError extends Error {}

const MIN_INT64 = -(2n ** 63n);
const MAX_INT64 = 2n ** 63n - 1n;

export function isObject(json: Json | undefined): json is JsonObject {
  return typeof json === 'object' && json !== null && !Array.isArray(json);
}

export function isArray(json: Json | undefined): json is readonly Json[] {
  return Array.isArray(json);
}

/**
 * The smallest representation of a 64-bit integer: number within ±2^53, else bigint; undefined if
 * out of range.
 */
export function toInteger(value: number | bigint): number | bigint | undefined {
  if (typeof value === 'number') {
    if (Number.isSafeInteger(value)) return value === 0 ? 0 : value;
    if (!Number.isInteger(value) || Math.abs(value) > 2 ** 63) return undefined;
    return toInteger(BigInt(value));
  }
  if (value < MIN_INT64 || value > MAX_INT64) return undefined;
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

type Reviver = (key: string, value: unknown, context: { source?: string }) => unknown;
const parseWith = JSON.parse as (text: string, reviver?: Reviver) => Json;
const rawJson = (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON;

/**
 * Looks twice at what plain JSON.parse would bend: long integers, and strings that UTF-8 cannot
 * carry.
 */
function reviveExactly(_key: string, value: unknown, context: { source?: string }): unknown {
  if (typeof value === 'number' && !Number.isSafeInteger(value)) {
    const source = context.source ?? '';
    if (/^-?\d+$/.test(source)) return toInteger(BigInt(source)) ?? value;
    return toInteger(value) ?? value;
  }
  if (typeof value === 'string') {
    if (value.includes('\0')) throw new JsonError('null bytes not supported in quoted strings');
    if (!value.isWellFormed()) throw new JsonError('malformed escaped surrogate pair');
  }
  return value;
}

/** Parses one JSON text. Throws JsonError. */
export function parseJson(text: string): Json {
  try {
    // Reviving costs several times the parsing, so only texts get it that show a candidate.
    return /[[,:\s]-?(?:\d{16}|[\d.]+[eE])|\\u(?:0000|[dD][89a-fA-F])/.test(text)
      ? parseWith(text, reviveExactly)
      : parseWith(text);
  } catch (error) {
    throw error instanceof JsonError ? error : new JsonError((error as Error).message);
  }
}

export function stringifyJson(json: Json): string {
  try {
    return JSON.stringify(json);
  } catch {
    return JSON.stringify(json, (_key, value) =>
      typeof value === 'bigint' ? rawJson(String(value)) : value,
    );
  }
}

function sorted(json: Json): Json {
  if (isArray(json)) return json.map(sorted);
  if (!isObject(json)) return json;
  const keys = Object.keys(json).sort();
  return Object.fromEntries(keys.map((key) => [key, sorted(json[key]!)]));
}

/** Compact text with sorted member names: how error objects quote the offending JSON. */
export function canonicalJson(json: Json): string {
  return stringifyJson(sorted(json));
}

export function jsonEqual(a: Json, b: Json): boolean {
  return a === b || canonicalJson(a) === canonicalJson(b);
}
