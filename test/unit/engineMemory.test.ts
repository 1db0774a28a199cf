// The shared memory asks for huge pages where lines of many flows are touched, and nowhere else: what is used sparsely stays
// small.

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { it } from 'node:test';
import { CT_RECORDS } from '../../contract/ct.ts';
import {
  ARENA_BASE,
  CACHE_BASE,
  FLOW_COUNTERS_BASE,
  FLOW_TABLE_BASE,
  PORT_COUNTERS_BASE,
  PRIVATE_BASE,
  UPCALL_BASE,
  WINDOW_BASE,
} from '../../contract/memory.ts';
import { EngineMemory } from '../../src/engine/memory.ts';

/** VmFlags of the mapping that holds an address of this process. */
function flagsOf(address: bigint): string[] {
  let inside = false;
  for (const line of readFileSync('/proc/self/smaps', 'utf8').split('\n')) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    if (range) inside = BigInt(`0x${range[1]}`) <= address && address < BigInt(`0x${range[2]}`);
    else if (inside && line.startsWith('VmFlags:')) return line.split(/\s+/).slice(1);
  }
  throw new Error(`nothing is mapped at ${address.toString(16)}`);
}

const HUGE = {
  FLOW_TABLE_BASE,
  FLOW_COUNTERS_BASE,
  CACHE_BASE,
  PRIVATE_BASE,
};
const SMALL = { PORT_COUNTERS_BASE, UPCALL_BASE, ARENA_BASE, CT_RECORDS, WINDOW_BASE };

// A kernel built without them has no such directory, and the advice no effect.
const skip = !existsSync('/sys/kernel/mm/transparent_hugepage') && 'the kernel has no huge pages';

it('huge pages for flows and caches', { skip }, () => {
  const { base } = new EngineMemory();
  for (const [name, offset] of Object.entries(HUGE)) {
    assert.ok(flagsOf(base + BigInt(offset)).includes('hg'), name);
  }
  for (const [name, offset] of Object.entries(SMALL)) {
    assert.ok(!flagsOf(base + BigInt(offset)).includes('hg'), name);
  }
});
