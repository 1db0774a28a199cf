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

/** A connection that does not exist. */
const MISSING = 'ct_nw_src=1.2.3.4,ct_nw_dst=1.2.3.5,ct_nw_proto=17,ct_tp_src=5,ct_tp_dst=6';

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
  'ct-set-limits default=4294967295 zone=65535,limit=4294967295',
  'ct-get-limits',
  'ct-set-limits default=4294967294 zone=65535,limit=4294967294',
  'ct-get-limits',
  'ct-set-limits default=0 zone=65535,limit=0',
  'ct-get-limits netdev@ovs-netdev zone=65535',
  'ct-set-limits default=x',
  'ct-set-limits zone=70000,limit=1',
  'ct-set-limits zone=-1,limit=1',
  'ct-set-limits zone=1,limit=x',
  'ct-set-limits zone=1,limit=',
  'ct-set-limits zone=1',
  'ct-set-limits limit=1',
  'ct-set-limits foo=1',
  'ct-set-limits default',
  'ct-set-limits nowhere default=1',
  'ct-del-limits default',
  'ct-del-limits nowhere',
  'ct-del-limits nowhere zone=1',
  'ct-del-limits netdev@ovs-netdev zone=1',
  'ct-get-limits default',
  'ct-get-limits nowhere',
  'ct-get-limits nowhere zone=1',
  'ct-get-limits zone=x',
  'ct-set-maxconns 4294967295',
  'ct-get-maxconns',
  'ct-set-maxconns x',
  'ct-set-maxconns nowhere 1',
  'ct-set-maxconns 10',
  'ct-get-maxconns',
  'ct-get-maxconns nowhere',
  'ct-get-nconns',
  'ct-enable-tcp-seq-chk',
  'ct-disable-tcp-seq-chk',
  'ct-get-tcp-seq-chk',
  'dump-conntrack',
  'dump-conntrack zone=x',
  'dump-conntrack nowhere',
  'dump-conntrack nowhere zone=1',
  'flush-conntrack',
  'flush-conntrack zone=x',
  'flush-conntrack nowhere',
  'flush-conntrack nowhere zone=1',
  'flush-conntrack nowhere ct_nw_src=1.2.3.4',
  'flush-conntrack zone=1 nowhere',
  `flush-conntrack ${MISSING}`,
  `flush-conntrack zone=3 ${MISSING}`,
  `flush-conntrack zone=3 ${MISSING} ct_nw_src=1.2.3.5`,
  'flush-conntrack ct_nw_src=1.2.3.4,ct_nw_dst=1.2.3.5,ct_nw_proto=17,ct_tp_src=5',
  'flush-conntrack ct_nw_src=1.2.3.4,ct_nw_dst=1.2.3.5,ct_nw_proto=1,icmp_type=8',
];

/** The real daemon takes these numbers modulo the size of its variable, and so means another zone, or another limit. */
const OUT_OF_RANGE: readonly [command: string, error: string][] = [
  ['dump-conntrack zone=70000', 'failed to parse zone'],
  ['dump-conntrack zone=-1', 'failed to parse zone'],
  ['ct-stats-show zone=65536', 'failed to parse zone'],
  ['flush-conntrack zone=70000', 'failed to parse zone'],
  ['ct-set-limits default=4294967296', 'invalid default limit'],
  ['ct-set-limits zone=1,limit=4294967296', 'failed to parse field limit'],
  ['ct-set-limits zone=1,limit=-1', 'failed to parse field limit'],
  ['ct-del-limits zone=65536', 'invalid zone'],
  ['ct-get-limits zone=65536', 'invalid zone'],
  ['ct-set-maxconns 4294967296', 'maxconns missing or malformed'],
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

test('numbers out of range are refused', () => {
  const limits = run(ours, 'ct-get-limits').stdout;
  const most = run(ours, 'ct-get-maxconns').stdout;
  for (const [command, error] of OUT_OF_RANGE) {
    const { status, stderr } = run(ours, command);
    assert.equal(status, 2, command);
    assert.ok(stderr.startsWith(`ovs-vswitchd: ${error} (Invalid argument)\n`), stderr);
  }
  assert.equal(run(ours, 'ct-get-limits').stdout, limits);
  assert.equal(run(ours, 'ct-get-maxconns').stdout, most);
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
