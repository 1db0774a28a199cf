// Bidirectional Forwarding Detection (RFC 5880, asynchronous mode; RFC 5881), as Open vSwitch speaks it: the state of a
// session, changed by events, without clock, timer or socket.
//
// Besides the RFC: "forwarding" may hold while data packets arrive (forwarding_if_rx, provided that a control message
// came within 100 intervals), and an idle session may slow its peer down (decay_min_rx).
//
//   DOWN ── peer DOWN ──> INIT ── peer INIT, UP ──> UP       DOWN ── peer INIT ──> UP
//   UP ── peer DOWN, ADMIN_DOWN, silence ──> DOWN            INIT ── peer ADMIN_DOWN, silence ──> DOWN

import type { BfdConfig } from './bfdConfig.ts';
import {
  BFD_ADMIN_DOWN,
  BFD_DOWN,
  BFD_FLAG_AUTH,
  BFD_FLAG_FINAL,
  BFD_FLAG_MULTIPOINT,
  BFD_FLAG_POLL,
  BFD_INIT,
  BFD_LENGTH,
  BFD_UP,
  BFD_VERSION,
  type BfdMessage,
  type BfdStateNumber,
  bfdDiagText,
  bfdFlagsText,
  bfdMessageText,
  bfdStateText,
  decodeBfd,
  encodeBfd,
} from './bfdMessage.ts';

const DIAG_NONE = 0;
const DIAG_EXPIRED = 1;
const DIAG_REMOTE_DOWN = 3;
const DIAG_PATH_DOWN = 5;
const DIAG_CPATH_DOWN = 6;
const DIAG_REVERSE_CPATH_DOWN = 8;
const TTL_REQUIRED = 255;
/** Sessions that are not up send at most once a second (RFC 5880 §6.8.3). */
const SLOW_TX_MS = 1000;
const SHORTEST_WATCH_MS = 2000;

export type BfdEvent =
  | { type: 'configure'; config: BfdConfig }
  /** Time has passed. */
  | { type: 'tick' }
  /** A control message has come in: UDP payload and TTL of its packet. */
  | { type: 'message'; payload: Uint8Array; ttl: number }
  /** Data packets have come in. */
  | { type: 'traffic' }
  /** Asks for the message to send now. */
  | { type: 'transmit' }
  /** bfd/set-forwarding; undefined: as the session says. */
  | { type: 'override'; forwarding: boolean | undefined };

export interface BfdModules {
  name: string;
  /** Local discriminator: unique and not 0. */
  discriminator: number;
  /** In [0, 1): jitter. */
  random: () => number;
  /** Packets that the interface has received. */
  rxPackets: () => number;
  log: (level: 'info' | 'warn', text: string) => void;
}

