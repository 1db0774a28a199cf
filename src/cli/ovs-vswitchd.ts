// Entry of bin/ovs-vswitchd: command line, stages of a daemon, pid file, log, control socket; then the switch itself.

import { enableCompileCache, flushCompileCache } from 'node:module';
import { join } from 'node:path';
import { chdir } from 'node:process';
import { baseCommands } from '../control/appctl/base.ts';
import { CommandTable, listenUnixctl, type UnixctlServer } from '../control/appctl/server.ts';
import { errorText } from '../control/ovsdb/log.ts';
import type { DummyLevel } from '../main/dummies.ts';
import type { Vswitchd } from '../main/vswitchd.ts';
import { Coverage } from '../observe/coverage.ts';
import { syslogSender } from '../observe/syslog.ts';
import { Vlog } from '../observe/vlog.ts';
import { becomeUser, lookupUser } from '../sys/user.ts';
import {
  currentStage,
  isStandby,
  keep,
  keptFds,
  notifyReady,
  runMonitor,
  runParent,
  untilNeeded,
} from './daemonize.ts';
import { LOG_MODULES } from './logModules.ts';
import { parseOptions, UsageError, type VswitchdOptions } from './options.ts';
import { inDir, pathsFrom } from './paths.ts';
import { createPidfile } from './pidfile.ts';
import { serviceManager } from './serviceManager.ts';
import { usage } from './usage.ts';

const PROGRAM = 'ovs-vswitchd';
/** After the start, when there is time for it. */
const CACHE_DELAY_MS = 2000;
const OVS_VERSION = '3.1.0';
/** First line as ovs-ctl and ovs-appctl parse it; the release of Open vSwitch whose behaviour xvio has. */
const VERSION = `${PROGRAM} (Open vSwitch) ${OVS_VERSION}`;

const paths = pathsFrom(process.env);

function die(text: string, status = 1): never {
  process.stderr.write(`${PROGRAM}: ${text}\n`);
  process.exit(status);
}

function readOptions(): VswitchdOptions {
  try {
    return parseOptions(PROGRAM, process.argv.slice(2));
  } catch (error) {
    if (error instanceof UsageError) die(error.message);
    throw error;
  }
}

function makeVlog(options: VswitchdOptions): Vlog {
  let vlog: Vlog;
  try {
    const method = options.syslogMethod ?? process.env.OVS_SYSLOG_METHOD;
    vlog = new Vlog({ program: PROGRAM, syslog: syslogSender(PROGRAM, method) });
  } catch (error) {
    die((error as Error).message);
  }
  for (const name of LOG_MODULES) vlog.module(name);
  for (const spec of options.verbose) {
    const error = vlog.set(spec === '' ? 'any:any:dbg' : spec);
    if (error !== undefined) die(`processing "${spec}": ${error}`);
  }
  return vlog;
}

function openLogFile(options: VswitchdOptions, vlog: Vlog): void {
  if (options.logFile === undefined) return;
  const file = inDir(paths.logdir, options.logFile || `${PROGRAM}.log`);
  try {
    vlog.openFile(file);
  } catch (error) {
    vlog.module('vlog').warn(`failed to open ${file} for logging: ${errorText(error)}`);
  }
}

