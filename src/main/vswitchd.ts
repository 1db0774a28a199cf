// The composition root: engine, datapath, database session and the loop that makes reality follow the database.

import type { Duplex } from 'node:stream';
import { CT_SIZE } from '../../contract/memory.ts';
import type { CommandTable } from '../control/appctl/server.ts';
import { OvsdbClient } from '../control/ovsdb/client.ts';
import { daemonIdentity, mergeWanted, type Wanted } from '../control/ovsdb/columns.ts';
import { Publisher } from '../control/ovsdb/publisher.ts';
import { type TlsFiles, unknownProtocol } from '../control/ovsdb/remote.ts';
import { createEngine, type DataPlaneEngine } from '../engine/engine.ts';
import type { Coverage } from '../observe/coverage.ts';
import { rateLimit, type Vlog } from '../observe/vlog.ts';
import { useLinkMonitor } from '../port/kernelLink.ts';
import { Datapath } from '../switch/datapath.ts';
import { closeFd } from '../sys/fd.ts';
import { memfdCreate } from '../sys/memory.ts';
import { datapathColumns } from './capabilities.ts';
import { switchCommands } from './commands.ts';
import { eventCounts, memoryUsage } from './counts.ts';
import { CtZones, ctZonesFrom } from './ctZones.ts';
import { ifaceTypes } from './devices.ts';
import { Dummies, type DummyLevel } from './dummies.ts';
import { type DummyClock, installDummyClock } from './dummyClock.ts';
import { dummyCommands } from './dummyCommands.ts';
import { Donor } from './handover/donor.ts';
import { Heir } from './handover/heir.ts';
import { Journal, readJournal } from './handover/keepsake.ts';
import { conntrackLayout, handOverPath, type State } from './handover/messages.ts';
import {
  donorHooks,
  type Household,
  journalOf,
  NotTakenOver,
  revisionOf,
  salvage,
  succeed,
} from './handover/succession.ts';
import type { SwitchIntent } from './intent.ts';
import { intentFrom, NOTHING } from './intentFrom.ts';
import { createProtocolModules, protocolCommands } from './protocolModules.ts';
import { Reconciler } from './reconcile.ts';
import { openUnderlay } from './underlay.ts';

export interface VswitchdOptions {
  /** 'unix:…', 'tcp:…', 'ssl:…', or what connects to the embedded server. */
  database: string | (() => Duplex);
  paths: { rundir: string };
  vlog: Vlog;
  coverage: Coverage;
  commands: CommandTable;
  /** false: --disable-system. */
  systemDatapath?: boolean;
  /** false: --disable-system-route. */
  systemRoutes?: boolean;
  ssl?: TlsFiles;
  /** --mlockall. */
  lockMemory?: boolean;
  /** --enable-dummy. */
  dummies?: DummyLevel | undefined;
  /** After the first configuration is in force and in the database. */
  onConfigured?: () => void;
  /** Takes over from the daemon that runs (--take-over), if the database has a configuration within this time. */
  takeOverPatienceMs?: number;
  /** Of a standby: resolves when the daemon that it stands by for has crashed. */
  untilNeeded?: () => Promise<void>;
  /** A successor has taken over: the process has to end. */
  onHandedOver?: (pid: number) => void;
  /** Asks whoever starts this daemon to keep these files for the next one, should this one crash. */
  keep?: (fds: readonly number[]) => void;
  /** What the predecessor, which has crashed, asked to be kept. */
  kept?: readonly number[];
}

export { NotTakenOver };

export interface Vswitchd {
  readonly engine: DataPlaneEngine;
  readonly datapath: Datapath;
  readonly reconciler: Reconciler;
  /** memory/show. */
  memory(): Record<string, number>;
  /**
   * Runs `what` while no reconfiguration is under way; one that is wanted meanwhile comes afterwards. False: it has not, for
   * the daemon ends or hands over.
   */
  alone(what: () => Promise<void>): Promise<boolean>;
  /** `cleanup`: nothing survives; otherwise kernel devices of ours stay, as after the real daemon's exit. */
  close(cleanup: boolean): Promise<void>;
}

