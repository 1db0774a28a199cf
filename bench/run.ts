// npm run bench [-- SCENARIO…] [options]: runs scenarios and shows or writes what they measured.

import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { describeMachine, machineText } from './machine.ts';
import { jsonOf, textOf, writeReport } from './report.ts';
import { SCENARIOS } from './scenarios/index.ts';
import type { Measurement, Options } from './types.ts';

const HELP = `usage: npm run bench [-- SCENARIO… OPTIONS]

  --json FILE        writes machine, rounds and medians as JSON instead of tables
  --report DIR       writes report.md with charts (default for a full run: bench-report)
  --peers A,B        only these peers
  --compare DIR      another checkout of xvio as a further peer (may be repeated)
  --rounds N         alternating rounds of each peer (default 9)
  --duration MS      of one trial (default 300)
  --switch-core N    core of the switch's forwarding thread (default 0)
  --generator-core N core of the generator (default 1)
  --queue-size N     entries of the guests' rings (default 1024)
  --packed           packed rings
  --in-order         in-order rings
  --no-realtime      do not run switch and generator ahead of other processes during a trial

scenarios:
${SCENARIOS.map(({ name, title }) => `  ${name.padEnd(10)} ${title}`).join('\n')}
`;

function fail(text: string): never {
  process.stderr.write(`bench: ${text}\n`);
  process.exit(1);
}

function read() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        json: { type: 'string' },
        report: { type: 'string' },
        peers: { type: 'string' },
        compare: { type: 'string', multiple: true, default: [] },
        rounds: { type: 'string', default: '9' },
        duration: { type: 'string', default: '300' },
        'switch-core': { type: 'string', default: '0' },
        'generator-core': { type: 'string', default: '1' },
        'queue-size': { type: 'string', default: '1024' },
        packed: { type: 'boolean', default: false },
        'in-order': { type: 'boolean', default: false },
        'no-realtime': { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h' },
      },
    });
  } catch (error) {
    return fail(`${(error as Error).message}\n${HELP}`);
  }
}

function number(name: string, text: string, least: number): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < least)
    fail(`--${name}: '${text}' is not a whole number ≥ ${least}`);
  return value;
}

const { values, positionals } = read();
if (values.help) {
  process.stdout.write(HELP);
  process.exit(0);
}
const scenarios =
  positionals.length === 0
    ? SCENARIOS
    : positionals.map(
        (name) => SCENARIOS.find((s) => s.name === name) ?? fail(`no scenario '${name}'\n${HELP}`),
      );
if (process.getuid?.() !== 0) {
  fail('the peers need root (network namespaces, hugepages): run it as root');
}
const options: Options = {
  rounds: number('rounds', values.rounds, 1),
  durationMs: number('duration', values.duration, 10),
  realtime: !values['no-realtime'],
  switchCore: number('switch-core', values['switch-core'], 0),
  generatorCore: number('generator-core', values['generator-core'], 0),
  peers: values.peers?.split(','),
  compare: values.compare,
  queueSize: number('queue-size', values['queue-size'], 2),
  packed: values.packed,
  inOrder: values['in-order'],
  log: (text) => process.stderr.write(`${text}\n`),
};
if (options.switchCore === options.generatorCore) {
  options.log('switch and generator share a core: rates mean nothing');
}
const machine = describeMachine();
const quiet = values.json !== undefined;
if (!quiet) process.stdout.write(`${machineText(machine).join('\n')}\n\n`);
const measurements: Measurement[] = [];
let failed = false;
for (const scenario of scenarios) {
  try {
    const results = await scenario.run(options);
    measurements.push(...results);
    if (!quiet) for (const result of results) process.stdout.write(`${textOf(result)}\n`);
  } catch (error) {
    failed = true;
    options.log(`${scenario.name}: ${(error as Error).stack}`);
  }
}
if (values.json !== undefined) writeFileSync(values.json, jsonOf(machine, measurements));
const report = values.report ?? (positionals.length === 0 ? 'bench-report' : undefined);
if (report !== undefined) writeReport(report, machine, measurements);
process.exit(failed ? 1 : 0);
