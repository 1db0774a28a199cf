// A bond: several interfaces that act as one (ovs-vswitchd.conf.db(5), table Port, "Bonding Configuration").
//
//   active-backup   one member carries everything
//   balance-slb     a hash of source MAC and VLAN chooses the member; the other switch need not know of the bond
//   balance-tcp     a hash of addresses and ports chooses it; needs a partner that speaks LACP
//
// Hashes have 256 buckets. Each is given a member when it is first used, and moved from loaded members to idle ones every
// rebalance interval.

import { K_ETH_SRC } from '../../../contract/key.ts';
import { hex2 } from '../../wire/openflow/address.ts';
import {
  coverHashFields,
  HASH_ETH_SRC,
  HASH_SYMMETRIC_L3L4_UDP,
  hashAdd,
  hashFields,
  hashFinish,
} from '../flowHash.ts';
import type { BridgePort } from '../types.ts';
import { rebalance } from './rebalance.ts';

export const BOND_BUCKETS = 256;
const BOND_MASK = BOND_BUCKETS - 1;

export type BondMode = 'active-backup' | 'balance-slb' | 'balance-tcp';
export type LacpStatus = 'off' | 'configured' | 'negotiated';

export interface BondSettings {
  name: string;
  mode: BondMode;
  upDelayMs: number;
  downDelayMs: number;
  basis: number;
  /** 0: never. */
  rebalanceMs: number;
  fallbackAb: boolean;
  primary: string | undefined;
  allMembersActive: boolean;
  /** Address of the member that was active before a restart. */
  activeMac: string | undefined;
}

export interface BondMember {
  readonly port: BridgePort;
  enabled: boolean;
  mayEnable: boolean;
  /** When `enabled` may change; Infinity: it is as it should be. */
  delayExpiresMs: number;
}

export interface BondEntry {
  member: BondMember | undefined;
  /** Bytes sent lately. */
  txBytes: number;
}

export type Verdict = 'accept' | 'drop' | 'drop-if-moved';

/** Hash of balance-slb, and of bond/hash. */
export function hashMac(mac: Uint8Array, offset: number, vlan: number, basis: number): number {
  const word = (at: number, bytes: number): number => {
    let value = 0;
    for (let i = 0; i < bytes; i++) value = value * 256 + mac[offset + at + i]!;
    return value;
  };
  const low = word(2, 4);
  const high = ((vlan << 16) | word(0, 2)) >>> 0;
  return hashFinish(hashAdd(hashAdd(basis, low), high), 8) >>> 0;
}

const recircText = (id: number): string =>
  `bond may use recirculation: ${id > 0 ? 'yes' : 'no'}, Recirc-ID : ${id > 0 ? id : -1}`;

export class Bond {
  settings: BondSettings;
  readonly members: BondMember[] = [];
  active: BondMember | undefined;
  lacpStatus: LacpStatus = 'off';
  entries: BondEntry[] | undefined;
  /** Flows through the bond have to be translated again. */
  revalidate = false;
  /** The other switch does not know yet by which member addresses are reached. */
  sendLearning = false;
  nextRebalanceMs = 0;
  /** Packets come back under this recirculation id when the data plane has computed their hash; 0: it need not. */
  recircId = 0;
  #activeMac: string;
  #nextMember = 0;
  readonly #log: (text: string) => void;

  constructor(settings: BondSettings, log: (text: string) => void) {
    this.settings = settings;
    this.#log = log;
    this.#activeMac = settings.activeMac?.toLowerCase() ?? '';
  }

  configure(settings: BondSettings, nowMs: number): void {
    const old = this.settings;
    this.settings = settings;
    const same =
      old.mode === settings.mode &&
      old.basis === settings.basis &&
      old.rebalanceMs === settings.rebalanceMs &&
      old.fallbackAb === settings.fallbackAb &&
      old.primary === settings.primary &&
      old.allMembersActive === settings.allMembersActive;
    if (!same) this.revalidate = true;
    if (!same || this.entries === undefined) this.#resetEntries(nowMs);
  }

