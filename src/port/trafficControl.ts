// Queueing of the kernel's devices as ovs-vswitchd sets it up (QoS types linux-*): the disciplines and classes that it would
// make, made by tc(8). HTB: a root class 1:fffe with the rate of the device, below it a class 1:(N+1) for queue N; what
// names no queue goes to queue 0.

import { execFile, execFileSync } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);
const TIMEOUT_MS = 10_000;
/** Of a device that does not say how fast it is. */
const DEFAULT_BPS = 100_000_000;
const HTB_RATE_TO_QUANTUM = 10;

export const KERNEL_QOS_TYPES: readonly string[] = [
  'linux-htb',
  'linux-hfsc',
  'linux-sfq',
  'linux-codel',
  'linux-fq_codel',
  'linux-netem',
  'linux-noop',
];

type Config = Readonly<Record<string, string>>;

export interface KernelQos {
  type: string;
  config: Config;
  /** other_config of the Queue rows, by number. */
  queues: ReadonlyMap<number, Config>;
}

/** Rates in bytes a second, as Open vSwitch keeps them. */
export interface QueueClass {
  minRate: number;
  maxRate: number;
  burst: number;
  priority: number;
}

export interface DeviceFacts {
  mtu: number;
  linkSpeedBps: number | undefined;
}

/** A number as smap_get_ullong reads it: leading digits, else the default. */
export function unsigned(config: Config, key: string, fallback = 0): number {
  const digits = /^\s*\+?(\d+)/.exec(config[key] ?? '');
  return digits === null ? fallback : Number(digits[1]);
}

/** max-rate of a QoS row in bytes a second. */
export function rootRate(config: Config, facts: DeviceFacts): number {
  const rate = Math.floor(unsigned(config, 'max-rate') / 8);
  return rate > 0 ? rate : Math.floor((facts.linkSpeedBps || DEFAULT_BPS) / 8);
}

/** What a Queue row of HTB (or HFSC) means on a device. */
export function queueClass(config: Config, root: number, { mtu }: DeviceFacts): QueueClass {
  const minRate = Math.min(Math.max(Math.floor(unsigned(config, 'min-rate') / 8), mtu), root);
  const asked = Math.floor(unsigned(config, 'max-rate') / 8);
  const maxRate = Math.min(Math.max(asked || root, minRate), root);
  const burst = Math.max(Math.floor(unsigned(config, 'burst') / 8), mtu + 64);
  return { minRate, maxRate, burst, priority: unsigned(config, 'priority') };
}

/** Queue 0 is always there. */
export function withDefault(queues: KernelQos['queues']): ReadonlyMap<number, Config> {
  return queues.has(0) ? queues : new Map([[0, {}], ...queues]);
}

const classId = (queue: number): string => `1:${(queue + 1).toString(16)}`;
const optional = (word: string, value: number): string[] => (value > 0 ? [word, `${value}`] : []);

