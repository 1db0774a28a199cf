// --detach and --monitor: ovs-vswitchd's life as a daemon (ovs-vswitchd(8), "Daemon Options").
//
// Node cannot fork, so each stage is a new run of the same program, told by XVIO_STAGE which one it is:
//
//   parent ──spawn──> [monitor] ──spawn──> daemon
//
// The daemon says "ready" on file descriptor 3 when its first configuration is in the database; the stages before it
// pass that on, and the parent exits with status 0 only then (or with the daemon's status if it dies before).
//
// Before that, it names the files in memory that shall survive it ("keep A B"): the monitor opens them, too, and gives
// them to the next daemon after a crash (src/main/handover/keepsake.ts), as the descriptors behind READY_FD.
//
// The next daemon is there before it is needed: some seconds after the daemon is ready the monitor starts a standby, a
// daemon that has its program loaded and its data plane made, and waits for a word on its standard input.

import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, constants, openSync, writeSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { duplicateFd, readFd } from '../sys/fd.ts';
import { NativeBuffer } from '../sys/ffi.ts';
import { watchFd } from '../sys/poll.ts';

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
/** A standby is started so long after the daemon is ready: there is better work to do at first. */
const STANDBY_DELAY_MS = 3000;
/** As the real monitor: at once, but not again within this time. */
const RESTART_INTERVAL_MS = 10_000;

/** The stage in which this process runs. */
export function currentStage(detach: boolean, monitor: boolean): Stage {
  const told = process.env.XVIO_STAGE;
  if (told === 'monitor' || told === 'daemon') return told;
  if (detach) return 'parent';
  return monitor ? 'monitor' : 'daemon';
}

function spawnStage(
  stage: Stage,
  detached: boolean,
  kept: readonly number[] = [],
  standby = false,
): ChildProcess {
  const env = {
    ...process.env,
    XVIO_STAGE: stage,
    XVIO_NOTIFY: '1',
    XVIO_KEPT: `${kept.length}`,
    XVIO_STANDBY: standby ? '1' : '0',
  };
  return spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], {
    env,
    detached,
    stdio: [standby ? 'pipe' : 'ignore', 'inherit', 'inherit', 'pipe', ...kept],
  });
}

/** Whether this daemon has to wait until it is needed. */
export function isStandby(): boolean {
  const told = process.env.XVIO_STANDBY === '1';
  delete process.env.XVIO_STANDBY;
  return told;
}

/** Of a standby: resolves when the daemon before it has crashed. If the monitor ends, so does this process. */
export function untilNeeded(): Promise<void> {
  const { title } = process;
  process.title = 'ovs-vswitchd: standing by';
  return new Promise((resolve) => {
    const word = new NativeBuffer(16);
    const watcher = watchFd(0, { read: true }, () => {
      const bytes = readFd(0, word);
      if (bytes === 0) process.exit(0);
      if (bytes < 0) return;
      watcher[Symbol.dispose]();
      process.title = title;
      resolve();
    });
  });
}

/** Descriptors that a predecessor of this daemon wanted to survive it. The caller's. */
export function keptFds(): number[] {
  const count = Number(process.env.XVIO_KEPT ?? 0);
  delete process.env.XVIO_KEPT;
  return Array.from({ length: count }, (_, i) => READY_FD + 1 + i);
}

/** Asks the monitor, if there is one, to keep files for the time after a crash. To be called before notifyReady(). */
export function keep(fds: readonly number[]): void {
  if (process.env.XVIO_NOTIFY !== '1' || process.env.XVIO_STAGE !== 'daemon') return;
  try {
    writeSync(READY_FD, `keep ${fds.join(' ')}\n`);
  } catch {
    // The stage before us is gone.
  }
}

/** Parent of --detach: returns only by exiting. */
export function runParent(monitor: boolean): void {
  const child = spawnStage(monitor ? 'monitor' : 'daemon', true);
  (child.stdio[READY_FD] as Readable).on('data', (chunk: Buffer) => {
    if (chunk.includes('ready')) process.exit(0);
  });
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

/** The monitor: starts the daemon, and again whenever it crashes. `standby`: keeps the next one ready. */
export function runMonitor(log: (text: string) => void, detached: boolean, standby: boolean): void {
  let ready = !detached;
  let child: ChildProcess;
  let next: ChildProcess | undefined;
  let stopping = false;
  let kept: number[] = [];
  let restartedMs = Number.NEGATIVE_INFINITY;
  let restart: NodeJS.Timeout | undefined;
  const prepareNext = (): void => {
    if (stopping || next !== undefined) return;
    const process = spawnStage('daemon', false, kept, true);
    const forget = (): void => {
      if (next === process) next = undefined;
    };
    process.once('exit', forget);
    process.once('error', forget);
    process.stdin!.on('error', forget);
    next = process;
  };
  const heard = (chunk: Buffer): void => {
    const text = chunk.toString();
    const asked = /^keep (.*)$/m.exec(text);
    if (asked) {
      const before = kept;
      kept = openOf(child.pid!, asked[1]!.split(' ').map(Number));
      for (const fd of before) closeSync(fd);
    }
    if (!text.includes('ready')) return;
    if (!ready) notifyReady();
    ready = true;
    if (standby) setTimeout(prepareNext, STANDBY_DELAY_MS);
  };
  const start = (): void => {
    restart = undefined;
    child = next ?? spawnStage('daemon', false, kept);
    child.stdin?.end('go');
    next = undefined;
    process.title = `ovs-vswitchd: monitoring pid ${child.pid} (healthy)`;
    (child.stdio[READY_FD] as Readable).on('data', heard);
    child.once('exit', (code, signal) => {
      if (stopping || !CRASHES.has(signal) || !ready) {
        process.exit(code ?? (stopping ? 0 : 1));
      }
      log(`pid ${child.pid} died, killed (${signal}), restarting`);
      const delayMs = Math.max(0, restartedMs + RESTART_INTERVAL_MS - performance.now());
      restartedMs = performance.now() + delayMs;
      if (delayMs > 0) restart = setTimeout(start, delayMs);
      else start();
    });
  };
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    process.on(signal, () => {
      // There is no daemon that could end while the next one has to wait.
      if (restart !== undefined) process.exit(0);
      stopping = true;
      child.kill(signal);
    });
  }
  start();
}

/** Opens files that another process has open. */
function openOf(pid: number, fds: readonly number[]): number[] {
  const opened: number[] = [];
  try {
    for (const fd of fds) opened.push(openSync(`/proc/${pid}/fd/${fd}`, constants.O_RDWR));
    return opened;
  } catch {
    for (const fd of opened) closeSync(fd);
    return []; // it has died already
  }
}
