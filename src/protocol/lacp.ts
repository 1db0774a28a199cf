// Link Aggregation Control Protocol (IEEE 802.1AX), as Open vSwitch speaks it: one aggregator and its members, changed
// by events, without clock, timer or socket. A LACPDU behind the Ethernet type 0x8809:
//
//   0 subtype 1   1 version 1   2 type 1, length 20   4 actor (15 bytes)   22 type 2, length 20   24 partner (15 bytes)
//   42 type 3, length 16, collector delay   110 end
//   actor, partner: 0 u16 system priority   2 system id (6)   8 u16 key   10 u16 port priority   12 u16 port   14 state
//
// A member is CURRENT while LACPDUs come, EXPIRED when three are missing, DEFAULTED three seconds later. It is attached
// if its partner is the one that most members (the one of highest priority) have.

export const ETH_TYPE_LACP = 0x8809;
export const ETH_ADDR_LACP = Uint8Array.of(0x01, 0x80, 0xc2, 0, 0, 0x02);
const PDU_LENGTH = 110;
const INFO_LENGTH = 15;
const ACTOR = 4;
const PARTNER = 24;
const SUBTYPE_LACP = 1;
const SUBTYPE_MARKER = 2;
// Offsets in an information field.
const I_SYS_PRIORITY = 0;
const I_SYS_ID = 2;
const I_KEY = 8;
const I_PORT_PRIORITY = 10;
const I_PORT_ID = 12;
const I_STATE = 14;

const STATE_ACTIVITY = 1;
const STATE_TIMEOUT = 2;
const STATE_AGGREGATION = 4;
const STATE_SYNC = 8;
const STATE_COLLECTING = 16;
const STATE_DISTRIBUTING = 32;
const STATE_DEFAULTED = 64;
const STATE_EXPIRED = 128;
const STATE_NAMES = [
  'activity',
  'timeout',
  'aggregation',
  'synchronized',
  'collecting',
  'distributing',
  'defaulted',
  'expired',
];
const TX_STATE = STATE_ACTIVITY | STATE_TIMEOUT | STATE_SYNC | STATE_AGGREGATION;

const FAST_MS = 1000;
const SLOW_MS = 30000;
const RX_MULTIPLIER = 3;

export interface LacpSettings {
  name: string;
  systemId: Uint8Array;
  systemPriority: number;
  active: boolean;
  fast: boolean;
  fallbackAb: boolean;
}

export interface LacpMemberSettings {
  name: string;
  portId: number;
  priority: number;
  /** 0: the port number of the first member. */
  key: number;
}

/** Of the MIB of IEEE 802.1AX; states are bits of a LACPDU. */
export interface LacpMemberCounters {
  systemId: Uint8Array;
  partnerId: Uint8Array;
  key: number;
  actorAdmin: number;
  actorOper: number;
  partnerOper: number;
  received: number;
  illegal: number;
  sent: number;
}

type MemberStatus = 'current' | 'expired' | 'defaulted';

export class LacpMember {
  settings: LacpMemberSettings = { name: '', portId: 0, priority: 0, key: 0 };
  status: MemberStatus = 'defaulted';
  attached = false;
  carrierUp = false;
  partner: Uint8Array = new Uint8Array(INFO_LENGTH);
  /** What the partner believes about us: differs it from the truth, we tell. */
  believed: Uint8Array = new Uint8Array(INFO_LENGTH);
  txMs = 0;
  rxMs = 0;
  readonly counts = { rx: 0, rxBad: 0, rxMarker: 0, tx: 0, expired: 0, defaulted: 0, carrier: 0 };
}

const be16 = (info: Uint8Array, at: number): number => (info[at]! << 8) | info[at + 1]!;
const put16 = (info: Uint8Array, at: number, value: number): void => {
  info[at] = value >> 8;
  info[at + 1] = value;
};
const systemId = (info: Uint8Array): Uint8Array => info.subarray(I_SYS_ID, I_SYS_ID + 6);
const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;
const macText = (mac: Uint8Array): string =>
  Array.from(mac, (byte) => byte.toString(16).padStart(2, '0')).join(':');
const stateText = (state: number): string =>
  STATE_NAMES.filter((_, bit) => (state & (1 << bit)) !== 0)
    .map((name) => ` ${name}`)
    .join('');

/** Nothing differs that the partner has to be told. */
function told(a: Uint8Array, b: Uint8Array): boolean {
  return (
    ((a[I_STATE]! ^ b[I_STATE]!) & TX_STATE) === 0 && same(a.subarray(0, 14), b.subarray(0, 14))
  );
}