const RETRY_MS = 2000;
const LOCK_PATIENCE_MS = 5000;

class Daemon implements Vswitchd {
  readonly engine: DataPlaneEngine;
  readonly datapath: Datapath;
  readonly reconciler: Reconciler;
  readonly #options: VswitchdOptions;
  readonly #client: OvsdbClient;
  readonly #publisher: Publisher;
  readonly #links: Disposable;
  readonly #ctZones: CtZones;
  readonly #underlay: Disposable;
  readonly #dummies: Dummies | undefined;
  readonly #clock: DummyClock | undefined;
  #dirty = false;
  #working: Promise<void> | undefined;
  #configured = false;
  #started = false;
  #announced = false;
  #closed = false;
  /** No reconfigurations: a hand-over is under way. */
  #held = false;
  #awaitsLock = false;
  #donor: Donor | undefined;
  #emptyWillDo = false;
  #intentWanted: ((intent: SwitchIntent) => void)[] = [];
  #conntrackFd = memfdCreate('xvio-conntrack', CT_SIZE);
  readonly #journalFd: number;
  #journal: Journal | undefined;
  /** OpenFlow state of a predecessor that has crashed, until it is restored. */
  #salvaged: State | undefined;
  /** What has been warned of. */
  #unsupported: readonly string[] = [];
  /** They would be named with every change of the database. */
  readonly #badNames = rateLimit(5);