export class BfdSession {
  readonly name: string;
  readonly #modules: BfdModules;
  #config: BfdConfig | undefined;
  /** Status as the database has it is not what was there last. The reader clears it. */
  changed = true;
  #state: BfdStateNumber = BFD_DOWN;
  #diag = DIAG_NONE;
  #flags = 0;
  #minTxMs = 1000;
  #minRxMs = 0;
  #cfgMinTxMs = 0;
  #cfgMinRxMs = 0;
  #pollMinTxMs = 0;
  #pollMinRxMs = 0;
  #mult = 3;
  #cpathDown = false;
  #remote = {
    state: BFD_DOWN as BfdStateNumber,
    diag: 0,
    flags: 0,
    disc: 0,
    minRxMs: 1,
    minTxMs: 0,
  };
  #remoteMult = 0;
  #lastTxMs = 0;
  #nextTxMs = 0;
  #detectMs = 0;
  #lastForwarding = false;
  #override: boolean | undefined;
  #flapCount = 0;
  #rxDetectMs = 0;
  #demandRxMs = 0;
  #decayMinRxMs = 0;
  #inDecay = false;
  #decayMessages = 0;
  #decayRxPackets = 0;
  #decayDetectMs = 0;

  constructor(modules: BfdModules) {
    this.#modules = modules;
    this.name = modules.name;
  }

  /** One event; gives back the control message to send, for 'transmit'. */
  step(event: BfdEvent, nowMs: number): Uint8Array | undefined {
    switch (event.type) {
      case 'configure':
        this.#configure(event.config, nowMs);
        return undefined;
      case 'tick':
        this.#tick(nowMs);
        return undefined;
      case 'message':
        this.#receive(event.payload, event.ttl, nowMs);
        return undefined;
      case 'traffic':
        this.#traffic(nowMs);
        return undefined;
      case 'transmit':
        return this.#transmit(nowMs);
      case 'override':
        this.#override = event.forwarding;
        this.changed = true;
        return undefined;
    }
  }

  /** May the interface forward? Counts a flap when the answer has changed. */
  forwarding(nowMs: number): boolean {
    if (this.#override !== undefined) return this.#override;
    const byTraffic =
      this.#config?.forwardingIfRx === true && this.#rxDetectMs > nowMs && this.#demandRxMs > nowMs;
    const { diag } = this.#remote;
    const forwarding =
      (this.#state === BFD_UP || byTraffic) &&
      diag !== DIAG_PATH_DOWN &&
      diag !== DIAG_CPATH_DOWN &&
      diag !== DIAG_REVERSE_CPATH_DOWN;
    if (forwarding !== this.#lastForwarding) {
      this.#lastForwarding = forwarding;
      this.#flapCount++;
      this.changed = true;
    }
    return forwarding;
  }

  /** Time for a control message? */
  shouldSend(nowMs: number): boolean {
    return (this.#flags & BFD_FLAG_FINAL) !== 0 || nowMs >= this.#nextTxMs;
  }

  /** When the next 'tick' or 'transmit' is due. */
  wakeMs(): number {
    if ((this.#flags & BFD_FLAG_FINAL) !== 0) return 0;
    let wakeMs = this.#nextTxMs;
    if (this.#state > BFD_DOWN) wakeMs = Math.min(wakeMs, this.#detectMs);
    return wakeMs;
  }

  /** Interface.bfd_status. */
  status(nowMs: number): Record<string, string> {
    return {
      forwarding: String(this.forwarding(nowMs)),
      state: bfdStateText(this.#state),
      diagnostic: bfdDiagText(this.#diag),
      flap_count: String(this.#flapCount),
      remote_state: bfdStateText(this.#remote.state),
      remote_diagnostic: bfdDiagText(this.#remote.diag),
    };
  }

  /** What bfd/show prints of a session. */
  details(nowMs: number): string {
    const forwarding = this.forwarding(nowMs);
    const until = (ms: number): string => {
      const left = Math.round(ms - nowMs);
      return `now ${left < 0 ? '' : '+'}${left}ms`;
    };
    const { state, diag, flags, disc, minTxMs, minRxMs } = this.#remote;
    return [
      `Forwarding: ${forwarding}`,
      `Detect Multiplier: ${this.#mult}`,
      `Concatenated Path Down: ${this.#cpathDown}`,
      `TX Interval: Approx ${this.#txIntervalMs()}ms`,
      `RX Interval: Approx ${this.#rxIntervalMs()}ms`,
      `Detect Time: ${until(this.#detectMs)}`,
      `Next TX Time: ${until(this.#nextTxMs)}`,
      `Last TX Time: ${until(this.#lastTxMs)}`,
      '',
      `Local Flags: ${bfdFlagsText(this.#flags)}`,
      `Local Session State: ${bfdStateText(this.#state)}`,
      `Local Diagnostic: ${bfdDiagText(this.#diag)}`,
      `Local Discriminator: 0x${this.#modules.discriminator.toString(16)}`,
      `Local Minimum TX Interval: ${this.#slowMinTxMs()}ms`,
      `Local Minimum RX Interval: ${this.#minRxMs}ms`,
      '',
      `Remote Flags: ${bfdFlagsText(flags)}`,
      `Remote Session State: ${bfdStateText(state)}`,
      `Remote Diagnostic: ${bfdDiagText(diag)}`,
      `Remote Discriminator: 0x${disc.toString(16)}`,
      `Remote Minimum TX Interval: ${minTxMs}ms`,
      `Remote Minimum RX Interval: ${minRxMs}ms`,
      `Remote Detect Multiplier: ${this.#remoteMult}`,
    ]
      .map((line) => (line === '' ? '\n' : `  ${line}\n`))
      .join('');
  }

  get config(): BfdConfig | undefined {
    return this.#config;
  }

  // ---- events

  #configure(config: BfdConfig, nowMs: number): void {
    const before = this.#config;
    this.#config = config;
    let needPoll = false;
    this.#mult = config.mult;
    if (this.#cfgMinTxMs !== config.minTxMs) {
      this.#cfgMinTxMs = config.minTxMs;
      const sooner = !this.#inPoll() && config.minTxMs < this.#minTxMs;
      if (this.#state !== BFD_UP || sooner) this.#minTxMs = config.minTxMs;
      needPoll = true;
    }
    const rxChanged = this.#cfgMinRxMs !== config.minRxMs;
    if (rxChanged) {
      this.#cfgMinRxMs = config.minRxMs;
      const longer = !this.#inPoll() && config.minRxMs > this.#minRxMs;
      if (this.#state !== BFD_UP || longer) this.#minRxMs = config.minRxMs;
      needPoll = true;
    }
    if (this.#decayMinRxMs !== config.decayMinRxMs || rxChanged) {
      this.#configureDecay(config, nowMs);
      needPoll = true;
    }
    if (this.#cpathDown !== config.cpathDown) {
      this.#cpathDown = config.cpathDown;
      this.#setState(this.#state, DIAG_NONE, nowMs);
      needPoll = true;
    }
    if ((before?.forwardingIfRx ?? false) !== config.forwardingIfRx) {
      if (this.#state === BFD_UP && config.forwardingIfRx) this.#watchTraffic(nowMs);
      else this.#rxDetectMs = 0;
    } else if (this.#state === BFD_UP && config.forwardingIfRx && before?.mult !== config.mult) {
      this.#watchTraffic(nowMs);
    }
    if (needPoll) this.#poll();
  }

  #configureDecay(config: BfdConfig, nowMs: number): void {
    const tooShort = config.decayMinRxMs > 0 && config.decayMinRxMs < config.minRxMs;
    if (tooShort) {
      this.#log('warn', `decay_min_rx cannot be less than ${config.minRxMs} ms`);
    }
    this.#decayMinRxMs = tooShort ? 0 : config.decayMinRxMs;
    this.#inDecay = false;
    this.#restartDecay(nowMs);
  }

  #tick(nowMs: number): void {
    const wasInDecay = this.#inDecay;
    if (this.#state > BFD_DOWN && nowMs >= this.#detectMs) {
      this.#setState(BFD_DOWN, DIAG_EXPIRED, nowMs);
    }
    this.forwarding(nowMs);
    if (this.#state === BFD_UP && this.#decayMinRxMs > 0 && nowMs >= this.#decayDetectMs) {
      this.#tryDecay(nowMs);
    }
    const rxDiffers = this.#minRxMs !== this.#cfgMinRxMs && this.#minRxMs !== this.#decayMinRxMs;
    if (this.#minTxMs !== this.#cfgMinTxMs || rxDiffers || this.#inDecay !== wasInDecay) {
      this.#poll();
    }
  }

  /** RFC 5880 §6.8.6. */
  #receive(payload: Uint8Array, ttl: number, nowMs: number): void {
    this.#decayMessages++;
    this.forwarding(nowMs);
    if (ttl === TTL_REQUIRED) {
      const message = decodeBfd(payload);
      if (message === undefined) {
        this.#log(
          'info',
          `Received too-short BFD control message (only ${payload.length} bytes long, at least ${BFD_LENGTH} required).`,
        );
      } else {
        const fault = this.#faultOf(message);
        if (fault === undefined) this.#accept(message, nowMs);
        else if (fault !== '') this.#logMessage('warn', message, fault, nowMs);
      }
    }
    this.forwarding(nowMs);
  }

  /** Why a message is discarded. */
  #faultOf(message: BfdMessage): string | undefined {
    if (message.version !== BFD_VERSION) return 'Incorrect version';
    if ((message.flags & BFD_FLAG_AUTH) !== 0) {
      return 'Authenticated control message with authentication disabled';
    }
    if (message.length < BFD_LENGTH) return 'Unexpected length';
    if (message.mult === 0) return 'Zero multiplier';
    if ((message.flags & BFD_FLAG_MULTIPOINT) !== 0) return 'Unsupported multipoint flag';
    if (message.myDisc === 0) return 'NULL my_disc';
    if (message.yourDisc !== 0) {
      return message.yourDisc === this.#modules.discriminator ? undefined : 'Incorrect your_disc';
    }
    return message.state > BFD_DOWN ? 'Null your_disc' : undefined;
  }

  #accept(message: BfdMessage, nowMs: number): void {
    const remote = this.#remote;
    if (remote.state !== message.state) this.changed = true;
    remote.disc = message.myDisc;
    remote.state = message.state;
    remote.flags = message.flags;
    remote.diag = message.diag;
    if ((message.flags & BFD_FLAG_FINAL) !== 0 && this.#inPoll()) {
      this.#minTxMs = this.#pollMinTxMs;
      this.#minRxMs = this.#pollMinRxMs;
      this.#flags &= ~BFD_FLAG_POLL;
      this.#logMessage('info', message, 'Poll sequence terminated', nowMs);
    }
    // The answer to a poll goes out at once (RFC 5880 §6.5).
    if ((message.flags & BFD_FLAG_POLL) !== 0) {
      this.#flags = (this.#flags & ~BFD_FLAG_POLL) | BFD_FLAG_FINAL;
    }
    if (this.#remoteMult !== message.mult) {
      const change = `${this.#remoteMult} changed to ${message.mult}`;
      this.#modules.log('info', `Interface ${this.name} remote mult value ${change}`);
      this.#remoteMult = message.mult;
    }
    const minRxMs = Math.max(Math.floor(message.minRxUs / 1000), 1);
    if (remote.minRxMs !== minRxMs) {
      remote.minRxMs = minRxMs;
      if (this.#nextTxMs !== 0) this.#setNextTx();
      this.#logMessage('info', message, 'New remote min_rx', nowMs);
    }
    remote.minTxMs = Math.max(Math.floor(message.minTxUs / 1000), 1);
    this.#detectMs = this.#rxIntervalMs() * this.#remoteMult + nowMs;
    if (this.#state === BFD_ADMIN_DOWN) return;
    this.#follow(message, nowMs);
    if (this.#config?.forwardingIfRx) this.#demandRxMs = nowMs + 100 * this.#cfgMinRxMs;
  }

  /** State changes that the peer's state causes. */
  #follow(message: BfdMessage, nowMs: number): void {
    const { state } = message;
    if (state === BFD_ADMIN_DOWN) {
      if (this.#state !== BFD_DOWN) this.#setState(BFD_DOWN, DIAG_REMOTE_DOWN, nowMs);
    } else if (this.#state === BFD_DOWN) {
      if (state === BFD_DOWN) this.#setState(BFD_INIT, this.#diag, nowMs);
      else if (state === BFD_INIT) this.#setState(BFD_UP, this.#diag, nowMs);
    } else if (this.#state === BFD_INIT) {
      if (state > BFD_DOWN) this.#setState(BFD_UP, this.#diag, nowMs);
    } else if (state <= BFD_DOWN) {
      this.#setState(BFD_DOWN, DIAG_REMOTE_DOWN, nowMs);
      this.#logMessage('info', message, 'Remote signaled STATE_DOWN', nowMs);
    }
  }

  #traffic(nowMs: number): void {
    if (!this.#config?.forwardingIfRx) return;
    this.forwarding(nowMs);
    this.#watchTraffic(nowMs);
    this.forwarding(nowMs);
  }

  #transmit(nowMs: number): Uint8Array {
    if (this.#nextTxMs !== 0) {
      const delayMs = nowMs - this.#nextTxMs;
      const intervalMs = this.#txIntervalMs();
      if (delayMs > (intervalMs * 3) / 2) {
        const found = `${Math.round(delayMs)}ms (expected ${intervalMs}ms)`;
        this.#log('info', `long delay of ${found} sending BFD control message`);
      }
    }
    const inPoll = this.#inPoll();
    const message = encodeBfd({
      version: BFD_VERSION,
      diag: this.#diag,
      state: this.#state,
      flags: this.#flags,
      mult: this.#mult,
      length: BFD_LENGTH,
      myDisc: this.#modules.discriminator,
      yourDisc: this.#remote.disc,
      minTxUs: 1000 * (inPoll ? this.#pollMinTxMs : this.#slowMinTxMs()),
      minRxUs: 1000 * (inPoll ? this.#pollMinRxMs : this.#minRxMs),
      minRxEchoUs: 0,
    });
    this.#flags &= ~BFD_FLAG_FINAL;
    this.#lastTxMs = nowMs;
    this.#setNextTx();
    return message;
  }

  // ---- parts

  #inPoll(): boolean {
    return (this.#flags & BFD_FLAG_POLL) !== 0;
  }

  /** Begins to negotiate new intervals (RFC 5880 §6.5). */
  #poll(): void {
    if (this.#state <= BFD_DOWN || this.#inPoll() || (this.#flags & BFD_FLAG_FINAL) !== 0) return;
    this.#pollMinTxMs = this.#cfgMinTxMs;
    this.#pollMinRxMs = this.#inDecay ? this.#decayMinRxMs : this.#cfgMinRxMs;
    this.#flags |= BFD_FLAG_POLL;
    this.#nextTxMs = 0;
    this.#log('info', 'Initiating poll sequence');
  }

  #slowMinTxMs(): number {
    return this.#state === BFD_UP ? this.#minTxMs : Math.max(this.#minTxMs, SLOW_TX_MS);
  }

  #txIntervalMs(): number {
    return Math.max(this.#slowMinTxMs(), this.#remote.minRxMs);
  }

  #rxIntervalMs(): number {
    return Math.max(this.#minRxMs, this.#remote.minTxMs);
  }

  /** With jitter: up to 25 % less, and at least 10 % less with a multiplier of 1 (RFC 5880 §6.8.7). */
  #setNextTx(): void {
    const intervalMs = this.#txIntervalMs();
    const { random } = this.#modules;
    const percent = this.#mult === 1 ? 10 + Math.floor(random() * 16) : Math.floor(random() * 26);
    this.#nextTxMs = this.#lastTxMs + intervalMs - Math.floor((intervalMs * percent) / 100);
  }

  #setState(state: BfdStateNumber, diagnostic: number, nowMs: number): void {
    const diag = this.#cpathDown ? DIAG_CPATH_DOWN : diagnostic;
    if (this.#state === state && this.#diag === diag) return;
    this.#log(
      'info',
      `BFD state change: ${bfdStateText(this.#state)}->${bfdStateText(state)} ` +
        `"${bfdDiagText(this.#diag)}"->"${bfdDiagText(diag)}".\n${this.details(nowMs)}`,
    );
    this.#state = state;
    this.#diag = diag;
    if (state <= BFD_DOWN) {
      this.#remote = {
        state: BFD_DOWN,
        diag: DIAG_NONE,
        flags: 0,
        disc: 0,
        minRxMs: 1,
        minTxMs: 0,
      };
      if (this.#inDecay) {
        this.#minRxMs = this.#cfgMinRxMs;
        this.#inDecay = false;
      }
    }
    if (state === BFD_UP && this.#decayMinRxMs !== 0) this.#restartDecay(nowMs);
    this.changed = true;
  }

  #watchTraffic(nowMs: number): void {
    this.#rxDetectMs = Math.max(this.#rxIntervalMs() * this.#mult, SHORTEST_WATCH_MS) + nowMs;
  }

  /** Slower when hardly more than control messages came in since the last look. */
  #tryDecay(nowMs: number): void {
    const packets = this.#modules.rxPackets() - this.#decayRxPackets;
    this.#inDecay = packets <= 2 * Math.max(this.#decayMessages, 1);
    this.#restartDecay(nowMs);
  }

  #restartDecay(nowMs: number): void {
    this.#decayRxPackets = this.#decayMinRxMs > 0 ? this.#modules.rxPackets() : 0;
    this.#decayMessages = 0;
    this.#decayDetectMs = Math.max(this.#decayMinRxMs, SHORTEST_WATCH_MS) + nowMs;
  }

  #log(level: 'info' | 'warn', text: string): void {
    this.#modules.log(level, `${this.name}: ${text}`);
  }

  #logMessage(level: 'info' | 'warn', message: BfdMessage, text: string, nowMs: number): void {
    this.#log(level, `${text}.\n  ${bfdMessageText(message)}${this.details(nowMs)}`);
  }
}
