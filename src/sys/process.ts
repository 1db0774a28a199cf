// The process and its threads: names, cores, CPU time, sessions, locked memory.

import { c, check, cString, EPERM, errno, NativeBuffer } from './ffi.ts';

const PR_SET_NAME = 15;
const CLOCK_PROCESS_CPUTIME_ID = 2;
const CLOCK_THREAD_CPUTIME_ID = 3;
const CPU_SET_BYTES = 128;

export function getTid(): number {
  return c.gettid();
}

/** Name of the calling thread as top and ps show it (15 bytes; longer names are cut). */
export function setThreadName(name: string): void {
  const text = cString(Buffer.from(name, 'utf8').subarray(0, 15).toString('latin1'));
  check(c.prctl(PR_SET_NAME, text.address, 0n, 0n, 0n), 'prctl PR_SET_NAME');
}

/** Lets the calling thread run on these cores only. Throws SysError (EINVAL: none of them exists or is allowed). */
export function setThreadAffinity(cores: readonly number[]): void {
  const set = new NativeBuffer(CPU_SET_BYTES);
  for (const core of cores) {
    if (core >= 0 && core < CPU_SET_BYTES * 8) set.bytes[core >> 3]! |= 1 << (core & 7);
  }
  check(c.sched_setaffinity(0, BigInt(CPU_SET_BYTES), set.address), 'sched_setaffinity');
}

/** Cores on which the calling thread may run. */
export function getThreadAffinity(): number[] {
  const set = new NativeBuffer(CPU_SET_BYTES);
  const bytes = c.sched_getaffinity(0, BigInt(CPU_SET_BYTES), set.address);
  check(bytes, 'sched_getaffinity');
  const cores: number[] = [];
  for (let core = 0; core < CPU_SET_BYTES * 8; core++) {
    if (set.bytes[core >> 3]! & (1 << (core & 7))) cores.push(core);
  }
  return cores;
}

const SYS_sched_setscheduler = 144n; // x86-64
const SCHED_OTHER = 0n;
const SCHED_FIFO = 1n;

/**
 * Lets a thread of any process (0: the calling one) run before all ordinary ones until told otherwise; priority 0 makes
 * it an ordinary one again. Needs CAP_SYS_NICE. Throws SysError.
 */
export function setRealtime(tid: number, priority: number): void {
  const param = new NativeBuffer(4);
  param.view.setInt32(0, priority, true);
  const policy = priority > 0 ? SCHED_FIFO : SCHED_OTHER;
  const arguments_ = [SYS_sched_setscheduler, BigInt(tid), policy, param.address, 0n, 0n] as const;
  check(Number(c.syscall(...arguments_, 0n)), 'sched_setscheduler');
}

function cpuClockNs(clock: number): number {
  const time = new NativeBuffer(16);
  check(c.clock_gettime(clock, time.address), 'clock_gettime');
  return Number(time.view.getBigInt64(0, true)) * 1e9 + Number(time.view.getBigInt64(8, true));
}

/** CPU time of the calling thread, or of the thread `tid` of this process. */
export function threadCpuNs(tid = 0): number {
  // Clock id of a thread: ~tid << 3 | CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED (kernel ABI, posix-timers).
  return cpuClockNs(tid === 0 ? CLOCK_THREAD_CPUTIME_ID : (~tid << 3) | 6);
}

export function processCpuNs(): number {
  return cpuClockNs(CLOCK_PROCESS_CPUTIME_ID);
}

/** True if a process with this number exists. */
export function processExists(pid: number): boolean {
  return c.kill(pid, 0) === 0 || errno() === EPERM;
}

const CLONE_NEWNET = 0x40000000;

/** Gives the calling thread, and what it starts from now on, a network namespace of its own (tests). */
export function newNetworkNamespace(): void {
  check(c.unshare(CLONE_NEWNET), 'unshare');
}
