// The group action: the packet takes all buckets of a group, or the one that the group's kind chooses (OpenFlow 1.5.1
// §5.10; Open vSwitch's selection methods: ovs-ofctl(8), "Group Syntax").
//
// A select group that chooses by the data plane's hash needs it computed first:  hash(alg(basis)), recirc(id). What
// comes back is looked up by the masked hash alone, so that connections share megaflows.

import { DROP_NO_PORT } from '../../../contract/drop.ts';
import { K_DP_HASH } from '../../../contract/key.ts';
import { getFieldBytes } from '../../wire/openflow/fieldAccess.ts';
import { fieldByName } from '../../wire/openflow/fields.ts';
import { OFPGT_ALL, OFPGT_FF, OFPGT_INDIRECT, OFPGT_SELECT } from '../../wire/openflow/group.ts';
import type { GroupSelection } from '../../wire/openflow/messages.ts';
import { OFPP_CONTROLLER, OFPP_NONE } from '../../wire/openflow/types.ts';
import { be32 } from '../flow.ts';
import {
  coverHashFields,
  HASH_SYMMETRIC_L4,
  hashBytes,
  hashSymmetricL4,
  hashTwoWords,
  hashUint64,
} from '../flowHash.ts';
import type { Group, GroupBucket } from '../groups.ts';
import { runActions } from './actions.ts';
import { actionSetOrder, portOf, report, type Xlate } from './context.ts';
import { coverMasked, prerequisiteMet } from './fieldOps.ts';
import { awaitHash, finishFreezing } from './freeze.ts';
import { mayResubmit } from './tables.ts';

const OFPG_ANY = 0xffffffff;
const OFPPS_LIVE = 4;
/** Groups that watch groups. */
const MAX_LIVENESS_DEPTH = 128;

export function portIsAlive(x: Xlate, port: number): boolean {
  return ((portOf(x, port)?.desc.state ?? 0) & OFPPS_LIVE) !== 0;
}

function groupIsAlive(x: Xlate, id: number, depth: number): boolean {
  const group = x.bridge.groups?.get(id);
  return group !== undefined && firstLiveBucket(x, group, depth) !== undefined;
}

function bucketIsAlive(x: Xlate, group: Group, bucket: GroupBucket, depth: number): boolean {
  if (depth >= MAX_LIVENESS_DEPTH) {
    report(x, 'error', `bucket chaining exceeded ${MAX_LIVENESS_DEPTH} links`);
    return false;
  }
  if (group.type === OFPGT_SELECT && bucket.weight === 0) return false;
  const { watchPort, watchGroup } = bucket;
  if (watchPort === OFPP_NONE && watchGroup === OFPG_ANY) return true;
  if (watchPort === OFPP_CONTROLLER) {
    if (x.bridge.hasControllers === true) return true;
  } else if (watchPort !== OFPP_NONE && portIsAlive(x, watchPort)) {
    return true;
  }
  return watchGroup !== OFPG_ANY && groupIsAlive(x, watchGroup, depth + 1);
}

function reportDead(x: Xlate, { id, watchPort, watchGroup }: GroupBucket): void {
  const reasons: string[] = [];
  if (watchPort !== OFPP_NONE) reasons.push(`port ${watchPort}`);
  if (watchGroup !== OFPG_ANY) reasons.push(`port ${watchGroup}`); // Open vSwitch says port, too
  report(x, 'detail', `bucket ${id}: not live due to ${reasons.join(' and ')}`);
}

function firstLiveBucket(x: Xlate, group: Group, depth: number): GroupBucket | undefined {
  for (const bucket of group.buckets) {
    if (bucketIsAlive(x, group, bucket, depth)) return bucket;
    reportDead(x, bucket);
  }
  return undefined;
}

