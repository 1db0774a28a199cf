// The pattern language of log lines (ovs-vswitchd(8), "-vPATTERN"): %05N|%c%T|%p|%m and friends.

import { hostname } from 'node:os';
import type { Level } from './vlog.ts';

export interface LogRecord {
  program: string;
  module: string;
  level: Level;
  sequence: number;
  text: string;
  nowMs: number;
  startMs: number;
  facility: string;
}

const FACILITIES: Record<string, number> = {
  kern: 0,
  user: 1,
  mail: 2,
  daemon: 3,
  auth: 4,
  syslog: 5,
  lpr: 6,
  news: 7,
  uucp: 8,
  clock: 9,
  ftp: 11,
  ntp: 12,
  audit: 13,
  alert: 14,
  clock2: 15,
};
const SEVERITY: Record<Level, number> = { off: 7, emer: 1, err: 3, warn: 4, info: 6, dbg: 7 };
const DAYS = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'];
const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

/** strftime with the conversions that log patterns use, plus ### for milliseconds. */
export function formatTime(format: string, ms: number, utc: boolean): string {
  const shift = utc ? 0 : new Date(ms).getTimezoneOffset() * 60000;
  const t = new Date(ms - shift);
  const two = (n: number): string => String(n).padStart(2, '0');
  const date = (): string =>
    `${t.getUTCFullYear()}-${two(t.getUTCMonth() + 1)}-${two(t.getUTCDate())}`;
  const time = (): string =>
    `${two(t.getUTCHours())}:${two(t.getUTCMinutes())}:${two(t.getUTCSeconds())}`;
  const conversions: Record<string, () => string> = {
    Y: () => String(t.getUTCFullYear()),
    y: () => two(t.getUTCFullYear() % 100),
    m: () => two(t.getUTCMonth() + 1),
    d: () => two(t.getUTCDate()),
    e: () => String(t.getUTCDate()).padStart(2, ' '),
    H: () => two(t.getUTCHours()),
    M: () => two(t.getUTCMinutes()),
    S: () => two(t.getUTCSeconds()),
    a: () => DAYS[t.getUTCDay()]!,
    b: () => MONTHS[t.getUTCMonth()]!,
    h: () => MONTHS[t.getUTCMonth()]!,
    F: date,
    T: time,
    s: () => String(Math.floor(ms / 1000)),
    '%': () => '%',
  };
  return format
    .replace(/%(.)/g, (whole, c: string) => conversions[c]?.() ?? whole)
    .replace(/#+/g, (run) =>
      String(t.getUTCMilliseconds()).padStart(3, '0').padEnd(run.length, '0').slice(0, run.length),
    );
}

function expand(code: string, argument: string | undefined, r: LogRecord): string | undefined {
  switch (code) {
    case 'A':
      return r.program;
    case 'B':
      return String((FACILITIES[r.facility] ?? 3) * 8 + SEVERITY[r.level]);
    case 'c':
      return r.module;
    case 'C':
      return r.module;
    case 'd':
    case 'D':
      return formatTime(argument ?? '%Y-%m-%d %H:%M:%S.###', r.nowMs, code === 'D');
    case 'E':
      return hostname();
    case 'm':
      return r.text;
    case 'n':
      return '\n';
    case 'N':
      return String(r.sequence);
    case 'p':
      return r.level.toUpperCase();
    case 'P':
      return String(process.pid);
    case 'r':
      return String(r.nowMs - r.startMs);
    case 't':
      return 'main';
    case 'T':
      return ''; // the main thread has no suffix; workers do not log
    case '%':
      return '%';
    default:
      return undefined;
  }
}

/** One line of a record under a pattern. */
export function formatRecord(pattern: string, record: LogRecord): string {
  return pattern.replace(
    /%(-?)(0?)(\d*)([a-zA-Z%])(?:\{([^}]*)\})?/g,
    (whole, left: string, zero: string, width: string, code: string, argument?: string) => {
      const takesArgument = code === 'd' || code === 'D';
      const text = expand(code, takesArgument ? argument : undefined, record);
      if (text === undefined) return whole;
      const rest = !takesArgument && argument !== undefined ? `{${argument}}` : '';
      const n = width === '' ? 0 : Number(width);
      return (left ? text.padEnd(n) : text.padStart(n, zero ? '0' : ' ')) + rest;
    },
  );
}
