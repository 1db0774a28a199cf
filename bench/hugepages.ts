// Hugepages for the DPDK peers: asked from the kernel if there are too few, given back by nobody (other processes may
// have come to use them).

import { existsSync, readFileSync, writeFileSync } from 'node:fs';

const DIRECTORY = '/sys/kernel/mm/hugepages/hugepages-2048kB';

/** Makes `megabytes` of free pages of 2 MiB available. Returns what to do if it cannot. */
export function ensureHugepages(megabytes: number, directory = DIRECTORY): string | undefined {
  const read = (name: string): number => {
    try {
      return Number(readFileSync(`${directory}/${name}`, 'utf8'));
    } catch {
      return 0;
    }
  };
  if (!existsSync(directory)) return 'this kernel has no hugepages of 2 MiB (CONFIG_HUGETLBFS)';
  const wanted = Math.ceil(megabytes / 2);
  const missing = wanted - read('free_hugepages');
  if (missing <= 0) return undefined;
  const total = read('nr_hugepages') + missing;
  try {
    writeFileSync(`${directory}/nr_hugepages`, String(total));
  } catch {
    return `as root: echo ${total} > ${directory}/nr_hugepages`;
  }
  if (read('free_hugepages') >= wanted) return undefined;
  return `only ${read('free_hugepages')} of ${wanted} hugepages of 2 MiB: free memory, or reserve them at boot (hugepages=${total})`;
}
