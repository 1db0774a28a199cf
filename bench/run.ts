// npm run bench [-- SCENARIO…] [options]: runs scenarios and shows or writes what they measured.

import { closeSync, existsSync, mkdirSync, openSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import {
  commandLine,
  coreNumber,
  fail,
  needMachine,
  needRoot,
  orFail,
  wholeNumber,
} from './commandLine.ts';
import { refreshDocuments } from './documents.ts';
import { describeMachine, machineText } from './machine.ts';
import { survey } from './placement.ts';
import { estimateS, leftOut } from './plan.ts';
import { writeReport } from './report.ts';
import { jsonOf, type Results, readResults } from './results.ts';
import { SCENARIOS } from './scenarios/index.ts';
import { stageTable } from './stackChart.ts';
import { allFailures, runSuite } from './suite.ts';
import { markdownOf, textOf } from './tables.ts';
import type { Options } from './types.ts';

const HELP = `usage: npm run bench [-- SCENARIO… OPTIONS]

  --json FILE        writes machine, rounds and medians as JSON instead of tables
  --report DIR       writes report.md with charts, and report.json (default for a full run: bench-report)
  --minutes N        about how long the whole run may take: fewer rounds, at least three; a scenario that has begun is
                     played to its end, those that have not by then are left out, and the exit status is 1
  --from FILE        measures nothing: takes the results from a report.json (for --report, --markdown, tables)
  --markdown         prints short Markdown tables
  --docs             writes the figures into README.md and docs/benchmarks.md of this checkout (with --from)
  --peers A,B        only these peers
  --compare DIR      another checkout of xvio as a further peer (may be repeated)
  --rounds N         alternating rounds of each peer (default 9)
  --duration MS      of one trial (default 300)
  --switch-core N    core of the switch's forwarding thread (default 0)
  --generator-core N core of the generator (default 1)
  --queue-size N     entries of the guests' rings (default 1024)
  --packed           packed rings
  --in-order         in-order rings
  --anywhere         do not wait until the host of a virtual machine has its cores near each other
  --no-realtime      do not run switch and generator ahead of other processes during a trial

scenarios (without one: all of them):
${SCENARIOS.map(({ name, title }) => `  ${name.padEnd(10)} ${title}`).join('\n')}
`;

const { values, positionals } = commandLine(HELP, {
  allowPositionals: true,
  options: {
    json: { type: 'string' },
    report: { type: 'string' },
    minutes: { type: 'string' },
    from: { type: 'string' },
    markdown: { type: 'boolean', default: false },
    docs: { type: 'boolean', default: false },
    peers: { type: 'string' },
    compare: { type: 'string', multiple: true, default: [] },
    rounds: { type: 'string', default: '9' },
    duration: { type: 'string', default: '300' },
    'switch-core': { type: 'string', default: '0' },
    'generator-core': { type: 'string', default: '1' },
    'queue-size': { type: 'string', default: '1024' },
    packed: { type: 'boolean', default: false },
    'in-order': { type: 'boolean', default: false },
    anywhere: { type: 'boolean', default: false },
    'no-realtime': { type: 'boolean', default: false },
  },
});
if (values.docs && values.from === undefined)
  fail('--docs needs the results of a run: --from FILE');
const scenarios =
  positionals.length === 0
    ? SCENARIOS
    : positionals.map(
        (name) =>
          SCENARIOS.find((s) => s.name === name) ??
          fail(`no scenario '${name}' (--help lists them)`),
      );
const reportDirectory =
  values.report ??
  (positionals.length === 0 && values.from === undefined ? 'bench-report' : undefined);

/** What README and docs show of a run. */
function shortTables({ measurements }: Results): string {
  const profiles = measurements.filter(({ scenario }) => scenario === 'stages');
  const parts = [markdownOf(measurements.filter((m) => !profiles.includes(m)))];
  if (profiles.length > 0) parts.push(`${stageTable(profiles)}\n`);
  return parts.filter((part) => part.trim() !== '').join('\n');
}

/** Shows everything that was asked for. */
function show(results: Results): void {
  if (values.json !== undefined) writeFileSync(values.json, jsonOf(results));
  else if (values.markdown) process.stdout.write(shortTables(results));
  if (reportDirectory !== undefined) writeReport(reportDirectory, results);
  if (!values.docs) return;
  const files = refreshDocuments(path.join(import.meta.dirname, '..'), results);
  process.stderr.write(`figures written into ${files.join(', ')}\n`);
}

/** Better now than after half an hour of measuring. */
function tryToWrite(): void {
  orFail(() => {
    if (values.json !== undefined) closeSync(openSync(values.json, 'a'));
    if (reportDirectory !== undefined) mkdirSync(reportDirectory, { recursive: true });
  });
}

function measured(): Results {
  const results = orFail(() => readResults(values.from!));
  const wanted = new Set(scenarios.map(({ name }) => name));
  return { ...results, measurements: results.measurements.filter((m) => wanted.has(m.scenario)) };
}

async function measure(): Promise<number> {
  const options: Options = {
    rounds: wholeNumber('rounds', values.rounds, 1),
    durationMs: wholeNumber('duration', values.duration, 10),
    realtime: !values['no-realtime'],
    switchCore: coreNumber('switch-core', values['switch-core']),
    generatorCore: coreNumber('generator-core', values['generator-core']),
    peers: values.peers?.split(','),
    compare: values.compare,
    queueSize: wholeNumber('queue-size', values['queue-size'], 2, 32768),
    packed: values.packed,
    inOrder: values['in-order'],
    near: !values.anywhere,
    log: (text) => process.stderr.write(`${text}\n`),
  };
  if (!options.packed && (options.queueSize & (options.queueSize - 1)) !== 0) {
    fail(`--queue-size: ${options.queueSize} is not a power of two, as split rings need it`);
  }
  for (const directory of options.compare) {
    if (!existsSync(path.join(directory, 'bin/ovs-vswitchd'))) {
      fail(`--compare: no checkout of xvio in ${directory}`);
    }
  }
  const minutes =
    values.minutes === undefined ? undefined : wholeNumber('minutes', values.minutes, 1);
  needRoot();
  await needMachine();
  tryToWrite();
  if (options.switchCore === options.generatorCore) {
    options.log('switch and generator share a core: rates mean nothing');
  }
  const names = scenarios.map(({ name }) => name);
  const estimate = Math.ceil(estimateS(names, options.rounds, options.durationMs) / 60);
  const bound = minutes === undefined ? '' : `, bounded to about ${minutes} min`;
  options.log(
    `${names.length} scenarios of up to ${options.rounds} rounds: about ${estimate} min${bound}`,
  );
  const late = leftOut((minutes ?? Number.POSITIVE_INFINITY) * 60, names, options);
  if (late.length > 0) {
    options.log(`${minutes} min are too short for: ${late.join(', ')} (exit status 1)`);
  }
  const startMs = Date.now();
  const { log: _, ...asked } = options;
  const machine = describeMachine();
  if (options.switchCore !== options.generatorCore) {
    const { least, most } = await survey(options.switchCore, options.generatorCore);
    machine.cacheLineNs = least;
    machine.cacheLineMostNs = most;
    options.cacheLineNs = least;
  }
  const tables = values.json === undefined && !values.markdown;
  if (tables) process.stdout.write(`${machineText(machine).join('\n')}\n\n`);
  const date = new Date(startMs).toISOString();
  let shown = 0;
  const collect = (result: Pick<Results, 'measurements' | 'failures'>): Results => ({
    date,
    machine: options.cacheLineNs ? { ...machine, cacheLineNs: options.cacheLineNs } : machine,
    options: asked,
    minutes: (Date.now() - startMs) / 60_000,
    ...result,
  });
  const result = await runSuite(scenarios, options, minutes, (soFar) => {
    if (tables) {
      for (const each of soFar.measurements.slice(shown)) process.stdout.write(`${textOf(each)}\n`);
    }
    shown = soFar.measurements.length;
    // What there is by now is not lost if the run is ended.
    if (reportDirectory !== undefined) writeReport(reportDirectory, collect(soFar));
  });
  show(collect(result));
  const failures = allFailures(result);
  if (failures.length === 0 && result.measurements.every(({ series }) => series.length === 0)) {
    fail('nothing was measured: none of these peers takes part');
  }
  for (const { scenario, text } of failures) options.log(`FAILED ${scenario}: ${text}`);
  if (failures.length > 0) options.log('exit status 1: not all that was asked for has figures');
  if (reportDirectory !== undefined) options.log(`report: ${reportDirectory}/report.md`);
  return failures.length > 0 ? 1 : 0;
}

if (values.from === undefined) process.exit(await measure());
const results = measured();
tryToWrite();
show(results);
const asked = [
  values.json,
  values.markdown || undefined,
  values.docs || undefined,
  reportDirectory,
];
if (asked.every((what) => what === undefined)) {
  for (const each of results.measurements) process.stdout.write(`${textOf(each)}\n`);
}
