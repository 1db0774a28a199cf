// One configured target of a bridge: an active one keeps a connection to a controller, a passive one listens and has
// as many connections as come. Every bridge has at least the service punix:RUNDIR/BRIDGE.mgmt.

import type { Rconn as RconnType } from './rconn.ts';
import { errorText, Rconn } from './rconn.ts';
import {
  isActive,
  type Listener,
  listenStream,
  parseTarget,
  type StreamContext,
  type Target,
} from './vconn.ts';

/** A Controller row, with the defaults filled in. */
export interface ControllerConfig {
  /** Controller.target. */
  target: string;
  /** Controller.type; default: active targets are primary controllers, passive ones services. */
  type?: 'primary' | 'service' | undefined;
  maxBackoffMs?: number | undefined;
  /** 0 = none. */
  inactivityProbeMs?: number | undefined;
  enableAsync?: boolean | undefined;
  /** Packet-ins a second, 0 = no limit. */
  rateLimit?: number | undefined;
  burstLimit?: number | undefined;
  /** Packet-ins that may wait in the output of a connection. */
  queueSize?: number | undefined;
  /** 'in-band': the connection may lead through the bridge, whose own rules let it pass (inBand.ts). */
  connectionMode?: 'in-band' | 'out-of-band' | undefined;
}

export interface ServiceHooks {
  nowMs: () => number;
  onConnected: (service: Service, rconn: RconnType) => void;
  onMessage: (rconn: RconnType, bytes: Uint8Array) => void;
  onDisconnected: (service: Service, rconn: RconnType) => void;
}

const DEFAULT_PROBE_MS = 5000;
const MIN_PROBE_MS = 5000;
const DEFAULT_BACKOFF_MS = 8000;
const MIN_BACKOFF_MS = 1000;

export class Service {
  readonly target: string;
  readonly versions: number;
  readonly type: 'primary' | 'service';
  config: ControllerConfig;
  /** The one connection of an active service. */
  readonly rconn: Rconn | undefined;
  /** Where a passive service listens, once it does. */
  address: string | undefined;
  readonly #accepted = new Set<Rconn>();
  readonly #bridgeName: string;
  readonly #context: StreamContext;
  readonly #hooks: ServiceHooks;
  readonly #parsed: Target;
  #listener: Listener | undefined;
  #closed = false;

  /** Throws when the target's name makes no sense. */
  constructor(
    bridgeName: string,
    config: ControllerConfig,
    versions: number,
    context: StreamContext,
    hooks: ServiceHooks,
  ) {
    const parsed = parseTarget(config.target, context.runDir);
    if (parsed === undefined) throw new Error(`unsupported controller "${config.target}"`);
    this.target = config.target;
    this.versions = versions;
    this.type = config.type ?? (isActive(parsed) ? 'primary' : 'service');
    this.config = config;
    this.#bridgeName = bridgeName;
    this.#context = context;
    this.#hooks = hooks;
    this.#parsed = parsed;
    if (isActive(parsed)) this.rconn = this.#newRconn(config.target);
  }

  /** Connects or listens. Rejects when a passive target cannot be bound. */
  async start(): Promise<void> {
    if (this.rconn !== undefined) {
      this.rconn.connect(this.#parsed, this.#context);
      return;
    }
    try {
      const listener = await listenStream(this.#parsed, this.#context, (socket, peer) => {
        const rconn = this.#newRconn(peer);
        this.#accepted.add(rconn);
        rconn.accept(socket);
      });
      if (this.#closed) listener.close();
      this.#listener = listener;
      this.address = listener.address;
    } catch (error) {
      throw new Error(`${this.target}: ${errorText(error as NodeJS.ErrnoException)}`);
    }
  }

  get probeMs(): number {
    const probeMs = this.config.inactivityProbeMs ?? DEFAULT_PROBE_MS;
    return probeMs === 0 ? 0 : Math.max(MIN_PROBE_MS, probeMs);
  }

  get rconns(): Iterable<Rconn> {
    return this.rconn !== undefined ? [this.rconn] : this.#accepted;
  }

  /** New settings for connections that stay up. */
  reconfigure(config: ControllerConfig): void {
    this.config = config;
    for (const rconn of this.rconns) {
      rconn.probeMs = this.probeMs;
      rconn.maxBackoffMs = this.#maxBackoffMs;
    }
  }

  close(): void {
    this.#closed = true;
    this.#listener?.close();
    for (const rconn of [...this.rconns]) rconn.close();
    this.#accepted.clear();
  }

  get #maxBackoffMs(): number {
    return Math.max(MIN_BACKOFF_MS, this.config.maxBackoffMs ?? DEFAULT_BACKOFF_MS);
  }

  #newRconn(peer: string): Rconn {
    const hooks = this.#hooks;
    const rconn: Rconn = new Rconn({
      name: `${this.#bridgeName}<->${peer}`,
      versions: this.versions,
      probeMs: this.probeMs,
      maxBackoffMs: this.#maxBackoffMs,
      log: this.#context.log,
      messageLog: this.#context.messageLog,
      nowMs: hooks.nowMs,
      onConnected: (connected) => hooks.onConnected(this, connected),
      onMessage: (bytes) => hooks.onMessage(rconn, bytes),
      onDisconnected: (gone) => {
        this.#accepted.delete(gone);
        hooks.onDisconnected(this, gone);
      },
    });
    return rconn;
  }
}
