// A vhost-user port as a network device: types dpdkvhostuserclient (we connect to QEMU's socket, and again whenever it
// goes away) and dpdkvhostuser (we listen, one front-end at a time).
//
// The port lives as long as its Interface row. Guests come and go: each connection starts from nothing. A front-end
// that misbehaves is disconnected, with the reason in the log and in status().error until the next one is ready.

import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import { DROP_NAMES } from '../../../contract/names.ts';
import { PORT_UP } from '../../../contract/port.ts';
import { eventfdSignal } from '../../sys/eventfd.ts';
import { closeFd } from '../../sys/fd.ts';
import { SysError } from '../../sys/ffi.ts';
import { watchListener } from '../../sys/listener.ts';
import { unixConnect, unixListen } from '../../sys/unix.ts';
import { FEATURE_SETS, maskFeatures } from '../../wire/vhostuser/features.ts';
import {
  type Bequest,
  type Netdev,
  type NetdevConfig,
  type NetdevContext,
  NetdevError,
  type NetdevStatus,
} from '../types.ts';
import { restoreConnection, saveConnection } from './bequest.ts';
import { Connection } from './connection.ts';
import { VhostDevice } from './device.ts';
import { limitedLog } from './limitedLog.ts';
import { isAttached } from './plan.ts';
import { rarpFrame } from './rarp.ts';
import { applySocketAccess } from './socketAccess.ts';
import {
  type BackendOptions,
  type BackendState,
  DEFAULT_OPTIONS,
  heldFds,
  isEnabled,
  isPacked,
} from './state.ts';
import { vhostStatistics, vhostStatus } from './stats.ts';

const RETRY_MIN_MS = 100;
const RETRY_MAX_MS = 1000;
/** Where a packed ring begins: index 0, wrap counter 1. */
const FRESH_PACKED = 0x8000;
/** As QEMU announces: more than once, since what has to hear it may not be there yet. */
const ANNOUNCE_AT_MS = [0, 50, 200, 550];
const DEFAULT_MTU = 1500;
const MTU_MIN = 68;
const MTU_MAX = 9702; // as a DPDK port of Open vSwitch
const TX_RETRIES_DEFAULT = 8;
const TX_RETRIES_MAX = 32;

/**
 * options:xvio-features (or for all ports other_config:vhost-features of the Open_vSwitch row) names the host whose
 * features are offered (FEATURE_SETS); options:xvio-features-mask hides single ones: a number of up to 64 bits, decimal or
 * 0x… Words that make no sense hide nothing.
 */
function backendOptions(config: NetdevConfig, context: NetdevContext): BackendOptions {
  const set = FEATURE_SETS[config.options['xvio-features'] ?? context.vhostFeatures ?? 'all'] ?? 0n;
  const text = config.options['xvio-features-mask'] ?? '0';
  const mask = /^(0x[0-9a-fA-F]{1,16}|\d{1,20})$/.test(text) ? BigInt(text) : 0n;
  if ((set | mask) === 0n) return DEFAULT_OPTIONS;
  return { ...DEFAULT_OPTIONS, features: maskFeatures(DEFAULT_OPTIONS.features, set | mask) };
}

function randomMac(): string {
  const bytes = randomBytes(6);
  bytes[0] = (bytes[0]! & 0xfc) | 0x02; // local, unicast
  return bytes.toString('hex').replace(/(..)(?=.)/g, '$1:');
}

/** A number for Interface.ifindex: stable for the name, 24 bits (RFC 2863 wants it positive). */
function pseudoIfindex(name: string): number {
  let hash = 2166136261;
  for (const byte of Buffer.from(name)) hash = Math.imul(hash ^ byte, 16777619);
  return ((hash >>> 0) % 0xfffffe) + 1;
}

function mtuOf(config: NetdevConfig): number {
  const wanted = config.mtuRequest ?? DEFAULT_MTU;
  return wanted >= MTU_MIN && wanted <= MTU_MAX ? wanted : DEFAULT_MTU;
}

/** options:tx-retries-max, of clients only; what is no number from 0 to 32 is the default, as in Open vSwitch. */
function txRetriesOf(config: NetdevConfig): number {
  const text = config.type === 'dpdkvhostuserclient' ? config.options['tx-retries-max'] : undefined;
  if (text === undefined || !/^\s*[-+]?\d{1,9}$/.test(text)) return TX_RETRIES_DEFAULT;
  const wanted = Number(text);
  return wanted >= 0 && wanted <= TX_RETRIES_MAX ? wanted : TX_RETRIES_DEFAULT;
}