/** `standby`: makes everything that needs no files, database and devices, and goes on when the daemon before has died. */
async function runDaemon(options: VswitchdOptions, vlog: Vlog, standby: boolean): Promise<void> {
  process.title = PROGRAM;
  const log = vlog.module('daemon_unix');
  const coverage = new Coverage();
  const cleanups: (() => void)[] = [];
  const fatal = (error: unknown): never => {
    for (const cleanup of cleanups.reverse()) cleanup();
    die((error as Error).message);
  };
  const claimPidfile = (): void => {
    if (options.pidfile === undefined) return;
    try {
      const file = inDir(paths.rundir, options.pidfile || `${PROGRAM}.pid`);
      cleanups.push(createPidfile(file, options.overwritePidfile));
    } catch (error) {
      log.emer((error as Error).message);
      fatal(error);
    }
  };
  // Taking over, the files belong to the other daemon until it is gone.
  const takeOver = options.takeOver !== undefined && !standby;
  if (!takeOver && !standby) claimPidfile();
  if (options.chdir && options.detach) chdir('/');
  if (options.user !== undefined) {
    try {
      becomeUser(lookupUser(options.user));
    } catch (error) {
      log.emer(`--user: ${(error as Error).message}`);
      fatal(error);
    }
  }

  let vswitchd: Vswitchd | undefined;
  let unixctl: UnixctlServer | undefined;
  let ending: Promise<void> | undefined;
  const manager = serviceManager(process.env, () => vswitchd?.engine.stalledWorkers() ?? []);
  /** Orderly end: devices and sockets released, files removed. */
  const end = (cleanup: boolean, handedOver = false): Promise<void> => {
    ending ??= (async () => {
      // The service goes on in the other process, which says so.
      if (!handedOver) manager.stopping();
      await vswitchd?.close(cleanup);
      for (const undo of cleanups.reverse()) undo();
    })();
    return ending;
  };
  const commands = new CommandTable();
  commands.add(
    ...baseCommands({
      vlog,
      coverage,
      version: VERSION,
      exit: async (cleanup) => {
        await end(cleanup);
        // The reply goes out first.
        setTimeout(() => process.exit(0), 20);
      },
      memory: () => vswitchd?.memory() ?? {},
    }),
  );
  const listen = async (): Promise<void> => {
    if (options.unixctl === 'none') return;
    const path = inDir(paths.rundir, options.unixctl ?? `${PROGRAM}.${process.pid}.ctl`);
    try {
      unixctl = await listenUnixctl(path, commands);
      const socket = unixctl;
      cleanups.push(() => socket.close());
    } catch (error) {
      const text = `${path}: could not initialize control socket (${errorText(error)})`;
      vlog.module('unixctl').emer(text);
      fatal(new Error(text));
    }
  };
  if (!takeOver && !standby) await listen();
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGALRM'] as const) {
    process.on(signal, () => {
      vlog.module('fatal_signal').warn(`terminating with signal ${signal}`);
      void end(false).finally(() => {
        process.removeAllListeners(signal);
        process.kill(process.pid, signal);
      });
    });
  }
  process.on('uncaughtException', (error) => {
    // A defect of ours: say where, then end as a crash does, so that --monitor and systemd start us again.
    log.emer(`uncaught exception: ${error.stack ?? error.message}`);
    for (const undo of cleanups.reverse()) undo();
    process.abort();
  });
  setInterval(() => coverage.sample(), 5000).unref();

  /** The files of a running daemon are ours. */
  const claimed = Promise.withResolvers<void>();
  // Most of a start is compiling the program: the next one, after a crash perhaps, finds it compiled.
  enableCompileCache(join(import.meta.dirname, '../../build/compile-cache'));
  // Loaded only now: -V and --help, which scripts call often, need none of it.
  const { NotTakenOver, startVswitchd } = await import('../main/vswitchd.ts');
  const starting = startVswitchd({
    database: options.database ?? `unix:${paths.rundir}/db.sock`,
    paths,
    vlog,
    coverage,
    commands,
    lockMemory: options.mlockall,
    systemDatapath: !options.disableSystem,
    systemRoutes: !options.disableSystemRoute,
    dummies: options.enableDummy === undefined ? undefined : dummyLevelOf(options.enableDummy),
    ssl: {
      privateKey: options.privateKey,
      certificate: options.certificate,
      caCert: options.caCert ?? options.bootstrapCaCert,
      bootstrap: options.bootstrapCaCert !== undefined,
      protocols: options.sslProtocols,
      ciphers: options.sslCiphers,
    },
    ...(takeOver ? { takeOverPatienceMs: options.takeOver! * 1000 } : {}),
    ...(standby
      ? {
          untilNeeded: async () => {
            await untilNeeded();
            openLogFile(options, vlog);
            claimPidfile();
            await listen();
          },
        }
      : {}),
    kept: keptFds(),
    ...(options.monitor ? { keep } : {}),
    onHandedOver: (pid) => {
      manager.handedOver(pid);
      void end(false, true).finally(() => process.exit(0));
    },
    onConfigured: () => {
      if (options.detach) vlog.silenceConsole();
      vlog.module('bridge').info(VERSION);
      void claimed.promise.then(() => {
        notifyReady();
        manager.ready();
      });
      setTimeout(flushCompileCache, CACHE_DELAY_MS).unref();
    },
  });
  try {
    vswitchd = await starting;
  } catch (error) {
    // Nothing that another try of a monitor would mend.
    if (!(error instanceof NotTakenOver)) throw error;
    log.emer((error as Error).message);
    fatal(error);
  }
  if (takeOver) {
    claimPidfile();
    await listen();
  }
  claimed.resolve();
}

function dummyLevelOf(text: string): DummyLevel {
  if (text === '') return 'none';
  if (text === 'system' || text === 'override') return text;
  return die(`${text}: unknown dummy level`);
}

const options = readOptions();
if (options.help) {
  process.stdout.write(usage(PROGRAM, paths));
  process.exit(0);
}
if (options.version) {
  process.stdout.write(`${VERSION}\n`);
  process.exit(0);
}
const stage = currentStage(options.detach, options.monitor);
if (stage === 'parent') {
  runParent(options.monitor);
} else {
  const vlog = makeVlog(options);
  const standby = isStandby();
  if (stage === 'daemon' && !standby) openLogFile(options, vlog);
  if (stage === 'monitor') {
    // What a standby makes beforehand it makes with all rights.
    const spare = options.user === undefined;
    runMonitor((text) => vlog.module('daemon_unix').err(text), options.detach, spare);
  } else {
    await runDaemon(options, vlog, standby);
  }
}
