// What a figure was measured on: without it no figure means anything.

import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism, cpus, release, totalmem } from 'node:os';

export interface Machine {
  cpu: string;
  cores: number;
  mhz: number;
  caches: string;
  /** Threads a core, NUMA nodes. */
  topology: string;
  /** From the switch's core to the generator's, one way, in nanoseconds (bench/cacheLine.ts): at best, and at worst. */
  cacheLineNs?: number;
  cacheLineMostNs?: number;
  hypervisor: string;
  kernel: string;
  commandLine: string;
  memoryGiB: number;
  hugepages: string;
  thp: string;
  mitigations: string;
  node: string;
  packages: Record<string, string>;
  commit: string;
  loadAverage: string;
}

function readFile(path: string): string {
  return existsSync(path) ? readFileSync(path, 'utf8').trim() : '';
}

function output(command: string, ...args: string[]): string {
  try {
    return execFileSync(command, args, {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return '';
  }
}

const COMMAND_LINE =
  /\b(mitigations|isolcpus|nohz_full|rcu_nocbs|hugepages|hugepagesz|default_hugepagesz|idle|iommu|intel_iommu|transparent_hugepage)=\S+/g;

let frequency = 0;

/**
 * Ticks of the processor's time stamp counter a second, in which DPDK and Open vSwitch count. The kernel does not say
 * it; /proc/cpuinfo shows the base frequency, twice which the kernel prints as bogomips when it took it from there.
 */
export function tscHz(): number {
  if (frequency === 0) {
    const bogomips = /bogomips\s*:\s*([\d.]+)/.exec(readFile('/proc/cpuinfo'))?.[1];
    frequency = bogomips ? Number(bogomips) * 5e5 : 2.5e9;
  }
  return frequency;
}

export function describeMachine(): Machine {
  const info = readFile('/proc/cpuinfo');
  const field = (name: string) => new RegExp(`^${name}\\s*:\\s*(.*)$`, 'm').exec(info)?.[1] ?? '?';
  const lscpu = output('lscpu');
  const line = (name: string) => new RegExp(`^\\s*${name}:\\s*(.*)$`, 'm').exec(lscpu)?.[1] ?? '?';
  const meminfo = readFile('/proc/meminfo');
  const packages: Record<string, string> = {};
  for (const name of ['openvswitch-switch', 'openvswitch-switch-dpdk', 'dpdk', 'iperf3']) {
    const status = output('dpkg', '-s', name);
    packages[name] = /^Version: (.+)$/m.exec(status)?.[1] ?? 'not installed';
  }
  const pages = (name: string) => new RegExp(`${name}:\\s*(\\d+)`).exec(meminfo)?.[1] ?? '0';
  return {
    cpu: `${field('model name')}, family ${field('cpu family')} model ${field('model')} stepping ${field('stepping')}`,
    cores: availableParallelism(),
    mhz: Math.round(tscHz() / 1e6),
    caches: `L1d ${line('L1d cache')}, L2 ${line('L2 cache')}, L3 ${line('L3 cache')}`,
    topology: `${line('Thread\\(s\\) per core')} thread a core, ${line('NUMA node\\(s\\)')} NUMA node`,
    hypervisor: line('Hypervisor vendor'),
    kernel: release(),
    // What shapes performance; the rest of the line is nobody's business.
    commandLine: (readFile('/proc/cmdline').match(COMMAND_LINE) ?? []).join(' '),
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    hugepages: `${pages('HugePages_Total')} x ${pages('Hugepagesize')} kB`,
    thp: readFile('/sys/kernel/mm/transparent_hugepage/enabled'),
    mitigations: readFile('/sys/devices/system/cpu/vulnerabilities/spec_rstack_overflow'),
    node: process.version,
    packages,
    commit: output('git', '-C', import.meta.dirname, 'describe', '--always', '--dirty'),
    loadAverage: readFile('/proc/loadavg').split(' ').slice(0, 3).join(' '),
  };
}

/** Lines for people. */
export function machineText(machine: Machine): string[] {
  const packages = Object.entries(machine.packages).map(([name, version]) => `${name} ${version}`);
  const { cacheLineNs: least, cacheLineMostNs: most } = machine;
  const apart =
    least !== undefined && most !== undefined && most > 2.5 * least
      ? ` at best, ${most.toFixed(0)} ns at other times: the host moves the cores`
      : '';
  const lineText = least === undefined ? 'not measured' : `${least.toFixed(0)} ns one way${apart}`;
  return [
    `${machine.cpu}, ${machine.cores} cores of ${cpus().length}, TSC ${machine.mhz} MHz; ${machine.caches}; hypervisor ${machine.hypervisor}`,
    `${machine.topology}; a cache line from the switch's core to the generator's: ${lineText}`,
    `kernel ${machine.kernel} (${machine.commandLine || 'no arguments that matter'}); ${machine.memoryGiB} GiB; hugepages ${machine.hugepages}; THP ${machine.thp}`,
    `SRSO: ${machine.mitigations || '?'}; load average at start ${machine.loadAverage}`,
    `node ${machine.node}; ${packages.join(', ')}; xvio ${machine.commit}`,
  ];
}
