// Streams of OpenFlow connections: which targets there are ("tcp:10.0.0.1:6653", "pssl:", "unix:FILE" …, the same
// names as in ovs-vswitchd.conf.db(5), Controller.target) and how to open them. Bytes only; what is said over a
// stream is rconn.ts.

import { closeSync, existsSync, openSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import { chmod } from 'node:fs/promises';
import { createServer, isIPv6, connect as netConnect, type Server, type Socket } from 'node:net';
import { basename, dirname, isAbsolute, join } from 'node:path';
import {
  createServer as createTlsServer,
  type PeerCertificate,
  type TLSSocket,
  connect as tlsConnect,
} from 'node:tls';
import type { DebugLog, RateLimit } from '../../observe/vlog.ts';

/** IANA's port of OpenFlow. */
export const OFP_PORT = 6653;
/** Room in sun_path, without the terminating zero. */
const SUN_PATH_MAX = 107;
/** Of the sockets that we make. */
export const SOCKET_MODE = 0o750;

export interface Log {
  dbg(text: string): void;
  info(text: string, limit?: RateLimit): void;
  warn(text: string, limit?: RateLimit): void;
  err(text: string): void;
}

/** The SSL row: paths of PEM files. Empty = not set. */
export interface SslConfig {
  privateKey: string;
  certificate: string;
  caCert: string;
  bootstrapCaCert: boolean;
}

export interface StreamContext {
  /** Where relative unix: and punix: names live. */
  runDir: string;
  ssl: SslConfig | undefined;
  log: Log;
  messageLog?: DebugLog | undefined;
}

export type Target =
  | { kind: 'unix' | 'punix'; path: string }
  /** `host` of a passive target: address to bind, '' = all. `port` 0 of a passive one: any. */
  | { kind: 'tcp' | 'ssl' | 'ptcp' | 'pssl'; host: string; port: number };

/** Undefined for names that no OpenFlow connection can have. */
export function parseTarget(text: string, runDir: string): Target | undefined {
  const colon = text.indexOf(':');
  if (colon < 0) return undefined;
  const kind = text.slice(0, colon);
  const rest = text.slice(colon + 1);
  switch (kind) {
    case 'unix':
    case 'punix':
      if (rest === '') return undefined;
      return { kind, path: isAbsolute(rest) ? rest : join(runDir, rest) };
    case 'tcp':
    case 'ssl': {
      const { host, port } = splitHostPort(rest);
      if (host === '' || port === undefined) return undefined;
      return { kind, host, port };
    }
    case 'ptcp':
    case 'pssl': {
      const match = /^(\d*)(?::(.*))?$/.exec(rest);
      if (match === null) return undefined;
      const port = match[1] === '' ? OFP_PORT : Number(match[1]);
      if (port > 65535) return undefined;
      return { kind, host: unbracket(match[2] ?? ''), port };
    }
    default:
      return undefined;
  }
}

/** True for targets that connect, false for those that listen. */
export function isActive(target: Target): boolean {
  return !target.kind.startsWith('p');
}

/** "HOST", "HOST:PORT", "[V6]", "[V6]:PORT"; an IPv6 address without brackets has no port. */
function splitHostPort(text: string): { host: string; port: number | undefined } {
  const bracketed = /^\[([^\]]*)\](?::(\d*))?$/.exec(text);
  if (bracketed !== null) return { host: bracketed[1], port: portOf(bracketed[2]) };
  if (isIPv6(text)) return { host: text, port: OFP_PORT };
  const colon = text.lastIndexOf(':');
  if (colon < 0) return { host: text, port: OFP_PORT };
  return { host: text.slice(0, colon), port: portOf(text.slice(colon + 1)) };
}

function portOf(text: string | undefined): number | undefined {
  if (text === undefined || text === '') return OFP_PORT;
  const port = Number(text);
  return Number.isInteger(port) && port > 0 && port <= 65535 ? port : undefined;
}

function unbracket(host: string): string {
  return host.startsWith('[') && host.endsWith(']') ? host.slice(1, -1) : host;
}

/** Starts to connect. The socket emits 'connect' ('secureConnect' for ssl) or 'error'. */
export function connectStream(target: Target, context: StreamContext): Socket {
  switch (target.kind) {
    case 'unix': {
      using short = shortPath(target.path);
      return netConnect({ path: short.path });
    }
    case 'tcp':
      return netConnect({ host: target.host, port: target.port, noDelay: true });
    case 'ssl':
      return connectSsl(target, context);
    default:
      throw new Error(`${target.kind}: is not an active target`);
  }
}

/** Event of a socket of connectStream() after which it can be written. */
export function connectEvent(target: Target): 'connect' | 'secureConnect' {
  return target.kind === 'ssl' ? 'secureConnect' : 'connect';
}

export interface Listener {
  /** "tcp:127.0.0.1:1234" or the path: where clients find it. */
  readonly address: string;
  /** Stops listening; accepted connections stay. */
  close(): void;
}

