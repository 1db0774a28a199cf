// The groups of a bridge (OpenFlow 1.5.1 §5.10, §6.5): lists of buckets that a packet takes all of, or one of. A change
// replaces the group as a whole, so that a megaflow's effects, which name group and bucket, stay those of one version;
// the counters start anew, as in Open vSwitch.

import {
  BUCKET_ALL,
  BUCKET_FIRST,
  BUCKET_LAST,
  BUCKET_MAX,
  OFPG_ALL,
  OFPG_MAX,
  OFPGC_ADD,
  OFPGC_ADD_OR_MOD,
  OFPGC_DELETE,
  OFPGC_INSERT_BUCKET,
  OFPGC_MODIFY,
  OFPGC_REMOVE_BUCKET,
  OFPGT_SELECT,
} from '../wire/openflow/group.ts';
import type {
  Bucket,
  GroupDesc,
  GroupMod,
  GroupSelection,
  GroupStats,
} from '../wire/openflow/messages.ts';
import { OfError } from '../wire/openflow/types.ts';
import type { DebugLog } from './debugLog.ts';

/** Hash values of a select group. */
const MAX_HASHES = 256;
const MIN_HASHES = 16;

/** Numbers of OVS_HASH_ALG_*. */
export const HASH_ALG_L4 = 0;
export const HASH_ALG_SYM_L4 = 1;

/** A bucket with its counters. */
export interface GroupBucket extends Bucket {
  packets: number;
  bytes: number;
}

/** How a select group chooses: the best score of a hash of the packet, or a table over the data plane's hash. */
export type Selector =
  | { by: 'default' }
  | { by: 'fields'; selection: GroupSelection }
  | { by: 'dp_hash'; algorithm: number; basis: number; buckets: readonly GroupBucket[] };

export class Group {
  readonly id: number;
  readonly type: number;
  readonly buckets: readonly GroupBucket[];
  readonly selection: GroupSelection | undefined;
  readonly selector: Selector;
  readonly createdMs: number;
  packets = 0;
  bytes = 0;

  /** `say` hears how a select group is going to choose. */
  constructor(desc: GroupDesc, createdMs: number, say?: (text: string) => void) {
    this.id = desc.group;
    this.type = desc.groupType;
    this.buckets = desc.buckets.map((bucket) => ({ ...bucket, packets: 0, bytes: 0 }));
    this.selection = desc.selection;
    const isSelect = desc.groupType === OFPGT_SELECT;
    if (isSelect) say?.(`Constructing select group ${desc.group}`);
    this.selector = selectorOf(this.buckets, desc.selection, isSelect ? say : undefined);
    this.createdMs = createdMs;
  }

  describe(): GroupDesc {
    const { id, type, buckets, selection } = this;
    return {
      group: id,
      groupType: type,
      buckets: [...buckets],
      ...(selection === undefined ? {} : { selection }),
    };
  }

  stats(refCount: number, nowMs: number): GroupStats {
    return {
      group: this.id,
      refCount,
      packets: BigInt(this.packets),
      bytes: BigInt(this.bytes),
      durationMs: Math.max(0, nowMs - this.createdMs),
      buckets: this.buckets.map(({ packets, bytes }) => ({
        packets: BigInt(packets),
        bytes: BigInt(bytes),
      })),
    };
  }
}

function selectorOf(
  buckets: readonly GroupBucket[],
  selection: GroupSelection | undefined,
  say: ((text: string) => void) | undefined,
): Selector {
  if (selection === undefined) say?.('No selection method specified. Trying dp_hash.');
  else say?.(`Selection method specified: ${selection.method}.`);
  if (selection?.method === 'hash') {
    if (selection.fields.length > 0) {
      say?.(`Hash fields: ${selection.fields.map(({ field }) => field).join(',')}`);
      return { by: 'fields', selection };
    }
    say?.('No hash fields. Falling back to default hash method.');
    return { by: 'default' };
  }
  const table = spread(buckets, say);
  if (table === undefined) {
    say?.('Falling back to default hash method.');
    return { by: 'default' };
  }
  let algorithm = HASH_ALG_SYM_L4;
  let basis = 0;
  if (selection !== undefined) {
    algorithm = Number(selection.param >> 32n);
    if (algorithm > HASH_ALG_SYM_L4) {
      say?.(`Invalid dp_hash algorithm ${algorithm}. Defaulting to OVS_HASH_ALG_L4`);
      algorithm = HASH_ALG_L4;
    }
    basis = Number(selection.param & 0xffffffffn);
  }
  say?.(`Use dp_hash with ${table.length} hash values using algorithm ${algorithm}.`);
  return { by: 'dp_hash', algorithm, basis, buckets: table };
}

/**
 * Spreads hash values (a power of two) over the buckets in proportion to their weights, by Webster's method (that of
 * Sainte-Laguë): each value goes to the bucket with the highest weight / (2 × values so far + 1). Undefined when no
 * bucket has a weight or it would take more than MAX_HASHES.
 */
