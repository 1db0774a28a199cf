// unixctl commands of connection tracking (ovs-dpctl(8), "Connection Tracking Table Commands"): dpctl/dump-conntrack,
// dpctl/flush-conntrack and dpctl/ct-* (ipf-*: ipfCommands.ts). Texts and errors are Open vSwitch's.

import type { Conntrack } from '../engine/conntrackTypes.ts';
import type { CtFlushMatch } from '../wire/openflow/ctFlush.ts';
import { CommandFailure, type SwitchCommand } from './commandTypes.ts';
import { CtMatchError, parseCtMatch } from './ctMatch.ts';
import { connectionStatistics, connectionText } from './ctText.ts';
import { dpctlOptions, isOurDatapath } from './dpctl.ts';
import { ipfCommandTable } from './ipfCommands.ts';

const MANY = Number.MAX_SAFE_INTEGER;
const EINVAL = 'Invalid argument';

function fail(text: string, error = EINVAL): never {
  throw new CommandFailure(`ovs-vswitchd: ${text} (${error})`);
}

/** Refuses the name of a datapath that is not ours; these commands say so in words of their own. */
function checkName(name: string | undefined): void {
  if (!isOurDatapath(name)) fail('datapath not found');
}

function unsigned(text: string | undefined, max: number): number | undefined {
  if (text === undefined || !/^\d+$/.test(text)) return undefined;
  const value = Number(text);
  return value <= max ? value : undefined;
}

/** "zone=N"; undefined when it is none. */
function zoneOf(text: string | undefined): number | undefined {
  return text?.startsWith('zone=') ? unsigned(text.slice(5), 0xffff) : undefined;
}

/**
 * Takes the last argument off if it is a zone. What is none is a datapath's name (of which there is none such), but a
 * number that no zone has is refused as what it is: Open vSwitch would take it modulo 65536.
 */
function popZone(args: string[]): number | undefined {
  const text = args.at(-1);
  const zone = zoneOf(text);
  if (zone !== undefined) args.pop();
  else if (/^zone=[-+]?\d/.test(text ?? '')) fail('failed to parse zone');
  return zone;
}

function dumpConntrack(conntrack: Conntrack, argv: readonly string[]): string {
  const { verbose, statistics, rest } = dpctlOptions(argv);
  const zone = popZone(rest);
  checkName(rest[0]);
  let text = '';
  for (const c of conntrack.dump(zone)) text += `${connectionText(c, verbose, statistics)}\n`;
  return text;
}

/** Takes the name of our datapath off the front. Another name is taken for what could stand in its place. */
function dropDatapath(args: string[]): void {
  if (args[0] !== undefined && isOurDatapath(args[0])) args.shift();
}

function flushConntrack(flush: FlushConnections, argv: readonly string[]): string {
  const { rest } = dpctlOptions(argv);
  dropDatapath(rest);
  let zone: number | undefined;
  if (rest[0]?.startsWith('zone=')) {
    zone = zoneOf(rest.shift()) ?? fail('failed to parse zone');
  }
  if (rest.length > 2) fail('invalid arguments');
  try {
    const [orig = '', reply = ''] = rest;
    const match = orig === '' && reply === '' ? undefined : parseCtMatch(orig, reply);
    if (!flush(zone, match)) {
      fail('failed to flush conntrack', 'No such file or directory');
    }
  } catch (error) {
    if (error instanceof CtMatchError) fail(error.message);
    throw error;
  }
  return '';
}

function showStatistics(conntrack: Conntrack, argv: readonly string[]): string {
  const { verbose, rest } = dpctlOptions(argv);
  let wordy = verbose;
  let zone: number | undefined;
  for (let more = true; more; ) {
    more = false;
    if (rest.at(-1)?.startsWith('verbose')) {
      wordy = true;
      rest.pop();
      more = true;
    }
    const found = popZone(rest);
    if (found !== undefined) {
      zone = found;
      more = true;
    }
  }
  checkName(rest[0]);
  return connectionStatistics(conntrack.dump(zone), wordy);
}

/** The one bucket that the real userspace datapath shows, too, and its connections if they are more than N. */
function showBuckets(conntrack: Conntrack, argv: readonly string[]): string {
  const { rest } = dpctlOptions(argv);
  const threshold = /^gt=\s*(\d+)/.exec(rest.at(-1) ?? '');
  if (threshold !== null) rest.pop();
  checkName(rest[0]);
  const count = conntrack.count();
  let text = `Total Buckets: 1\nCurrent Connections: ${count}\n\n`;
  if (count === 0) return text;
  const line = `+-----------+${'-'.repeat(41)}+\n`;
  const shown = count > Number(threshold?.[1] ?? 0) ? String(count) : '.';
  text += `${line}|  Buckets  |         Connections per Buckets         |\n${line}`;
  return `${text}\n   0..  7   | ${shown.padStart(5)}\n\n`;
}

function parseZoneLimit(text: string): { zone: number; limit: number } {
  let zone: number | undefined;
  let limit: number | undefined;
  for (const item of text.split(',')) {
    const [key = '', value = ''] = item.split('=');
    if (value === '') fail(`field ${key} missing value`);
    if (key === 'zone') zone = unsigned(value, 0xffff) ?? fail(`failed to parse field ${key}`);
    else if (key === 'limit') {
      limit = unsigned(value, 0xffffffff) ?? fail(`failed to parse field ${key}`);
    } else fail(`invalid zone limit field: ${key}`);
  }
  if (zone === undefined || limit === undefined) fail('failed to parse zone limit');
  return { zone, limit };
}

