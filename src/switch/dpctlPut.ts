// Megaflows that somebody makes up: dpctl/add-flow, mod-flow, add-flows, mod-flows, del-flows FILE and parse-actions of
// ovs-appctl (ovs-dpctl(8)). They are for debugging: the revalidator translates each as soon as it comes by, and gives
// it what the flow tables say, or removes it, unless revalidator/pause keeps it away.

import { readFileSync } from 'node:fs';
import {
  FRAG_LATER,
  K_ETH_TYPE,
  K_IN_PORT,
  K_MPLS_COUNT,
  K_NW_FRAG,
  K_PACKET_TYPE,
  K_RECIRC_ID,
  KEY_SIZE,
} from '../../contract/key.ts';
import { CommandFailure } from './commandTypes.ts';
import type { Datapath } from './datapath.ts';
import { checkDatapath, dpctlOptions } from './dpctl.ts';
import { dpctlDelFlow, flowMetBy, portsByName } from './dpctlFlows.ts';
import { be16, be32, ETH_TYPE_ARP, ETH_TYPE_IP, ETH_TYPE_IPV6, exact, isIp } from './flow.ts';
import type { KeyPair } from './keyPool.ts';
import { UNVALIDATED } from './megaflow.ts';
import { parseOdpActions } from './odpActionParse.ts';
import { parseOdpFlow } from './odpParse.ts';
import { formatOdpActions, formatOdpStats, transportGroup } from './odpText.ts';
import { datapathMask } from './translate/wildcards.ts';
import { hasTunnel } from './tunnel/record.ts';

/** Both at once: --may-create of mod-flow. */
interface PutFlags {
  create: boolean;
  modify: boolean;
}

const updateFailure = (why: string): CommandFailure =>
  new CommandFailure(`ovs-vswitchd: updating flow table (${why})`);

/** Runs a parser; its complaint becomes the command's. */
function parsed<T>(parse: () => T, complaint: (text: string) => string): T {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new CommandFailure(`ovs-vswitchd: ${complaint(error.message)} (Invalid argument)`);
  }
}

/** Has the text all the groups that packets with this key have headers for? Open vSwitch's parser wants them. */
function isComplete(text: string, key: Uint8Array): boolean {
  const has = (name: string): boolean => new RegExp(`(^|[,(\\s])${name}\\(`).test(text);
  const type = be16(key, K_ETH_TYPE);
  if (type === ETH_TYPE_IP && !has('ipv4')) return false;
  if (type === ETH_TYPE_IPV6 && !has('ipv6')) return false;
  if (type === ETH_TYPE_ARP && !has('arp')) return false;
  const group = isIp(key) && (key[K_NW_FRAG]! & FRAG_LATER) === 0 ? transportGroup(key) : undefined;
  return group === undefined || has(group.name);
}

