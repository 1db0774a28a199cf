// When the daemon writes: one transaction per reconfiguration, one when something's status changed,
// one per statistics interval (vswitchd/bridge.c: ofport, error and cur_cfg together; status at
// most every 100 ms; statistics every 5 s or more). At most one of each kind is under way; what
// changes meanwhile is in the next.

import { OvsdbError } from '../../wire/ovsdb/error.ts';
import { ConnectionLost, type OvsdbClient } from './client.ts';
import { columnUpdates, type Wanted } from './columns.ts';
import { type Log, silentLog } from './log.ts';
import { systemStats } from './systemStats.ts';

export interface PublisherOptions {
  client: OvsdbClient;
  /** Status columns of everything there is, now. */
  collectStatus: () => Wanted;
  /** Statistics columns, now. */
  collectStatistics: () => Wanted;
  /** Directory of the pid files (OVS_RUNDIR), for Open_vSwitch.statistics. */
  runDir: string;
  log?: Log;
}

const STATUS_PAUSE_MS = 100;
/** After a refusal (a full disk, say), which is logged each time. */
const FAILURE_PAUSE_MS = 5000;
const MIN_STATISTICS_MS = 5000;
const SYSTEM_STATS_MS = 5000;

export class Publisher {
  readonly #options: PublisherOptions;
  readonly #log: Log;
  #statusWanted = false;
  #statusBusy = false;
  #statusRun: Promise<void> = Promise.resolve();
  #statusTimer: NodeJS.Timeout | undefined;
  #statisticsTimer: NodeJS.Timeout | undefined;
  #systemTimer: NodeJS.Timeout | undefined;
  /** 0 = not started. */
  #intervalMs = 0;
  #statisticsBusy = false;
  #systemBusy = false;
  #closed = false;

  constructor(options: PublisherOptions) {
    this.#options = options;
    this.#log = options.log ?? silentLog;
  }

  /** Begins with the periodic statistics. */
  start(): void {
    this.#armStatistics();
    this.#systemTimer = setInterval(() => void this.#publishSystem(), SYSTEM_STATS_MS);
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#statusTimer);
    clearTimeout(this.#statisticsTimer);
    clearInterval(this.#systemTimer);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * Writes the outcome of a reconfiguration in one transaction. True when it is in the database;
   * false if it could not be written (no connection, lock lost): the next reconfiguration or
   * reconnection does it again.
   */
  async publish(wanted: Wanted): Promise<boolean> {
    const { client } = this.#options;
    // Another daemon's database is not ours to write.
    if (client.lockState === 'contended') return false;
    const operations = columnUpdates(client.snapshot, wanted);
    if (operations.length === 0) return client.connected;
    try {
      await client.transact(operations);
      return true;
    } catch (error) {
      if (error instanceof ConnectionLost) return false;
      if (!(error instanceof OvsdbError)) throw error;
      if (error.tag !== 'not owner') this.#log.warn(`database update failed: ${error}`);
      return false;
    }
  }

  /** Some device, controller or bridge is not as it was: its status is written soon. */
  statusChanged(): void {
    this.#statusWanted = true;
    if (this.#statusTimer || this.#statusBusy || this.#closed) return;
    this.#statusRun = this.#publishStatus();
  }

  /** Writes now what waits for its turn: for clocks that stand still. */
  async flushStatus(): Promise<void> {
    await this.#statusRun;
    if (!this.#statusWanted || this.#statusBusy || this.#closed) return;
    clearTimeout(this.#statusTimer);
    this.#statusTimer = undefined;
    this.#statusRun = this.#publishStatus();
    await this.#statusRun;
  }

  async #publishStatus(): Promise<void> {
    this.#statusWanted = false;
    this.#statusBusy = true;
    const written = await this.publish(this.#options.collectStatus());
    this.#statusBusy = false;
    if (this.#closed) return;
    // Without connection or lock there is nobody to tell; whoever gets them calls statusChanged().
    const failed = !written && this.#options.client.lockState === 'held';
    if (failed) this.#statusWanted = true;
    this.#statusTimer = setTimeout(
      () => {
        this.#statusTimer = undefined;
        if (this.#statusWanted) this.#statusRun = this.#publishStatus();
      },
      failed ? FAILURE_PAUSE_MS : STATUS_PAUSE_MS,
    );
  }

  /** The configuration is new: a changed other_config:stats-update-interval counts from now on. */
  settingsChanged(): void {
    if (this.#closed || this.#intervalMs === 0) return;
    if (this.#wantedIntervalMs() === this.#intervalMs) return;
    clearTimeout(this.#statisticsTimer);
    this.#armStatistics();
  }

  #wantedIntervalMs(): number {
    const configured = Number(
      this.#options.client.snapshot.root?.other_config['stats-update-interval'] ?? 0,
    );
    return Math.max(configured || 0, MIN_STATISTICS_MS);
  }

  #armStatistics(): void {
    if (this.#closed) return;
    this.#intervalMs = this.#wantedIntervalMs();
    this.#statisticsTimer = setTimeout(() => {
      void this.publishStatistics();
      this.#armStatistics();
    }, this.#intervalMs);
  }

  /** Writes the statistics now, unless a write is under way. */
  async publishStatistics(): Promise<void> {
    if (this.#statisticsBusy || !this.#options.client.connected) return;
    this.#statisticsBusy = true;
    try {
      await this.publish(this.#options.collectStatistics());
    } finally {
      this.#statisticsBusy = false;
    }
  }

  async #publishSystem(): Promise<void> {
    const { client, runDir } = this.#options;
    const { root } = client.snapshot;
    if (!root || !client.connected || this.#systemBusy) return;
    this.#systemBusy = true;
    const enabled = root.other_config['enable-statistics'] === 'true';
    const statistics = enabled ? systemStats(runDir) : {};
    try {
      await this.publish({ Open_vSwitch: new Map([[root.uuid, { statistics }]]) });
    } finally {
      this.#systemBusy = false;
    }
  }
}
