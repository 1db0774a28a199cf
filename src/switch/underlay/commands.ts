// unixctl commands of the underlay: ovs/route/*, tnl/neigh/* and their older names tnl/arp/*.

import { parseMac } from '../../wire/openflow/address.ts';
import { CommandFailure, type SwitchCommand } from '../commandTypes.ts';
import { formatAddress, isMapped, type Prefix, parseAddress, parsePrefix } from './address.ts';
import { AGING_MAX_S } from './neighbours.ts';
import { formatRoute } from './router.ts';
import type { HostUnderlay } from './underlay.ts';

const UNSET = new Uint8Array(16);

/** "pkt_mark=N", decimal, hexadecimal or octal; undefined for anything else. */
function parseMark(text: string): number | undefined {
  const digits = /^pkt_mark=([-+]?(?:0x[0-9a-f]+|\d+))/i.exec(text)?.[1];
  if (digits === undefined) return undefined;
  const octal = /^[-+]?0\d/.test(digits);
  const sign = digits.startsWith('-') ? -1 : 1;
  const body = digits.replace(/^[-+]/, '');
  return (sign * (octal ? Number.parseInt(body, 8) : Number(body))) >>> 0;
}

function prefixOf(text: string): Prefix {
  const prefix = parsePrefix(text);
  if (prefix === undefined) throw new CommandFailure('Invalid parameters');
  return prefix;
}

function markOf(text: string | undefined): number {
  if (text === undefined) return 0;
  const mark = parseMark(text);
  if (mark === undefined) throw new CommandFailure('Invalid pkt_mark');
  return mark;
}

function addRoute(underlay: HostUnderlay, args: readonly string[]): string {
  const { address: destination, prefixBits, isIpv4 } = prefixOf(args[0]!);
  let mark = 0;
  let gateway: Uint8Array | undefined;
  if (args[2] !== undefined) {
    const parsed = parseMark(args[2]);
    gateway = parsed === undefined ? parseAddress(args[2]) : undefined;
    if (parsed === undefined && (gateway === undefined || isMapped(gateway) !== isIpv4)) {
      throw new CommandFailure(`Invalid pkt_mark or ${isIpv4 ? '' : 'IPv6 '}gateway`);
    }
    mark = parsed ?? 0;
  }
  if (args[3] !== undefined) mark = markOf(args[3]);
  const route = { mark, destination, prefixBits, device: args[1]!, gateway };
  if (!underlay.router.addUser(route)) {
    // The device may have got its address this moment: what the kernel tells of that is on its way.
    underlay.readKernel();
    if (!underlay.router.addUser(route)) throw new CommandFailure('Error while inserting route.');
  }
  underlay.changed();
  return 'OK';
}

function deleteRoute(underlay: HostUnderlay, args: readonly string[]): string {
  const { address, prefixBits } = prefixOf(args[0]!);
  const mark = markOf(args[1]);
  if (!underlay.router.deleteUser(mark, address, prefixBits)) throw new CommandFailure('Not found');
  underlay.changed();
  return 'OK';
}

function lookupRoute(underlay: HostUnderlay, args: readonly string[]): string {
  const { address, prefixBits } = prefixOf(args[0]!);
  if (prefixBits !== 128) throw new CommandFailure('Invalid parameters');
  const entry = underlay.router.lookup(address, markOf(args[1]));
  if (entry === undefined) throw new CommandFailure('Not found');
  const gateway = formatAddress(entry.gateway ?? UNSET);
  return `src ${formatAddress(entry.source)}\ngateway ${gateway}\ndev ${entry.device}\n`;
}

function setNeighbour({ neighbours }: HostUnderlay, args: readonly string[]): string {
  const address = parseAddress(args[1]!);
  if (address === undefined) throw new CommandFailure('bad IP address');
  const mac = parseMac(args[2]!);
  if (mac === undefined) throw new CommandFailure('bad MAC address');
  neighbours.set(args[0]!, address, mac);
  return 'OK';
}

function aging({ neighbours }: HostUnderlay, args: readonly string[]): string {
  if (args[0] === undefined) return String(neighbours.agingSeconds);
  const digits = /^\d+/.exec(args[0])?.[0];
  const seconds = Number(digits ?? 0);
  if (seconds === 0 || seconds > AGING_MAX_S) throw new CommandFailure('bad aging value');
  neighbours.agingSeconds = seconds;
  return 'OK';
}

export function underlayCommands(underlay: HostUnderlay): SwitchCommand[] {
  const command = (
    name: string,
    usage: string,
    minArgs: number,
    maxArgs: number,
    run: SwitchCommand['run'],
  ): SwitchCommand => ({ name, usage, minArgs, maxArgs, run });
  return [
    command('ovs/route/add', 'ip_addr/prefix_len out_br_name [gw] [pkt_mark=mark]', 2, 4, (args) =>
      addRoute(underlay, args),
    ),
    command('ovs/route/show', '', 0, 0, () => {
      let text = 'Route Table:\n';
      for (const entry of underlay.router) text += formatRoute(entry);
      return text;
    }),
    command('ovs/route/del', 'ip_addr/prefix_len [pkt_mark=mark]', 1, 2, (args) =>
      deleteRoute(underlay, args),
    ),
    command('ovs/route/lookup', 'ip_addr [pkt_mark=mark]', 1, 2, (args) =>
      lookupRoute(underlay, args),
    ),
    ...['tnl/arp', 'tnl/neigh'].flatMap((group) => [
      command(`${group}/show`, '', 0, 0, () => underlay.neighbours.show()),
      command(`${group}/set`, 'BRIDGE IP MAC', 3, 3, (args) => setNeighbour(underlay, args)),
      command(`${group}/flush`, '', 0, 0, () => {
        underlay.neighbours.flush();
        return 'OK';
      }),
      command(`${group}/aging`, '[SECS]', 0, 1, (args) => aging(underlay, args)),
    ]),
  ];
}
