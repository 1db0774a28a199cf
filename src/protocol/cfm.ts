// Connectivity Fault Management (IEEE 802.1ag continuity checks), as Open vSwitch speaks it: the state of one
// maintenance point, changed by events, without clock, timer or socket. A continuity check message (CCM):
//
//   0 u8 level, version   1 u8 opcode   2 u8 flags (RDI 0x80, interval)   3 u8 TLV offset   4 u32 sequence
//   8 u16 MPID   10 MAID (48 bytes)   58 u16 interval (ms, extended)   60 u64 MPID (extended)
//   68 u8 operationally down (extended)   69 zero (5)   74 u8 end of TLVs
//
// "Extended" is Open vSwitch's own: other destination, 64-bit MPIDs, any interval, operational state, demand mode.

import { boolOf, intOf, type StringMap } from './text.ts';

export const ETH_TYPE_CFM = 0x8902;
const CCM_LENGTH = 75;
const CCM_ACCEPT_LENGTH = 74;
const CCM_OPCODE = 1;
const TLV_OFFSET = 70;
const RDI = 0x80;
const HEALTH_INTERVALS = 6;
const REMOTES_MAX = 256;
const ETH_ADDR_CCM = Uint8Array.of(0x01, 0x80, 0xc2, 0, 0, 0x30);
const ETH_ADDR_CCM_EXTENDED = Uint8Array.of(0x01, 0x23, 0x20, 0, 0, 0x30);
/** Domain "ovs", association "ovs". */
const MAID = ((): Uint8Array => {
  const maid = new Uint8Array(48);
  maid.set([4, 3, 0x6f, 0x76, 0x73, 2, 3, 0x6f, 0x76, 0x73]);
  return maid;
})();
const INTERVALS_MS = [0, 3, 10, 100, 1000, 10000, 60000, 600000];

export const FAULT_RECV = 1;
export const FAULT_RDI = 2;
export const FAULT_MAID = 4;
export const FAULT_LOOPBACK = 8;
export const FAULT_OVERFLOW = 16;
export const FAULT_OVERRIDE = 32;
const FAULT_NAMES = ['recv', 'rdi', 'maid', 'loopback', 'overflow', 'override'];

/** Words of cfm_fault_status. */
export function cfmFaultNames(fault: number): string[] {
  return FAULT_NAMES.filter((_, bit) => (fault & (1 << bit)) !== 0);
}

export interface CfmConfig {
  mpid: bigint;
  intervalMs: number;
  extended: boolean;
  demand: boolean;
  opUp: boolean;
  vlan: number | 'random';
  pcp: number;
  checkTunnelKey: boolean;
}

const INTERVAL_DEFAULT_MS = 1000;
const MPID_MAX = 8191n;

/** Settings of Interface.cfm_mpid and other_config:cfm_*; undefined when CFM is off or the MPID is none. */
export function cfmConfigFrom(
  mpid: number | undefined,
  other: StringMap,
  options: StringMap,
): CfmConfig | undefined {
  if (mpid === undefined) return undefined;
  const extended = boolOf(other, 'cfm_extended', false);
  const id = BigInt.asUintN(64, BigInt(mpid));
  if (id < 1n || (!extended && id > MPID_MAX)) return undefined;
  const intervalMs = intOf(other, 'cfm_interval', 0);
  const vlan = other.cfm_ccm_vlan;
  const opstate = other.cfm_opstate;
  return {
    mpid: id,
    intervalMs: intervalMs > 0 ? intervalMs : INTERVAL_DEFAULT_MS,
    extended,
    demand: boolOf(other, 'cfm_demand', false),
    opUp: opstate === undefined || opstate.toLowerCase() === 'up',
    vlan:
      vlan?.toLowerCase() === 'random' ? 'random' : (Number.parseInt(vlan ?? '', 10) || 0) & 0xfff,
    pcp: intOf(other, 'cfm_ccm_pcp', 0) & 7,
    checkTunnelKey: options.key === 'flow' || options.in_key === 'flow',
  };
}

export type CfmEvent =
  | { type: 'configure'; config: CfmConfig }
  | { type: 'tick' }
  /** A frame of this maintenance point's kind; `payload` follows the Ethernet type. */
  | { type: 'message'; payload: Uint8Array; source: string }
  /** Asks for the frame to send now. */
  | { type: 'transmit'; source: Uint8Array }
  /** cfm/set-fault; undefined: as found. */
  | { type: 'override'; fault: boolean | undefined };

