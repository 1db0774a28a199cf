// Two hypervisors of one OVN: all checks of ovnChecks.ts across tunnels, then a switch that is killed under traffic. Made
// into tests by files that name encapsulation and switches, so that each can be run alone.

import assert from 'node:assert/strict';
import { after, before, type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { CHECKS } from './ovnChecks.ts';
import { type Host, OvnNet, type OvnNetOptions } from './ovnNet.ts';
import { startPing } from './ovnPing.ts';
import { addMachines, buildTopology } from './ovnTopology.ts';

/** Of a TCP connection across the restart. */
const STREAM_S = 14;
const BLACKOUT_MAX_MS = 10_000;

/** Registers the tests. */
export function testAcross(options: OvnNetOptions): void {
  let net: OvnNet;
  const [first, second] = options.hosts.map(({ name }) => name) as [string, string];
  before(async () => {
    net = await OvnNet.start(options);
    buildTopology(net, first, second);
    await addMachines(net, first, second);
  });
  after(() => net?.stop());
  for (const check of CHECKS) test(check.name, () => check.run(net, first, second));
  const ours = options.hosts.find(({ daemon }) => daemon === 'xvio')!;
  test(`killed under traffic, ${ours.name} gets its state back from ovn-controller`, (t) =>
    restart(net, net.host(ours.name), t));
}

async function restart(net: OvnNet, host: Host, t: TestContext): Promise<void> {
  const flows = (): string[] =>
    host.box
      .ofctl('-O', 'OpenFlow15', '--no-stats', '--no-names', 'dump-flows', 'br-int')
      .split('\n')
      // Learned flows are the packets' business.
      .filter((line) => !/table=(66|67|69|71|72|78),/.test(line))
      // Numbers that ovn-controller gives out anew; what it floods to it lists as it likes.
      .map((line) => line.replace(/group:\d+|conj_id=\d+|conjunction\(\d+/g, 'N'))
      .map((line) => (line.includes('table=40,') ? line.replace(/ actions=.*/, '') : line))
      .sort();
  // What ovn-controller has changed bit by bit it may list otherwise than what it computes at once after the restart.
  host.box.must('ovn-appctl', '-t', 'ovn-controller', 'recompute');
  net.sync();
  const before = flows();
  net.start('vm2', 'iperf3', '-s', '-1', '-p', '5201');
  const ping = startPing(net, 'vm1', '10.1.0.12');
  await sleep(500);
  const words = ['-c', '10.1.0.12', '-p', '5201', '-t', String(STREAM_S), '-J', '-b', '20M'];
  const stream = net.start('vm1', 'iperf3', ...words);
  let report = '';
  stream.stdout?.on('data', (chunk) => {
    report += chunk;
  });
  const ended = new Promise((resolve) => stream.once('close', resolve));
  await sleep(1500);
  await host.box.stopDaemon('SIGKILL');
  await host.box.startDaemon();
  await host.addressUnderlay();
  const atStart = ping.answered();
  await net.until(() => ping.answered() > atStart + 20, 30000, 'answers after the restart');
  await ended;
  ping.stop();
  net.sync();
  const now = flows();
  const missing = before.filter((line) => !now.includes(line));
  const surplus = now.filter((line) => !before.includes(line));
  assert.deepEqual({ missing, surplus }, { missing: [], surplus: [] });
  const gapMs = ping.longestGapMs();
  const { intervals = [] } = JSON.parse(report) as { intervals?: { sum: { bytes: number } }[] };
  const silent = intervals.filter(({ sum }) => sum.bytes === 0).length;
  t.diagnostic(
    `no answers for ${gapMs} ms; TCP connection silent in ${silent} of ${intervals.length} s`,
  );
  assert.ok(gapMs > 0 && gapMs < BLACKOUT_MAX_MS, `no answers for ${gapMs} ms`);
  assert.ok((intervals.at(-1)?.sum.bytes ?? 0) > 0, `the TCP connection goes on: ${report}`);
}
