// Sockets of the OVSDB server: punix:PATH, ptcp:PORT[:HOST], pssl:PORT[:HOST] (ovsdb(7), "Passive
// Connection Methods").

import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { createServer as createTlsServer } from 'node:tls';
import { unixListen } from '../../sys/unix.ts';
import { listening } from '../openflow/vconn.ts';
import type { Log } from './log.ts';
import { readTls, type TlsFiles } from './remote.ts';

export interface Listener {
  readonly remote: string;
  /** Port in use, for ptcp with port 0. */
  readonly port: number | undefined;
  close(): void;
}

export interface Accepted {
  stream: Socket;
  name: string;
  probeIntervalMs: number;
}

/** Over TCP a peer can vanish without a word; over a Unix socket the kernel tells. */
export const TCP_PROBE_INTERVAL_MS = 5000;

/** Owner and group may connect, as with the real server's socket. */
const SOCKET_MODE = 0o750;

/** Rejects with the system's error. A client that cannot be let in later on is a warning, and no reason to end. */
async function started(server: Server, start: () => void, log: Log): Promise<void> {
  await listening(server, start);
  server.on('error', (error) => log.warn(`accept failed (${error.message})`));
}

async function listenUnix(
  remote: string,
  path: string,
  onAccept: (accepted: Accepted) => void,
  log: Log,
): Promise<Listener> {
  let count = 0;
  const server = createServer((stream) =>
    onAccept({ stream, name: `unix#${count++}`, probeIntervalMs: 0 }),
  );
  mkdirSync(dirname(path), { recursive: true });
  const before = process.umask(0o777 & ~SOCKET_MODE);
  let fd: number;
  try {
    fd = unixListen(path);
  } finally {
    process.umask(before);
  }
  chmodSync(path, SOCKET_MODE);
  await started(server, () => server.listen({ fd }), log);
  return {
    remote,
    port: undefined,
    close() {
      rmSync(path, { force: true });
      server.close();
    },
  };
}

async function listenTcp(
  remote: string,
  rest: string,
  onAccept: (accepted: Accepted) => void,
  log: Log,
  tls: TlsFiles | undefined,
): Promise<Listener> {
  const match = /^(\d*)(?::(?:\[(.*)\]|(.*)))?$/.exec(rest);
  if (!match) throw new Error(`${remote}: bad port or address`);
  const host = match[2] ?? match[3] ?? '0.0.0.0';
  const accept = (stream: Socket) => {
    stream.setNoDelay(true);
    onAccept({
      stream,
      name: `${tls ? 'ssl' : 'tcp'}:${stream.remoteAddress}:${stream.remotePort}`,
      probeIntervalMs: TCP_PROBE_INTERVAL_MS,
    });
  };
  // As everywhere in Open vSwitch, both sides show a certificate of the same authority.
  const server = tls
    ? createTlsServer({ ...readTls(tls), requestCert: true, rejectUnauthorized: true }, accept)
    : createServer(accept);
  await started(server, () => server.listen(Number(match[1] || 6640), host), log);
  const address = server.address();
  return {
    remote,
    port: typeof address === 'object' && address ? address.port : undefined,
    close: () => void server.close(),
  };
}

/** Opens one passive remote. Rejects with the system's error, or for a name that is none. */
export async function listenOvsdb(
  remote: string,
  onAccept: (accepted: Accepted) => void,
  log: Log,
  tls: TlsFiles = {},
): Promise<Listener> {
  const [, method, rest] = /^(\w+):(.*)$/.exec(remote) ?? [];
  try {
    if (method === 'punix') return await listenUnix(remote, rest!, onAccept, log);
    if (method === 'ptcp') return await listenTcp(remote, rest!, onAccept, log, undefined);
    if (method === 'pssl') return await listenTcp(remote, rest!, onAccept, log, tls);
  } catch (error) {
    log.err(`${remote}: listen failed: ${(error as Error).message}`);
    throw error;
  }
  throw new Error(`${remote}: listen failed: Address family not supported by protocol`);
}