export interface CfmModules {
  name: string;
  random: () => number;
  rxPackets: () => number;
  log: (level: 'info' | 'warn', text: string) => void;
}

export interface CfmStatus {
  fault: number;
  /** undefined: not in extended mode. */
  remoteOpUp: boolean | undefined;
  flapCount: number;
  /** -1: undefined. */
  health: number;
  remoteMpids: readonly bigint[];
}

interface Remote {
  mpid: bigint;
  received: boolean;
  opUp: boolean;
  sequence: number;
  healthMessages: number;
  lastRxMs: number;
}

export class CfmPoint {
  readonly name: string;
  readonly #modules: CfmModules;
  /** Status as the database has it is not what was there last. The reader clears it. */
  changed = true;
  #config: CfmConfig | undefined;
  /** Number of the interval in messages; 0: an interval of our own. */
  #intervalCode = 0;
  #intervalMs = 0;
  #booted = false;
  #fault = 0;
  #receivedFault = 0;
  #override: boolean | undefined;
  #remoteOpUp = true;
  #sequence = 0;
  #health = -1;
  #healthIntervals = 0;
  #flapCount = 0;
  #demand = false;
  #demandRxMs = 0;
  #rxPackets = 0;
  #txMs = 0;
  #faultMs = 0;
  #lastTxMs = 0;
  readonly #remotes = new Map<bigint, Remote>();
  #remoteMpids: bigint[] = [];

  constructor(modules: CfmModules) {
    this.#modules = modules;
    this.name = modules.name;
  }

  get config(): CfmConfig | undefined {
    return this.#config;
  }

  /** Where messages of this point go, and those that are for it. */
  get destination(): Uint8Array {
    return this.#config?.extended ? ETH_ADDR_CCM_EXTENDED : ETH_ADDR_CCM;
  }