export class LacpAggregator<Port> {
  settings: LacpSettings;
  /** Some member has a partner. */
  negotiated = false;
  readonly #members = new Map<Port, LacpMember>();
  readonly #warn: (text: string) => void;
  #update = false;

  constructor(settings: LacpSettings, warn: (text: string) => void) {
    this.settings = settings;
    this.#warn = warn;
  }

  configure(settings: LacpSettings): void {
    const old = this.settings;
    this.settings = settings;
    const changed =
      !same(old.systemId, settings.systemId) ||
      old.systemPriority !== settings.systemPriority ||
      old.fallbackAb !== settings.fallbackAb;
    if (changed) this.#update = true;
  }

  /** Adds a member, or gives it new settings. */
  register(port: Port, settings: LacpMemberSettings, nowMs: number): void {
    let member = this.#members.get(port);
    if (member === undefined) {
      member = new LacpMember();
      this.#members.set(port, member);
      this.#setDefaulted(member);
    }
    const { portId, priority, key } = member.settings;
    member.settings = settings;
    if (portId === settings.portId && priority === settings.priority && key === settings.key)
      return;
    this.#update = true;
    if (this.settings.active || this.negotiated) this.#setExpired(member, nowMs);
  }

  unregister(port: Port): void {
    if (this.#members.delete(port)) this.#update = true;
  }

  get ports(): Iterable<Port> {
    return this.#members.keys();
  }

  carrierChanged(port: Port, up: boolean, nowMs: number): void {
    const member = this.#members.get(port);
    if (member === undefined) return;
    if (member.status === 'current' || this.settings.active) this.#setExpired(member, nowMs);
    if (member.carrierUp !== up) {
      member.carrierUp = up;
      member.counts.carrier++;
    }
  }

  /** May a member whose carrier is up carry traffic? */
  mayEnable(port: Port): boolean {
    const member = this.#members.get(port);
    if (member === undefined) return false;
    member.carrierUp = true;
    return this.#mayEnable(member);
  }

  /** What a member counts and says of itself, and what its partner says. */
  counters(port: Port): LacpMemberCounters | undefined {
    const member = this.#members.get(port);
    if (member === undefined) return undefined;
    const { active, fast, systemId: id } = this.settings;
    const { rx, rxBad, tx } = member.counts;
    return {
      systemId: id,
      partnerId: systemId(member.partner),
      key: this.#key(),
      actorAdmin: STATE_AGGREGATION | (active ? STATE_ACTIVITY : 0) | (fast ? STATE_TIMEOUT : 0),
      actorOper: this.#actorOf(member)[I_STATE]!,
      partnerOper: member.partner[I_STATE]!,
      received: rx,
      illegal: rxBad,
      sent: tx,
    };
  }

  /** Interface.lacp_current. */
  isCurrent(port: Port): boolean {
    const member = this.#members.get(port);
    return member !== undefined && member.status !== 'defaulted';
  }

  /** A frame of type 0x8809 has come in; `payload` follows the type. */
  receive(port: Port, payload: Uint8Array, nowMs: number): void {
    const member = this.#members.get(port);
    if (member === undefined) return;
    const { name, fast } = this.settings;
    member.counts.rx++;
    if (payload.length >= PDU_LENGTH && payload[0] === SUBTYPE_MARKER) {
      member.counts.rxMarker++;
      return;
    }
    if (!isLacpdu(payload)) {
      member.counts.rxBad++;
      this.#warn(`${name}: received an unparsable LACP PDU.`);
      return;
    }
    if (!member.carrierUp) {
      const text = 'carrier state is DOWN, dropping received LACP PDU.';
      this.#warn(`${member.settings.name}: ${text}`);
      return;
    }
    member.status = 'current';
    member.rxMs = nowMs + RX_MULTIPLIER * (fast ? FAST_MS : SLOW_MS);
    member.believed = payload.slice(PARTNER, PARTNER + INFO_LENGTH);
    const actor = payload.subarray(ACTOR, ACTOR + INFO_LENGTH);
    if (same(member.partner, actor)) return;
    this.#update = true;
    member.partner = actor.slice();
  }

  /** What is due now: time-outs, attachment, and LACPDUs to send. */
  run(nowMs: number): { port: Port; pdu: Uint8Array }[] {
    for (const member of this.#members.values()) {
      if (nowMs < member.rxMs) continue;
      if (member.status === 'current') {
        this.#setExpired(member, nowMs);
        member.counts.expired++;
      } else if (member.status === 'expired') {
        this.#setDefaulted(member);
        member.counts.defaulted++;
      }
    }
    if (this.#update) this.#updateAttached();
    const out: { port: Port; pdu: Uint8Array }[] = [];
    for (const [port, member] of this.#members) {
      if (!this.#mayTransmit(member)) continue;
      const actor = this.#actorOf(member);
      if (nowMs < member.txMs && told(actor, member.believed)) continue;
      member.believed = actor;
      out.push({ port, pdu: composeLacpdu(actor, member.partner) });
      member.counts.tx++;
      const fast = (member.partner[I_STATE]! & STATE_TIMEOUT) !== 0;
      member.txMs = nowMs + (fast ? FAST_MS : SLOW_MS);
    }
    return out;
  }

  /** When run() is due again. */
  wakeMs(): number {
    let wakeMs = this.#update ? 0 : Infinity;
    for (const member of this.#members.values()) {
      if (this.#mayTransmit(member)) wakeMs = Math.min(wakeMs, member.txMs);
      if (member.status !== 'defaulted') wakeMs = Math.min(wakeMs, member.rxMs);
    }
    return wakeMs;
  }

  /** lacp/show. */
  show(): string {
    const { name, active, systemId: id, systemPriority, fast } = this.settings;
    const [first] = this.#members.values();
    const lines = [
      `---- ${name} ----`,
      `  status: ${active ? 'active' : 'passive'}${this.negotiated ? ' negotiated' : ''}`,
      `  sys_id: ${macText(id)}`,
      `  sys_priority: ${systemPriority}`,
      `  aggregation key: ${first ? this.#key() : 'none'}`,
      `  lacp_time: ${fast ? 'fast' : 'slow'}`,
    ];
    for (const member of this.#sorted()) {
      const { settings, status, attached, partner } = member;
      lines.push(
        '',
        `member: ${settings.name}: ${status} ${attached ? 'attached' : 'detached'}`,
        `  port_id: ${settings.portId}`,
        `  port_priority: ${settings.priority}`,
        `  may_enable: ${this.#mayEnable(member)}`,
        '',
        ...infoLines('actor', this.#actorOf(member)),
        '',
        ...infoLines('partner', partner),
      );
    }
    return lines.map((line) => `${line}\n`).join('');
  }

  /** lacp/show-stats. */
  showStats(): string {
    const lines = [`---- ${this.settings.name} statistics ----`];
    for (const { settings, counts } of this.#sorted()) {
      lines.push(
        '',
        `member: ${settings.name}:`,
        `  TX PDUs: ${counts.tx}`,
        `  RX PDUs: ${counts.rx}`,
        `  RX Bad PDUs: ${counts.rxBad}`,
        `  RX Marker Request PDUs: ${counts.rxMarker}`,
        `  Link Expired: ${counts.expired}`,
        `  Link Defaulted: ${counts.defaulted}`,
        `  Carrier Status Changed: ${counts.carrier}`,
      );
    }
    return lines.map((line) => `${line}\n`).join('');
  }

  #sorted(): LacpMember[] {
    const byName = (a: LacpMember, b: LacpMember): number =>
      a.settings.name < b.settings.name ? -1 : 1;
    return [...this.#members.values()].sort(byName);
  }

  #key(): number {
    const [first] = this.#members.values();
    return first!.settings.key || first!.settings.portId;
  }

  #mayEnable(member: LacpMember): boolean {
    const synchronized = (member.partner[I_STATE]! & STATE_SYNC) !== 0;
    const alone = this.settings.fallbackAb && member.status === 'defaulted';
    return member.attached && (synchronized || alone);
  }

  #mayTransmit(member: LacpMember): boolean {
    return member.carrierUp && (this.settings.active || member.status !== 'defaulted');
  }

  #setDefaulted(member: LacpMember): void {
    member.partner = new Uint8Array(INFO_LENGTH);
    member.status = 'defaulted';
    this.#update = true;
  }

  #setExpired(member: LacpMember, nowMs: number): void {
    member.status = 'expired';
    member.partner[I_STATE] = (member.partner[I_STATE]! | STATE_TIMEOUT) & ~STATE_SYNC;
    member.rxMs = nowMs + RX_MULTIPLIER * FAST_MS;
  }

