// The process and its threads: names, cores, CPU time, sessions, locked memory.

import { getPriority } from 'node:os';
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

const SYS_sched_setattr = 314n; // x86-64
const SYS_sched_getattr = 315n;
/** struct sched_attr: size, policy, flags (u64), nice, priority, then runtime, deadline and period in nanoseconds (u64). */
const SCHED_ATTR_SIZE = 48;
const SCHED_FLAG_KEEP_POLICY = 8n;

/**
 * The time slice that the calling thread asks for (Linux 6.12 and newer; older ones ignore it): with a short one it runs soon after
 * it has been woken, whoever has the core. Its share of the core stays the same. Throws SysError.
 */
export function setThreadSlice(ns: number): void {
  const attr = new NativeBuffer(SCHED_ATTR_SIZE);
  attr.view.setUint32(0, SCHED_ATTR_SIZE, true);
  attr.view.setBigUint64(8, SCHED_FLAG_KEEP_POLICY, true);
  attr.view.setInt32(16, getPriority(), true);
  attr.view.setBigUint64(24, BigInt(ns), true);
  const result = c.syscall(SYS_sched_setattr, 0n, attr.address, 0n, 0n, 0n, 0n);
  check(Number(result), 'sched_setattr');
}

/** Policy, nice value and slice of the calling thread; older kernels say 0 ns. */
export function getThreadScheduling(): { policy: number; nice: number; sliceNs: number } {
  const attr = new NativeBuffer(SCHED_ATTR_SIZE);
  const size = BigInt(SCHED_ATTR_SIZE);
  check(Number(c.syscall(SYS_sched_getattr, 0n, attr.address, size, 0n, 0n, 0n)), 'sched_getattr');
  const { view } = attr;
  return {
    policy: view.getUint32(4, true),
    nice: view.getInt32(16, true),
    sliceNs: Number(view.getBigUint64(24, true)),
  };
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
