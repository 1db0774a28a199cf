// OpenFlow version negotiation (1.5.1 §6.3.1): sets of versions as bitmaps, bit n for wire version n.

import type { OfVersion } from '../../wire/openflow/types.ts';

/** OpenFlow 1.0 … 1.5, what an empty Bridge.protocols allows. */
export const ALL_VERSIONS = 0x7e;

const NAMES: Readonly<Record<string, number>> = {
  OpenFlow10: 1,
  OpenFlow11: 2,
  OpenFlow12: 3,
  OpenFlow13: 4,
  OpenFlow14: 5,
  OpenFlow15: 6,
};

/** Bridge.protocols as a bitmap. Unknown names are left out; nothing left means all. */
export function versionsFromNames(names: Iterable<string>): number {
  let bitmap = 0;
  for (const name of names) {
    const version = NAMES[name];
    if (version !== undefined) bitmap |= 1 << version;
  }
  return bitmap === 0 ? ALL_VERSIONS : bitmap;
}

/** Highest version of a bitmap, 0 for an empty one. */
export function highestVersion(bitmap: number): number {
  return bitmap === 0 ? 0 : 31 - Math.clz32(bitmap);
}

/** What a hello without a version bitmap stands for: its own version and all before. */
export function versionsUpTo(version: number): number {
  return version >= 30 ? 0x7ffffffe : (1 << (version + 1)) - 2;
}

/** A bitmap is only sent if the version in the header would say something else. */
export function needsBitmap(bitmap: number): boolean {
  return versionsUpTo(highestVersion(bitmap)) !== bitmap;
}

/** Undefined when there is none. */
export function commonVersion(ours: number, theirs: number): OfVersion | undefined {
  const version = highestVersion(ours & theirs);
  return version === 0 ? undefined : (version as OfVersion);
}

/** As in messages about failed negotiations: "version 0x01 and earlier", "versions 0x01, 0x04". */
export function formatVersions(bitmap: number): string {
  if (bitmap === 0) return 'no versions';
  const highest = highestVersion(bitmap);
  if (bitmap === 1 << highest) return `version ${hex(highest)}`;
  if (versionsUpTo(highest) === bitmap) return `version ${hex(highest)} and earlier`;
  const versions: string[] = [];
  for (let version = 0; version < 31; version++) {
    if (bitmap & (1 << version)) versions.push(hex(version));
  }
  return `versions ${versions.join(', ')}`;
}

function hex(version: number): string {
  return `0x${version.toString(16).padStart(2, '0')}`;
}
