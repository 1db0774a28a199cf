// Nicira's actions that compute or fork: stack_push, stack_pop, multipath, bundle, bundle_load, clone, check_pkt_larger
// and fin_timeout (ovs-actions(7)).

import {
  ACT_CHECK_PKT_LEN,
  ACT_CLONE,
  ACT_CT,
  ACT_END,
  ACT_METER,
} from '../../../contract/action.ts';
import { K_NW_PROTO } from '../../../contract/key.ts';
import { fromBytes, port11To10, setSubfield, toBytes } from '../../wire/openflow/fieldAccess.ts';
import { type Action, OFPP_NONE, type Subfield } from '../../wire/openflow/types.ts';
import { coverHashFields, hashFields, hashTwoWords } from '../flowHash.ts';
import { reportSubfield, runActions } from './actions.ts';
import { commit } from './commit.ts';
import { report, type Xlate } from './context.ts';
import { coverSubfield, readSubfield, resolved } from './fieldOps.ts';
import { finish } from './freeze.ts';
import { portIsAlive } from './groupActions.ts';
import { output } from './output.ts';

type Of<T extends Action['type']> = Action & { type: T };

/** Writes a number into a field, which counts as looked at. */
export function loadNumber(x: Xlate, dst: Subfield, value: bigint): void {
  const f = resolved(dst.field, x.bridge.tlvs ?? []);
  coverSubfield(dst, f, x.wildcards);
  setSubfield(x.flow, dst, value, f);
  if (x.trace !== undefined) reportSubfield(x, dst);
}

// ---- stack

export function stackPush(x: Xlate, { subfield }: Of<'stack_push'>): void {
  const value = readSubfield(subfield, x.flow, x.wildcards, x.bridge.tlvs);
  x.stack.push(toBytes(value, Math.ceil(subfield.bits / 8)));
}

export function stackPop(x: Xlate, { subfield }: Of<'stack_pop'>): void {
  const value = x.stack.pop();
  if (value === undefined) {
    report(x, 'error', 'stack underflow');
    return;
  }
  // The low bits of what was pushed, whatever its width.
  loadNumber(x, subfield, fromBytes(value) & ((1n << BigInt(subfield.bits)) - 1n));
}

// ---- multipath, bundle

const MODULO_N = 0;
const HASH_THRESHOLD = 1;
const HIGHEST_RANDOM_WEIGHT = 2;
/** Beyond so many links, weighing each costs too much. */
const MAX_WEIGHED_LINKS = 64;

function weighLinks(hash: number, links: number): number {
  let best = 0;
  let bestWeight = hashTwoWords(hash, 0);
  for (let link = 1; link < links; link++) {
    const weight = hashTwoWords(hash, link);
    if (weight > bestWeight) {
      best = link;
      bestWeight = weight;
    }
  }
  return best;
}

/** Hashes again until the result is a link. */
function iterateHash(hash: number, links: number, wanted: number): number {
  const modulo =
    wanted < links || Math.floor(wanted / 2) > links ? 2 ** Math.ceil(Math.log2(links)) : wanted;
  for (let i = 0; ; i++) {
    const link = hashTwoWords(hash, i) % modulo;
    if (link < links) return link;
  }
}

function chooseLink(hash: number, algorithm: number, links: number, argument: number): number {
  switch (algorithm) {
    case MODULO_N:
      return hash % links;
    case HASH_THRESHOLD:
      return links === 1 ? 0 : Math.floor(hash / (Math.floor(0xffffffff / links) + 1));
    case HIGHEST_RANDOM_WEIGHT:
      return links <= MAX_WEIGHED_LINKS ? weighLinks(hash, links) : iterateHash(hash, links, 0);
    default:
      return iterateHash(hash, links, argument);
  }
}

export function multipath(x: Xlate, action: Of<'multipath'>): void {
  const { fields, basis, algorithm, maxLink, arg, dst } = action;
  coverHashFields(x.flow, x.wildcards, fields);
  const hash = hashFields(x.flow, fields, basis);
  loadNumber(x, dst, BigInt(chooseLink(hash, algorithm, maxLink + 1, arg)));
}

const ACTIVE_BACKUP = 0;

