// Logging in Open vSwitch's format: modules, three destinations (console, syslog, file) each with a level per module
// and a pattern, as ovs-appctl vlog/* and the -v options expect them (ovs-vswitchd(8), "Logging Options";
// ovs-appctl(8), "LOGGING COMMANDS").
//
// Several parts share one Vlog value, made by the composition root; a part gets a Logger for its module.

import { closeSync, openSync, writeSync } from 'node:fs';
import { strerror } from '../sys/ffi.ts';
import { formatRecord, type LogRecord } from './vlogPattern.ts';

export const LEVELS = ['off', 'emer', 'err', 'warn', 'info', 'dbg'] as const;
export type Level = (typeof LEVELS)[number];
export const DESTINATIONS = ['syslog', 'console', 'file'] as const;
export type Destination = (typeof DESTINATIONS)[number];

/** Token bucket for repeated messages: `perMinute` messages, the whole of it at once. */
export interface RateLimit {
  perMinute: number;
  tokens: number;
  filledMs: number;
  dropped: number;
  firstDroppedMs: number;
  lastDroppedMs: number;
}

export function rateLimit(perMinute = 60): RateLimit {
  return {
    perMinute,
    tokens: perMinute,
    filledMs: 0,
    dropped: 0,
    firstDroppedMs: 0,
    lastDroppedMs: 0,
  };
}

export interface Logger {
  emer(text: string, limit?: RateLimit): void;
  err(text: string, limit?: RateLimit): void;
  warn(text: string, limit?: RateLimit): void;
  info(text: string, limit?: RateLimit): void;
  dbg(text: string, limit?: RateLimit): void;
  /** Whether a debug message would go anywhere: for messages that cost something to build. */
  isDbg(): boolean;
}

/** For those who say something at level "dbg" only: its text is made when somebody wants it. */
export type DebugLog = Pick<Logger, 'dbg' | 'isDbg'>;

export interface VlogOptions {
  program: string;
  /** Sends one formatted line to syslog; absent = no syslog. `priority` is the syslog severity 0 … 7. */
  syslog?: (line: string, priority: number) => void;
  /** Where console lines go, default standard error. */
  console?: (line: string) => void;
  now?: () => number;
}

const SYSLOG_SEVERITY: Record<Level, number> = {
  off: 7,
  emer: 1,
  err: 3,
  warn: 4,
  info: 6,
  dbg: 7,
};

const DEFAULT_PATTERNS: Record<Destination, string> = {
  syslog: 'ovs|%05N|%c%T|%p|%m',
  console: '%D{%Y-%m-%dT%H:%M:%SZ}|%05N|%c%T|%p|%m',
  file: '%D{%Y-%m-%dT%H:%M:%S.###Z}|%05N|%c%T|%p|%m',
};