  constructor(options: VswitchdOptions, heir?: Heir) {
    this.#options = options;
    const [, keptJournal] = options.kept ?? [];
    this.#journalFd = keptJournal ?? memfdCreate('xvio-journal', 0, false);
    const salvaged = keptJournal === undefined ? undefined : readJournal(keptJournal);
    const { vlog, coverage, paths } = options;
    const odd = unknownProtocol(options.ssl?.protocols ?? '');
    if (odd !== undefined) vlog.module('stream_ssl').err(`${odd}: SSL protocol not recognized`);
    // Before anything else asks for the time.
    this.#clock = options.dummies === undefined ? undefined : installDummyClock();
    this.#dummies = options.dummies === undefined ? undefined : new Dummies(options.dummies);
    coverage.declare(
      'bridge_reconfigure',
      'upcall_flow_restore_wait',
      'upcall_packets',
      'upcall_not_installed',
    );
    const engineLog = vlog.module('dpif_netdev');
    const engine = createEngine({
      onUpcall: (upcall) => {
        if (this.reconciler.restoring) coverage.hit('upcall_flow_restore_wait');
        else this.datapath.onUpcall(upcall);
      },
      onBrokenQueue: (port, queue, reason) =>
        this.datapath.ports.get(port)?.port.netdev.brokenQueue?.(queue, reason),
      log: (level, text) => engineLog[level](text),
      conntrackFd: this.#conntrackFd,
      ...(heir ? { originNs: heir.state.originNs } : {}),
      ...(salvaged ? { originNs: salvaged.originNs } : {}),
    });
    this.engine = engine;
    if (options.lockMemory) this.#lockMemory();
    this.datapath = new Datapath({
      engine,
      ...(this.#dummies ? { name: 'dummy@ovs-dummy' } : {}),
      log: vlog.module('ofproto_dpif_upcall'),
      ctLog: vlog.module('ct_dpif'),
      flowLog: engineLog,
      dumpLog: vlog.module('dpif'),
      switchLog: vlog.module('ofproto_dpif'),
      xlateLog: vlog.module('ofproto_dpif_xlate'),
      traceLog: vlog.module('ofproto_dpif_upcall'),
    });
    const underlay = openUnderlay({
      datapath: this.datapath,
      systemRoutes: options.systemRoutes !== false,
      dummies: this.#dummies,
      log: vlog.module('ovs_router'),
      onEgress: () => this.#publisher.statusChanged(),
    });
    this.#underlay = underlay;
    options.commands.add(...underlay.commands);
    const protocols = createProtocolModules(vlog);
    options.commands.add(...protocolCommands(protocols));
    this.reconciler = new Reconciler({
      protocols,
      datapath: this.datapath,
      runDir: paths.rundir,
      context: {
        engine: this.engine,
        vhostSockDir: paths.rundir,
        numberedTunnels: this.#dummies !== undefined,
        log: vlog.module('netdev'),
      },
      dummies: this.#dummies,
      datapathTypes: this.#datapathTypes(),
      log: vlog.module('bridge'),
      connmgrLog: vlog.module('connmgr'),
      rconnLog: vlog.module('rconn'),
      flowLog: vlog.module('ofp_flow'),
      messageLog: vlog.module('vconn'),
      onStatus: () => this.#publisher.statusChanged(),
    });
    this.#ctZones = new CtZones({
      conntrack: this.engine.conntrack,
      warn: (text) => vlog.module('bridge').warn(text),
      onChange: (policies) => this.datapath.setZonePolicies(policies),
    });
    this.#client = new OvsdbClient({
      remote: options.database,
      onChange: (change) => {
        if (this.#intentWanted.length > 0) this.#tellIntent();
        if (change.config || change.initial) this.#wake();
      },
      onLock: (state) => this.#lockChanged(state),
      onConnection: (connected) => {
        if (connected) this.#publisher.statusChanged();
      },
      tls: options.ssl ?? {},
      log: vlog.module('reconnect'),
    });
    this.#publisher = new Publisher({
      client: this.#client,
      collectStatus: () => this.reconciler.statusColumns(),
      collectStatistics: () => this.reconciler.statisticsColumns(),
      runDir: paths.rundir,
      log: vlog.module('ovsdb_idl'),
    });
    const { monitor, ...shared } = useLinkMonitor(this.engine);
    const names = monitor.watchNames(() => {
      if (this.reconciler.incomplete) this.#wake();
    });
    this.#links = {
      [Symbol.dispose]: () => {
        names[Symbol.dispose]();
        shared[Symbol.dispose]();
      },
    };
    coverage.addSource(() => eventCounts(this));
    options.commands.add(...switchCommands(this));
    if (this.#dummies && this.#clock) this.#addDummyCommands(engine, this.#dummies, this.#clock);
  }

  #lockMemory(): void {
    try {
      this.engine.lockMemory();
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      this.#options.vlog.module('vswitchd').err(`mlockall failed: ${text}`);
    }
  }

  #addDummyCommands(engine: DataPlaneEngine, dummies: Dummies, clock: DummyClock): void {
    clock.onSkew = (skewMs) => engine.setClockSkew(skewMs);
    const settle = async (): Promise<void> => {
      await dummies.settle(engine, this.datapath);
      if (this.#client.connected) await this.#publisher.flushStatus();
    };
    const portByName = (name: string): number | undefined => dummies.devices.get(name)?.port;
    const { commands } = this.#options;
    const credit = (): void => this.datapath.syncStats();
    commands.add(...dummyCommands({ dummies, clock, portByName, settle, credit }));
    // Tests look at results right after they have sent packets.
    commands.beforeEach = settle;
  }

  /** Takes up what a predecessor that has crashed left. */
  salvage(): void {
    const [keptConntrack, keptJournal] = this.#options.kept ?? [];
    const salvaged = keptJournal === undefined ? undefined : readJournal(keptJournal);
    this.#salvaged = salvaged;
    if (salvaged?.conntrackLayout === conntrackLayout() && keptConntrack !== undefined) {
      this.engine.adoptConntrack(keptConntrack, true);
      closeFd(this.#conntrackFd);
      this.#conntrackFd = keptConntrack;
    }
  }

  start(): void {
    this.#client.start();
    this.#publisher.start();
  }

  /** Takes over from a daemon that runs; resolves when that one has ended. */
  succeed(heir: Heir): Promise<void> {
    this.#held = true;
    this.#emptyWillDo = heir.state.bridges.length === 0;
    this.start();
    return succeed(this.#household(), heir, this.#options.takeOverPatienceMs!);
  }

  #household(): Household {
    const { vlog, onHandedOver } = this.#options;
    const conntrackFd = () => this.#conntrackFd;
    const setConntrackFd = (fd: number) => {
      this.#conntrackFd = fd;
    };
    return {
      engine: this.engine,
      datapath: this.datapath,
      reconciler: this.reconciler,
      get conntrackFd() {
        return conntrackFd();
      },
      set conntrackFd(fd: number) {
        setConntrackFd(fd);
      },
      log: vlog.module('daemon'),
      intent: () =>
        new Promise((resolve) => {
          this.#intentWanted.push(resolve);
          this.#tellIntent();
        }),
      hold: async () => {
        this.#held = true;
        await this.#working;
      },
      unhold: () => {
        this.#held = false;
        // The one that held the database's lock is gone; that we have it may be told a moment later.
        this.#awaitsLock = true;
        setTimeout(() => {
          this.#awaitsLock = false;
          this.#wake();
        }, LOCK_PATIENCE_MS).unref();
        this.#wake();
      },
      end: (pid) => onHandedOver?.(pid),
    };
  }

  #tellIntent(): void {
    const { snapshot } = this.#client;
    if (!this.#client.connected) return;
    // An empty database will do where there is nothing to lose: taking over from a daemon without bridges.
    const empty = this.#emptyWillDo ? NOTHING : undefined;
    const intent = intentFrom(snapshot) ?? empty;
    if (intent === undefined) return;
    this.#ctZones.apply(ctZonesFrom(snapshot));
    for (const resolve of this.#intentWanted.splice(0)) resolve(intent);
  }

  /** From now on a crash costs neither flows nor connections, if somebody keeps the files. */
  #keepJournal(): void {
    if (this.#options.keep === undefined) return;
    this.#journal = new Journal(
      this.#journalFd,
      () => revisionOf(this.reconciler),
      journalOf(this.#household()),
    );
    this.#options.keep([this.#conntrackFd, this.#journalFd]);
  }

  /** A successor may take over from now on. */
  #awaitSuccessor(): void {
    if (this.#options.onHandedOver === undefined || this.#donor) return;
    const { paths, vlog } = this.#options;
    try {
      this.#donor = new Donor(handOverPath(paths.rundir), donorHooks(this.#household()));
    } catch (thrown) {
      vlog.module('daemon').warn(`no hand-over to a successor: ${(thrown as Error).message}`);
    }
  }

  #lockChanged(state: 'held' | 'contended'): void {
    if (state === 'contended' && !this.#held && !this.#awaitsLock) {
      this.#options.vlog
        .module('bridge')
        .err(
          `another ovs-vswitchd process is running, disabling this process (pid ${process.pid}) until it goes away`,
        );
    }
    this.#wake();
  }

  /** Something may differ from what the database says. */
  #wake(): void {
    this.#dirty = true;
    if (this.#working || this.#closed || this.#held) return;
    this.#working = this.#work().finally(() => {
      this.#working = undefined;
    });
  }

  async alone(what: () => Promise<void>): Promise<boolean> {
    while (this.#working) await this.#working;
    if (this.#closed || this.#held) return false;
    const done = what().finally(() => {
      this.#working = undefined;
      if (this.#dirty) this.#wake();
    });
    this.#working = done.catch(() => {});
    await done;
    return true;
  }

  async #work(): Promise<void> {
    while (this.#dirty && !this.#closed && !this.#held) {
      this.#dirty = false;
      if (this.#client.lockState === 'contended') {
        if (!this.#awaitsLock) await this.reconciler.close(true);
      }
      if (this.#client.lockState === 'held') await this.#configure();
    }
  }

  async #configure(): Promise<void> {
    const { snapshot } = this.#client;
    const intent = intentFrom(snapshot);
    // An empty database has nothing to configure; whoever waits for the daemon need not wait for its first row.
    if (!intent || !snapshot.root) {
      this.#awaitSuccessor();
      this.#tellStarted();
      return;
    }
    this.#options.coverage.hit('bridge_reconfigure');
    this.#ctZones.apply(ctZonesFrom(snapshot));
    this.#publisher.settingsChanged();
    let portsReady: (() => Promise<void>) | undefined;
    if (this.#salvaged && !intent.restoring) {
      this.#options.vlog.module('daemon').info('restoring flows and connections after a crash');
      portsReady = await salvage(this.#household(), this.#salvaged, intent);
    }
    this.#salvaged = undefined;
    for (const name of intent.ignoredBridges) {
      this.#options.vlog
        .module('bridge')
        .warn(`ignoring bridge with invalid name "${name}"`, this.#badNames);
    }
    for (const what of intent.unsupported.filter((text) => !this.#unsupported.includes(text))) {
      this.#options.vlog
        .module('bridge')
        .info(`bridge ${what} is not supported, and has no effect`);
    }
    this.#unsupported = intent.unsupported;
    await this.reconciler.apply(intent, portsReady);
    this.#announceDatapath();
    const identity: Wanted = {
      Open_vSwitch: new Map([
        [
          snapshot.root.uuid,
          daemonIdentity({
            curCfg: intent.nextCfg,
            datapathTypes: this.#datapathTypes(),
            ifaceTypes: ifaceTypes(this.#dummies),
          }),
        ],
      ]),
      Datapath: datapathColumns(snapshot),
    };
    const written = await this.#publisher.publish(
      mergeWanted(this.reconciler.outcomeColumns(), identity),
    );
    if (!written && this.#client.lockState === 'held') {
      // The database refused (a full disk): what is in force has to be told sooner or later.
      setTimeout(() => this.#wake(), RETRY_MS).unref();
    }
    if (written && !this.#configured) {
      this.#configured = true;
      this.#awaitSuccessor();
      this.#keepJournal();
      this.#tellStarted();
    }
  }

  /** Once: the database has been read, and what it says is in force. */
  #tellStarted(): void {
    if (this.#started) return;
    this.#started = true;
    this.#options.onConfigured?.();
  }

  #datapathTypes(): string[] {
    const system = this.#options.systemDatapath === false ? [] : ['system'];
    return ['netdev', ...system, ...(this.#dummies ? ['dummy'] : [])];
  }

  /** With the first bridge: what scripts look for in the log of a datapath. */
  #announceDatapath(): void {
    if (this.#announced || this.reconciler.bridges.size === 0) return;
    this.#announced = true;
    const log = this.#options.vlog.module('ofproto_dpif');
    for (const feature of [
      'recirculation',
      'ct_clear action',
      'timeout policy in conntrack action',
    ]) {
      log.info(`${this.datapath.name}: Datapath supports ${feature}`);
    }
  }

  memory(): Record<string, number> {
    return memoryUsage(this);
  }

  async close(cleanup: boolean): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#donor?.[Symbol.dispose]();
    this.#journal?.[Symbol.dispose]();
    await this.#working;
    this.#publisher.close();
    this.#client.close();
    await this.reconciler.close(!cleanup);
    this.datapath.close();
    this.#links[Symbol.dispose]();
    this.#underlay[Symbol.dispose]();
    await this.engine.close();
    closeFd(this.#conntrackFd);
    closeFd(this.#journalFd);
    this.#clock?.uninstall();
  }
}

/**
 * Starts the switch; it follows the database from now on. Throws if the data plane cannot be loaded. With `takeOver` it
 * resolves when the daemon that ran before has ended; if there is none, it starts as usual.
 */
export async function startVswitchd(options: VswitchdOptions): Promise<Vswitchd> {
  const heir = options.takeOverPatienceMs ? await askForState(options) : undefined;
  const daemon = new Daemon(options, heir);
  if (heir === undefined) {
    await options.untilNeeded?.();
    daemon.salvage();
    daemon.start();
    return daemon;
  }
  try {
    await daemon.succeed(heir);
  } finally {
    heir[Symbol.dispose]();
  }
  return daemon;
}

async function askForState({ paths, vlog }: VswitchdOptions): Promise<Heir | undefined> {
  try {
    return await Heir.ask(handOverPath(paths.rundir));
  } catch (thrown) {
    const log = vlog.module('daemon');
    log.info(`nobody to take over from: ${(thrown as Error).message}`);
    return undefined;
  }
}