  #actorOf(member: LacpMember): Uint8Array {
    const { active, fast, systemPriority, systemId: id } = this.settings;
    let state = 0;
    if (active) state |= STATE_ACTIVITY;
    if (fast) state |= STATE_TIMEOUT;
    if (member.attached) state |= STATE_SYNC;
    if (member.status === 'defaulted') state |= STATE_DEFAULTED;
    if (member.status === 'expired') state |= STATE_EXPIRED;
    if (this.#members.size > 1) state |= STATE_AGGREGATION;
    if (member.attached || !this.negotiated) state |= STATE_COLLECTING | STATE_DISTRIBUTING;
    const info = new Uint8Array(INFO_LENGTH);
    put16(info, I_SYS_PRIORITY, systemPriority);
    info.set(id, I_SYS_ID);
    put16(info, I_KEY, this.#key());
    put16(info, I_PORT_PRIORITY, member.settings.priority);
    put16(info, I_PORT_ID, member.settings.portId);
    info[I_STATE] = state;
    return info;
  }

  /** Priority of a link, as the system of higher priority sees it: less is higher. */
  #priorityOf(member: LacpMember): Uint8Array {
    const { systemPriority, systemId: id } = this.settings;
    const partnerPriority = be16(member.partner, I_SYS_PRIORITY);
    const ours =
      systemPriority < partnerPriority ||
      (systemPriority === partnerPriority && Buffer.compare(id, systemId(member.partner)) < 0);
    const info = ours ? this.#actorOf(member) : member.partner.slice();
    put16(info, I_KEY, 0);
    info[I_STATE] = 0;
    return info;
  }

