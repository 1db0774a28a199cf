// Values of the database's string maps, read as Open vSwitch reads them (smap_get_bool, smap_get_int).

export type StringMap = Readonly<Record<string, string>>;

/** Only the other word changes the default. */
export function boolOf(map: StringMap, key: string, fallback: boolean): boolean {
  const value = map[key]?.toLowerCase();
  return fallback ? value !== 'false' : value === 'true';
}

/** A whole decimal number, or the default. */
export function intOf(map: StringMap, key: string, fallback: number): number {
  const value = map[key];
  if (value === undefined || !/^\s*[-+]?\d+$/.test(value)) return fallback;
  const number = Number(value);
  return Math.abs(number) <= 0x7fffffff ? number : fallback;
}

/** Six bytes of "02:00:00:00:00:01"; undefined for anything else, and for the address of zeros. */
export function macOf(map: StringMap, key: string): Uint8Array | undefined {
  const value = map[key];
  if (value === undefined || !/^([0-9a-f]{1,2}:){5}[0-9a-f]{1,2}$/i.test(value)) return undefined;
  const bytes = Uint8Array.from(value.split(':'), (byte) => Number.parseInt(byte, 16));
  return bytes.some((byte) => byte !== 0) ? bytes : undefined;
}
