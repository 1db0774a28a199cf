// Bonds and LACP of all bridges, and their unixctl commands bond/* and lacp/*.

import { parseMac } from '../../wire/openflow/address.ts';
import { CommandFailure, type SwitchCommand } from '../commandTypes.ts';
import { BOND_BUCKETS, type Bond, type BondMember, hashMac } from './bond.ts';
import { BundleHost, type BundleHostModules } from './bundleHost.ts';

export class Bonds {
  readonly #hosts = new Set<BundleHost>();
  readonly #log: BundleHostModules['log'];

  constructor(log: BundleHostModules['log']) {
    this.#log = log;
  }

  add(modules: Omit<BundleHostModules, 'log'>): BundleHost {
    const host = new BundleHost({ ...modules, log: this.#log });
    this.#hosts.add(host);
    return host;
  }

  remove(host: BundleHost): void {
    host.close();
    this.#hosts.delete(host);
  }

  #bond(name: string): { bond: Bond; host: BundleHost } {
    for (const host of this.#hosts) {
      if (host.name === name && host.bond !== undefined) return { bond: host.bond, host };
    }
    throw new CommandFailure('no such bond');
  }

  #member(name: string, memberName: string): { bond: Bond; host: BundleHost; member: BondMember } {
    const { bond, host } = this.#bond(name);
    const member = bond.member(memberName);
    if (member === undefined) throw new CommandFailure('no such member');
    return { bond, host, member };
  }

  #show([name]: readonly string[]): string {
    if (name !== undefined) {
      const { bond, host } = this.#bond(name);
      return bond.show(host.nowMs());
    }
    let text = '';
    for (const host of this.#hosts) text += host.bond?.show(host.nowMs()) ?? '';
    return text;
  }

  #list(): string {
    let text = 'bond\ttype\trecircID\tmembers\n';
    for (const { bond } of this.#hosts) {
      if (bond === undefined) continue;
      const members = bond.members.map(({ port }) => port.name).join(', ');
      text += `${bond.settings.name}\t${bond.settings.mode}\t0\t${members}\n`;
    }
    return text;
  }

  #migrate([name, hash, memberName]: readonly string[]): string {
    const { bond, host } = this.#bond(name!);
    if (bond.settings.mode !== 'balance-slb') throw new CommandFailure('not an SLB bond');
    if (!/^\d*$/.test(hash!)) throw new CommandFailure('bad hash');
    const { member } = this.#member(name!, memberName!);
    if (!member.enabled) throw new CommandFailure('cannot migrate to disabled member');
    const entry = bond.entries?.[Number(hash) % BOND_BUCKETS];
    if (entry !== undefined) entry.member = member;
    bond.revalidate = true;
    host.run();
    return 'migrated';
  }

  #setActive([name, memberName]: readonly string[]): string {
    const { bond, host, member } = this.#member(name!, memberName!);
    if (!member.enabled) throw new CommandFailure('cannot make disabled member active');
    if (bond.active === member) return 'no change';
    bond.makeActive(member);
    host.run();
    return 'done';
  }

  #enable([name, memberName]: readonly string[], enable: boolean): string {
    const { bond, host, member } = this.#member(name!, memberName!);
    bond.enable(member, enable);
    host.run();
    return enable ? 'enabled' : 'disabled';
  }

  #lacp(name: string | undefined, show: 'show' | 'showStats'): string {
    const hosts = [...this.#hosts].filter(({ lacp }) => lacp !== undefined);
    const some = name === undefined ? hosts : hosts.filter((host) => host.name === name);
    if (name !== undefined && some.length === 0) throw new CommandFailure('no such lacp object');
    return some.map(({ lacp }) => lacp![show]()).join('');
  }

  commands(): SwitchCommand[] {
    const command = (
      name: string,
      usage: string,
      minArgs: number,
      maxArgs: number,
      run: SwitchCommand['run'],
    ): SwitchCommand => ({ name, usage, minArgs, maxArgs, run });
    return [
      command('bond/list', '', 0, 0, () => this.#list()),
      command('bond/show', '[port]', 0, 1, (args) => this.#show(args)),
      command('bond/migrate', 'port hash member', 3, 3, (args) => this.#migrate(args)),
      command('bond/hash', 'mac [vlan] [basis]', 1, 3, (args) => bondHash(args)),
      ...['member', 'slave'].flatMap((word) => {
        const usage = word === 'member' ? 'port member' : '';
        return [
          command(`bond/set-active-${word}`, usage, 2, 2, (args) => this.#setActive(args)),
          command(`bond/enable-${word}`, usage, 2, 2, (args) => this.#enable(args, true)),
          command(`bond/disable-${word}`, usage, 2, 2, (args) => this.#enable(args, false)),
        ];
      }),
      command('lacp/show', '[port]', 0, 1, ([name]) => this.#lacp(name, 'show')),
      command('lacp/show-stats', '[port]', 0, 1, ([name]) => this.#lacp(name, 'showStats')),
    ];
  }
}

function bondHash([text, vlanText, basisText]: readonly string[]): string {
  const number = (digits: string | undefined, what: string): number => {
    if (digits === undefined) return 0;
    const found = /^\s*[-+]?\d+/.exec(digits)?.[0];
    if (found === undefined) throw new CommandFailure(`invalid ${what}`);
    return Number(found) >>> 0;
  };
  const vlan = number(vlanText, 'vlan');
  const basis = number(basisText, 'basis');
  const mac = parseMac(text!);
  if (mac === undefined) throw new CommandFailure('invalid mac');
  return String(hashMac(mac, 0, vlan, basis) % BOND_BUCKETS);
}
