// unixctl: the control socket behind ovs-appctl. JSON-RPC 1.0 on a stream without framing; every parameter is a
// string; a reply is one text (ovs-appctl(8)). The commands are one table, filled by the composition root.

import { chmodSync, existsSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { JsonSplitter } from '../../wire/ovsdb/splitter.ts';
import { listening, rmQuietly, shortPath } from '../openflow/vconn.ts';

/** A failed command: its text is what ovs-appctl shows before "server returned an error". */
export class CommandError extends Error {}

export interface Command {
  name: string;
  /** Shown by list-commands. */
  usage: string;
  minArgs: number;
  maxArgs: number;
  /** Returns the text, or throws CommandError. */
  run(args: readonly string[]): string | Promise<string>;
}

export class CommandTable {
  readonly #commands = new Map<string, Command>();
  /** Waited for before a command runs. */
  beforeEach: (() => Promise<void>) | undefined;

  constructor() {
    this.add({
      name: 'list-commands',
      usage: '',
      minArgs: 0,
      maxArgs: 0,
      run: () =>
        `The available commands are:\n${[...this.#commands.values()]
          .sort((a, b) => (a.name < b.name ? -1 : 1))
          .map((c) => `  ${c.name.padEnd(23)} ${c.usage}\n`)
          .join('')}`,
    });
  }

  add(...commands: readonly Command[]): void {
    for (const command of commands) this.#commands.set(command.name, command);
  }

  /** Runs a command; throws CommandError with the texts of the real daemon. */
  async run(name: string, args: readonly unknown[]): Promise<string> {
    const command = this.#commands.get(name);
    if (!command) {
      throw new CommandError(
        `"${name}" is not a valid command (use "list-commands" to see a list of valid commands)`,
      );
    }
    if (args.length < command.minArgs) {
      throw new CommandError(`"${name}" command requires at least ${command.minArgs} arguments`);
    }
    if (args.length > command.maxArgs) {
      throw new CommandError(`"${name}" command takes at most ${command.maxArgs} arguments`);
    }
    if (!args.every((arg) => typeof arg === 'string')) {
      throw new CommandError(`"${name}" command has non-string argument`);
    }
    await this.beforeEach?.();
    return command.run(args);
  }
}

export interface UnixctlServer {
  readonly path: string;
  close(): void;
}

const line = (text: string): string => (text === '' || text.endsWith('\n') ? text : `${text}\n`);

/** Serves one connection; returns what ends it as soon as everything asked so far is answered. */
function serve(socket: Socket, table: CommandTable): () => void {
  // Requests of one connection are answered in order, even when an early one takes long.
  let last: Promise<void> = Promise.resolve();
  const splitter = new JsonSplitter();
  const answer = async (text: string): Promise<void> => {
    let request: { id?: unknown; method?: unknown; params?: unknown };
    try {
      request = JSON.parse(text);
    } catch {
      socket.destroy();
      return;
    }
    const { id, method, params } = request;
    if (id === undefined || id === null || typeof method !== 'string' || !Array.isArray(params)) {
      socket.destroy();
      return;
    }
    let reply: { id: unknown; result: string | null; error: string | null };
    try {
      const result = await table.run(method, params);
      reply = { id, result: line(result), error: null };
    } catch (error) {
      reply = { id, result: null, error: line((error as Error).message) };
    }
    if (!socket.destroyed) socket.write(JSON.stringify(reply));
  };
  socket.on('error', () => socket.destroy());
  socket.on('data', (chunk: Buffer) => {
    try {
      for (const text of splitter.push(chunk)) last = last.then(() => answer(text));
    } catch {
      socket.destroy();
    }
  });
  return () => void last.then(() => socket.end());
}

/** Listens at `path` (mode 0750 as the real daemon's). Rejects with the system's error. */
export async function listenUnixctl(path: string, table: CommandTable): Promise<UnixctlServer> {
  rmQuietly(path);
  using short = shortPath(path);
  const connections = new Map<Socket, () => void>();
  const server: Server = createServer((socket) => {
    connections.set(socket, serve(socket, table));
    socket.on('close', () => connections.delete(socket));
  });
  try {
    await listening(server, () => server.listen(short.path));
  } catch (thrown) {
    // libuv says "permission denied" of a directory that is not there.
    const missing = (thrown as NodeJS.ErrnoException).code === 'EACCES';
    if (!missing || existsSync(dirname(path))) throw thrown;
    throw Object.assign(new Error('No such file or directory'), { code: 'ENOENT' });
  }
  // A client that could not be let in is no reason to end.
  server.on('error', () => {});
  chmodSync(path, 0o750);
  return {
    path,
    close: () => {
      server.close();
      rmQuietly(path);
      for (const end of connections.values()) end();
    },
  };
}