function spread(
  buckets: readonly GroupBucket[],
  say: ((text: string) => void) | undefined,
): GroupBucket[] | undefined {
  if (buckets.length === 0) {
    say?.("  Don't apply dp_hash method without buckets.");
    return undefined;
  }
  const weights = buckets.map((bucket) => bucket.weight).filter((weight) => weight > 0);
  if (weights.length === 0) {
    say?.('  Total weight is zero. No active buckets.');
    return undefined;
  }
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const minWeight = Math.min(...weights);
  say?.(`  Minimum weight: ${minWeight}, total weight: ${total}`);
  const least = Math.ceil(total / minWeight);
  const count = Math.max(MIN_HASHES, 2 ** Math.ceil(Math.log2(least)));
  if (count > MAX_HASHES) {
    say?.(`  Too many hash values required: ${count}`);
    return undefined;
  }
  say?.(`  Using ${count} hash values:`);
  const claims = buckets.map((bucket) => ({ bucket, divisor: 1 }));
  const table = Array.from({ length: count }, () => {
    let winner = claims[0]!;
    for (const claim of claims) {
      if (claim.bucket.weight / claim.divisor > winner.bucket.weight / winner.divisor) {
        winner = claim;
      }
    }
    winner.divisor += 2;
    return winner.bucket;
  });
  for (const { bucket, divisor } of say ? claims : []) {
    const target = ((count * bucket.weight) / total).toFixed(2);
    const hits = (divisor - 1) / 2;
    say?.(`  Bucket ${bucket.id}: weight=${bucket.weight}, target=${target} hits=${hits}`);
  }
  return table;
}

/** Old buckets, with the new ones behind the bucket that the message names. */
function insertBuckets(old: readonly Bucket[], mod: GroupMod): Bucket[] {
  const { commandBucket, buckets } = mod;
  const ids = new Set([...old, ...buckets].map((bucket) => bucket.id));
  let at = 0;
  if (commandBucket <= BUCKET_MAX) {
    at = old.findIndex((bucket) => bucket.id === commandBucket) + 1;
    if (at === 0) throw new OfError('OFPGMFC_UNKNOWN_BUCKET');
  } else if (commandBucket === BUCKET_LAST) {
    at = old.length;
  }
  if (ids.size !== old.length + buckets.length) throw new OfError('OFPGMFC_BUCKET_EXISTS');
  return [...old.slice(0, at), ...buckets, ...old.slice(at)];
}

function removeBuckets(old: readonly Bucket[], commandBucket: number): Bucket[] {
  switch (commandBucket) {
    case BUCKET_ALL:
      return [];
    case BUCKET_FIRST:
      return old.slice(1);
    case BUCKET_LAST:
      return old.slice(0, -1);
    default:
      if (!old.some((bucket) => bucket.id === commandBucket)) {
        throw new OfError('OFPGMFC_UNKNOWN_BUCKET');
      }
      return old.filter((bucket) => bucket.id !== commandBucket);
  }
}

/** What one group-mod did. */
export interface GroupChange {
  /** Groups that are gone: the flows that name them go, too. */
  readonly deleted: readonly Group[];
  undo(): void;
}

/** All groups of a bridge, by number. */
export class GroupTable {
  readonly #groups = new Map<number, Group>();
  readonly #nowMs: () => number;
  readonly #log: DebugLog | undefined;

  constructor(nowMs: () => number, log?: DebugLog) {
    this.#nowMs = nowMs;
    this.#log = log;
  }

  /** There may be thousands of groups of hundreds of buckets: nothing is said to nobody. */
  get #say(): ((text: string) => void) | undefined {
    const log = this.#log;
    return log?.isDbg() ? (text) => log.dbg(text) : undefined;
  }

  get size(): number {
    return this.#groups.size;
  }

  get(id: number): Group | undefined {
    return this.#groups.get(id);
  }

  has(id: number): boolean {
    return this.#groups.has(id);
  }

  [Symbol.iterator](): Iterator<Group> {
    return this.#groups.values();
  }

  /** One group or, for OFPG_ALL, all of them. */
  select(id: number): Group[] {
    if (id === OFPG_ALL) return [...this.#groups.values()];
    const group = this.#groups.get(id);
    return group === undefined ? [] : [group];
  }

  /** Carries out a group-mod; throws OfError and leaves everything as it was. */
  apply(mod: GroupMod): GroupChange {
    switch (mod.command) {
      case OFPGC_ADD:
        return this.#add(mod);
      case OFPGC_ADD_OR_MOD:
        return this.#groups.has(mod.group) ? this.#modify(mod) : this.#add(mod);
      case OFPGC_MODIFY:
      case OFPGC_INSERT_BUCKET:
      case OFPGC_REMOVE_BUCKET:
        return this.#modify(mod);
      case OFPGC_DELETE:
        return this.#delete(mod.group);
      default:
        throw new OfError('OFPGMFC_BAD_COMMAND');
    }
  }

  #add(mod: GroupMod): GroupChange {
    const { group: id } = mod;
    if (this.#groups.has(id)) throw new OfError('OFPGMFC_GROUP_EXISTS');
    if (id > OFPG_MAX) throw new OfError('OFPGMFC_INVALID_GROUP');
    this.#groups.set(id, new Group(mod, this.#nowMs(), this.#say));
    return { deleted: [], undo: () => void this.#groups.delete(id) };
  }

  #modify(mod: GroupMod): GroupChange {
    const { group: id } = mod;
    const old = this.#groups.get(id);
    if (old === undefined) throw new OfError('OFPGMFC_UNKNOWN_GROUP');
    let desc: GroupDesc = mod;
    // Buckets that come or go do not change what kind of group it is.
    if (mod.command === OFPGC_INSERT_BUCKET) {
      desc = { ...old.describe(), buckets: insertBuckets(old.buckets, mod) };
    } else if (mod.command === OFPGC_REMOVE_BUCKET) {
      desc = { ...old.describe(), buckets: removeBuckets(old.buckets, mod.commandBucket) };
    }
    this.#groups.set(id, new Group(desc, old.createdMs, this.#say));
    return { deleted: [], undo: () => void this.#groups.set(id, old) };
  }

  #delete(id: number): GroupChange {
    const deleted = this.select(id);
    for (const group of deleted) this.#groups.delete(group.id);
    return {
      deleted,
      undo: () => {
        for (const group of deleted) this.#groups.set(group.id, group);
      },
    };
  }
}
