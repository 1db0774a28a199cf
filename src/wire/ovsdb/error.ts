// Errors of OVSDB operations as objects on the wire (RFC 7047 §3.1 <error>), with the two members
// that Open vSwitch adds: "syntax", the offending JSON, and "io-error", the text of an errno.

import { canonicalJson, type Json, type JsonObject } from './json.ts';

export class OvsdbError extends Error {
  /** RFC 7047's error string, for example "constraint violation". */
  readonly tag: string;
  readonly details: string | undefined;
  readonly syntax: string | undefined;
  readonly ioError: string | undefined;

  constructor(
    tag: string | undefined,
    details?: string,
    more: { syntax?: string | undefined; ioError?: string } = {},
  ) {
    super(details === undefined ? (tag ?? 'ovsdb error') : `${tag ?? 'ovsdb error'}: ${details}`);
    this.tag = tag ?? 'ovsdb error';
    this.details = details;
    this.syntax = more.syntax;
    this.ioError = more.ioError;
  }

  toJson(): JsonObject {
    const json: Record<string, Json> = { error: this.tag };
    if (this.details !== undefined) json.details = this.details;
    if (this.syntax !== undefined) json.syntax = this.syntax;
    if (this.ioError !== undefined) json['io-error'] = this.ioError;
    return json;
  }

  /** One line as the real tools print it: syntax "…": tag: details (io error). */
  override toString(): string {
    const syntax = this.syntax === undefined ? '' : `syntax "${this.syntax}": `;
    const details = this.details === undefined ? '' : `: ${this.details}`;
    const io = this.ioError === undefined ? '' : ` (${this.ioError})`;
    return `${syntax}${this.tag}${details}${io}`;
  }
}

/** An error about a piece of JSON, which is quoted; the default tag is "syntax error". */
export function syntaxError(
  json: Json | undefined,
  details: string,
  tag = 'syntax error',
): OvsdbError {
  return new OvsdbError(tag, details, {
    syntax: json === undefined ? undefined : canonicalJson(json),
  });
}

export function constraintViolation(details: string): OvsdbError {
  return new OvsdbError('constraint violation', details);
}
