// Statistics of the workers in the words that operators of Open vSwitch know: dpif-netdev/pmd-stats-show, pmd-perf-show and
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

/** "  name:   figure  (remark)", as pmd-perf-show writes its lines. */
function perfLine(name: string, figure: number, remark = ''): string {
  const value = String(Math.round(figure)).padStart(12);
  return `  ${name.padEnd(20)}${value}${remark === '' ? '' : `  (${remark})`}\n`;
}

const share = (part: number, whole: number): string =>
  (whole > 0 ? (100 * part) / whole : 0).toFixed(1).padStart(5);

function perfText(worker: WorkerStats): string {
  const { polls, busyPolls, busyNs, idleNs, sleeps, durationMs, packets, recirculated } = worker;
  const awakeNs = busyNs + idleNs;
  const asleepUs = Math.max(0, durationMs * 1000 - awakeNs / 1000);
  const kpps = (count: number): string => (durationMs > 0 ? count / durationMs : 0).toFixed(0);
  const each = (total: number, count: number, digits: number): string =>
    (count > 0 ? total / count : 0).toFixed(digits);
  let text =
    perfLine('Iterations:', polls, `${each(awakeNs / 1000 + asleepUs, polls, 2)} us/it`) +
    perfLine(
      '- Used TSC cycles:',
      awakeNs,
      `${share(awakeNs / 1e6, durationMs)} % of total cycles`,
    ) +
    perfLine(
      '- idle iterations:',
      polls - busyPolls,
      `${share(idleNs, awakeNs)} % of used cycles`,
    ) +
    perfLine('- busy iterations:', busyPolls, `${share(busyNs, awakeNs)} % of used cycles`) +
    perfLine('- sleep iterations:', sleeps, `${share(sleeps, polls)} % of iterations`) +
    perfLine(
      'Sleep time (us):',
      asleepUs,
      `${each(asleepUs, sleeps, 0).padStart(3)} us/iteration avg.`,
    );
  if (packets === 0) text += perfLine('Rx packets:', 0);
  else {
    const passes = packets + recirculated;
    const part = (count: number): string => `${share(count, passes)} %`;
    const { simpleHits, cacheHits, flowHits, flowProbes, misses, lost } = worker;
    text +=
      perfLine(
        'Rx packets:',
        packets,
        `${kpps(packets)} Kpps, ${each(busyNs, packets, 0)} cycles/pkt`,
      ) +
      perfLine('Datapath passes:', passes, `${ratio(passes, packets)} passes/pkt`) +
      perfLine('- PHWOL hits:', 0, part(0)) +
      perfLine('- MFEX Opt hits:', 0, part(0)) +
      perfLine('- Simple Match hits:', simpleHits, part(simpleHits)) +
      perfLine('- EMC hits:', cacheHits, part(cacheHits)) +
      perfLine('- SMC hits:', 0, part(0)) +
      perfLine(
        '- Megaflow hits:',
        flowHits,
        `${part(flowHits)}, ${ratio(flowProbes, flowHits)} subtbl lookups/hit`,
      ) +
      // The main thread answers them; a worker's own share is among its cycles.
      perfLine('- Upcalls:', misses, `${part(misses)}, 0.0 us/upcall`) +
      perfLine('- Lost upcalls:', lost, part(lost));
  }
  if (worker.sent === 0) return `${text}${perfLine('Tx packets:', 0)}\n`;
  return text + perfLine('Tx packets:', worker.sent, `${kpps(worker.sent)} Kpps`);
}

/** pmd-perf-show. Without histograms and histories, as the real daemon without other_config:pmd-perf-metrics. */
export function showPerformance(datapath: Datapath, args: readonly string[], now: Date): string {
  const two = (value: number): string => String(value).padStart(2, '0');
  const time =
    `${two(now.getUTCHours())}:${two(now.getUTCMinutes())}:${two(now.getUTCSeconds())}.` +
    String(now.getUTCMilliseconds()).padStart(3, '0');
  return selected(datapath, options(args).core)
    .map(
      (worker) =>
        `\nTime: ${time}\nMeasurement duration: ${(worker.durationMs / 1000).toFixed(3)} s\n\n` +
        `${title(worker)}\n${perfText(worker)}`,
    )
    .join('');
}