/** The bucket with the highest score, by rendezvous hashing: few packets change buckets when one dies. */
function bestLiveBucket(x: Xlate, group: Group, basis: number): GroupBucket | undefined {
  let best: GroupBucket | undefined;
  let bestScore = 0;
  for (const bucket of group.buckets) {
    if (!bucketIsAlive(x, group, bucket, 0)) {
      reportDead(x, bucket);
      continue;
    }
    const score = Math.imul(hashTwoWords(bucket.id, basis) & 0xffff, bucket.weight) >>> 0;
    if (score >= bestScore) {
      best = bucket;
      bestScore = score;
    }
    report(x, 'detail', `bucket ${bucket.id}: score ${score}`);
  }
  return best;
}

function pickByFields(x: Xlate, group: Group, selection: GroupSelection): GroupBucket | undefined {
  let basis = hashUint64(selection.param);
  for (const { field, mask } of selection.fields) {
    const f = fieldByName(field);
    if (!prerequisiteMet(f, x.flow, x.wildcards)) continue;
    const value = getFieldBytes(x.flow, f).map((byte, i) => byte & mask[i]!);
    basis = hashBytes(value, basis);
    coverMasked(f, mask, x.wildcards);
  }
  return bestLiveBucket(x, group, basis);
}

/** Undefined with the pipeline waiting for the hash, or with no bucket alive: `forked` tells. */
function pickByDpHash(
  x: Xlate,
  group: Group,
  selector: Group['selector'] & { by: 'dp_hash' },
): GroupBucket | 'forked' | undefined {
  const hash = be32(x.flow, K_DP_HASH);
  if (hash === 0) {
    awaitHash(x, selector.algorithm, selector.basis);
    return 'forked';
  }
  const mask = selector.buckets.length - 1;
  for (let i = 0; i < 4; i++) x.wildcards[K_DP_HASH + i]! |= (mask >>> (24 - 8 * i)) & 0xff;
  for (let i = 0; i <= mask; i++) {
    const bucket = selector.buckets[(hash + i) & mask]!;
    if (bucketIsAlive(x, group, bucket, 0)) return bucket;
  }
  return undefined;
}

function pickSelect(x: Xlate, group: Group): GroupBucket | 'forked' | undefined {
  const { selector } = group;
  switch (selector.by) {
    case 'dp_hash':
      return pickByDpHash(x, group, selector);
    case 'fields':
      return pickByFields(x, group, selector.selection);
    default:
      coverHashFields(x.flow, x.wildcards, HASH_SYMMETRIC_L4);
      return bestLiveBucket(x, group, hashSymmetricL4(x.flow, 0));
  }
}

/** Runs a bucket on a copy of the packet: the flow is afterwards as before. */
function runBucket(x: Xlate, bucket: GroupBucket): void {
  const saved = x.flow.slice();
  const { trace, inBucket } = x;
  x.inBucket = true;
  x.trace = report(x, 'bucket', `bucket ${bucket.id}`);
  x.depth++;
  runActions(x, actionSetOrder(bucket.actions));
  x.depth--;
  finishFreezing(x);
  x.flow.set(saved);
  x.exit = false;
  x.trace = trace;
  x.inBucket = inBucket;
}

/** True: there is no such group, and the action list ends. */
export function translateGroup(x: Xlate, id: number): boolean {
  if (!mayResubmit(x)) return false;
  const group = x.bridge.groups?.get(id);
  if (group === undefined) {
    report(x, 'warn', `output to nonexistent group ${id}`);
    x.dropReason = DROP_NO_PORT;
    return true;
  }
  if (group.type === OFPGT_ALL || group.type === OFPGT_INDIRECT) {
    for (const bucket of group.buckets) {
      if (x.error === undefined) runBucket(x, bucket);
    }
    x.effects.groups.push({ group, bucket: undefined });
    return false;
  }
  const bucket = group.type === OFPGT_FF ? firstLiveBucket(x, group, 0) : pickSelect(x, group);
  if (bucket === 'forked') {
    report(x, 'detail', 'no live bucket'); // Open vSwitch says so: none is chosen yet
    return false;
  }
  if (bucket === undefined) {
    report(x, 'detail', 'no live bucket');
    x.dropReason = DROP_NO_PORT;
    return false;
  }
  report(x, 'detail', `using bucket ${bucket.id}`);
  runBucket(x, bucket);
  x.effects.groups.push({ group, bucket });
  return false;
}