function parseZones(text: string): number[] {
  if (!text.startsWith('zone=')) fail(`invalid argument ${text}`);
  return text
    .slice(5)
    .split(',')
    .map((zone) => unsigned(zone, 0xffff) ?? fail('invalid zone'));
}

function setLimits(conntrack: Conntrack, argv: readonly string[]): string {
  const { rest: args } = dpctlOptions(argv);
  dropDatapath(args);
  let defaultLimit: number | undefined;
  if (args[0]?.startsWith('default=')) {
    defaultLimit = unsigned(args.shift()!.slice(8), 0xffffffff) ?? fail('invalid default limit');
  }
  // All or nothing.
  const limits = args.map(parseZoneLimit);
  if (defaultLimit !== undefined) conntrack.setDefaultLimit(defaultLimit);
  for (const { zone, limit } of limits) conntrack.setZoneLimit(zone, limit);
  return '';
}

/** "[dp] [zones]". */
function zonesArgument(argv: readonly string[]): string | undefined {
  const { rest } = dpctlOptions(argv);
  if (rest.length > 1) checkName(rest[0]);
  dropDatapath(rest);
  return rest[0];
}

function deleteLimits(conntrack: Conntrack, argv: readonly string[]): string {
  const zones = zonesArgument(argv);
  for (const zone of parseZones(zones ?? '')) conntrack.deleteZoneLimit(zone);
  return '';
}

function getLimits(conntrack: Conntrack, argv: readonly string[]): string {
  const zones = zonesArgument(argv);
  const defaultLimit = conntrack.getDefaultLimit();
  const own = new Map(conntrack.zoneLimits().map((limit) => [limit.zone, limit]));
  const shown =
    zones === undefined
      ? [...own.values()].sort((a, b) => a.zone - b.zone)
      : parseZones(zones).map(
          (zone) =>
            own.get(zone) ?? { zone, limit: defaultLimit ?? 0, count: conntrack.zoneCount(zone) },
        );
  return [
    `default limit=${defaultLimit ?? 0}`,
    ...shown.map(({ zone, limit, count }) => `zone=${zone},limit=${limit},count=${count}`),
  ]
    .map((line) => `${line}\n`)
    .join('');
}

function setMaxConns(conntrack: Conntrack, argv: readonly string[]): string {
  const { rest } = dpctlOptions(argv);
  const limit = unsigned(rest.pop(), 0xffffffff) ?? fail('maxconns missing or malformed');
  checkName(rest[0]);
  conntrack.setMax(limit);
  return 'setting maxconns successful';
}

/** False: the match names one connection by its whole tuple, and it does not exist. */
type FlushConnections = (zone: number | undefined, match: CtFlushMatch | undefined) => boolean;

/** The commands. `conntrack` is asked for when a command runs. */
export function ctCommandTable(
  conntrack: () => Conntrack,
  flush: FlushConnections,
): SwitchCommand[] {
  const command = (
    name: string,
    usage: string,
    minArgs: number,
    maxArgs: number,
    run: (conntrack: Conntrack, args: readonly string[]) => string,
  ): SwitchCommand => ({
    name: `dpctl/${name}`,
    usage,
    minArgs,
    maxArgs,
    run: (args) => run(conntrack(), args),
  });
  /** A command whose only argument is the datapath. */
  const plain = (name: string, run: (conntrack: Conntrack) => string): SwitchCommand =>
    command(name, '[dp]', 0, 1, (ct, args) => {
      checkName(dpctlOptions(args).rest[0]);
      return run(ct);
    });
  return [
    ...ipfCommandTable(conntrack),
    command('dump-conntrack', '[-m] [-s] [dp] [zone=N]', 0, 4, dumpConntrack),
    command('flush-conntrack', '[dp] [zone=N] [ct-orig-tuple] [ct-reply-tuple]', 0, 4, (_, args) =>
      flushConntrack(flush, args),
    ),
    command('ct-bkts', '[dp] [gt=N]', 0, 2, showBuckets),
    command('ct-stats-show', '[dp] [zone=N]', 0, 3, showStatistics),
    command('ct-set-maxconns', '[dp] maxconns', 1, 2, setMaxConns),
    plain('ct-get-maxconns', (ct) => `${ct.getMax()}\n`),
    plain('ct-get-nconns', (ct) => `${ct.count()}\n`),
    plain('ct-enable-tcp-seq-chk', (ct) => {
      ct.setTcpSeqChk(true);
      return 'enabling TCP sequence checking successful';
    }),
    plain('ct-disable-tcp-seq-chk', (ct) => {
      ct.setTcpSeqChk(false);
      return 'disabling TCP sequence checking successful';
    }),
    plain(
      'ct-get-tcp-seq-chk',
      (ct) => `TCP sequence checking: ${ct.getTcpSeqChk() ? 'enabled' : 'disabled'}\n`,
    ),
    command('ct-set-limits', '[dp] [default=L] [zone=N,limit=L]...', 1, MANY, setLimits),
    command('ct-del-limits', '[dp] zone=N1[,N2]...', 1, 2, deleteLimits),
    command('ct-get-limits', '[dp] [zone=N1[,N2]...]', 0, 2, getLimits),
  ];
}
