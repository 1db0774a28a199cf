// Who this worker is, and what time it is: the globals of one instance of the module. A module-level variable is a
// WebAssembly global, so each worker has its own; nothing here is in the shared memory.

import { portCountersAddress } from '../contract/counters.ts';
import {
  CONTROL_BASE,
  CTL_CLOCK_SKEW_NS,
  MAX_CALLS,
  WK_CALL,
  WK_CALL_COUNT,
  WK_FLUSH,
  WK_FLUSH_COUNT,
  WORKER_BASE,
  WORKER_SIZE,
} from '../contract/memory.ts';
import { privateAddress } from '../contract/packet.ts';
import {
  FLOW_COUNTER_SIZE,
  FLOW_RECORD_SIZE,
  FLOW_RECORDS_BASE,
  flowCountersAddress,
} from '../contract/table.ts';

/** Number of this worker. */
export let worker: u32 = 0;
/** Address of its worker record. */
export let workerRecord: u32 = 0;
/** Address of its private memory (PV_*). */
export let privateBase: u32 = 0;
/** Address of its counters of port 0; a port's are PORT_COUNTERS_SIZE x port further on. */
export let portCountersBase: u32 = 0;
/** Address of its counters of flow 0. */
let flowCountersBase: u32 = 0;
/** The engine's clock at the start of the breath. */
export let nowMs: f64 = 0;

export function setWorker(id: u32): void {
  worker = id;
  workerRecord = WORKER_BASE + id * WORKER_SIZE;
  privateBase = privateAddress(id);
  portCountersBase = portCountersAddress(id, 0);
  flowCountersBase = flowCountersAddress(id, 0);
}

/** The same in nanoseconds, unless a test has stopped the time: then it goes on here. */
let steadyNs: f64 = 0;
let steadyLow: u32 = 0;

/** `lowNs`: the low half of the host's clock when it is `ns`. Both are of any origin. */
export function setClock(ns: f64, lowNs: u32): void {
  steadyNs = ns;
  steadyLow = lowNs;
}

/** Less than 2^32 ns after the last time. The host has no more than 32 bits for us (src/sys/clock.ts). Returns steadyNs. */
export function tick(lowNs: u32): f64 {
  steadyNs += <f64>(lowNs - steadyLow);
  steadyLow = lowNs;
  nowMs = (steadyNs + load<f64>(CONTROL_BASE + CTL_CLOCK_SKEW_NS)) / 1e6;
  return steadyNs;
}

/** Its counters of a flow. The place of the record tells, so its header need not be in the cache. */
export function countersOf(flow: u32): u32 {
  const index = (flow - <u32>FLOW_RECORDS_BASE) / FLOW_RECORD_SIZE;
  return flowCountersBase + index * FLOW_COUNTER_SIZE;
}

/** Adds to one of the f64 statistics of the worker record. */
export function addStat(offset: u32, amount: f64): void {
  const at = workerRecord + offset;
  store<f64>(at, load<f64>(at) + amount);
}

/** Asks the host loop to signal an eventfd after this poll. */
export function ring(fd: i32): void {
  const count = load<u32>(workerRecord + WK_CALL_COUNT);
  for (let i: u32 = 0; i < count; i++) {
    if (load<i32>(workerRecord + WK_CALL + i * 4) === fd) return;
  }
  if (count >= MAX_CALLS) return; // 1 024 different descriptors in one poll: the host loop could not keep up anyway
  store<i32>(workerRecord + WK_CALL + count * 4, fd);
  store<u32>(workerRecord + WK_CALL_COUNT, count + 1);
}

/** Asks the host loop to make the system call of a transmit queue after this poll. */
export function flushLater(queue: u32): void {
  const count = load<u32>(workerRecord + WK_FLUSH_COUNT);
  for (let i: u32 = 0; i < count; i++) {
    if (load<u32>(workerRecord + WK_FLUSH + i * 4) === queue) return;
  }
  if (count >= MAX_CALLS) return;
  store<u32>(workerRecord + WK_FLUSH + count * 4, queue);
  store<u32>(workerRecord + WK_FLUSH_COUNT, count + 1);
}