  /** One event; gives back the frame to send, for 'transmit'. */
  step(event: CfmEvent, nowMs: number): Uint8Array | undefined {
    switch (event.type) {
      case 'configure':
        this.#configure(event.config, nowMs);
        return undefined;
      case 'tick':
        if (nowMs >= this.#faultMs) this.#checkFaults(nowMs);
        return undefined;
      case 'message':
        this.#receive(event.payload, event.source, nowMs);
        return undefined;
      case 'transmit':
        return this.#transmit(event.source, nowMs);
      case 'override':
        this.#override = event.fault;
        this.changed = true;
        return undefined;
    }
  }

  shouldSend(nowMs: number): boolean {
    return nowMs >= this.#txMs;
  }

  wakeMs(): number {
    return Math.min(this.#txMs, this.#faultMs);
  }

  status(): CfmStatus {
    return {
      fault: this.#currentFault(),
      remoteOpUp: this.#config?.extended ? this.#remoteOpUp : undefined,
      flapCount: this.#flapCount,
      health: this.#health,
      remoteMpids: this.#remoteMpids,
    };
  }

  /** cfm/show. */
  show(nowMs: number): string {
    const { mpid, extended, opUp } = this.#config!;
    const override = this.#override === undefined ? '' : ' fault_override';
    const fault = this.#currentFault();
    const lines = [
      `---- ${this.name} ----`,
      `MPID ${mpid}:${extended ? ' extended' : ''}${override}`,
      ...(fault === 0 ? [] : [`  fault: ${cfmFaultNames(fault).join(' ')}`]),
      `  average health: ${this.#health === -1 ? 'undefined' : this.#health}`,
      `  opstate: ${opUp ? 'up' : 'down'}`,
      `  remote_opstate: ${this.#remoteOpUp ? 'up' : 'down'}`,
      `  interval: ${this.#intervalMs}ms`,
      `  next CCM tx: ${Math.round(this.#txMs - nowMs)}ms`,
      `  next fault check: ${Math.round(this.#faultMs - nowMs)}ms`,
    ];
    for (const remote of this.#remotes.values()) {
      lines.push(
        `Remote MPID ${remote.mpid}`,
        `  recv since check: ${remote.received}`,
        `  opstate: ${remote.opUp ? 'up' : 'down'}`,
      );
    }
    return lines.map((line) => `${line}\n`).join('');
  }

  #currentFault(): number {
    if (this.#override !== undefined) return this.#override ? FAULT_OVERRIDE : 0;
    return this.#fault;
  }

  #configure(config: CfmConfig, nowMs: number): void {
    this.#config = config;
    let code = 7;
    while (code > 1 && INTERVALS_MS[code]! > config.intervalMs) code--;
    let intervalMs = INTERVALS_MS[code]!;
    if (config.extended && intervalMs !== config.intervalMs) {
      code = 0;
      intervalMs = Math.min(config.intervalMs, 0xffff);
    }
    const demand = config.extended && config.demand;
    if (demand && !this.#demand) this.#rxPackets = this.#modules.rxPackets();
    this.#demand = demand;
    if (code === this.#intervalCode && intervalMs === this.#intervalMs) return;
    this.#intervalCode = code;
    this.#intervalMs = intervalMs;
    this.#txMs = nowMs;
    this.#faultMs = nowMs + this.#faultIntervalMs();
  }

  /** Three and a half intervals; in demand mode the counters of packets need time to arrive. */
  #faultIntervalMs(): number {
    const intervalMs = this.#demand ? Math.max(this.#intervalMs, 500) : this.#intervalMs;
    return Math.floor((intervalMs * 7) / 2);
  }

  #checkFaults(nowMs: number): void {
    const before = JSON.stringify([this.#health, this.#remoteOpUp, this.#fault, this.#flapCount]);
    const oldFault = this.#fault;
    const oldCount = this.#remoteMpids.length;
    this.#fault = this.#receivedFault;
    this.#receivedFault = 0;
    this.#computeHealth();
    const lost = this.#removeSilent(nowMs);
    if (this.#remotes.size === 0) this.#fault |= FAULT_RECV;
    if (oldFault !== this.#fault) {
      const text = (fault: number): string => `[${cfmFaultNames(fault).join(' ')}]`;
      this.#log('info', `CFM faults changed from ${text(oldFault)} to ${text(this.#fault)}.`);
      if (oldFault === 0 || this.#fault === 0) this.#flapCount++;
    }
    const after = JSON.stringify([this.#health, this.#remoteOpUp, this.#fault, this.#flapCount]);
    if (before !== after || lost || oldCount !== this.#remoteMpids.length) this.changed = true;
    this.#booted = true;
    this.#faultMs = nowMs + this.#faultIntervalMs();
  }

  /** Percentage of messages that came, of those that one remote point should have sent. */
  #computeHealth(): void {
    if (this.#healthIntervals === HEALTH_INTERVALS) {
      if (this.#remotes.size > 1) this.#health = -1;
      else {
        const [remote] = this.#remotes.values();
        const expected = Math.floor((HEALTH_INTERVALS * 7) / 2);
        const share = Math.floor(((remote?.healthMessages ?? 0) * 100) / expected);
        this.#health = Math.min(share, 100);
        if (remote) remote.healthMessages = 0;
      }
      this.#healthIntervals = 0;
    }
    this.#healthIntervals++;
  }

  /** Forgets remote points that have not been heard of. True: some. */
  #removeSilent(nowMs: number): boolean {
    let override = false;
    if (this.#demand) {
      const rxPackets = this.#modules.rxPackets();
      const heard = rxPackets > this.#rxPackets && nowMs < this.#demandRxMs;
      override = this.#remotes.size === 1 && heard;
      this.#rxPackets = rxPackets;
    }
    let lost = false;
    let anyUp = false;
    let anyDown = false;
    this.#remoteMpids = [];
    for (const remote of [...this.#remotes.values()]) {
      if (!remote.received) {
        const silentMs = Math.round(nowMs - remote.lastRxMs);
        const text = `Received no CCM from RMP ${remote.mpid} in the last ${silentMs}ms`;
        this.#log('info', text);
        if (!override) {
          lost = true;
          this.#remotes.delete(remote.mpid);
        }
        continue;
      }
      remote.received = false;
      if (remote.opUp) anyUp = true;
      else anyDown = true;
      this.#remoteMpids.push(remote.mpid);
    }
    if (anyDown) this.#remoteOpUp = false;
    else if (anyUp) this.#remoteOpUp = true;
    return lost;
  }

  #receive(payload: Uint8Array, source: string, nowMs: number): void {
    if (payload.length < CCM_ACCEPT_LENGTH) {
      this.#log('info', 'Received an unparseable 802.1ag CCM heartbeat.');
      return;
    }
    if (payload[1] !== CCM_OPCODE) {
      this.#log('info', `Received an unsupported 802.1ag message. (opcode ${payload[1]})`);
      return;
    }
    if (!MAID.every((byte, i) => payload[10 + i] === byte)) {
      this.#receivedFault |= FAULT_MAID;
      this.#log('warn', `Received unexpected remote MAID from MAC ${source}`);
      return;
    }
    const { extended, mpid: ownMpid } = this.#config!;
    const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
    const mpid = extended ? view.getBigUint64(60) : BigInt(view.getUint16(8));
    const sequence = view.getUint32(4);
    this.#checkInterval(payload[2]! & 7, view.getUint16(58), mpid);
    let fault = 0;
    let remote = this.#remotes.get(mpid);
    const isNew = remote === undefined;
    if (remote === undefined && this.#remotes.size < REMOTES_MAX) {
      remote = { mpid, received: false, opUp: true, sequence: 0, healthMessages: 0, lastRxMs: 0 };
      this.#remotes.set(mpid, remote);
    } else if (remote === undefined) {
      this.#receivedFault |= FAULT_OVERFLOW;
      this.#log('warn', `dropped CCM with MPID ${mpid} from MAC ${source}`);
      return;
    }
    if ((payload[2]! & RDI) !== 0) fault |= FAULT_RDI;
    // As in the real daemon: a message of our own counts from the second on.
    if (mpid === ownMpid && !isNew) {
      fault |= FAULT_LOOPBACK;
      this.#log('warn', `received CCM with local MPID ${mpid}`);
    }
    if (remote.sequence !== 0 && sequence !== (remote.sequence + 1) >>> 0) {
      this.#log(
        'warn',
        `(mpid ${mpid}) detected sequence numbers which indicate possible connectivity problems ` +
          `(previous ${remote.sequence}) (current ${sequence})`,
      );
    }
    if (fault === 0) {
      remote.healthMessages++;
      if (this.#demand) this.#demandRxMs = nowMs + 100 * this.#intervalMs;
    }
    remote.received = true;
    this.#receivedFault |= fault;
    remote.sequence = sequence;
    remote.opUp = !(extended && payload[68] !== 0);
    remote.lastRxMs = nowMs;
  }

  #checkInterval(code: number, intervalMs: number, mpid: bigint): void {
    if (code !== this.#intervalCode) {
      const text = `received a CCM with an unexpected interval (${code}) from RMP ${mpid}`;
      this.#log('warn', text);
    } else if (this.#config!.extended && code === 0 && intervalMs !== this.#intervalMs) {
      const found = `(${intervalMs}ms) from RMP ${mpid}`;
      this.#log('warn', `received a CCM with an unexpected extended interval ${found}`);
    }
  }

  #transmit(source: Uint8Array, nowMs: number): Uint8Array {
    const { mpid, extended, opUp, vlan, pcp } = this.#config!;
    this.#txMs = nowMs + this.#intervalMs;
    if (this.#lastTxMs !== 0) {
      const delayMs = nowMs - this.#lastTxMs;
      if (delayMs > (this.#intervalMs * 3) / 2) {
        const found = `${Math.round(delayMs)}ms (expected ${this.#intervalMs}ms)`;
        this.#log('info', `long delay of ${found} sending CCM seq ${this.#sequence + 1}`);
      }
    }
    this.#lastTxMs = nowMs;
    const vid = vlan === 'random' ? Math.floor(this.#modules.random() * 4096) : vlan;
    const tci = vid | (pcp << 13);
    const tag = tci === 0 ? [] : [0x81, 0x00, tci >> 8, tci & 0xff];
    const type = [ETH_TYPE_CFM >> 8, ETH_TYPE_CFM & 0xff];
    const ccm = new Uint8Array(CCM_LENGTH);
    const view = new DataView(ccm.buffer);
    this.#sequence = (this.#sequence + 1) >>> 0;
    const rdi = this.#booted && this.#remotes.size === 0 ? RDI : 0;
    ccm.set([0, CCM_OPCODE, this.#intervalCode | rdi, TLV_OFFSET]);
    view.setUint32(4, this.#sequence);
    // In extended mode the 16 bits only tell points apart.
    view.setUint16(8, Number((extended ? mpid ^ (mpid >> 16n) : mpid) & 0xffffn));
    ccm.set(MAID, 10);
    if (this.#intervalCode === 0) view.setUint16(58, this.#intervalMs);
    if (extended) {
      view.setBigUint64(60, mpid);
      ccm[68] = opUp ? 0 : 1;
    }
    return Uint8Array.of(...this.destination, ...source, ...tag, ...type, ...ccm);
  }

  #log(level: 'info' | 'warn', text: string): void {
    this.#modules.log(level, `${this.name}: ${text}`);
  }
}
