// --detach and --monitor: ovs-vswitchd's life as a daemon (ovs-vswitchd(8), "Daemon Options").
//
// Node cannot fork, so each stage is a new run of the same program, told by XVIO_STAGE which one it is:
//
//   parent ──spawn──> [monitor] ──spawn──> daemon
//
// The daemon says "ready" on file descriptor 3 when its first configuration is in the database; the stages before it
// pass that on, and the parent exits with status 0 only then (or with the daemon's status if it dies before).

import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, writeSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { duplicateFd } from '../sys/fd.ts';

export type Stage = 'parent' | 'monitor' | 'daemon';

const READY_FD = 3;
/** Ends that mean a crash, after which --monitor starts the daemon again. */
const CRASHES = new Set<NodeJS.Signals | null>([
  'SIGABRT',
  'SIGALRM',
  'SIGBUS',
  'SIGFPE',
  'SIGILL',
  'SIGPIPE',
  'SIGSEGV',
  'SIGXCPU',
  'SIGXFSZ',
]);
const RESTART_AFTER_MS = 1000;

/** The stage in which this process runs. */
export function currentStage(detach: boolean, monitor: boolean): Stage {
  const told = process.env.XVIO_STAGE;
  if (told === 'monitor' || told === 'daemon') return told;
  if (detach) return 'parent';
  return monitor ? 'monitor' : 'daemon';
}

function spawnStage(stage: Stage, detached: boolean): ChildProcess {
  return spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], {
    env: { ...process.env, XVIO_STAGE: stage, XVIO_NOTIFY: '1' },
    detached,
    stdio: ['ignore', 'inherit', 'inherit', 'pipe'],
  });
}

/** Parent of --detach: returns only by exiting. */
export function runParent(monitor: boolean): void {
  const child = spawnStage(monitor ? 'monitor' : 'daemon', true);
  (child.stdio[READY_FD] as Readable).once('data', () => process.exit(0));
  child.once('exit', (code) => process.exit(code === null || code === 0 ? 1 : code));
  child.once('error', (error) => {
    process.stderr.write(`ovs-vswitchd: fork failed (${error.message})\n`);
    process.exit(1);
  });
}

/** Tells the stage before us that the daemon works, and lets go of the terminal. */
export function notifyReady(): void {
  if (process.env.XVIO_NOTIFY !== '1') return;
  delete process.env.XVIO_NOTIFY;
  try {
    writeSync(READY_FD, 'ready');
    closeSync(READY_FD);
  } catch {
    // The parent was killed: nobody waits.
  }
  const nowhere = openSync('/dev/null', 'r+');
  for (const fd of [0, 1, 2]) duplicateFd(nowhere, fd);
  closeSync(nowhere);
}

/** The monitor: starts the daemon, and again whenever it crashes. */
export function runMonitor(log: (text: string) => void, detached: boolean): void {
  let ready = !detached;
  let child: ChildProcess;
  let stopping = false;
  const start = (): void => {
    child = spawnStage('daemon', false);
    process.title = `ovs-vswitchd: monitoring pid ${child.pid} (healthy)`;
    (child.stdio[READY_FD] as Readable).once('data', () => {
      if (!ready) notifyReady();
      ready = true;
    });
    child.once('exit', (code, signal) => {
      if (stopping || !CRASHES.has(signal) || !ready) {
        process.exit(code ?? (stopping ? 0 : 1));
      }
      log(`pid ${child.pid} died, killed (${signal}), restarting`);
      setTimeout(start, RESTART_AFTER_MS);
    });
  };
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    process.on(signal, () => {
      stopping = true;
      child.kill(signal);
    });
  }
  start();
}