  register(port: BridgePort): void {
    if (this.members.some((member) => member.port === port)) return;
    const member = { port, enabled: false, mayEnable: false, delayExpiresMs: Infinity };
    this.members.push(member);
    this.members.sort((a, b) => (a.port.name < b.port.name ? -1 : 1));
    this.revalidate = true;
    this.enable(member, port.netdev.status().linkUp);
  }

  unregister(port: BridgePort): void {
    const at = this.members.findIndex((member) => member.port === port);
    if (at < 0) return;
    const [member] = this.members.splice(at, 1);
    this.revalidate = true;
    this.enable(member!, false);
    for (const entry of this.entries ?? []) {
      if (entry.member === member) entry.member = undefined;
    }
    if (this.active !== member) return;
    this.#chooseActive();
    this.sendLearning = true;
  }

  member(name: string): BondMember | undefined {
    return this.members.find(({ port }) => port.name === name);
  }

  /** Address of the active member, as it is written into the database; '' if there was none yet. */
  get activeMac(): string {
    return this.#activeMac;
  }

  /** Does balancing move traffic among members? */
  get balanced(): boolean {
    const { mode, rebalanceMs } = this.settings;
    return rebalanceMs > 0 && mode !== 'active-backup' && !this.#fallingBack(false);
  }