/** As with DPDK: the device exists once both rings of the first pair can be used. */
function isUp(state: BackendState): boolean {
  return isAttached(state, 0) && isAttached(state, 1) && isEnabled(state, state.rings[1]!);
}

/** What a port leaves to its successor; descriptors are places in the bequest's list. */
interface HandedOver {
  path: string;
  type: string;
  mac: string;
  /** SavedConnection.json. */
  connection: string | undefined;
  listener: number;
}

class VhostPort implements Netdev {
  readonly name: string;
  readonly type: string;
  readonly port: number;
  onChange: (() => void) | undefined;
  readonly #mode: 'client' | 'server';
  readonly #context: NetdevContext;
  readonly #device: VhostDevice;
  #path: string;
  #options: BackendOptions;
  #mac: string;
  #attachedMac: string | undefined;
  #mtu: number;
  #txRetries: number;
  #adminUp = true;
  #linkUp = false;
  #linkResets = 0;
  #error: string | undefined;
  #connection: Connection | undefined;
  #listener: { fd: number; watcher: Disposable } | undefined;
  #retry: NodeJS.Timeout | undefined;
  #retryMs = RETRY_MIN_MS;
  #closed = false;

  constructor(config: NetdevConfig, context: NetdevContext, port: number, path: string) {
    this.name = config.name;
    this.type = config.type;
    this.port = port;
    this.#mode = config.type === 'dpdkvhostuserclient' ? 'client' : 'server';
    this.#context = { ...context, log: limitedLog(context.log) };
    this.#device = new VhostDevice(
      context.engine,
      port,
      (text) => this.#info(text),
      (reason) => void this.#connection?.close(reason),
    );
    this.#path = path;
    this.#options = backendOptions(config, context);
    this.#mac = config.mac ?? randomMac();
    this.#attachedMac = config.attachedMac;
    this.#mtu = mtuOf(config);
    this.#txRetries = txRetriesOf(config);
    context.engine.setPort(port, {
      flags: PORT_UP,
      mtu: this.#mtu,
      offloads: 0,
      usableTxQueues: 0,
      txRetries: this.#txRetries,
    });
    if (this.#txRetries !== TX_RETRIES_DEFAULT) this.#logTxRetries();
  }

