// Hugepages for the DPDK peers: asked from the kernel if there are too few, given back by nobody (other processes may
// have come to use them).

import { readFileSync, writeFileSync } from 'node:fs';

const DIRECTORY = '/sys/kernel/mm/hugepages/hugepages-2048kB';

function read(name: string): number {
  try {
    return Number(readFileSync(`${DIRECTORY}/${name}`, 'utf8'));
  } catch {
    return 0;
  }
}

/** Makes `megabytes` of free pages of 2 MiB available. Returns what to do if it cannot. */
export function ensureHugepages(megabytes: number): string | undefined {
  const wanted = Math.ceil(megabytes / 2);
  const missing = wanted - read('free_hugepages');
  if (missing <= 0) return undefined;
  const total = read('nr_hugepages') + missing;
  try {
    writeFileSync(`${DIRECTORY}/nr_hugepages`, String(total));
  } catch {
    return `as root: echo ${total} > ${DIRECTORY}/nr_hugepages`;
  }
  if (read('free_hugepages') >= wanted) return undefined;
  return `only ${read('free_hugepages')} of ${wanted} hugepages of 2 MiB: free memory, or reserve them at boot (hugepages=${total})`;
}
