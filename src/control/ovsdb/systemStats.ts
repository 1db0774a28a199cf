// Open_vSwitch.statistics: what the machine is doing (ovs-vswitchd.conf.db(5), "Statistics"),
// written only when other_config:enable-statistics is true. Everything comes from /proc.

import { readdirSync, readFileSync, statfsSync } from 'node:fs';
import { availableParallelism, loadavg } from 'node:os';
import { join } from 'node:path';

/** Ticks of the times in /proc/PID/stat, the same on every Linux: USER_HZ. */
const TICK_MS = 10;
const PAGE_KIB = 4;

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

/**
 * "memory": total, used, cache, swap total, swap used, in KiB; undefined if /proc/meminfo cannot be
 * read.
 */
export function memoryStats(meminfo: string): string {
  const kib = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(meminfo)?.[1] ?? 0);
  const total = kib('MemTotal');
  const swap = kib('SwapTotal');
  const cache = kib('Buffers') + kib('Cached');
  return [total, total - kib('MemFree'), cache, swap, swap - kib('SwapFree')].join(',');
}

/**
 * "process_NAME": virtual size and resident size in KiB, CPU time in ms, crashes, ms since the
 * first and since the last start, core. `crashes` and `booted` are what a monitoring parent writes
 * into the command line of the real daemon; a process here has none.
 */
export function processStats(stat: string, uptimeMs: number): string | undefined {
  // "PID (COMM) STATE PPID …": COMM can contain anything, so count from the last parenthesis.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  if (fields.length < 37) return undefined;
  const field = (number: number) => Number(fields[number - 3]);
  const vszKib = Math.floor(field(23) / 1024);
  const rssKib = field(24) * PAGE_KIB;
  const cpuMs = (field(14) + field(15)) * TICK_MS;
  const ageMs = Math.max(0, Math.round(uptimeMs - field(22) * TICK_MS));
  return [vszKib, rssKib, cpuMs, 0, ageMs, ageMs, field(39)].join(',');
}

function pidOf(path: string): number | undefined {
  const pid = Number.parseInt(readText(path) ?? '', 10);
  return pid > 0 ? pid : undefined;
}

function addProcesses(stats: Record<string, string>, runDir: string): void {
  const uptimeMs = Number((readText('/proc/uptime') ?? '0').split(' ')[0]) * 1000;
  let names: string[];
  try {
    names = readdirSync(runDir);
  } catch {
    return;
  }
  for (const name of names.filter((file) => file.endsWith('.pid')).sort()) {
    const pid = pidOf(join(runDir, name));
    if (pid === undefined) continue;
    const stat = readText(`/proc/${pid}/stat`);
    const value = stat === undefined ? undefined : processStats(stat, uptimeMs);
    stats[`process_${name.slice(0, -'.pid'.length)}`] = value ?? '';
  }
}

/**
 * "file_systems": mount point, KiB in all, KiB in use, for every writable file system on a device.
 */
function fileSystems(): string | undefined {
  const words: string[] = [];
  for (const line of (readText('/proc/self/mounts') ?? '').split('\n')) {
    const [device, escaped, , options] = line.split(' ');
    if (!device?.startsWith('/dev') || !options?.split(',').includes('rw')) continue;
    const path = escaped!.replace(/\\(\d{3})/g, (_, octal) =>
      String.fromCharCode(parseInt(octal, 8)),
    );
    try {
      const { bsize, blocks, bfree } = statfsSync(path);
      const total = Math.floor((bsize * blocks) / 1024);
      const free = Math.floor((bsize * bfree) / 1024);
      words.push(`${path.replaceAll(/[ ,]/g, '_')},${total},${total - free}`);
    } catch {
      // Unmounted meanwhile, or not for us to see.
    }
  }
  return words.length > 0 ? words.join(' ') : undefined;
}

/** Value of the column. `runDir`: where the pid files are. */
export function systemStats(runDir: string): Record<string, string> {
  const stats: Record<string, string> = {
    cpu: String(availableParallelism()),
    load_average: loadavg()
      .map((load) => load.toFixed(2))
      .join(','),
  };
  const meminfo = readText('/proc/meminfo');
  if (meminfo !== undefined) stats.memory = memoryStats(meminfo);
  addProcesses(stats, runDir);
  const disks = fileSystems();
  if (disks !== undefined) stats.file_systems = disks;
  return stats;
}