export class Vlog {
  readonly #program: string;
  readonly #syslog: VlogOptions['syslog'];
  #console: ((line: string) => void) | undefined;
  readonly #now: () => number;
  readonly #startMs: number;
  readonly #modules = new Map<string, Record<Destination, Level>>();
  readonly #unlimited = new Set<string>();
  readonly #patterns = { ...DEFAULT_PATTERNS };
  readonly #defaults: Record<Destination, Level> = {
    syslog: 'info',
    console: 'info',
    file: 'info',
  };
  #facility = 'daemon';
  #sequence = 0;
  #path: string | undefined;
  #fd = -1;

  constructor(options: VlogOptions) {
    this.#program = options.program;
    this.#syslog = options.syslog;
    this.#console = options.console ?? ((line) => process.stderr.write(`${line}\n`));
    this.#now = options.now ?? Date.now;
    this.#startMs = this.#now();
    this.module('vlog');
  }

  /** A logger for the module; modules appear in vlog/list as soon as they have been asked for. */
  module(name: string): Logger {
    const levels = this.#modules.get(name) ?? { ...this.#defaults };
    this.#modules.set(name, levels);
    const at =
      (level: Level) =>
      (text: string, limit?: RateLimit): void => {
        if (limit && !this.#unlimited.has(name) && !this.#admit(name, levels, level, limit)) return;
        this.#write(name, levels, level, text);
      };
    return {
      emer: at('emer'),
      err: at('err'),
      warn: at('warn'),
      info: at('info'),
      dbg: at('dbg'),
      isDbg: () => DESTINATIONS.some((d) => levels[d] === 'dbg'),
    };
  }

  #admit(
    name: string,
    levels: Record<Destination, Level>,
    level: Level,
    limit: RateLimit,
  ): boolean {
    const now = this.#now();
    const refill = ((now - limit.filledMs) * limit.perMinute) / 60000;
    if (refill >= 1) {
      limit.tokens = Math.min(limit.perMinute, limit.tokens + Math.floor(refill));
      limit.filledMs = now;
    }
    if (limit.tokens <= 0) {
      if (limit.dropped++ === 0) limit.firstDroppedMs = now;
      limit.lastDroppedMs = now;
      return false;
    }
    limit.tokens--;
    if (limit.dropped > 0) {
      const first = Math.round((now - limit.firstDroppedMs) / 1000);
      const last = Math.round((now - limit.lastDroppedMs) / 1000);
      const text = `Dropped ${limit.dropped} log messages in last ${first} seconds (most recently, ${last} seconds ago) due to excessive rate`;
      limit.dropped = 0;
      this.#write(name, levels, level, text);
    }
    return true;
  }

  #write(name: string, levels: Record<Destination, Level>, level: Level, text: string): void {
    const rank = LEVELS.indexOf(level);
    const wanted = DESTINATIONS.filter((d) => LEVELS.indexOf(levels[d]) >= rank);
    if (wanted.length === 0) return;
    this.#sequence++;
    const record: LogRecord = {
      program: this.#program,
      module: name,
      level,
      sequence: this.#sequence,
      text,
      nowMs: this.#now(),
      startMs: this.#startMs,
      facility: this.#facility,
    };
    for (const destination of wanted) this.#emit(destination, record);
  }

  #emit(destination: Destination, record: LogRecord): void {
    const line = formatRecord(this.#patterns[destination], record);
    if (destination === 'console') this.#console?.(line);
    else if (destination === 'syslog') {
      // One message for each line: there, a line's end would end it, or be escaped.
      for (const one of line.split('\n')) this.#syslog?.(one, SYSLOG_SEVERITY[record.level]);
    } else if (this.#fd >= 0) {
      try {
        writeSync(this.#fd, `${line}\n`);
      } catch {
        // A full disk must not cost the switch anything; the line is lost, as with the real daemon.
      }
    }
  }

  /** After --detach nobody reads standard error. */
  silenceConsole(): void {
    this.#console = undefined;
  }

  /** Opens the log file (append); throws the system's error. */
  openFile(path: string): void {
    const fd = openSync(path, 'a', 0o640);
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = fd;
    this.#path = path;
    this.module('vlog').info(`opened log file ${path}`);
  }

  /** vlog/reopen: after log rotation. Returns an error text, or undefined. */
  reopenFile(): string | undefined {
    if (this.#path === undefined) return 'Logging to file not configured';
    try {
      if (this.#fd >= 0) this.module('vlog').info('closing log file');
      this.openFile(this.#path);
      return undefined;
    } catch (error) {
      return strerror(-((error as NodeJS.ErrnoException).errno ?? 0));
    }
  }

  /** vlog/close. */
  closeFile(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }

  /**
   * A -v argument or vlog/set word: [module] [destination] level in any order, separated by ':', ',' or space;
   * `PATTERN:destination:pattern`; `FACILITY:name`. Returns an error text, or undefined.
   */
  set(spec: string): string | undefined {
    if (/^PATTERN:/i.test(spec)) return this.#setPattern(spec.slice(8));
    if (/^FACILITY:/i.test(spec)) {
      this.#facility = spec.slice(9);
      return undefined;
    }
    let module: string | undefined;
    let destination: Destination | undefined;
    let level: Level | undefined;
    for (const word of spec.split(/[ ,:]+/).filter((w) => w !== '')) {
      const lower = word.toLowerCase();
      if (lower === 'any') continue;
      if ((DESTINATIONS as readonly string[]).includes(lower)) {
        if (destination) return 'cannot specify multiple destinations';
        destination = lower as Destination;
      } else if ((LEVELS as readonly string[]).includes(lower)) {
        if (level) return 'cannot specify multiple levels';
        level = lower as Level;
      } else if (this.#modules.has(lower.replaceAll('-', '_'))) {
        if (module) return 'cannot specify multiple modules';
        module = lower.replaceAll('-', '_');
      } else {
        return `no destination, level, or module "${word}"`;
      }
    }
    this.#setLevels(module, destination, level ?? 'dbg');
    return undefined;
  }

  #setLevels(module: string | undefined, destination: Destination | undefined, level: Level): void {
    const targets = destination ? [destination] : DESTINATIONS;
    for (const target of targets) {
      if (module === undefined) this.#defaults[target] = level;
      for (const [name, levels] of this.#modules) {
        if (module === undefined || name === module) levels[target] = level;
      }
    }
  }

  #setPattern(spec: string): string | undefined {
    const colon = spec.indexOf(':');
    const name = (colon < 0 ? spec : spec.slice(0, colon)).toLowerCase();
    if (name !== 'any' && !(DESTINATIONS as readonly string[]).includes(name)) {
      return `unknown destination "${colon < 0 ? spec : spec.slice(0, colon)}"`;
    }
    const pattern = colon < 0 ? '' : spec.slice(colon + 1);
    for (const d of DESTINATIONS) if (name === 'any' || name === d) this.#patterns[d] = pattern;
    return undefined;
  }

  /** Turns rate limits off (or on again) for the named modules, all if none is named. Returns an error text. */
  setRateLimits(enabled: boolean, names: readonly string[]): string | undefined {
    for (const name of names.length > 0 ? names : this.#modules.keys()) {
      if (!this.#modules.has(name)) return `unknown module ${name}`;
      if (enabled) this.#unlimited.delete(name);
      else this.#unlimited.add(name);
    }
    return undefined;
  }

  /** Text of vlog/list. */
  list(): string {
    const head =
      '                 console    syslog    file\n                 -------    ------    ------\n';
    const rows = [...this.#modules].sort(([a], [b]) => (a < b ? -1 : 1));
    const cell = (level: Level): string => level.toUpperCase().padStart(4);
    return (
      head +
      rows
        .map(
          ([name, l]) =>
            `${name.padEnd(16)}  ${cell(l.console)}       ${cell(l.syslog)}       ${cell(l.file)}${this.#unlimited.has(name) ? '  (rate limiting disabled)' : ''}\n`,
        )
        .join('')
    );
  }

  /** Text of vlog/list-pattern. */
  listPatterns(): string {
    return (
      '         prefix                            format\n         ------                            ------\n' +
      `SYSLOG   <%B> %D{%h %e %T} %E %A:          ${this.#patterns.syslog}\n` +
      `CONSOLE  none                              ${this.#patterns.console}\n` +
      `FILE     none                              ${this.#patterns.file}\n`
    );
  }
}
