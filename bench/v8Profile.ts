// Profiles of a daemon's main thread by V8's own sampler (--cpu-prof), sorted by stages: where the microseconds of an OpenFlow message
// or of an upcall go. A table of stages is a map, not a ledger: what the compiler puts into a caller counts for that.

import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

const SAMPLE_US = 200;

export interface CpuProfile {
  /** Microseconds of CLOCK_MONOTONIC. */
  startTime: number;
  nodes: readonly {
    id: number;
    callFrame: { functionName: string; url: string };
    children?: readonly number[];
  }[];
  /** Ids of nodes, and the time since the sample before. */
  samples: readonly number[];
  timeDeltas: readonly number[];
}

/** Of process.hrtime, which has the same clock. */
export interface Window {
  fromUs: number;
  toUs: number;
}

const IDLE = '(idle)';
const COLLECTOR = 'collector';
const KERNEL = 'system calls';

/** Stage → the files of its functions; the first that matches. The last one takes what is left. */
export type Stages = readonly (readonly [name: string, files: RegExp])[];

/** On the way of an OpenFlow message. */
export const FLOW_MOD_STAGES: Stages = [
  ['sockets of node', /^node:/],
  ['framing, connection', /\/control\/openflow\/(framing|ofconn|rconn|connmgr|service|vconn)\.ts$/],
  ['match interned', /\/wire\/openflow\/packedMatch\.ts$/],
  ['decode, encode', /\/wire\//],
  ['prefix tries', /\/switch\/prefixTrie\.ts$/],
  ['classifier', /\/switch\/(classifier|subtable|ruleIndex)\.ts$/],
  [
    'rule, bundle, commit',
    /\/switch\/(flowMods|flowTransaction|preparedFlow)|\/control\/openflow\//,
  ],
  ['others', /./],
];

/** On the way of an upcall. */
export const UPCALL_STAGES: Stages = [
  ['out of and into the rings', /\/engine\/(rings|engine|workers)\.ts$|\/switch\/upcallQueue\.ts$/],
  ['classifier', /\/switch\/(classifier|subtable|prefixTrie|ruleIndex|conjunction)\.ts$/],
  ['translation', /\/switch\/translate\/|\/wire\/openflow\/|\/switch\/(datapath|flow)\.ts$/],
  ['megaflow, remembered', /\/switch\/(megaflow|upcallHandler|keyPool|revalidate)\.ts$/],
  ['megaflow, in the table', /\/engine\/|^wasm:/],
  ['others', /./],
];

export const stageNames = (stages: Stages): string[] => [
  KERNEL,
  ...stages.map(([name]) => name),
  COLLECTOR,
];

function ownStage(stages: Stages, functionName: string, url: string): string | undefined {
  if (functionName === '(garbage collector)') return COLLECTOR;
  if (functionName === '(program)') return KERNEL;
  // Functions of C++ that libuv's sockets are written and read with.
  if (url === '' && /^(write|writev|read|shutdown)/.test(functionName)) return KERNEL;
  if (url === '') return undefined;
  return stages.find(([, pattern]) => pattern.test(url))![0];
}

/** Microseconds in each stage while one of the windows was open. Built-in functions count for their callers. */
export function stageTimes(
  profile: CpuProfile,
  windows: readonly Window[],
  stages: Stages,
): Map<string, number> {
  const stageOf = new Map<number, string>();
  const inherited = new Map<number, string>();
  for (const { id, callFrame, children = [] } of profile.nodes) {
    const { functionName, url } = callFrame;
    // Parents come before their children.
    const stage = functionName === IDLE ? IDLE : ownStage(stages, functionName, url);
    const counted = stage ?? inherited.get(id) ?? stages.at(-1)![0];
    stageOf.set(id, counted);
    for (const child of children) inherited.set(child, counted);
  }
  const times = new Map<string, number>();
  let atUs = profile.startTime;
  for (let i = 0; i < profile.samples.length; i++) {
    const deltaUs = profile.timeDeltas[i]!;
    atUs += deltaUs;
    const stage = stageOf.get(profile.samples[i]!)!;
    if (stage === IDLE) continue;
    if (!windows.some(({ fromUs, toUs }) => atUs >= fromUs && atUs < toUs)) continue;
    times.set(stage, (times.get(stage) ?? 0) + deltaUs);
  }
  return times;
}

/** Of a daemon so far: milliseconds on a core. */
export interface CpuTimes {
  mainMs: number;
  othersMs: number;
}

export function cpuTimes(pid: number): CpuTimes {
  const times = { mainMs: 0, othersMs: 0 };
  for (const tid of readdirSync(`/proc/${pid}/task`)) {
    const [ns] = readFileSync(`/proc/${pid}/task/${tid}/schedstat`, 'utf8').split(' ');
    times[Number(tid) === pid ? 'mainMs' : 'othersMs'] += Number(ns) / 1e6;
  }
  return times;
}

/** The clock of a profile. */
export const nowUs = (): number => Number(process.hrtime.bigint() / 1000n);

/** Flags of V8's profiler, which leaves a file in the directory when the daemon ends. */
export const profilerFlags = (directory: string): string =>
  `--cpu-prof --cpu-prof-interval=${SAMPLE_US} --cpu-prof-dir='${directory}'`;

/** The profile of the main thread: the one that has loaded the command line. */
export function readProfile(directory: string): CpuProfile {
  for (const name of readdirSync(directory)) {
    if (!name.endsWith('.cpuprofile')) continue;
    const profile = JSON.parse(readFileSync(path.join(directory, name), 'utf8')) as CpuProfile;
    const isMain = profile.nodes.some(({ callFrame }) =>
      callFrame.url.endsWith('/cli/ovs-vswitchd.ts'),
    );
    if (isMain) return profile;
  }
  throw new Error('the daemon has left no profile');
}
