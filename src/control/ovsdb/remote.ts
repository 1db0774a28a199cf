// Active connections: unix:PATH, tcp:HOST:PORT, ssl:HOST:PORT (ovsdb(7), "Active Connection
// Methods").

import { closeSync, constants, openSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { basename, dirname } from 'node:path';
import type { Duplex } from 'node:stream';
import { connect as connectTls } from 'node:tls';

export interface TlsFiles {
  privateKey?: string | undefined;
  certificate?: string | undefined;
  caCert?: string | undefined;
}

/** The files' contents as node:tls takes them. Throws if one cannot be read. */
export function readTls(files: TlsFiles): { key?: Buffer; cert?: Buffer; ca?: Buffer } {
  return {
    ...(files.privateKey ? { key: readFileSync(files.privateKey) } : {}),
    ...(files.certificate ? { cert: readFileSync(files.certificate) } : {}),
    ...(files.caCert ? { ca: readFileSync(files.caCert) } : {}),
  };
}

/** sockaddr_un has room for 108 bytes; a longer path goes through a descriptor of its directory. */
const SUN_PATH_BYTES = 107;

const DEFAULT_PORT = 6640;

function connectUnix(path: string): Duplex {
  // As connect(2) answers to an empty name; node would take it for a missing port.
  if (path === '') throw new Error('Connection refused');
  if (Buffer.byteLength(path) <= SUN_PATH_BYTES) return connect(path);
  const fd = openSync(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY);
  const socket = connect(`/proc/self/fd/${fd}/${basename(path)}`);
  const done = () => closeSync(fd);
  socket.once('connect', () => {
    socket.off('close', done);
    done();
  });
  socket.once('close', done);
  return socket;
}

/** HOST:PORT, [HOST]:PORT or HOST. */
function parseAddress(text: string): { host: string; port: number } {
  const match = /^(?:\[(.+)\]|([^:]+))(?::(\d+))?$/.exec(text);
  if (!match) throw new Error(`${text}: bad address`);
  const port = Number(match[3] ?? DEFAULT_PORT);
  if (port > 65535) throw new Error(`${text}: bad port number "${match[3]}"`);
  return { host: match[1] ?? match[2]!, port };
}

/**
 * Begins to connect: the stream emits "connect" ("secureConnect" for ssl) or "error". Throws for a
 * bad name.
 */
export function openRemote(remote: string, tls: TlsFiles = {}): Duplex {
  const [, method, rest] = /^(\w+):(.*)$/.exec(remote) ?? [];
  switch (method) {
    case 'unix':
      return connectUnix(rest!);
    case 'tcp':
      return connect(parseAddress(rest!)).setNoDelay(true);
    case 'ssl':
      return connectTls({
        ...parseAddress(rest!),
        ...readTls(tls),
        // Certificates of Open vSwitch's PKI name no hosts; the certificate authority is what is
        // trusted.
        checkServerIdentity: () => undefined,
      });
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
