// The command line of ovs-vswitchd(8), parsed as getopt_long does: abbreviated long options, `--opt=value` or
// `--opt value`, `-vSPEC`, options and the one DATABASE argument in any order, `--` ends the options.

export class UsageError extends Error {}

export interface VswitchdOptions {
  database: string | undefined;
  /** undefined = no pid file; '' = default place. */
  pidfile: string | undefined;
  overwritePidfile: boolean;
  /** --take-over: from the daemon that runs; seconds to wait for a configuration in the database. undefined: not asked for. */
  takeOver: number | undefined;
  detach: boolean;
  chdir: boolean;
  monitor: boolean;
  user: string | undefined;
  /** undefined = no log file; '' = default place. */
  logFile: string | undefined;
  /** -v arguments in order; '' = maximum verbosity. */
  verbose: string[];
  syslogMethod: string | undefined;
  syslogTarget: string | undefined;
  unixctl: string | undefined;
  mlockall: boolean;
  selfConfinement: boolean;
  /** --enable-dummy: '' | 'override' | 'system'. */
  enableDummy: string | undefined;
  disableSystem: boolean;
  disableSystemRoute: boolean;
  dummyNuma: string | undefined;
  privateKey: string | undefined;
  certificate: string | undefined;
  caCert: string | undefined;
  peerCaCert: string | undefined;
  bootstrapCaCert: string | undefined;
  sslProtocols: string | undefined;
  sslCiphers: string | undefined;
  help: boolean;
  version: boolean;
}

type Arity = 'none' | 'required' | 'optional';
type Setter = (o: VswitchdOptions, value: string | undefined) => void;

/** An operator looks at the command meanwhile; a database that is there answers in milliseconds. */
const TAKE_OVER_SECONDS = 30;

function secondsOf(value: string | undefined): number {
  if (value === undefined) return TAKE_OVER_SECONDS;
  const seconds = Number(value);
  if (/^\d+$/.test(value) && seconds > 0 && seconds <= 86_400) return seconds;
  throw new UsageError(`--take-over: ${value}: not a number of seconds between 1 and 86400`);
}

const LONG: Record<string, [Arity, Setter]> = {
  help: ['none', (o) => (o.help = true)],
  version: ['none', (o) => (o.version = true)],
  mlockall: ['none', (o) => (o.mlockall = true)],
  unixctl: ['required', (o, v) => (o.unixctl = v)],
  pidfile: ['optional', (o, v) => (o.pidfile = v ?? '')],
  'overwrite-pidfile': ['none', (o) => (o.overwritePidfile = true)],
  'take-over': ['optional', (o, v) => (o.takeOver = secondsOf(v))],
  detach: ['none', (o) => (o.detach = true)],
  'no-chdir': ['none', (o) => (o.chdir = false)],
  monitor: ['none', (o) => (o.monitor = true)],
  user: ['required', (o, v) => (o.user = v)],
  'no-self-confinement': ['none', (o) => (o.selfConfinement = false)],
  verbose: ['optional', (o, v) => o.verbose.push(v ?? '')],
  'log-file': ['optional', (o, v) => (o.logFile = v ?? '')],
  'syslog-method': ['required', (o, v) => (o.syslogMethod = v)],
  'syslog-target': ['required', (o, v) => (o.syslogTarget = v)],
  'private-key': ['required', (o, v) => (o.privateKey = v)],
  certificate: ['required', (o, v) => (o.certificate = v)],
  'ca-cert': ['required', (o, v) => (o.caCert = v)],
  'peer-ca-cert': ['required', (o, v) => (o.peerCaCert = v)],
  'bootstrap-ca-cert': ['required', (o, v) => (o.bootstrapCaCert = v)],
  'ssl-protocols': ['required', (o, v) => (o.sslProtocols = v)],
  'ssl-ciphers': ['required', (o, v) => (o.sslCiphers = v)],
  'enable-dummy': ['optional', (o, v) => (o.enableDummy = v ?? '')],
  'disable-system': ['none', (o) => (o.disableSystem = true)],
  'disable-system-route': ['none', (o) => (o.disableSystemRoute = true)],
  'dummy-numa': ['required', (o, v) => (o.dummyNuma = v)],
  dpdk: [
    'optional',
    () => {
      throw new UsageError(
        '--dpdk option to ovs-vswitchd is removed. Use ovs-vsctl to configure DPDK.',
      );
    },
  ],
};

const SHORT: Record<string, string> = {
  h: 'help',
  V: 'version',
  v: 'verbose',
  p: 'private-key',
  c: 'certificate',
  C: 'ca-cert',
};

function findLong(program: string, name: string): string {
  if (LONG[name]) return name;
  const candidates = Object.keys(LONG).filter((n) => n.startsWith(name));
  if (candidates.length === 1) return candidates[0]!;
  if (candidates.length === 0) throw new UsageError(`unrecognized option '--${name}'`);
  const list = candidates.map((n) => `'--${n}'`).join(' ');
  throw new UsageError(`option '--${name}' is ambiguous; possibilities: ${list}`, {
    cause: program,
  });
}

/** Parses the arguments after the program's name; throws UsageError with getopt's texts. */
export function parseOptions(program: string, args: readonly string[]): VswitchdOptions {
  const options: VswitchdOptions = {
    database: undefined,
    pidfile: undefined,
    overwritePidfile: false,
    takeOver: undefined,
    detach: false,
    chdir: true,
    monitor: false,
    user: undefined,
    logFile: undefined,
    verbose: [],
    syslogMethod: undefined,
    syslogTarget: undefined,
    unixctl: undefined,
    mlockall: false,
    selfConfinement: true,
    enableDummy: undefined,
    disableSystem: false,
    disableSystemRoute: false,
    dummyNuma: undefined,
    privateKey: undefined,
    certificate: undefined,
    caCert: undefined,
    peerCaCert: undefined,
    bootstrapCaCert: undefined,
    sslProtocols: undefined,
    sslCiphers: undefined,
    help: false,
    version: false,
  };
  const positional: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!;
    if (arg === '--') {
      positional.push(...args.slice(i + 1));
      break;
    }
    if (arg.startsWith('--')) {
      const equals = arg.indexOf('=');
      const name = findLong(program, equals < 0 ? arg.slice(2) : arg.slice(2, equals));
      let value = equals < 0 ? undefined : arg.slice(equals + 1);
      const [arity, set] = LONG[name]!;
      if (arity === 'none' && value !== undefined) {
        throw new UsageError(`option '--${name}' doesn't allow an argument`);
      }
      if (arity === 'required' && value === undefined) {
        value = args[++i];
        if (value === undefined) throw new UsageError(`option '--${name}' requires an argument`);
      }
      set(options, value);
    } else if (arg.startsWith('-') && arg !== '-') {
      for (let at = 1; at < arg.length; at++) {
        const letter = arg[at]!;
        const name = SHORT[letter];
        if (!name) throw new UsageError(`invalid option -- '${letter}'`);
        const [arity, set] = LONG[name]!;
        if (arity === 'none') {
          set(options, undefined);
          continue;
        }
        let value: string | undefined = arg.slice(at + 1) || undefined;
        if (arity === 'required' && value === undefined) {
          value = args[++i];
          if (value === undefined) {
            throw new UsageError(`option requires an argument -- '${letter}'`);
          }
        }
        set(options, value);
        break;
      }
    } else {
      positional.push(arg);
    }
  }
  if (positional.length > 1) {
    throw new UsageError('at most one non-option argument accepted; use --help for usage');
  }
  options.database = positional[0];
  return options;
}
