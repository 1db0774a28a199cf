// Active connections: unix:PATH, tcp:HOST:PORT, ssl:HOST:PORT (ovsdb(7), "Active Connection
// Methods").

import { constants as crypto } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import { connect as connectTls, type SecureContextOptions } from 'node:tls';
import { bootstrapCa, shortPath } from '../openflow/vconn.ts';
import { type Log, silentLog } from './log.ts';

export interface TlsFiles {
  privateKey?: string | undefined;
  certificate?: string | undefined;
  caCert?: string | undefined;
  /** --bootstrap-ca-cert: a caCert that is not there yet is taken from the first peer. */
  bootstrap?: boolean | undefined;
  /** --ssl-protocols: "TLSv1, TLSv1.1, TLSv1.2", any of them. */
  protocols?: string | undefined;
  /** --ssl-ciphers: a list as openssl-ciphers(1) has it. */
  ciphers?: string | undefined;
}

const NO_PROTOCOL: Readonly<Record<string, number>> = {
  tlsv1: crypto.SSL_OP_NO_TLSv1,
  'tlsv1.1': crypto.SSL_OP_NO_TLSv1_1,
  'tlsv1.2': crypto.SSL_OP_NO_TLSv1_2,
};

const wordsOf = (protocols: string): string[] => protocols.split(/[ ,\t]+/).filter(Boolean);

/** The first word of --ssl-protocols that is none: then, as with Open vSwitch, the whole list counts for nothing. */
export function unknownProtocol(protocols: string): string | undefined {
  return wordsOf(protocols).find((word) => NO_PROTOCOL[word.toLowerCase()] === undefined);
}

/** What --ssl-protocols and --ssl-ciphers leave; TLS 1.3 is not in the list of protocols, and stays. */
export function tlsLimits({ protocols = '', ciphers }: TlsFiles): SecureContextOptions {
  const words = wordsOf(protocols).map((word) => word.toLowerCase());
  const limited = words.length > 0 && unknownProtocol(protocols) === undefined;
  const refused = Object.keys(NO_PROTOCOL).filter((name) => limited && !words.includes(name));
  return {
    ...(ciphers ? { ciphers } : {}),
    ...(limited
      ? {
          // Otherwise node's own minimum would hold.
          minVersion: 'TLSv1',
          secureOptions: refused.reduce((all, name) => all | NO_PROTOCOL[name]!, 0),
        }
      : {}),
  };
}

/** The files' contents as node:tls takes them. Throws if one cannot be read. */
export function readTls(files: TlsFiles): { key?: Buffer; cert?: Buffer; ca?: Buffer } {
  return {
    ...(files.privateKey ? { key: readFileSync(files.privateKey) } : {}),
    ...(files.certificate ? { cert: readFileSync(files.certificate) } : {}),
    ...(files.caCert ? { ca: readFileSync(files.caCert) } : {}),
  };
}

const DEFAULT_PORT = 6640;

function connectUnix(path: string): Duplex {
  // As connect(2) answers to an empty name; node would take it for a missing port.
  if (path === '') throw new Error('Connection refused');
  using short = shortPath(path);
  return connect(short.path);
}

/** HOST:PORT, [HOST]:PORT or HOST. */
function parseAddress(text: string): { host: string; port: number } {
  const match = /^(?:\[(.+)\]|([^:]+))(?::(\d+))?$/.exec(text);
  if (!match) throw new Error(`${text}: bad address`);
  const port = Number(match[3] ?? DEFAULT_PORT);
  if (port > 65535) throw new Error(`${text}: bad port number "${match[3]}"`);
  return { host: match[1] ?? match[2]!, port };
}

function connectSsl(address: string, tls: TlsFiles, log: Pick<Log, 'info'>): Duplex {
  const { caCert } = tls;
  const bootstrap = tls.bootstrap === true && caCert !== undefined && !existsSync(caCert);
  const socket = connectTls({
    ...parseAddress(address),
    ...readTls(bootstrap ? { ...tls, caCert: undefined } : tls),
    ...tlsLimits(tls),
    rejectUnauthorized: !bootstrap,
    // Certificates of Open vSwitch's PKI name no hosts; the certificate authority is what is
    // trusted.
    checkServerIdentity: () => undefined,
  });
  if (bootstrap) {
    // Trust on first use: the next connection is verified.
    socket.prependListener('secureConnect', () => {
      socket.destroy(bootstrapCa(socket, caCert, log));
    });
  }
  return socket;
}

/**
 * Begins to connect: the stream emits "connect" ("secureConnect" for ssl) or "error". Throws for a
 * bad name.
 */
export function openRemote(
  remote: string,
  tls: TlsFiles = {},
  log: Pick<Log, 'info'> = silentLog,
): Duplex {
  const [, method, rest] = /^(\w+):(.*)$/.exec(remote) ?? [];
  switch (method) {
    case 'unix':
      return connectUnix(rest!);
    case 'tcp':
      return connect(parseAddress(rest!)).setNoDelay(true);
    case 'ssl':
      return connectSsl(rest!, tls, log);
    default:
      throw new Error(`${remote}: Address family not supported by protocol`);
  }
}

/** Event that tells that the connection stands. */
export function connectEvent(remote: string): 'connect' | 'secureConnect' {
  return remote.startsWith('ssl:') ? 'secureConnect' : 'connect';
}

/** Only a network can go silent. */
export function needsProbes(remote: string): boolean {
  return !remote.startsWith('unix:');
}
