// The dpctl/ct-* and dpctl/ipf-* commands beside the real daemon: the same words, the same answers, errors included. What
// crashes or wedges the real one is left out.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { type Result, Sandbox } from './sandbox.ts';

let real: Sandbox;
let ours: Sandbox;

before(async () => {
  [real, ours] = await Promise.all([
    Sandbox.start({ daemon: 'real' }),
    Sandbox.start({ daemon: 'xvio' }),
  ]);
  for (const box of [real, ours]) {
    box.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev');
  }
});

after(async () => {
  await ours?.stop();
  await real?.stop();
});

const COMMANDS: readonly string[] = [
  'ipf-get-status',
  '-m ipf-get-status',
  'ipf-set-disabled v4',
  'ipf-set-disabled v6',
  'ipf-get-status',
  'ipf-set-enabled v4',
  'ipf-set-enabled v5',
  'ipf-set-enabled netdev@ovs-netdev v6x',
  'ipf-set-enabled nowhere v6',
  'ipf-set-enabled',
  'ipf-set-min-frag v4 1000',
  'ipf-set-min-frag v4 400',
  'ipf-set-min-frag v6 399',
  'ipf-set-min-frag v4 abc',
  'ipf-set-min-frag v7 1000',
  'ipf-set-min-frag netdev@ovs-netdev v6 500x',
  'ipf-set-min-frag nowhere v6 500',
  'ipf-set-min-frag 1000 v4',
  'ipf-set-min-frag v4',
  'ipf-set-min-frag v4 4294967296',
  'ipf-set-max-nfrags 500',
  'ipf-set-max-nfrags 5001',
  'ipf-set-max-nfrags x',
  'ipf-set-max-nfrags nowhere 10',
  'ipf-set-max-nfrags 0',
  'ipf-get-status netdev@ovs-netdev',
  'ipf-get-status nowhere',
  'ct-bkts',
  'ct-bkts gt=2',
  'ct-bkts gt=x',
  'ct-bkts netdev@ovs-netdev gt=1',
  'ct-bkts nowhere',
  'ct-stats-show',
  'ct-stats-show verbose',
  'ct-stats-show zone=x',
  'ct-stats-show nowhere',
  'ct-get-limits',
  'ct-set-limits default=10 zone=0,limit=5 zone=1,limit=15',
  'ct-get-limits',
  'ct-get-limits zone=1,7',
  'ct-del-limits zone=0',
  'ct-get-limits',
  'ct-set-maxconns 10',
  'ct-get-maxconns',
  'ct-get-maxconns nowhere',
  'ct-get-nconns',
  'ct-enable-tcp-seq-chk',
  'ct-disable-tcp-seq-chk',
  'ct-get-tcp-seq-chk',
  'dump-conntrack',
  'flush-conntrack',
];

function run(box: Sandbox, command: string): Result {
  const words = command.split(' ');
  const options = words.filter((word) => word.startsWith('-'));
  const [name, ...args] = words.filter((word) => !word.startsWith('-'));
  return box.run('ovs-appctl', '-T', '30', `dpctl/${name}`, ...options, ...args);
}

test('every command answers as the real daemon does', () => {
  for (const command of COMMANDS) {
    assert.deepEqual(run(ours, command), run(real, command), command);
  }
});

test('the real daemon has no command of connection tracking that ours lacks', () => {
  const commands = (box: Sandbox): Map<string, string> =>
    new Map(
      box
        .appctl('list-commands')
        .split('\n')
        .filter((line) => /^ +dpctl\/(ct-|ipf-|.*conntrack)/.test(line))
        .map((line) => {
          const [name = '', ...usage] = line.trim().split(/\s+/);
          return [name, usage.join(' ')];
        }),
    );
  const own = commands(ours);
  const missing = [...commands(real).keys()].filter((name) => !own.has(name));
  assert.deepEqual(missing, []);
});
