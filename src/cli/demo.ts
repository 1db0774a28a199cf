// `npm start`: the whole switch in one process with nothing around it. An embedded OVSDB, a bridge, two guests of our own
// that exchange traffic over real vhost-user sockets, and a live table. Ctrl-C removes everything but the database file.

import { lstatSync, mkdirSync, rmdirSync } from 'node:fs';
import { connect } from 'node:net';
import { homedir, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { baseCommands } from '../control/appctl/base.ts';
import { CommandTable, listenUnixctl } from '../control/appctl/server.ts';
import { startEmbedded } from '../control/ovsdb/embedded.ts';
import { Guest } from '../guest/guest.ts';
import { GuestThread } from '../guest/thread.ts';
import { startVswitchd, type Vswitchd } from '../main/vswitchd.ts';
import { Coverage } from '../observe/coverage.ts';
import { Vlog } from '../observe/vlog.ts';
import { DEMO_SERVER_PORT, ensureDemoBridge } from './demoDatabase.ts';
import { renderLiveTable, type Sample } from './liveTable.ts';
import { createPidfile } from './pidfile.ts';

const HELP = `usage: npm start [-- OPTIONS]

Runs the xvio switch with an embedded database and two demonstration guests.

  --db FILE       database file (default: ~/.local/state/xvio/conf.db)
  --rundir DIR    sockets of the database, of OpenFlow and of ovs-appctl (default: a directory in ${tmpdir()})
  --no-guests     no demonstration guests
  --rate N        packets a second of each guest (default: 10000)
  --seconds N     end after N seconds (default: when interrupted)
  -h, --help      this text

Environment: OVS_RUNDIR is the same as --rundir.
`;

const OVS_VERSION = '3.1.0';
const VERSION = `ovs-vswitchd (Open vSwitch) ${OVS_VERSION}`;
const REFRESH_MS = 1000;

interface DemoOptions {
  db: string;
  rundir: string;
  guests: boolean;
  rate: number;
  seconds: number | undefined;
}

function fail(text: string): never {
  process.stderr.write(`xvio: ${text}\n`);
  process.exit(1);
}

function readOptions(): DemoOptions {
  try {
    const { values } = parseArgs({
      options: {
        db: { type: 'string' },
        rundir: { type: 'string' },
        'no-guests': { type: 'boolean' },
        rate: { type: 'string' },
        seconds: { type: 'string' },
        help: { type: 'boolean', short: 'h' },
      },
    });
    if (values.help) {
      process.stdout.write(HELP);
      process.exit(0);
    }
    const number = (name: string, text: string | undefined): number | undefined => {
      if (text === undefined) return undefined;
      if (!(Number(text) > 0)) fail(`--${name}: '${text}' is not a positive number`);
      return Number(text);
    };
    const state = process.env.XDG_STATE_HOME ?? join(homedir(), '.local', 'state');
    return {
      db: values.db ?? join(state, 'xvio', 'conf.db'),
      rundir:
        values.rundir ?? process.env.OVS_RUNDIR ?? join(tmpdir(), `xvio-${process.getuid!()}`),
      guests: !values['no-guests'],
      rate: number('rate', values.rate) ?? 10_000,
      seconds: number('seconds', values.seconds),
    };
  } catch (error) {
    return fail(`${(error as Error).message}; try --help`);
  }
}

/** mkdir -p, but without Node's endless attempts where nothing can be made (/proc). */
function makeDirectory(path: string): void {
  try {
    mkdirSync(path, 0o700);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') return;
    if (code !== 'ENOENT' || dirname(path) === path) throw error;
    makeDirectory(dirname(path));
    mkdirSync(path, 0o700);
  }
}

/** The run directory: nobody else may put sockets and links where a switch that runs as root creates files. */
function makeRundir(rundir: string): void {
  try {
    makeDirectory(rundir);
    const { uid, mode } = lstatSync(rundir);
    const shared = tmpdir() === join(rundir, '..');
    if (shared && (uid !== process.getuid!() || (mode & 0o22) !== 0)) {
      fail(`${rundir}: others can write there; choose another directory with --rundir`);
    }
  } catch (error) {
    fail((error as Error).message);
  }
}

/** Somebody answers on the socket. */
function isServed(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

interface DemoGuest {
  guest: Guest;
  thread: GuestThread | undefined;
  own: number;
  other: number;
}

function startGuests(options: DemoOptions): { close(): Promise<void> } {
  const traffic = ({ own, other }: DemoGuest) => ({
    send: true,
    sourceMac: `52:54:00:00:00:0${own}`,
    destinationMac: `52:54:00:00:00:0${other}`,
    sourceIp: `192.0.2.${own}`,
    destinationIp: `192.0.2.${other}`,
    flows: 16,
    perMs: options.rate / 1000,
    batch: 16,
  });
  const make = (path: string, mode: 'server' | 'client', own: number, other: number): DemoGuest => {
    const demo: DemoGuest = {
      guest: new Guest({ path, mode, memoryBytes: 16 << 20 }),
      thread: undefined,
      own,
      other,
    };
    demo.guest.onChange = () => {
      if (demo.thread || demo.guest.connections === 0) return;
      demo.thread = new GuestThread(demo.guest);
      // Both have to listen before anybody talks, or the first packets find full rings.
      if (guests.every(({ thread }) => thread)) setTimeout(talk, 500);
    };
    return demo;
  };
  const talk = (): void => {
    for (const demo of guests) demo.thread?.setTraffic(0, traffic(demo));
  };
  const guests = [
    make(join(options.rundir, 'vm1.sock'), 'server', 1, 2),
    make(join(options.rundir, DEMO_SERVER_PORT), 'client', 2, 1),
  ];
  for (const { guest } of guests) guest.open();
  return {
    close: async () => {
      await Promise.allSettled(guests.map(({ thread }) => thread?.close()));
      for (const { guest } of guests) guest.close();
    },
  };
}

function takeSample(daemon: Vswitchd): Sample {
  const { engine, reconciler } = daemon;
  const ports: Sample['ports'][number][] = [];
  for (const [bridge, unit] of reconciler.bridges) {
    for (const { name, netdev, port } of unit.ports.units.values()) {
      if (!netdev || !port || netdev.port < 0) continue;
      const counters = engine.portCounters(netdev.port);
      ports.push({
        bridge,
        name,
        ofport: port.ofport,
        type: netdev.type,
        linkUp: netdev.status().linkUp,
        ...counters,
      });
    }
  }
  return {
    atMs: performance.now(),
    ports: ports.sort((a, b) => a.ofport - b.ofport),
    workers: engine.workerStats(),
    megaflows: engine.flowCount(),
  };
}

async function main(): Promise<void> {
  const options = readOptions();
  const { rundir } = options;
  makeRundir(rundir);
  if (await isServed(join(rundir, 'db.sock'))) fail(`another switch runs in ${rundir}`);

  const interactive = process.stdout.isTTY === true;
  const messages: string[] = [];
  const say = (line: string): void => {
    if (!interactive) process.stdout.write(`${line}\n`);
    messages.push(line);
    if (messages.length > 8) messages.shift();
  };
  const vlog = new Vlog({ program: 'xvio', console: say });
  vlog.set('console:warn');
  const coverage = new Coverage();
  const commands = new CommandTable();
  const undo: (() => void | Promise<void>)[] = [];
  let ending: Promise<void> | undefined;
  const end = (): Promise<void> => {
    ending ??= (async () => {
      for (const step of undo.reverse()) await step();
      try {
        rmdirSync(rundir);
      } catch {
        // not empty: somebody else's files
      }
    })();
    return ending;
  };
  const stop = (): void => {
    void end().then(() => process.exit(0));
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, stop);

  try {
    undo.push(createPidfile(join(rundir, 'ovs-vswitchd.pid'), false));
    const embedded = await startEmbedded({
      file: options.db,
      sockets: [`punix:${join(rundir, 'db.sock')}`],
      identity: { ovs_version: OVS_VERSION },
      log: vlog.module('ovsdb_server'),
    });
    undo.push(() => embedded.close());
    let daemon: Vswitchd | undefined;
    commands.add(
      ...baseCommands({
        vlog,
        coverage,
        version: VERSION,
        exit: async () => void setTimeout(stop, 20),
        memory: () => daemon?.memory() ?? {},
      }),
    );
    const unixctl = await listenUnixctl(join(rundir, `ovs-vswitchd.${process.pid}.ctl`), commands);
    undo.push(() => unixctl.close());
    await ensureDemoBridge(embedded, join(rundir, 'vm1.sock'));
    const configured = Promise.withResolvers<void>();
    daemon = await startVswitchd({
      database: () => embedded.connect(),
      paths: { rundir },
      vlog,
      coverage,
      commands,
      onConfigured: configured.resolve,
    });
    const running = daemon;
    undo.push(() => running.close(true));
    await configured.promise;
    if (options.guests) {
      const guests = startGuests(options);
      undo.push(() => guests.close());
    }
    setInterval(() => coverage.sample(), 5000).unref();
    show(running, options, interactive, messages);
    if (options.seconds !== undefined) setTimeout(stop, options.seconds * 1000);
  } catch (error) {
    await end();
    fail((error as Error).message);
  }
}

function show(
  daemon: Vswitchd,
  options: DemoOptions,
  interactive: boolean,
  messages: readonly string[],
): void {
  const head = [
    `xvio: database ${options.db} on unix:${join(options.rundir, 'db.sock')}; configure it from another terminal:`,
    `  export OVS_RUNDIR=${options.rundir}`,
    '  ovs-vsctl show; ovs-ofctl dump-flows br0; ovs-appctl dpctl/dump-flows',
    '',
  ];
  if (!interactive) process.stdout.write(`${head.join('\n')}\n`);
  let before = takeSample(daemon);
  setInterval(() => {
    const now = takeSample(daemon);
    const lines = renderLiveTable(before, now);
    before = now;
    if (interactive) {
      const screen = [...head, ...lines, '', ...messages, 'Ctrl-C ends'];
      process.stdout.write(`\x1b[H\x1b[J${screen.join('\n')}\n`);
    } else {
      process.stdout.write(`${lines.join('\n')}\n\n`);
    }
  }, REFRESH_MS);
}

await main();
