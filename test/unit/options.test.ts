// The command line of ovs-vswitchd, with getopt's behaviour.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseOptions, UsageError } from '../../src/cli/options.ts';

const parse = (...args: string[]) => parseOptions('ovs-vswitchd', args);

test('what ovs-ctl passes', () => {
  const o = parse(
    'unix:/run/openvswitch/db.sock',
    '-vconsole:emer',
    '-vsyslog:err',
    '-vfile:info',
    '--mlockall',
    '--no-chdir',
    '--log-file=/var/log/openvswitch/ovs-vswitchd.log',
    '--pidfile=/run/openvswitch/ovs-vswitchd.pid',
    '--detach',
  );
  assert.equal(o.database, 'unix:/run/openvswitch/db.sock');
  assert.deepEqual(o.verbose, ['console:emer', 'syslog:err', 'file:info']);
  assert.equal(o.chdir, false);
  assert.equal(o.mlockall, true);
  assert.equal(o.detach, true);
  assert.equal(o.pidfile, '/run/openvswitch/ovs-vswitchd.pid');
});

test('optional arguments, abbreviations, short options', () => {
  const o = parse('--pid', '--log-file', '-v', '--unix=/x.ctl', '-p', 'key', '-Cca');
  assert.equal(o.pidfile, '');
  assert.equal(o.logFile, '');
  assert.deepEqual(o.verbose, ['']);
  assert.equal(o.unixctl, '/x.ctl');
  assert.equal(o.privateKey, 'key');
  assert.equal(o.caCert, 'ca');
});

test('how long to wait for a configuration when taking over', () => {
  assert.equal(parse().takeOver, undefined);
  assert.equal(parse('--take-over').takeOver, 30);
  assert.equal(parse('--take-over=5').takeOver, 5);
  for (const value of ['0', '-1', '1.5', 'soon', '', '86401']) {
    assert.throws(() => parse(`--take-over=${value}`), UsageError, value);
  }
});

test('errors', () => {
  const fails = (text: RegExp, ...args: string[]): void => {
    assert.throws(
      () => parse(...args),
      (e) => e instanceof UsageError && text.test(e.message),
    );
  };
  fails(/^unrecognized option '--foo'$/, '--foo');
  fails(/^invalid option -- 'x'$/, '-x');
  fails(/^option '--unixctl' requires an argument$/, '--unixctl');
  fails(/^option '--detach' doesn't allow an argument$/, '--detach=1');
  fails(/^at most one non-option argument accepted; use --help for usage$/, 'a', 'b');
  fails(/ambiguous/, '--dis');
  fails(/removed/, '--dpdk');
});
