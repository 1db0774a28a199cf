// Options erspan_ver, erspan_idx, erspan_dir and erspan_hwid of a tunnel interface (ovs-vswitchd.conf.db(5)): each is a number, or
// "flow": fields of the same name say.

import { ERSPAN_HWID, ERSPAN_INDEX } from '../../contract/tunnel.ts';

type Setting = number | 'flow';

export interface ErspanConfig {
  readonly version: Setting;
  readonly index: Setting;
  readonly direction: Setting;
  readonly hwid: Setting;
  /** Bits of K_TUN_ERSPAN that are the port's, and a mask of those that are a flow's. */
  readonly fixed: number;
  readonly flowBits: number;
}

/** An unsigned number in front of the text, as strtol(3) reads it. */
function leading(text: string, base: 10 | 16): number {
  const digits = base === 16 ? /^\s*(?:0x)?([0-9a-f]+)/i : /^\s*(\d+)/;
  return Number.parseInt(digits.exec(text)?.[1] ?? (/^\s*-/.test(text) ? '-1' : '0'), base);
}

/** Throws what `fail` makes of a value that is out of range. */
export function parseErspan(
  name: string,
  options: Readonly<Record<string, string>>,
  fail: (text: string) => never,
): ErspanConfig {
  const read = (
    option: string,
    what: string,
    base: 10 | 16,
    isValid: (value: number) => boolean,
  ): Setting => {
    const text = options[option];
    if (text === undefined) return 0;
    if (text === 'flow') return text;
    const value = leading(text, base);
    return isValid(value) ? value : fail(`${name}: invalid erspan ${what}: ${text}`);
  };
  const within = (most: number) => (value: number) => value >= 0 && value <= most;
  const version = read('erspan_ver', 'version', 10, (value) => value === 1 || value === 2);
  const given = {
    index: read('erspan_idx', 'index', 16, within(ERSPAN_INDEX)),
    direction: read('erspan_dir', 'direction', 10, within(1)),
    hwid: read('erspan_hwid', 'hardware ID', 16, within(ERSPAN_HWID)),
  };
  // A version that flows choose leaves the rest to them, too.
  const all: typeof given =
    version === 'flow' ? { index: 'flow', direction: 'flow', hwid: 'flow' } : given;
  let fixed = 0;
  let flowBits = 0;
  const place = (setting: Setting, shift: number, bits: number): void => {
    if (setting === 'flow') flowBits |= bits << shift;
    else fixed |= setting << shift;
  };
  place(version, 28, 15);
  place(all.index, 8, ERSPAN_INDEX);
  place(all.direction, 6, 1);
  place(all.hwid, 0, ERSPAN_HWID);
  return { version, ...all, fixed, flowBits };
}

/** The settings as dpif/show tells them. */
export function erspanArguments(config: ErspanConfig): [string, string][] {
  const { version, index, direction, hwid } = config;
  const hex = (setting: Setting): string =>
    setting === 'flow' ? setting : `0x${setting.toString(16)}`;
  const list: [string, string][] = [['erspan_ver', String(version)]];
  if (version === 1 || version === 'flow') list.push(['erspan_idx', hex(index)]);
  if (version === 2 || version === 'flow') {
    list.push(['erspan_dir', String(direction)], ['erspan_hwid', hex(hwid)]);
  }
  return list;
}
