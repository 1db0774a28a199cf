// Limits of blocked time that hold on a machine of one's own, and are neither flaky nor loose: the median of several rounds
// is judged, of those during which other processes, or other machines on the same processors, left the machine to us.

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';

/** Clock ticks of /proc are hundredths of a second (USER_HZ, everywhere where this runs). */
const TICK_MS = 10;
/** Others may have so much of all processors in a time that counts. */
export const OTHERS_MAX = 0.1;

export interface Spent {
  /** Processor time of all processors, whoever had it, idle or not. */
  allMs: number;
  /** Idle, or waiting for a disk. */
  idleMs: number;
  /** This process and its descendants, those that have ended included. */
  oursMs: number;
}

/** Parent and processor time of a process, that of its reaped children included; undefined: it is gone. */
function statOf(pid: number): { parent: number; ms: number } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name in parentheses may hold spaces; behind it come state and parent, and the times as the 12th to 15th.
    const words = text.slice(text.lastIndexOf(')') + 2).split(' ');
    const ticks = words.slice(11, 15).reduce((sum, word) => sum + Number(word), 0);
    return { parent: Number(words[1]), ms: ticks * TICK_MS };
  } catch {
    return undefined;
  }
}

/** Processor time since the machine has started. */
export function spent(): Spent {
  const [cpu] = readFileSync('/proc/stat', 'utf8').split('\n', 1);
  // user nice system idle iowait irq softirq steal; guest time is in user already.
  const ticks = cpu!.split(/ +/).slice(1, 9).map(Number);
  const all = new Map(
    readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .map((name) => [Number(name), statOf(Number(name))] as const),
  );
  const isOurs = (pid: number): boolean =>
    pid === process.pid || (pid > 1 && isOurs(all.get(pid)?.parent ?? 0));
  let oursMs = 0;
  for (const [pid, stat] of all) if (stat && isOurs(pid)) oursMs += stat.ms;
  return {
    allMs: ticks.reduce((sum, n) => sum + n, 0) * TICK_MS,
    idleMs: (ticks[3]! + ticks[4]!) * TICK_MS,
    oursMs,
  };
}

/** Share of the processors that went to others since `begin`. */
export function othersSince(begin: Spent): number {
  const now = spent();
  const allMs = now.allMs - begin.allMs;
  const usedMs = allMs - (now.idleMs - begin.idleMs);
  return Math.max(0, (usedMs - (now.oursMs - begin.oursMs)) / Math.max(1, allMs));
}

/** Measures rounds and judges them. */
export class BlockedTimes {
  readonly #rounds: { ms: number; others: number }[] = [];
  #begin = spent();

  /** A round begins. */
  begin(): void {
    this.#begin = spent();
  }

  /** It has ended, and this was its blocked time. Returns what to print. */
  end(ms: number): string {
    const others = othersSince(this.#begin);
    this.#rounds.push({ ms, others });
    return `blocked ${ms.toFixed(1)} ms, others had ${(100 * others).toFixed(0)} % of the processors`;
  }

  /**
   * The median of the rounds is below `limitMs`, or that of those in which the machine was ours; where it was not for most of
   * them, `looseMs` is all that can be asked for. It holds for every round.
   */
  check(limitMs: number, looseMs: number): string {
    const all = this.#rounds.map(({ ms }) => ms);
    for (const ms of all) assert.ok(ms < looseMs, `blocked ${ms} ms`);
    if (median(all) < limitMs) return `median ${median(all).toFixed(1)} ms, below ${limitMs} ms`;
    const quiet = this.#rounds.filter(({ others }) => others < OTHERS_MAX).map(({ ms }) => ms);
    if (2 * quiet.length < all.length) return `busy machine: ${limitMs} ms cannot be judged`;
    assert.ok(median(quiet) < limitMs, `blocked ${all.join(', ')} ms, quiet: ${quiet.join(', ')}`);
    return `median of quiet rounds ${median(quiet).toFixed(1)} ms, below ${limitMs} ms`;
  }
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1]!;

/**
 * Packets of both directions that have been sent and have not come, at a moment when few are on their way: the least of
 * several looks.
 */
export async function missing(look: () => readonly number[]): Promise<number[]> {
  let least = look();
  for (let i = 0; i < 20; i++) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    least = look().map((n, at) => Math.min(n, least[at]!));
  }
  return [...least];
}
