// Where the parts of the OVSDB front-end write their messages: the caller puts in its own logger (module "ovsdb…").

export interface Log {
  info(text: string): void;
  warn(text: string): void;
  err(text: string): void;
  dbg(text: string): void;
}

export const silentLog: Log = { info() {}, warn() {}, err() {}, dbg() {} };

/** Text of a system error as strerror(3) has it: "No space left on device". */
export function errorText(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === 'EIO') return 'Input/output error';
  // Node's messages are "ENOSPC: no space left on device, write".
  const text = code === undefined ? undefined : /^[A-Z0-9]+: ([^,]+)/.exec(message)?.[1];
  return text === undefined ? message : text[0]!.toUpperCase() + text.slice(1);
}