  #updateAttached(): void {
    this.#update = false;
    const { fallbackAb, systemId: id } = this.settings;
    let lead: { member: LacpMember; priority: Uint8Array; enable: boolean } | undefined;
    // A link that works decides who the partner is.
    for (const member of this.#members.values()) {
      if (member.status !== 'current' || !member.attached) continue;
      const priority = this.#priorityOf(member);
      if (lead === undefined || Buffer.compare(priority, lead.priority) < 0) {
        lead = { member, priority, enable: true };
      }
    }
    const working = lead?.member;
    for (const member of this.#members.values()) {
      member.attached = false;
      if (same(systemId(member.partner), id)) {
        const text = 'Loopback detected. Interface is connected to its own bond';
        this.#warn(`member ${member.settings.name}: ${text}`);
        continue;
      }
      if (member.status === 'defaulted') {
        member.attached = fallbackAb;
        continue;
      }
      const priority = this.#priorityOf(member);
      const enable = this.#mayEnable(member);
      if (working === undefined || same(systemId(member.partner), systemId(working.partner))) {
        member.attached = true;
      }
      if (!member.attached) continue;
      const better =
        lead === undefined ||
        (enable && !lead.enable) ||
        (enable === lead.enable && Buffer.compare(priority, lead.priority) < 0);
      if (better) lead = { member, priority, enable };
    }
    this.negotiated = lead !== undefined;
    if (lead === undefined) return;
    for (const member of this.#members.values()) {
      const alone = fallbackAb && member.status === 'defaulted';
      const otherPartner =
        be16(member.partner, I_KEY) !== be16(lead.member.partner, I_KEY) ||
        !same(systemId(member.partner), systemId(lead.member.partner));
      if (alone || otherPartner) member.attached = false;
    }
  }
}

function isLacpdu(payload: Uint8Array): boolean {
  return (
    payload.length >= PDU_LENGTH &&
    payload[0] === SUBTYPE_LACP &&
    payload[ACTOR - 2] === 1 &&
    payload[ACTOR - 1] === 20 &&
    payload[PARTNER - 2] === 2 &&
    payload[PARTNER - 1] === 20
  );
}

function composeLacpdu(actor: Uint8Array, partner: Uint8Array): Uint8Array {
  const pdu = new Uint8Array(PDU_LENGTH);
  pdu.set([SUBTYPE_LACP, 1, 1, 20]);
  pdu.set(actor, ACTOR);
  pdu.set([2, 20], PARTNER - 2);
  pdu.set(partner, PARTNER);
  pdu.set([3, 16], 42);
  return pdu;
}

function infoLines(who: string, info: Uint8Array): string[] {
  return [
    `  ${who} sys_id: ${macText(systemId(info))}`,
    `  ${who} sys_priority: ${be16(info, I_SYS_PRIORITY)}`,
    `  ${who} port_id: ${be16(info, I_PORT_ID)}`,
    `  ${who} port_priority: ${be16(info, I_PORT_PRIORITY)}`,
    `  ${who} key: ${be16(info, I_KEY)}`,
    `  ${who} state:${stateText(info[I_STATE]!)}`,
  ];
}
