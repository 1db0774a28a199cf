// Statistics of the workers in the words that operators of Open vSwitch know: dpif-netdev/pmd-stats-show and
// pmd-rxq-show. A worker is a "pmd thread"; cycles are nanoseconds.

import type { WorkerStats } from '../engine/types.ts';
import type { Datapath } from './datapath.ts';

/** Values of "-pmd core" and "-secs n". */
function options(args: readonly string[]): { core: number | undefined; seconds: number } {
  let core: number | undefined;
  let seconds = 60;
  for (let i = 0; i < args.length; i++) {
    if (args[i] === '-pmd' && i + 1 < args.length) {
      const value = Number(args[++i]);
      if (Number.isInteger(value)) core = value;
    } else if (args[i] === '-secs' && i + 1 < args.length) {
      const value = Number(args[++i]);
      if (value > 0 && value <= 60) seconds = Math.ceil(value / 5) * 5;
    }
  }
  return { core, seconds };
}

function selected(datapath: Datapath, core: number | undefined): WorkerStats[] {
  return datapath.engine
    .workerStats()
    .filter((worker) => core === undefined || worker.core === core);
}

function title(worker: WorkerStats): string {
  return `pmd thread numa_id 0 core_id ${Math.max(0, worker.core)}:\n`;
}

const ratio = (a: number, b: number): string => (b > 0 ? a / b : 0).toFixed(2);

export function showWorkers(datapath: Datapath, args: readonly string[]): string {
  return selected(datapath, options(args).core)
    .map((worker) => {
      const { packets, recirculated, idleNs, busyNs } = worker;
      const total = idleNs + busyNs;
      let text =
        `${title(worker)}` +
        `  packets received: ${packets}\n` +
        `  packet recirculations: ${recirculated}\n` +
        `  avg. datapath passes per packet: ${ratio(packets + recirculated, packets)}\n` +
        `  phwol hits: 0\n` +
        `  mfex opt hits: 0\n` +
        `  simple match hits: ${worker.simpleHits}\n` +
        `  emc hits: ${worker.cacheHits}\n` +
        `  smc hits: 0\n` +
        `  megaflow hits: ${worker.flowHits}\n` +
        `  avg. subtable lookups per megaflow hit: ${ratio(worker.flowProbes, worker.flowHits)}\n` +
        `  miss with success upcall: ${worker.misses}\n` +
        `  miss with failed upcall: ${worker.lost}\n` +
        `  avg. packets per output batch: ${ratio(packets, worker.batches)}\n`;
      if (total === 0) return text;
      const percent = (ns: number): string => ((ns / total) * 100).toFixed(2);
      text +=
        `  idle cycles: ${Math.round(idleNs)} (${percent(idleNs)}%)\n` +
        `  processing cycles: ${Math.round(busyNs)} (${percent(busyNs)}%)\n`;
      if (packets === 0) return text;
      return (
        `${text}  avg cycles per packet: ${ratio(total, packets)} (${Math.round(total)}/${packets})\n` +
        `  avg processing cycles per packet: ${ratio(busyNs, packets)} (${Math.round(busyNs)}/${packets})\n`
      );
    })
    .join('');
}

export function showRxqs(datapath: Datapath, args: readonly string[]): string {
  const { core, seconds } = options(args);
  const workers = selected(datapath, core);
  if (workers.length === 0) return '';
  let text = `Displaying last ${seconds} seconds pmd usage %\n`;
  for (const worker of workers) {
    text += `${title(worker)}  isolated : ${worker.isolated}\n`;
    const total = worker.busyNs + worker.idleNs;
    const percent = (ns: number): string =>
      total > 0 ? `${String(Math.floor((ns / total) * 100)).padStart(2)} %` : 'NOT AVAIL';
    const queues = worker.queues
      .map((queue) => ({ ...queue, name: datapath.ports.get(queue.port)?.port.name ?? '' }))
      .sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : a.index - b.index));
    let used = 0;
    for (const queue of queues) {
      used += queue.busyNs;
      text +=
        `  port: ${queue.name.padEnd(16)}  queue-id: ${String(queue.index).padStart(2)} ` +
        `(enabled)   pmd usage: ${percent(queue.busyNs)}\n`;
    }
    if (queues.length > 0) text += `  overhead: ${percent(Math.max(0, worker.busyNs - used))}\n`;
  }
  return text;
}