/** Key and mask in the data plane's form. Tunnels' and labels' fields have no masks in the parser: not taken. */
function parseFlow(datapath: Datapath, text: string, pair: KeyPair, flags: PutFlags): void {
  const mask = new Uint8Array(KEY_SIZE);
  const key = parsed(
    () => parseOdpFlow(text, portsByName(datapath), mask),
    (why) => `parsing flow key (${why})`,
  );
  const isPlain = !hasTunnel(key) && be16(key, K_MPLS_COUNT) === 0;
  if (!isPlain || !isComplete(text, key)) throw updateFailure('Invalid argument');
  if (be32(mask, K_IN_PORT) !== 0xffffffff) {
    const what = flags.create ? '[create]' : '[modify]';
    datapath.flowLog?.err(`failed to put${what} flow: in_port is not an exact match`);
    throw updateFailure('Invalid argument');
  }
  exact(mask, K_RECIRC_ID, 4);
  if (/(^|[,\s])eth_type\(/.test(text)) exact(mask, K_ETH_TYPE, 2);
  if (/(^|[,\s])packet_type\(/.test(text)) exact(mask, K_PACKET_TYPE, 4);
  pair.key.set(key);
  datapathMask(mask, key, pair.mask);
}

async function put(
  datapath: Datapath,
  [flowText, actionText]: readonly [string, string],
  flags: PutFlags,
  statistics: boolean,
): Promise<string> {
  const { keys, engine, handler, revalidator } = datapath;
  // A name in front is that of the caller; ours are numbers.
  const text = flowText.replace(/^\s*ufid:[-0-9a-f]+[\s,]*/, '');
  const pair = keys.take();
  let isKept = false;
  try {
    parseFlow(datapath, text, pair, flags);
    const program = parsed(
      () => parseOdpActions(actionText, pair.key),
      () => 'parsing actions',
    );
    const flow = flowMetBy(datapath, pair.keyWords);
    const stats = flow && engine.flowStats(flow.id);
    if (flow === undefined) {
      if (!flags.create) throw updateFailure('No such file or directory');
      isKept = handler.putForeign(pair, program);
      if (!isKept) throw updateFailure('No space left on device');
    } else {
      if (!flags.modify) throw updateFailure('File exists');
      engine.setFlowActions(flow.id, program);
      flow.program = program;
      flow.slow = false;
      flow.validated = UNVALIDATED;
      revalidator.wake();
    }
    await engine.quiesce();
    const none = { packets: 0, bytes: 0, usedMs: 0, tcpFlags: 0 };
    return statistics ? `${formatOdpStats(stats ?? none, engine.nowMs())}\n` : '';
  } finally {
    if (!isKept) keys.give(pair);
  }
}

function pairOf(args: readonly string[]): [string, string] {
  if (args.length > 2) checkDatapath(args[0]);
  return args.slice(-2) as [string, string];
}

export async function dpctlAddFlow(datapath: Datapath, args: readonly string[]): Promise<string> {
  const { statistics, rest } = dpctlOptions(args);
  return put(datapath, pairOf(rest), { create: true, modify: false }, statistics);
}

export async function dpctlModFlow(datapath: Datapath, args: readonly string[]): Promise<string> {
  const { statistics, rest } = dpctlOptions(args);
  const create = args.includes('--may-create');
  return put(datapath, pairOf(rest), { create, modify: true }, statistics);
}

type Verb = 'add' | 'modify' | 'delete';

/** Flows of a file, one a line, each with its verb in front or the command's own. What is wrong in a line costs that line only. */
export async function dpctlFlowFile(
  datapath: Datapath,
  args: readonly string[],
  verb: Verb,
): Promise<string> {
  const { rest } = dpctlOptions(args);
  if (rest.length > 1) checkDatapath(rest[0]);
  const name = rest.at(-1)!;
  let lines: string[];
  try {
    lines = readFileSync(name, 'utf8').split('\n');
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    const why = missing ? 'No such file or directory' : 'Permission denied';
    throw new CommandFailure(`ovs-vswitchd: Opening file "${name}" failed (${why})`);
  }
  let said = '';
  for (const [i, raw] of lines.entries()) {
    const line = raw.replace(/#.*/, '').trim();
    if (line === '') continue;
    const [, word, flow, actions] = /^(?:(add|modify|delete)\s+)?(\S+)(?:\s+(.+))?$/.exec(line)!;
    const todo = (word as Verb | undefined) ?? verb;
    if ((actions === undefined) !== (todo === 'delete')) {
      said += `ovs-vswitchd: Failed parsing line number ${i + 1}, skipped!\n`;
      continue;
    }
    const flags = { create: todo === 'add', modify: todo === 'modify' };
    try {
      if (todo === 'delete') await dpctlDelFlow(datapath, [flow!]);
      else await put(datapath, [flow!, actions!], flags, false);
    } catch (error) {
      if (!(error instanceof CommandFailure)) throw error;
      said += `${error.message}\n`;
    }
  }
  return said;
}

/** dpctl/parse-actions: actions as they are understood. */
export function dpctlParseActions(args: readonly string[]): string {
  return args
    .map((text) => {
      const program = parsed(
        () => parseOdpActions(text),
        () => 'odp_actions_from_string',
      );
      return `${formatOdpActions(program, new Uint8Array(KEY_SIZE))}\n`;
    })
    .join('');
}
