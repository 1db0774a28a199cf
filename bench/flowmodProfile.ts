// A profile of V8's sampler (--cpu-prof) sorted by the stages on the way of an OpenFlow message through the main thread.

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

/** Stage → the files of its functions; the first that matches. */
const STAGES: readonly (readonly [string, RegExp])[] = [
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

export const STAGE_NAMES: readonly string[] = [KERNEL, ...STAGES.map(([name]) => name), COLLECTOR];

function ownStage(functionName: string, url: string): string | undefined {
  if (functionName === '(garbage collector)') return COLLECTOR;
  if (functionName === '(program)') return KERNEL;
  // Functions of C++ that libuv's sockets are written and read with.
  if (url === '' && /^(write|writev|read|shutdown)/.test(functionName)) return KERNEL;
  if (url === '') return undefined;
  return STAGES.find(([, pattern]) => pattern.test(url))![0];
}

/** Microseconds in each stage while one of the windows was open. Built-in functions count for their callers. */
export function stageTimes(profile: CpuProfile, windows: readonly Window[]): Map<string, number> {
  const stages = new Map<number, string>();
  const inherited = new Map<number, string>();
  for (const { id, callFrame, children = [] } of profile.nodes) {
    const { functionName, url } = callFrame;
    // Parents come before their children.
    const stage = functionName === IDLE ? IDLE : ownStage(functionName, url);
    const counted = stage ?? inherited.get(id) ?? 'others';
    stages.set(id, counted);
    for (const child of children) inherited.set(child, counted);
  }
  const times = new Map<string, number>();
  let atUs = profile.startTime;
  for (let i = 0; i < profile.samples.length; i++) {
    const deltaUs = profile.timeDeltas[i]!;
    atUs += deltaUs;
    const stage = stages.get(profile.samples[i]!)!;
    if (stage === IDLE) continue;
    if (!windows.some(({ fromUs, toUs }) => atUs >= fromUs && atUs < toUs)) continue;
    times.set(stage, (times.get(stage) ?? 0) + deltaUs);
  }
  return times;
}