/** Rejects with a system error (EADDRINUSE …). `accept` gets each connection, after the handshake if there is one. */
export async function listenStream(
  target: Target,
  context: StreamContext,
  accept: (socket: Socket, peer: string) => void,
): Promise<Listener> {
  if (target.kind === 'punix') return listenUnix(target.path, accept, context);
  if (target.kind !== 'ptcp' && target.kind !== 'pssl') {
    throw new Error(`${target.kind}: is not a passive target`);
  }
  const name = target.kind.slice(1);
  const onSocket = (socket: Socket) => {
    // The remote end may be gone already.
    const { remoteAddress, remotePort } = socket;
    accept(socket, `${name}:${bracket(remoteAddress ?? '')}:${remotePort ?? 0}`);
  };
  const server: Server =
    target.kind === 'pssl'
      ? createTlsServer({ ...withCa(keys(context.ssl)), requestCert: true }, onSocket)
      : createServer({ noDelay: true }, onSocket);
  server.on('tlsClientError', (error: Error) => context.log.warn(`SSL: ${error.message}`));
  await listening(server, () => {
    server.listen({ port: target.port, host: target.host === '' ? undefined : target.host });
  });
  server.on('error', (error) => context.log.warn(`accept failed (${error.message})`));
  const bound = server.address() as { address: string; port: number };
  return {
    address: `${name}:${bracket(bound.address)}:${bound.port}`,
    close: () => server.close(),
  };
}

async function listenUnix(
  path: string,
  accept: (socket: Socket, peer: string) => void,
  context: StreamContext,
): Promise<Listener> {
  let peers = 0;
  const server = createServer((socket) => accept(socket, `unix#${peers++}`));
  // Left behind by a daemon that was killed. A live one would have kept us from starting.
  rmQuietly(path);
  using short = shortPath(path);
  await listening(server, () => server.listen({ path: short.path }));
  await chmod(path, SOCKET_MODE);
  server.on('error', (error) => context.log.warn(`accept failed (${error.message})`));
  return {
    address: `unix:${path}`,
    close: () => {
      server.close();
      rmQuietly(path);
    },
  };
}

/** Starts to listen; rejects with the system's error. Errors of later connections are the caller's business. */
export function listening(server: Server, start: () => void): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.once('listening', () => {
      server.removeListener('error', reject);
      resolve();
    });
    start();
  });
}

export function rmQuietly(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Not there, or not ours to remove: listen() tells.
  }
}

/** A path that fits in sun_path: through a descriptor of the directory if need be. Use it before disposing it. */
export function shortPath(path: string): Disposable & { path: string } {
  if (Buffer.byteLength(path) <= SUN_PATH_MAX) return { path, [Symbol.dispose]() {} };
  const fd = openSync(dirname(path), 'r');
  return {
    path: `/proc/self/fd/${fd}/${basename(path)}`,
    [Symbol.dispose]: () => closeSync(fd),
  };
}

function bracket(address: string): string {
  return isIPv6(address) ? `[${address}]` : address;
}

/** Reads the files anew for each connection: certificates are renewed under a running switch. */
function keys(ssl: SslConfig | undefined): { key: Buffer; cert: Buffer; ca: Buffer | undefined } {
  if (ssl === undefined || ssl.privateKey === '' || ssl.certificate === '') {
    const text = 'Private key and certificate must be configured to use SSL';
    throw Object.assign(new Error(text), { code: 'ENOPROTOOPT' });
  }
  return {
    key: readFileSync(ssl.privateKey),
    cert: readFileSync(ssl.certificate),
    ca: ssl.caCert !== '' && existsSync(ssl.caCert) ? readFileSync(ssl.caCert) : undefined,
  };
}

/** Without a CA anybody would be let in. */
function withCa(own: ReturnType<typeof keys>): ReturnType<typeof keys> {
  if (own.ca === undefined) throw new Error('CA certificate must be configured to use SSL');
  return own;
}

function connectSsl(target: { host: string; port: number }, context: StreamContext): Socket {
  const ssl = context.ssl;
  const own = keys(ssl);
  const bootstrap = ssl?.bootstrapCaCert === true && own.ca === undefined && ssl.caCert !== '';
  const { key, cert, ca } = bootstrap ? own : withCa(own);
  const socket = tlsConnect({
    host: target.host,
    port: target.port,
    key,
    cert,
    ca,
    rejectUnauthorized: !bootstrap,
    // Switches are told apart by their keys: a certificate's host name means nothing here.
    checkServerIdentity: () => undefined,
  });
  if (bootstrap) {
    // Trust on first use: keep the CA certificate that the peer shows, then connect again, verifying.
    socket.prependListener('secureConnect', () => {
      socket.destroy(bootstrapCa(socket, ssl.caCert, context.log));
    });
  }
  return socket;
}

/** Always an error: the connection that taught us the certificate was not verified. */
export function bootstrapCa(socket: TLSSocket, file: string, log: Pick<Log, 'info'>): Error {
  let certificate: PeerCertificate & { issuerCertificate?: PeerCertificate } =
    socket.getPeerCertificate(true);
  for (let depth = 0; depth < 16; depth++) {
    const issuer = certificate.issuerCertificate;
    if (issuer === undefined || issuer.fingerprint256 === certificate.fingerprint256) break;
    certificate = issuer;
  }
  const subject = JSON.stringify(certificate.subject);
  if (certificate.raw === undefined || subject !== JSON.stringify(certificate.issuer)) {
    return new Error(
      'could not bootstrap CA cert: no self-signed certificate at the end of the chain',
    );
  }
  const base64 = certificate.raw.toString('base64').replace(/.{64}/g, '$&\n');
  try {
    // 'wx': never over a certificate that somebody else put there meanwhile.
    writeFileSync(
      file,
      `-----BEGIN CERTIFICATE-----\n${base64.trimEnd()}\n-----END CERTIFICATE-----\n`,
      { flag: 'wx', mode: 0o444 },
    );
  } catch (error) {
    return new Error(`could not bootstrap CA cert: creating ${file} failed: ${error}`);
  }
  log.info(`successfully bootstrapped CA cert to ${file}`);
  return new Error('Protocol error');
}
