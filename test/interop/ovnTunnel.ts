// Two hypervisors of one OVN: all checks of ovnChecks.ts across tunnels, then a switch that is killed under traffic. Made
// into tests by files that name encapsulation and switches, so that each can be run alone.

import assert from 'node:assert/strict';
import { after, before, type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { CHECKS, CROSSING } from './ovnChecks.ts';
import { type Host, OvnNet, type OvnNetOptions } from './ovnNet.ts';
import { startPing } from './ovnPing.ts';
import { addMachines, buildTopology } from './ovnTopology.ts';

/** Of iperf3's report about a TCP connection across the restart. */
const REPORT_S = 0.5;
const BLACKOUT_MAX_MS = 10_000;

/**
 * What ovn-controller warns of in these tests when all switches are real ones: connections that end with a switch that is
 * killed, and OVN's own affairs.
 */
const USUAL: readonly RegExp[] = [
  /rconn.*\|WARN\|.*br-int\.mgmt: connection (failed|dropped)/,
  /vif_plug_provider\|WARN\|failed to initialize representor VIF plug provider/,
  /if_status\|WARN\|Trying to release unknown interface cr-lr1-ext/,
  // While tunnels of one type give way to those of another.
  /physical\|ERR\|No tunnel endpoint found for HA chassis/,
  /physical\|WARN\|Failed to locate tunnel to reach main chassis/,
  // Answers to a health check that came after it had been taken away.
  /pinctrl.*\|WARN\|handle service check: Service monitor not found/,
  /\|WARN\|Dropped \d+ log messages/,
];

/** Warnings and errors of ovn-controller, but for the usual ones. */
function complaints(log: string): string[] {
  return log
    .split('\n')
    .filter((line) => /\|(WARN|ERR|EMER)\|/.test(line))
    .filter((line) => !USUAL.some((usual) => usual.test(line)));
}

/** Registers the tests. */
export function testAcross(options: OvnNetOptions): void {
  let net: OvnNet;
  const hosts = options.hosts.map(({ name, daemon }) => ({
    name,
    // The same tests with the real switch alone, by hand: what they may ask of ours.
    daemon: process.env.XVIO_OVN_DAEMON === 'real' ? ('real' as const) : daemon,
  }));
  const [first, second] = hosts.map(({ name }) => name) as [string, string];
  before(async () => {
    net = await OvnNet.start({ ...options, hosts });
    buildTopology(net, first, second);
    await addMachines(net, first, second);
  });
  after(() => net?.stop());
  for (const check of CHECKS) test(check.name, () => check.run(net, first, second));
  const mixed = hosts.some(({ daemon }) => daemon !== hosts[0]!.daemon);
  if (mixed && options.encap === 'geneve') {
    test('the tunnels become VXLAN', () => net.changeEncap('vxlan'));
    for (const check of CROSSING) {
      test(`${check.name} (VXLAN)`, () => check.run(net, first, second));
    }
  }
  // Beside a real switch that one, too, for comparison.
  const killed = hosts.filter(({ daemon }, i) => i === 0 || daemon !== hosts[0]!.daemon);
  for (const { name, daemon } of killed) {
    test(`killed under traffic, ${name} (${daemon}) gets its state back from ovn-controller`, (t) =>
      restart(net, net.host(name), t));
  }
  test('ovn-controller complains of nothing that it does not complain of with the real switch', () => {
    const all = net.hosts.flatMap(({ name, controllerLog }) =>
      complaints(controllerLog).map((line) => `${name}: ${line}`),
    );
    assert.deepEqual(all, []);
  });
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
  const stream = net.start(
    ...(['vm1', 'iperf3', '-c', '10.1.0.12', '-p', '5201', '-t', '60', '-b', '20M'] as const),
    ...['-i', String(REPORT_S), '-f', 'k', '--forceflush'],
  );
  let report = '';
  stream.stdout?.on('data', (chunk) => {
    report += chunk;
  });
  /** Kbit/s in each interval so far. */
  const rates = (): number[] =>
    [...report.matchAll(/ ([\d.]+) Kbits\/sec/g)].map((match) => Number(match[1]));
  await sleep(1500);
  await host.box.stopDaemon('SIGKILL');
  await host.box.startDaemon();
  await host.addressUnderlay();
  const atStart = ping.answered();
  await net.until(() => ping.answered() > atStart + 20, 30000, 'answers after the restart');
  // The interval that was under way may have been good until the end came.
  const atReturn = rates().length + 1;
  await net.until(
    () =>
      rates()
        .slice(atReturn)
        .some((rate) => rate > 0),
    30000,
    'data on the old TCP connection',
  );
  stream.kill('SIGKILL');
  ping.stop();
  net.sync();
  const difference = (): { missing: string[]; surplus: string[] } => {
    const now = flows();
    return {
      missing: before.filter((line) => !now.includes(line)),
      surplus: now.filter((line) => !before.includes(line)),
    };
  };
  // A gateway that the other hypervisor has taken over comes back when BFD is up again, after the machines' traffic.
  const endMs = Date.now() + 30000;
  let left = difference();
  while (left.missing.length + left.surplus.length > 0 && Date.now() < endMs) {
    await sleep(300);
    left = difference();
  }
  assert.deepEqual(left, { missing: [], surplus: [] });
  const gapMs = ping.longestGapMs();
  const silentS = rates().filter((rate) => rate === 0).length * REPORT_S;
  t.diagnostic(`no answers for ${gapMs} ms; TCP connection silent for ${silentS} s`);
  assert.ok(gapMs > 0 && gapMs < BLACKOUT_MAX_MS, `no answers for ${gapMs} ms`);
}
