// Where the parts of the OVSDB front-end write their messages: the caller puts in its own logger
// (module "ovsdb…").

import { getSystemErrorMessage } from 'node:util';

export interface Log {
  info(text: string): void;
  warn(text: string): void;
  err(text: string): void;
  dbg(text: string): void;
}

export const silentLog: Log = { info() {}, warn() {}, err() {}, dbg() {} };

/**
 * Text of a system error as strerror(3) has it: "No space left on device"; the message of any other
 * error.
 */
export function errorText(error: unknown): string {
  if (error instanceof AggregateError) return errorText(error.errors[0]);
  const { code, errno, message } = error as NodeJS.ErrnoException;
  if (code === 'EIO') return 'Input/output error';
  // Node's messages are "ENOSPC: no space left on device, write" or "connect ECONNREFUSED
  // 127.0.0.1:1".
  const text =
    errno === undefined ? /^[A-Z0-9]+: ([^,]+)/.exec(message)?.[1] : getSystemErrorMessage(errno);
  return code && text ? text[0]!.toUpperCase() + text.slice(1) : message;
}