/** The commands that set a device up, without "tc" itself. Pure. */
export function setUpCommands(device: string, qos: KernelQos, facts: DeviceFacts): string[][] {
  const root = ['qdisc', 'replace', 'dev', device, 'root', 'handle', '1:'];
  const { config } = qos;
  switch (qos.type) {
    case 'linux-htb': {
      const rate = rootRate(config, facts);
      const klass = (parent: string, id: string, c: QueueClass): string[] => [
        ...['class', 'replace', 'dev', device, 'parent', parent, 'classid', id, 'htb'],
        ...['rate', `${c.minRate}bps`, 'ceil', `${c.maxRate}bps`],
        ...['burst', `${c.burst}b`, 'cburst', `${c.burst}b`, 'prio', `${c.priority}`],
        ...(c.minRate / HTB_RATE_TO_QUANTUM < facts.mtu ? ['quantum', `${facts.mtu}`] : []),
      ];
      const top = { minRate: rate, maxRate: rate, burst: facts.mtu + 64, priority: 0 };
      return [
        [...root, 'htb', 'default', '1', 'r2q', `${HTB_RATE_TO_QUANTUM}`],
        klass('1:', '1:fffe', top),
        ...[...withDefault(qos.queues)].map(([queue, row]) =>
          klass('1:fffe', classId(queue), queueClass(row, rate, facts)),
        ),
      ];
    }
    case 'linux-hfsc': {
      const rate = rootRate(config, facts);
      const klass = (parent: string, id: string, min: number, max: number): string[] => [
        ...['class', 'replace', 'dev', device, 'parent', parent, 'classid', id, 'hfsc'],
        ...['sc', 'rate', `${min}bps`, 'ul', 'rate', `${max}bps`],
      ];
      return [
        [...root, 'hfsc', 'default', '1'],
        klass('1:', '1:fffe', rate, rate),
        ...[...withDefault(qos.queues)].map(([queue, row]) => {
          const { minRate, maxRate } = queueClass(row, rate, { ...facts, mtu: 1 });
          return klass('1:fffe', classId(queue), minRate, maxRate);
        }),
      ];
    }
    case 'linux-sfq':
      return [
        [
          ...[...root, 'sfq', 'perturb', `${unsigned(config, 'perturb', 10)}`],
          ...optional('quantum', unsigned(config, 'quantum')),
        ],
      ];
    case 'linux-codel':
    case 'linux-fq_codel':
      return [
        [
          ...[...root, qos.type.slice('linux-'.length)],
          ...optional('limit', unsigned(config, 'limit')),
          ...['target', `${unsigned(config, 'target', 5000)}us`],
          ...['interval', `${unsigned(config, 'interval', 100_000)}us`],
          ...optional('flows', qos.type === 'linux-fq_codel' ? unsigned(config, 'flows') : 0),
          ...optional('quantum', qos.type === 'linux-fq_codel' ? unsigned(config, 'quantum') : 0),
        ],
      ];
    case 'linux-netem':
      return [
        [
          ...[...root, 'netem', 'limit', `${unsigned(config, 'limit', 1000)}`],
          ...['delay', `${unsigned(config, 'latency')}us`, 'loss', `${unsigned(config, 'loss')}%`],
        ],
      ];
    default:
      return []; // linux-noop: what is there stays
  }
}

/** Removes the root discipline; the kernel's default comes back. */
export const tearDownCommand = (device: string): string[] => [
  'qdisc',
  'del',
  'dev',
  device,
  'root',
];

/** Runs the commands in their order. The text of the first that fails, or undefined. */
export async function control(commands: readonly string[][]): Promise<string | undefined> {
  for (const command of commands) {
    try {
      await run('tc', command, { timeout: TIMEOUT_MS });
    } catch (error) {
      const { stderr, message } = error as Error & { stderr?: string };
      return (stderr || message).trim().split('\n')[0];
    }
  }
  return undefined;
}

/** Counters of a device's classes by queue. Empty if tc cannot say. */
export function classCounters(
  device: string,
): Map<number, { txPackets: number; txBytes: number; txErrors: number }> {
  const counters = new Map<number, { txPackets: number; txBytes: number; txErrors: number }>();
  let report: string;
  try {
    const words = ['-s', 'class', 'show', 'dev', device];
    report = execFileSync('tc', words, { encoding: 'utf8', timeout: TIMEOUT_MS });
  } catch {
    return counters;
  }
  const line = /^class \S+ 1:([0-9a-f]+) [^\n]*\n Sent (\d+) bytes (\d+) pkt \(dropped (\d+)/gm;
  for (const [, minor, bytes, packets, dropped] of report.matchAll(line)) {
    const id = Number.parseInt(minor!, 16);
    if (id < 1 || id === 0xfffe) continue;
    counters.set(id - 1, {
      txPackets: Number(packets),
      txBytes: Number(bytes),
      txErrors: Number(dropped),
    });
  }
  return counters;
}
