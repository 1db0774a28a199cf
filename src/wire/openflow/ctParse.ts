// The actions ct(…) and nat(…) from text (ovs-actions(7), "The ct action").

import { parseActions } from './actionParse.ts';
import { parseIpv4, parseIpv6 } from './address.ts';
import { type PortMap, parseSubfield, TextError } from './fieldText.ts';
import { splitKeyValues } from './matchParse.ts';
import type { Action } from './types.ts';

const COMMIT = 1;
const FORCE = 2;
const ALGS: Readonly<Record<string, number>> = { ftp: 21, tftp: 69 };
const NAT_FLAGS: Readonly<Record<string, number>> = { persistent: 4, hash: 8, random: 16 };
const SRC = 1;
const DST = 2;

function number(text: string, what: string, max: number): number {
  const n = /^(0x[0-9a-f]+|\d+)$/i.test(text) ? Number(text) : Number.NaN;
  if (!(n <= max)) throw new TextError(`invalid ${what} "${text}"`);
  return n;
}

export function parseCt(text: string, ports?: PortMap): Action {
  const ct: Action & { type: 'ct' } = {
    type: 'ct',
    flags: 0,
    zone: 0,
    table: 255,
    alg: 0,
    actions: [],
  };
  for (const [key, value] of splitKeyValues(text)) {
    switch (key) {
      case 'commit':
        ct.flags |= COMMIT;
        break;
      case 'force':
        ct.flags |= FORCE;
        break;
      case 'table':
        ct.table = number(value, 'recirculation table', 254);
        break;
      case 'zone':
        ct.zone = /^(0x)?[0-9a-f]+$/i.test(value)
          ? number(value, 'zone', 0xffff)
          : parseSubfield(value);
        break;
      case 'alg':
        ct.alg = ALGS[value] ?? unknown('alg', value);
        break;
      case 'nat':
        ct.actions.unshift(parseNat(value));
        break;
      case 'exec':
        ct.actions.push(...parseActions(value, ports));
        break;
      default:
        throw new TextError(`invalid argument to "ct" action: \`${key}'`);
    }
  }
  if ((ct.flags & (COMMIT | FORCE)) === FORCE) {
    throw new TextError('"force" flag requires "commit" flag.');
  }
  return ct;
}

function unknown(what: string, value: string): never {
  throw new TextError(`invalid ${what} "${value}"`);
}

function parseNat(text: string): Action {
  const nat: Action & { type: 'nat' } = { type: 'nat', flags: 0, portMin: 0, portMax: 0 };
  for (const [key, value] of splitKeyValues(text)) {
    if (key === 'src' || key === 'dst') {
      nat.flags |= key === 'src' ? SRC : DST;
      if (value !== '') parseRange(nat, value);
    } else {
      nat.flags |= NAT_FLAGS[key] ?? unknown('key', key);
    }
  }
  if ((nat.flags & SRC) !== 0 && (nat.flags & DST) !== 0) {
    throw new TextError('May only specify one of "src" or "dst".');
  }
  return nat;
}

/** "10.0.0.1-10.0.0.9:1024-2048", "[fd00::1]-[fd00::9]:80", "fd00::1". */
function parseRange(nat: Action & { type: 'nat' }, text: string): void {
  const parts =
    /^(\d+\.\d+\.\d+\.\d+)(?:-(\d+\.\d+\.\d+\.\d+))?(?::(\d+)(?:-(\d+))?)?$/.exec(text) ??
    /^\[([0-9a-f:.]+)\](?:-\[([0-9a-f:.]+)\])?(?::(\d+)(?:-(\d+))?)?$/i.exec(text) ??
    /^([0-9a-f:.]+)(?:-([0-9a-f:.]+))?$/i.exec(text) ??
    unknown('NAT range', text);
  const [, min = '', max, portMin, portMax] = parts;
  const address = (part: string): Uint8Array =>
    (part.includes(':') ? parseIpv6(part) : parseIpv4(part)) ?? unknown('IP address', part);
  nat.addressMin = address(min);
  if (max !== undefined) nat.addressMax = address(max);
  if (portMin !== undefined) nat.portMin = number(portMin, 'port', 0xffff);
  if (portMax !== undefined) nat.portMax = number(portMax, 'port', 0xffff);
}