function chooseMember(x: Xlate, { algorithm, fields, basis, members }: Of<'bundle'>): number {
  if (algorithm === ACTIVE_BACKUP) {
    return members.find((member) => portIsAlive(x, member)) ?? OFPP_NONE;
  }
  if (members.length > 1) coverHashFields(x.flow, x.wildcards, fields);
  const hash = hashFields(x.flow, fields, basis);
  let best = OFPP_NONE;
  let bestWeight = -1;
  members.forEach((member, i) => {
    if (!portIsAlive(x, member)) return;
    const weight = hashTwoWords(i, hash);
    if (weight <= bestWeight) return;
    best = member;
    bestWeight = weight;
  });
  return best;
}

export function bundle(x: Xlate, action: Of<'bundle'>): void {
  const port = chooseMember(x, action);
  if (action.dst === undefined) output(x, port, 0, false);
  else loadNumber(x, action.dst, BigInt(port11To10(port)));
}

// ---- programs inside of programs

/** Turns what the program has got since `start` into an action that holds it. */
export function nest(x: Xlate, start: number, op: number, operands: readonly number[]): void {
  const body = x.program.splice(start);
  if (body.length === 0) return;
  const words = 1 + operands.length + body.length + 1;
  x.program.push(op | (words << 16), ...operands, ...body, ACT_END | (1 << 16));
}

/** Does the program, from `start` on, do to the packet what later actions could not undo? */
export function isIrreversible(program: readonly number[], start: number): boolean {
  for (let at = start; at < program.length; at += program[at]! >>> 16) {
    const op = program[at]! & 0xffff;
    if (op === ACT_CT || op === ACT_METER) return true;
  }
  return false;
}

/** The pipeline's state that a clone must not change. */
function save(x: Xlate) {
  return {
    flow: x.flow.slice(),
    base: x.base.slice(),
    actionSet: x.actionSet,
    stack: x.stack,
    conntracked: x.conntracked,
  };
}

function restore(x: Xlate, saved: ReturnType<typeof save>): void {
  x.flow.set(saved.flow);
  x.actionSet = saved.actionSet;
  x.stack = saved.stack;
  x.conntracked = saved.conntracked;
}

function runCopy(x: Xlate, actions: readonly Action[]): void {
  x.actionSet = [...x.actionSet];
  x.stack = [...x.stack];
  runActions(x, actions);
  finish(x);
}

const IRREVERSIBLE: ReadonlySet<string> = new Set(['ct', 'meter', 'nat', 'output_trunc']);

/** A clone's header changes are undone by the next commit; only what cannot be undone needs a clone of the packet. */
export function clone(x: Xlate, actions: readonly Action[]): void {
  const needed = actions.some(({ type }) => IRREVERSIBLE.has(type));
  if (needed) commit(x);
  const saved = save(x);
  const start = x.program.length;
  runCopy(x, actions);
  restore(x, saved);
  if (!needed && !isIrreversible(x.program, start)) return;
  nest(x, start, ACT_CLONE, [0]);
  x.base.set(saved.base);
}

/** `rest`: the actions behind this one, which run with either result. */
export function checkPktLarger(
  x: Xlate,
  { pktLen, dst }: Of<'check_pkt_larger'>,
  rest: readonly Action[],
): void {
  const original = x.flow.slice();
  commit(x);
  const saved = { ...save(x), flow: original };
  const start = x.program.length;
  const branch = (larger: bigint): void => {
    setSubfield(x.flow, dst, larger);
    runCopy(x, rest);
    x.program.push(ACT_END | (1 << 16));
    restore(x, saved);
    x.base.set(saved.base);
  };
  x.program.push(0, pktLen, 0);
  branch(1n);
  const { exit } = x;
  x.exit = false;
  x.program[start + 2] = x.program.length - start - 3;
  if (x.error === undefined) branch(0n);
  x.exit = exit;
  x.program[start] = ACT_CHECK_PKT_LEN | ((x.program.length - start) << 16);
  // Both branches have run the action set.
  x.actionSet = [];
}

// ---- fin_timeout

export function finTimeout(x: Xlate, { idleTimeout, hardTimeout }: Of<'fin_timeout'>): void {
  x.wildcards[K_NW_PROTO] = 0xff;
  const { rule } = x;
  const { flows } = x.bridge;
  if (rule === undefined || flows === undefined) return;
  x.effects.fins.push({ flows, rule, idleTimeout, hardTimeout });
}
