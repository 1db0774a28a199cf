// unixctl commands dpctl/ipf-* (ovs-dpctl(8), "Conntrack fragment reassembly"): reassembly of fragments for connection
// tracking. Texts, errors and the latitude in reading numbers are Open vSwitch's.

import type { Conntrack, CtDatagram } from '../engine/conntrackTypes.ts';
import { CommandFailure, type SwitchCommand } from './commandTypes.ts';
import { dpctlOptions, isOurDatapath } from './dpctl.ts';
import { ipv6Text } from './odpFields.ts';

const EINVAL = 'Invalid argument';
const EPERM = 'Operation not permitted';

function fail(text: string, error = EINVAL): never {
  throw new CommandFailure(`ovs-vswitchd: ${text} (${error})`);
}

function checkName(name: string | undefined): void {
  if (!isOurDatapath(name)) fail('datapath not found');
}

/** The number with which a word begins, modulo 2^32, as scanf reads it; undefined if it begins otherwise. */
function leadingNumber(word: string): number | undefined {
  const digits = /^\s*(\d+)/.exec(word)?.[1];
  return digits === undefined ? undefined : Number(BigInt.asUintN(32, BigInt(digits)));
}

/** 4 or 6 for words that begin with v4 or v6. */
function familyOf(word: string | undefined): 4 | 6 | undefined {
  const found = /^v([46])/.exec(word ?? '');
  return found === null ? undefined : found[1] === '4' ? 4 : 6;
}

function setEnabled(conntrack: Conntrack, argv: readonly string[], on: boolean): string {
  const { rest } = dpctlOptions(argv);
  const family = familyOf(rest.at(-1)) ?? fail("parameter missing: 'v4' for IPv4 or 'v6' for IPv6");
  conntrack.setFragments(family === 4 ? { enabledV4: on } : { enabledV6: on });
  return `${on ? 'enabling' : 'disabling'} fragmentation reassembly successful`;
}

function setMinimum(conntrack: Conntrack, argv: readonly string[]): string {
  const { rest } = dpctlOptions(argv);
  if (rest.length > 2) checkName(rest[0]);
  const family = familyOf(rest.at(-2)) ?? fail('parameter missing: v4 for IPv4 or v6 for IPv6');
  const bytes = leadingNumber(rest.at(-1)!) ?? fail('parameter missing for minimum fragment size');
  if (!conntrack.setFragments(family === 4 ? { minV4: bytes } : { minV6: bytes })) {
    fail('requested minimum fragment size too small; see documentation', EPERM);
  }
  return 'setting minimum fragment size successful';
}

function setMaximum(conntrack: Conntrack, argv: readonly string[]): string {
  const { rest } = dpctlOptions(argv);
  if (rest.length > 1) checkName(rest[0]);
  const max = leadingNumber(rest.at(-1)!) ?? fail('parameter missing for maximum fragments');
  if (!conntrack.setFragments({ max })) fail('setting maximum fragments failed', EPERM);
  return 'setting maximum fragments successful';
}

function stateOf({ hasFirst, hasLast }: CtDatagram): string {
  if (hasFirst && hasLast) return 'first/last frag';
  return hasFirst ? 'first frag' : hasLast ? 'last frag' : 'other frag';
}

function datagramText(d: CtDatagram): string {
  const v6 = d.src.length === 16;
  const address = (bytes: Uint8Array): string => (v6 ? ipv6Text(bytes) : bytes.join('.'));
  return (
    `(src=${address(d.src)},dst=${address(d.dst)},recirc_id=${d.recircId},ip_id=${d.id},` +
    `dl_type=${v6 ? '0x86dd' : '0x800'},zone=${d.zone},nw_proto=${v6 ? 0 : d.proto},` +
    `num_fragments=${d.fragments},state=${stateOf(d)})`
  );
}

function getStatus(conntrack: Conntrack, argv: readonly string[]): string {
  const { verbose, rest } = dpctlOptions(argv);
  checkName(rest[0]);
  const settings = conntrack.getFragments();
  const counters = conntrack.counters();
  const family = (name: string, min: number): string[] => [
    `min ${name} frag size: ${min}`,
    ...['accepted', 'completed', 'expired', 'too small', 'overlapped', 'purged'].map(
      (what) => `${name} frags ${what}: ${counters[`fragments_${name}_${what.replace(' ', '_')}`]}`,
    ),
  ];
  const lines = [
    'Fragmentation Module Status',
    '---------------------------',
    `v4 enabled: ${Number(settings.enabledV4)}`,
    `v6 enabled: ${Number(settings.enabledV6)}`,
    `max num frags (v4/v6): ${settings.max}`,
    `num frag: ${settings.waiting}`,
    ...family('v4', settings.minV4),
    ...family('v6', settings.minV6),
  ];
  let text = lines.map((line) => `        ${line}\n`).join('');
  if (verbose) {
    text += '\n        Fragment Lists:\n\n';
    for (const datagram of conntrack.datagrams()) text += `${datagramText(datagram)}\n`;
  }
  return text;
}

/** The commands. `conntrack` is asked for when a command runs. */
export function ipfCommandTable(conntrack: () => Conntrack): SwitchCommand[] {
  const command = (
    name: string,
    usage: string,
    minArgs: number,
    maxArgs: number,
    run: (conntrack: Conntrack, args: readonly string[]) => string,
  ): SwitchCommand => ({
    name: `dpctl/ipf-${name}`,
    usage,
    minArgs,
    maxArgs,
    run: (args) => run(conntrack(), args),
  });
  return [
    command('set-enabled', '[dp] v4|v6', 1, 2, (ct, args) => setEnabled(ct, args, true)),
    command('set-disabled', '[dp] v4|v6', 1, 2, (ct, args) => setEnabled(ct, args, false)),
    command('set-min-frag', '[dp] v4|v6 minfragment', 2, 3, setMinimum),
    command('set-max-nfrags', '[dp] maxfrags', 1, 2, setMaximum),
    command('get-status', '[-m] [dp]', 0, 2, getStatus),
  ];
}