  /** `strict`: only balancing modes fall back. */
  #fallingBack(strict = true): boolean {
    const { fallbackAb, mode } = this.settings;
    if (strict && mode === 'active-backup') return false;
    return fallbackAb && this.lacpStatus === 'configured';
  }

  /** Link states and delays; `mayEnable` of the members has been brought up to date. */
  run(lacpStatus: LacpStatus, nowMs: number): void {
    if (this.lacpStatus !== lacpStatus) {
      this.lacpStatus = lacpStatus;
      this.revalidate = true;
      if (this.#fallingBack() || this.entries === undefined) this.#resetEntries(nowMs);
    }
    for (const member of this.members) this.#updateLink(member, nowMs);
    const { mode, primary } = this.settings;
    const preferred =
      mode === 'active-backup' && primary !== undefined ? this.member(primary) : undefined;
    const another = preferred?.enabled === true && preferred !== this.active;
    if (!this.active?.enabled || another) this.#chooseActive();
  }

  /** When run() has to be called again. */
  wakeMs(): number {
    let wakeMs = Math.min(...this.members.map(({ delayExpiresMs }) => delayExpiresMs));
    if (this.balanced && this.members.length > 1) wakeMs = Math.min(wakeMs, this.nextRebalanceMs);
    return wakeMs;
  }

  /** Moves load among members if it is time to. */
  rebalance(nowMs: number): void {
    if (!this.balanced || this.entries === undefined || nowMs < this.nextRebalanceMs) return;
    this.nextRebalanceMs = nowMs + this.settings.rebalanceMs;
    const enabled = this.members.filter((member) => member.enabled);
    for (const { hash, to, text } of rebalance(this.entries, enabled)) {
      this.#log(`bond ${this.settings.name}: ${text}`);
      this.entries[hash]!.member = to;
      this.revalidate = true;
    }
    // Old traffic counts half as much each time.
    for (const entry of this.entries) entry.txBytes = Math.floor(entry.txBytes / 2);
  }

  enable(member: BondMember, enable: boolean): void {
    member.delayExpiresMs = Infinity;
    if (member.enabled === enable) return;
    member.enabled = enable;
    this.revalidate = true;
    if (!enable) this.sendLearning = true;
    this.#log(`member ${member.port.name}: ${enable ? 'enabled' : 'disabled'}`);
  }

  makeActive(member: BondMember): void {
    this.revalidate = true;
    this.active = member;
    this.#log(`bond ${this.settings.name}: active member is now ${member.port.name}`);
    this.sendLearning = true;
    this.#activeMac = member.port.netdev.status().mac ?? '';
  }

  /** Does the other switch learn addresses from what we send? */
  get maySendLearning(): boolean {
    const { mode, fallbackAb } = this.settings;
    const plain = this.lacpStatus === 'off' && mode !== 'balance-tcp';
    return this.active !== undefined && (plain || (fallbackAb && this.lacpStatus === 'configured'));
  }

  // ---- translation

  /** May a packet come in by this member? */
  admits(port: BridgePort, isMulticast: boolean): Verdict {
    const member = this.members.find((one) => one.port === port);
    if (member === undefined) return 'drop';
    const { mode, fallbackAb, allMembersActive } = this.settings;
    if (this.lacpStatus === 'negotiated') {
      return member.enabled || member.mayEnable ? 'accept' : 'drop';
    }
    if (this.lacpStatus === 'configured' && !fallbackAb) return 'drop';
    if (this.lacpStatus === 'off' && mode === 'balance-tcp') return 'drop';
    const everywhere = mode === 'balance-slb' && allMembersActive;
    if (isMulticast && this.active !== member && !everywhere) return 'drop';
    if (mode === 'balance-slb') return 'drop-if-moved';
    return this.active === member ? 'accept' : 'drop';
  }

  /** Member by which a packet of the VLAN leaves, and its bucket. Notes in `mask` what it looked at. */
  choose(
    flow: Uint8Array,
    mask: Uint8Array | undefined,
    vlan: number,
  ): { port: BridgePort; entry: BondEntry | undefined } | undefined {
    let { mode } = this.settings;
    if (this.lacpStatus === 'configured') {
      if (!this.settings.fallbackAb) return undefined;
      mode = 'active-backup';
    }
    if (mode === 'active-backup')
      return this.active && { port: this.active.port, entry: undefined };
    if (mode === 'balance-tcp' && this.lacpStatus !== 'negotiated') return undefined;
    const { basis } = this.settings;
    const fields = mode === 'balance-tcp' ? HASH_SYMMETRIC_L3L4_UDP : HASH_ETH_SRC;
    if (mask !== undefined) coverHashFields(flow, mask, fields);
    const hash =
      mode === 'balance-tcp'
        ? hashFields(flow, fields, basis)
        : hashMac(flow, K_ETH_SRC, vlan, basis);
    return this.chooseByHash(hash);
  }

  /** Does the data plane compute the hash (translate/bondOutput.ts)? */
  get usesDataPlaneHash(): boolean {
    return this.settings.mode === 'balance-tcp' && this.lacpStatus === 'negotiated';
  }

  /** Member and bucket for a hash of the data plane. */
  chooseByHash(hash: number): { port: BridgePort; entry: BondEntry } | undefined {
    const entry = this.entries?.[hash & BOND_MASK];
    if (entry === undefined) return undefined;
    if (!entry.member?.enabled) entry.member = this.#nextEnabled();
    return entry.member && { port: entry.member.port, entry };
  }

  #nextEnabled(): BondMember | undefined {
    for (let i = 1; i <= this.members.length; i++) {
      const at = (this.#nextMember + i) % this.members.length;
      if (!this.members[at]!.enabled) continue;
      this.#nextMember = at;
      return this.members[at];
    }
    return undefined;
  }

  #resetEntries(nowMs: number): void {
    if (this.settings.mode === 'active-backup' || this.#fallingBack()) {
      this.entries = undefined;
      return;
    }
    this.entries = Array.from({ length: BOND_BUCKETS }, () => ({ member: undefined, txBytes: 0 }));
    this.nextRebalanceMs = nowMs + this.settings.rebalanceMs;
  }

  #updateLink(member: BondMember, nowMs: number): void {
    const up = member.port.netdev.status().linkUp && member.mayEnable;
    const { name } = member.port;
    if ((up === member.enabled) !== (member.delayExpiresMs === Infinity)) {
      this.#log(`member ${name}: link state ${up ? 'up' : 'down'}`);
      if (up === member.enabled) {
        member.delayExpiresMs = Infinity;
        this.#log(`member ${name}: will not be ${up ? 'disabled' : 'enabled'}`);
      } else {
        const delayMs = up ? this.settings.upDelayMs : this.settings.downDelayMs;
        member.delayExpiresMs = nowMs + delayMs;
        if (delayMs > 0) {
          const what = up ? 'enabled if it stays up' : 'disabled if it stays down';
          this.#log(`member ${name}: will be ${what} for ${delayMs} ms`);
        }
      }
    }
    if (nowMs >= member.delayExpiresMs) this.enable(member, up);
  }

  #chooseActive(): void {
    const { name } = this.settings;
    const before = this.active;
    const chosen = this.#best();
    this.active = chosen;
    if (chosen === undefined) {
      if (before !== undefined) this.#log(`bond ${name}: all members disabled`);
      return;
    }
    const skipped = chosen.enabled
      ? ''
      : ', skipping remaining updelay (since no member was enabled)';
    this.#log(`bond ${name}: active member is now ${chosen.port.name}${skipped}`);
    this.enable(chosen, true);
    this.revalidate = true;
    this.sendLearning = true;
    if (chosen !== before) this.#activeMac = chosen.port.netdev.status().mac ?? '';
  }

  #best(): BondMember | undefined {
    const enabled = this.members.filter((member) => member.enabled);
    const { primary } = this.settings;
    const waiting = this.members.filter((m) => m.delayExpiresMs !== Infinity && m.mayEnable);
    return (
      enabled.find(({ port }) => port.name === primary) ??
      enabled.find(({ port }) => port.netdev.status().mac === this.#activeMac) ??
      enabled[0] ??
      waiting.sort((a, b) => a.delayExpiresMs - b.delayExpiresMs)[0]
    );
  }

  /** bond/show. */
  show(nowMs: number): string {
    const { name, mode, basis, allMembersActive, upDelayMs, downDelayMs, fallbackAb, primary } =
      this.settings;
    const isNone = primary !== undefined && this.member(primary) === undefined;
    const known = this.members.find(({ port }) => port.netdev.status().mac === this.#activeMac);
    const lines = [
      `---- ${name} ----`,
      `bond_mode: ${mode}`,
      recircText(this.recircId),
      `bond-hash-basis: ${basis}`,
      'lb_output action: disabled, bond-id: -1',
      ...(mode === 'balance-slb' ? [`all members active: ${allMembersActive}`] : []),
      `updelay: ${upDelayMs} ms`,
      `downdelay: ${downDelayMs} ms`,
      ...(this.balanced ? [`next rebalance: ${Math.round(this.nextRebalanceMs - nowMs)} ms`] : []),
      `lacp_status: ${this.lacpStatus}`,
      `lacp_fallback_ab: ${fallbackAb}`,
      `active-backup primary: ${primary ?? '<none>'}${isNone ? ' (no such member)' : ''}`,
      `active member mac: ${this.#activeMac || hex2(new Uint8Array(6))}(${known?.port.name ?? 'none'})`,
    ];
    for (const member of this.members) {
      const left = Math.round(member.delayExpiresMs - nowMs);
      lines.push(
        '',
        `member ${member.port.name}: ${member.enabled ? 'enabled' : 'disabled'}`,
        ...(member === this.active ? ['  active member'] : []),
        ...(member.delayExpiresMs === Infinity
          ? []
          : [`  ${member.enabled ? 'downdelay' : 'updelay'} expires in ${left} ms`]),
        `  may_enable: ${member.mayEnable}`,
      );
      if (!this.balanced) continue;
      this.entries?.forEach((entry, hash) => {
        const kilobytes = Math.floor(entry.txBytes / 1024);
        if (entry.member === member && kilobytes > 0) {
          lines.push(`  hash ${hash}: ${kilobytes} kB load`);
        }
      });
    }
    return `${lines.join('\n')}\n\n`;
  }
}