  #logTxRetries(): void {
    this.#context.log.info(
      `Max Tx retries for vhost device '${this.name}' set to ${this.#txRetries}`,
    );
  }

  #info(text: string): void {
    this.#context.log.info(`VHOST_CONFIG: ${this.name}: ${text}`);
  }

  /** Begins to connect or to listen, or goes on with what a predecessor left. Throws SysError in server mode. */
  start(bequest?: Bequest): void {
    const left = bequest && this.#inherit(bequest);
    if (this.#mode === 'server') {
      const fd = left?.listener ?? unixListen(this.#path);
      const complaints = applySocketAccess(this.#path, this.#context.vhostSockAccess ?? {});
      for (const text of complaints) this.#context.log.warn(text);
      const watcher = watchListener(
        fd,
        (connection) => this.#accept(connection),
        (text) => this.#context.log.warn(`${this.name}: ${text}`),
      );
      this.#listener = { fd, watcher };
      this.#context.log.info(`Socket ${this.#path} created for vhost-user port ${this.name}`);
    } else if (this.#connection) {
      return;
    } else if (this.#path !== '') {
      this.#context.log.info(
        `vHost User device '${this.name}' created in 'client' mode, using client socket '${this.#path}'`,
      );
      this.#connect();
    }
  }

  /** Takes up the connection that was left, if the port is still what it was. */
  #inherit({ json, fds }: Bequest): { listener: number | undefined } {
    const left = JSON.parse(json) as HandedOver;
    let listener = left.listener < 0 ? undefined : fds[left.listener]!;
    const unused = new Set(fds);
    if (left.path === this.#path && left.type === this.type) {
      this.#mac = left.mac;
      if (listener !== undefined) unused.delete(listener);
      const saved = left.connection && { json: left.connection, fds: [...fds] };
      const stopped = saved && restoreConnection(saved, this.#options);
      if (stopped) {
        for (const fd of heldFds(stopped.state)) unused.delete(fd);
        unused.delete(stopped.fd);
        const go = this.#connected(stopped.fd, true).inherit(stopped.state);
        // The link has not been down: megaflows that are made before the guest goes on have to count on it.
        this.#linkUp = isUp(stopped.state);
        if (this.#linkUp) this.#sayLink(true);
        const { whenReady } = this.#context;
        if (whenReady) whenReady.push(go);
        else go();
      }
    } else listener = undefined;
    for (const fd of unused) closeFd(fd);
    return { listener };
  }

  #accept(fd: number): void {
    if (this.#connection) {
      closeFd(fd);
      this.#context.log.warn(`${this.name}: second front-end on '${this.#path}' refused`);
      return;
    }
    this.#connected(fd);
  }

  #connect(): void {
    this.#retry = undefined;
    if (this.#closed) return;
    try {
      this.#connected(unixConnect(this.#path));
    } catch (thrown) {
      if (this.#retryMs === RETRY_MIN_MS) {
        this.#info(`${(thrown as Error).message}: will reconnect`);
      }
      this.#reconnectLater();
    }
  }

  #reconnectLater(): void {
    if (this.#closed || this.#mode === 'server' || this.#path === '') return;
    this.#retry = setTimeout(() => this.#connect(), this.#retryMs);
    this.#retryMs = Math.min(this.#retryMs * 2, RETRY_MAX_MS);
  }

  #connected(fd: number, inherited = false): Connection {
    this.#info(`${inherited ? 'inherited' : 'new'} vhost user connection`);
    const connection = new Connection(fd, this.#device, this.#options, {
      changed: (before, after) => this.#changed(before, after),
      rarp: (mac) => this.#announce(mac),
      closed: (fault) => this.#disconnected(fault),
      debug: (text) => this.#context.log.dbg(`${this.name}: ${text}`),
      failed: (text) => this.#context.log.err(`${this.name}: taking the guest away: ${text}`),
    });
    this.#connection = connection;
    return connection;
  }

  /** Lets the bridge, and whoever learns from it, see a frame of the guest. */
  #announce(mac: Uint8Array): void {
    const frame = rarpFrame(mac);
    if (!this.#context.engine.inject({ inPort: this.port, frame })) {
      this.#context.log.warn(`${this.name}: announcement (RARP) lost, inject ring full`);
    }
  }

  /**
   * A guest whose rings go on somewhere in the middle has come from another host, or its switch was restarted. One that
   * has taken GUEST_ANNOUNCE says so itself, but not by RARP, for which OVN waits (activation-strategy=rarp), and only
   * when it gets to it: so it is said here, if the orchestrator has told the address.
   */
  #announceArrival(state: BackendState): void {
    const mac = this.#attachedMac;
    const fresh = isPacked(state) ? FRESH_PACKED : 0;
    if (mac === undefined || (state.rings[0]!.base & 0xffff) === fresh) return;
    this.#info(`the guest goes on here: announcing ${mac}`);
    const bytes = Buffer.from(mac.replaceAll(':', ''), 'hex');
    const connection = this.#connection;
    for (const delayMs of ANNOUNCE_AT_MS) {
      const timer = setTimeout(() => {
        if (this.#linkUp && this.#connection === connection) this.#announce(bytes);
      }, delayMs);
      timer.unref();
    }
  }

  #sayLink(up: boolean): void {
    this.#context.log.info(
      `vHost Device '${this.#path}' has been ${up ? 'added' : 'removed'} (port ${this.name})`,
    );
  }

  #changed(before: BackendState, after: BackendState): void {
    const up = isUp(after);
    if (up) {
      this.#error = undefined;
      this.#retryMs = RETRY_MIN_MS;
    }
    if (up && !this.#linkUp) this.#announceArrival(after);
    if (!this.#setLink(up) && this.#linkUp && before.rings !== after.rings) this.onChange?.();
  }

  #setLink(up: boolean): boolean {
    if (up === this.#linkUp) return false;
    this.#linkUp = up;
    this.#linkResets++;
    this.#sayLink(up);
    this.onChange?.();
    return true;
  }

  #disconnected(fault: string | undefined): void {
    this.#connection = undefined;
    const newError = fault === undefined ? this.#error : `front-end disconnected: ${fault}`;
    const changed = newError !== this.#error;
    this.#error = newError;
    if (fault !== undefined) {
      this.#context.log.warn(`${this.name}: ${newError}`);
      this.#retryMs = RETRY_MAX_MS;
    } else this.#info(`vHost Device '${this.#path}' connection has been destroyed`);
    if (!this.#setLink(false) && changed) this.onChange?.();
    this.#reconnectLater();
  }

  /** The data plane found the ring of `queue` invalid (`reason`: DROP_*). The guest loses its port, nobody else. */
  brokenQueue(queue: number, reason: number): void {
    const ring = this.#device.ringOf(queue);
    const connection = this.#connection;
    if (ring < 0 || connection === undefined) return;
    const { err } = connection.state.rings[ring]!;
    if (err >= 0) eventfdSignal(err);
    void connection.close(`ring ${ring} is broken (${DROP_NAMES[reason] ?? reason})`);
  }

  status(): NetdevStatus {
    const state = this.#linkUp ? this.#connection?.state : undefined;
    const status = vhostStatus(this.#mode, this.#path, state);
    return {
      adminUp: this.#adminUp,
      linkUp: this.#linkUp,
      linkResets: this.#linkResets,
      mac: this.#mac,
      mtu: this.#mtu,
      ifindex: pseudoIfindex(this.name),
      status: this.#error === undefined ? status : { ...status, error: this.#error },
      error: this.#error,
    };
  }

  statistics(): Record<string, number> {
    return vhostStatistics(this.#context.engine, this.port, this.#device.queues());
  }

  reconfigure(config: NetdevConfig): boolean {
    const path = this.#mode === 'client' ? (config.options['vhost-server-path'] ?? '') : this.#path;
    if (config.type !== this.type || path !== this.#path) return false;
    if (backendOptions(config, this.#context).features !== this.#options.features) return false;
    this.#attachedMac = config.attachedMac;
    const mtu = mtuOf(config);
    const mac = config.mac ?? this.#mac;
    const txRetries = txRetriesOf(config);
    if (txRetries !== this.#txRetries) {
      this.#txRetries = txRetries;
      this.#context.engine.setPort(this.port, { txRetries });
      this.#logTxRetries();
    }
    if (mtu !== this.#mtu || mac !== this.#mac) {
      this.#mtu = mtu;
      this.#mac = mac;
      this.#context.engine.setPort(this.port, { mtu });
      this.onChange?.();
    }
    return true;
  }

  setAdminUp(up: boolean): void {
    if (up === this.#adminUp) return;
    this.#adminUp = up;
    this.#context.engine.setPort(this.port, { flags: up ? PORT_UP : 0 });
    this.onChange?.();
  }

  async handOver(): Promise<Bequest> {
    const stopped = await this.#connection?.handOver();
    const saved = stopped ? saveConnection(stopped) : { json: undefined, fds: [] };
    const fds = [...saved.fds];
    const left: HandedOver = {
      path: this.#path,
      type: this.type,
      mac: this.#mac,
      connection: saved.json,
      listener: this.#listener ? fds.push(this.#listener.fd) - 1 : -1,
    };
    this.#listener?.watcher[Symbol.dispose]();
    this.#listener = undefined;
    this.#connection = undefined;
    // The rings have stopped; nobody has to wait for the rest.
    void this.close();
    return { json: JSON.stringify(left), fds };
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.onChange = undefined;
    clearTimeout(this.#retry);
    if (this.#listener) {
      this.#listener.watcher[Symbol.dispose]();
      closeFd(this.#listener.fd);
      rmSync(this.#path, { force: true });
    }
    await this.#connection?.close();
    await this.#device.left;
    await this.#context.engine.removePort(this.port);
  }
}

function open(config: NetdevConfig, context: NetdevContext, path: string): VhostPort {
  const number = context.engine.addPort();
  const port = new VhostPort(config, context, number, path);
  const bequest = context.inherited?.get(config.name);
  context.inherited?.delete(config.name);
  try {
    port.start(bequest);
    return port;
  } catch (thrown) {
    void port.close();
    const reason = thrown instanceof SysError ? thrown.text : (thrown as Error).message;
    throw new NetdevError(`could not open network device ${config.name} (${reason})`);
  }
}

/** Type dpdkvhostuserclient. Without options:vhost-server-path the port waits for one, as in Open vSwitch. */
export async function openVhostUserClient(
  config: NetdevConfig,
  context: NetdevContext,
): Promise<Netdev> {
  const path = config.options['vhost-server-path'] ?? '';
  if (path === '') context.log.warn(`${config.name}: options:vhost-server-path is missing`);
  return open(config, context, path);
}

/** Who has heard that dpdkvhostuser is deprecated: it is said once. */
const warned = new WeakSet<NetdevContext>();

/** Type dpdkvhostuser: listens at VHOST-SOCK-DIR/NAME. */
export async function openVhostUser(config: NetdevConfig, context: NetdevContext): Promise<Netdev> {
  const { name } = config;
  if (/[/\\]/.test(name)) {
    context.log.err(
      `"${name}" is not a valid name for a vhost-user port. A valid name must not include '/' or '\\'`,
    );
    throw new NetdevError(`could not open network device ${name} (Invalid argument)`);
  }
  if (!warned.has(context)) {
    warned.add(context);
    context.log.warn(
      'dpdkvhostuser ports are considered deprecated;  please migrate to dpdkvhostuserclient ports.',
    );
  }
  return open(config, context, `${context.vhostSockDir}/${name}`);
}
