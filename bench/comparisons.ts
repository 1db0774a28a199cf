// The report's first pages: performance and host CPU used, each as one table over all scenarios.

import { median } from './medians.ts';
import { Footnotes } from './ratios.ts';
import { figure, markdownTable } from './tables.ts';
import type { Measurement, Series } from './types.ts';

/** Switch and relay of this checkout, not those of others (xvio:DIRECTORY). */
const OURS = /^xvio(-|$)/;
const RATES = ['packets/s', 'bit/s', 'flows/s', 'flow-mods/s'];

const lossText = (series: Series | undefined): string => {
  const perMillion = series?.details.lostPerMillion;
  return perMillion === undefined ? '' : `${figure(perMillion)}`;
};

/** Rates of all scenarios: ours, the other peers', the ratio to the baseline, and what was lost. */
export function performanceTable(measurements: readonly Measurement[]): string {
  const body: string[][] = [];
  const notes = new Footnotes();
  for (const m of measurements) {
    if (!RATES.includes(m.unit)) continue;
    // Elsewhere the relay is the measure of what services cost, and no contestant.
    const subject = m.scenario === 'relay' ? OURS : /^xvio$/;
    for (const mine of m.series.filter(({ peer }) => subject.test(peer))) {
      for (const other of m.series.filter(({ peer }) => !OURS.test(peer))) {
        const name = `\`${m.scenario}\`, ${m.variant}${mine.peer === 'xvio' ? '' : ` (${mine.peer})`}`;
        body.push([
          name,
          `${figure(median(mine.rounds))} ${m.unit}`,
          other.peer,
          `${figure(median(other.rounds))} ${m.unit}`,
          `${notes.ratio(name, m, mine, other)} x`,
          [lossText(mine), lossText(other)].filter(Boolean).join(' / '),
        ]);
      }
    }
  }
  const header = ['', 'xvio', 'peer', "peer's", 'ratio', 'lost of a million, xvio / peer'];
  return markdownTable(header, body) + notes.below();
}

/** What forwarding costs, a packet: time in polls that found some, CPU time of the forwarding thread, and of the whole daemon. */
export function cpuTable(measurements: readonly Measurement[]): string {
  const body: string[][] = [];
  for (const m of measurements) {
    const isCpu = m.scenario === 'cpu' || m.scenario === 'idle';
    for (const series of m.series) {
      const { busyNs, threadNs, daemonNs } = series.details;
      if (!isCpu && [busyNs, threadNs, daemonNs].every((ns) => ns === undefined)) continue;
      body.push([
        `\`${m.scenario}\`, ${m.variant}`,
        series.peer,
        m.unit.startsWith('%') && isCpu ? `${figure(median(series.rounds))} %` : '',
        busyNs === undefined ? '' : figure(busyNs),
        threadNs === undefined ? '' : figure(threadNs),
        daemonNs === undefined ? '' : figure(daemonNs),
      ]);
    }
  }
  const header = ['', 'peer', 'of a core', 'busy ns a packet', 'thread ns', 'all threads ns'];
  return markdownTable(header, body);
}
