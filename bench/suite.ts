// A run of several scenarios: each in a process group of its own, bounded in time, so that one that fails, hangs or
// crashes costs its own figures only. What went wrong becomes part of the report.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { leastFile, type Order, partialFile } from './one.ts';
import { estimateS, limitS, roundsWithin } from './plan.ts';
import type { Measurement, Options, Scenario } from './types.ts';

export interface Failure {
  scenario: string;
  text: string;
}

export interface SuiteResult {
  measurements: Measurement[];
  failures: Failure[];
}

/** Network namespaces are named after the process that made them (test/interop/sandbox.ts). */
function removeNamespaces(pid: number): void {
  for (const name of existsSync('/run/netns') ? readdirSync('/run/netns') : []) {
    if (name.startsWith(`xv${pid}-`)) spawnSync('ip', ['netns', 'delete', name]);
  }
}

function killGroup({ pid }: ChildProcess): void {
  try {
    if (pid !== undefined) process.kill(-pid, 'SIGKILL');
  } catch {
    // All of them have ended.
  }
}

/** Runs one scenario. If it does not come to its end, `failed` says why, and there are the variants that it has played. */
async function inOwnProcess(
  scenario: string,
  { log, played: _, placement: __, ...options }: Options,
  seconds: number,
): Promise<{ measurements: Measurement[]; failed?: string; cacheLineNs?: number }> {
  const directory = mkdtempSync(path.join(tmpdir(), 'xvb-'));
  const order: Order = { scenario, options, file: path.join(directory, 'result.json') };
  const child = spawn(
    process.execPath,
    [...process.execArgv, path.join(import.meta.dirname, 'one.ts'), JSON.stringify(order)],
    {
      detached: true,
      // Whatever it leaves lies there.
      env: { ...process.env, TMPDIR: directory },
      stdio: ['ignore', 'inherit', 'pipe'],
    },
  );
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-4000);
    for (const line of text.split('\n')) if (line) log(line);
  });
  const cleanUp = (): void => {
    killGroup(child);
    if (child.pid !== undefined) removeNamespaces(child.pid);
    rmSync(directory, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  };
  const interrupted = (): void => {
    cleanUp();
    process.exit(130);
  };
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const name of signals) process.on(name, interrupted);
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    killGroup(child);
  }, seconds * 1000);
  try {
    const status = await new Promise<string>((resolve) => {
      child.once('error', (error) => resolve(error.message));
      child.once('exit', (code, signal) => resolve(signal ?? `status ${code}`));
    });
    const read = (file: string) => JSON.parse(readFileSync(file, 'utf8')) as Measurement[];
    if (existsSync(order.file)) {
      const least = leastFile(order.file);
      const cacheLineNs = existsSync(least) && Number(readFileSync(least, 'utf8'));
      return { measurements: read(order.file), ...(cacheLineNs ? { cacheLineNs } : {}) };
    }
    const partial = partialFile(order.file);
    return {
      measurements: existsSync(partial) ? read(partial) : [],
      failed: late
        ? `ended by force after ${Math.round(seconds)} s`
        : `${status}: ${lastError(stderr)}`,
    };
  } finally {
    clearTimeout(timer);
    for (const name of signals) process.off(name, interrupted);
    cleanUp();
  }
}

/** Of what a process that failed has said, the line that names the error. */
function lastError(stderr: string): string {
  const lines = stderr.trim().split('\n');
  return (lines.findLast((line) => /^(?:\w*Error)\b/.test(line)) ?? lines.at(-1) ?? '').trim();
}

/**
 * Runs scenarios one after the other; `minutes` bounds the whole run, by fewer rounds (never less than three), and in the end
 * by leaving scenarios out.
 */
export async function runSuite(
  scenarios: readonly Scenario[],
  options: Options,
  minutes: number | undefined,
  done: (result: SuiteResult) => void,
): Promise<SuiteResult> {
  const result: SuiteResult = { measurements: [], failures: [] };
  const endMs = minutes === undefined ? Number.POSITIVE_INFINITY : Date.now() + minutes * 60_000;
  for (const [i, { name }] of scenarios.entries()) {
    const rest = scenarios.slice(i + 1).map((scenario) => scenario.name);
    const secondsLeft = (endMs - Date.now()) / 1000;
    const rounds = roundsWithin(secondsLeft, [name, ...rest], options);
    if (rounds === 0) {
      result.failures.push({ scenario: name, text: `left out: ${minutes} minutes were over` });
      continue;
    }
    const seconds = estimateS([name], rounds, options.durationMs);
    const total = estimateS([name, ...rest], rounds, options.durationMs);
    options.log(
      `${name}: ${rounds} rounds, about ${Math.round(seconds)} s; all that is left: about ${Math.ceil(total / 60)} min`,
    );
    const startMs = Date.now();
    // With little time left, nobody gets much more than the share that was planned.
    const deadline = minutes === undefined ? {} : { deadlineMs: startMs + 1500 * seconds };
    const plan = { ...options, rounds, ...deadline };
    const limit = limitS(secondsLeft, [name, ...rest], plan);
    const { measurements, failed, cacheLineNs } = await inOwnProcess(name, plan, limit);
    // The first look at the machine may have met it with its cores far from each other.
    if (cacheLineNs !== undefined && options.cacheLineNs !== undefined) {
      options.cacheLineNs = Math.min(options.cacheLineNs, cacheLineNs);
    }
    result.measurements.push(...measurements);
    options.log(`${name}: took ${Math.round((Date.now() - startMs) / 1000)} s`);
    if (failed !== undefined) {
      result.failures.push({ scenario: name, text: failed });
      options.log(`${name}: ${failed}`);
    }
    done(result);
  }
  return result;
}

/** Failures of whole scenarios and of peers in them. */
export function allFailures({ measurements, failures }: SuiteResult): Failure[] {
  const inside = measurements.flatMap(({ scenario, variant, failures: texts = [] }) =>
    texts.map((text) => ({ scenario, text: `${variant}: ${text}` })),
  );
  return [...failures, ...inside];
}
