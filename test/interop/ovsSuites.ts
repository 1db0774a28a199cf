// Open vSwitch's own test suites, which Debian's openvswitch-source carries ready made, with a daemon of our choice in the
// place of ovs-vswitchd. They need neither compiler nor autoconf: what configure would have written is written by hand.

import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

export const REAL = '/usr/lib/openvswitch-switch/ovs-vswitchd';
export const OURS = resolve(import.meta.dirname, '../../bin/ovs-vswitchd');

const TARBALL = '/usr/src/openvswitch/openvswitch.tar.gz';
const TOOLS = [
  'ovs-vsctl',
  'ovs-ofctl',
  'ovs-appctl',
  'ovs-dpctl',
  'ovsdb-client',
  'ovsdb-tool',
  'ovsdb-server',
  'ovs-pki',
];
/** Words of atlocal.in that configure fills in: what the machine has. */
const ATLOCAL: Readonly<Record<string, string>> = {
  HAVE_OPENSSL: 'yes',
  OPENSSL_SUPPORTS_SNI: 'yes',
  HAVE_UNBOUND: 'yes',
  EGREP: 'grep -E',
  PYTHON3: '/usr/bin/python3',
  CFLAGS: '-O2',
};
/** Where things are. */
const ATCONFIG = `at_testdir='tests'
abs_builddir=\`pwd\`
at_srcdir='.'
abs_srcdir=$abs_builddir
at_top_srcdir='..'
abs_top_srcdir=\${abs_builddir%/tests}
at_top_build_prefix='../'
abs_top_builddir=$abs_top_srcdir
at_top_builddir=$at_top_build_prefix
EXEEXT=''
AUTOTEST_PATH='tests'
SHELL=\${CONFIG_SHELL-'/bin/bash'}
`;

/** Makes `dir` the suites' top directory, with `bin` for AUTOTEST_PATH; one that is unpacked already is used again. */
export function prepareSuites(dir: string, daemon: string): void {
  if (!existsSync(join(dir, 'tests'))) {
    if (!existsSync(TARBALL)) {
      throw new Error(`${TARBALL} is missing: apt-get install openvswitch-source`);
    }
    mkdirSync(dir, { recursive: true });
    execFileSync('tar', ['xzf', TARBALL, '-C', dir, '--strip-components=1']);
  }
  writeFileSync(join(dir, 'config.log'), '');
  writeFileSync(join(dir, 'tests/atconfig'), ATCONFIG);
  let atlocal = readFileSync(join(dir, 'tests/atlocal.in'), 'utf8');
  for (const [word, value] of Object.entries(ATLOCAL)) {
    atlocal = atlocal.replaceAll(`@${word}@`, value);
  }
  writeFileSync(join(dir, 'tests/atlocal'), atlocal);
  const bin = join(dir, 'bin');
  rmSync(bin, { recursive: true, force: true });
  mkdirSync(bin);
  for (const tool of TOOLS) {
    const path = execFileSync('sh', ['-c', `command -v ${tool}`], { encoding: 'utf8' }).trim();
    symlinkSync(path, join(bin, tool));
  }
  // The suite's C programs are not there; its collectors of NetFlow and sFlow are ours.
  const collector = join(import.meta.dirname, 'flowCollector.py');
  writeFileSync(join(bin, 'ovstest'), `#!/bin/sh\nexec python3 ${collector} "$@"\n`, {
    mode: 0o755,
  });
  // exec: the pid file has to hold the daemon's own pid.
  const wrapper = `#!/bin/sh\nexec ${daemon} "$@"\n`;
  writeFileSync(join(bin, 'ovs-vswitchd'), wrapper, { mode: 0o755 });
}

export type Outcome = 'ok' | 'failed' | 'skipped';

/** What a line of a running suite says of a test; undefined if it is not such a line. */
export function outcomeOf(
  line: string,
): { number: number; name: string; outcome: Outcome } | undefined {
  const found = /^ *(\d+): (.*?) +(ok|FAILED|skipped)(?: \(.*\))?$/.exec(line);
  if (found === null) return undefined;
  const [, number, name, word] = found;
  return { number: Number(number), name: name!, outcome: word!.toLowerCase() as Outcome };
}
