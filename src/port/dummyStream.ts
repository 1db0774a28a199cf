// The wire between dummy devices, of one process or of several: options "pstream" (listen) and "stream" (connect) of
// types dummy*. Frames go over a stream socket with their length, 16 bits big-endian, in front.

import { createConnection, createServer, type Server, type Socket } from 'node:net';

const RECONNECT_MS = 1000;
const FRAME_MIN = 14;

/** Target as node:net wants it: "punix:PATH", "unix:PATH", "ptcp:PORT[:HOST]", "tcp:HOST:PORT". */
function endpoint(target: string): { path: string } | { port: number; host?: string } | undefined {
  const [kind, ...rest] = target.split(':');
  if (kind === 'unix' || kind === 'punix') return { path: rest.join(':') };
  if (kind === 'tcp') return { host: rest[0] ?? '', port: Number(rest[1]) };
  if (kind === 'ptcp') return { port: Number(rest[0]), ...(rest[1] ? { host: rest[1] } : {}) };
  return undefined;
}

export class DummyStream {
  readonly #onFrame: (frame: Uint8Array) => void;
  readonly #peers = new Set<Socket>();
  #server: Server | undefined;
  #timer: NodeJS.Timeout | undefined;
  #active: string | undefined;
  #passive: string | undefined;
  #closed = false;

  constructor(onFrame: (frame: Uint8Array) => void) {
    this.#onFrame = onFrame;
  }

  /** 'unknown' without an active stream. */
  get state(): 'unknown' | 'connected' | 'disconnected' {
    if (this.#active === undefined) return 'unknown';
    return this.#peers.size > 0 ? 'connected' : 'disconnected';
  }

  configure(options: Readonly<Record<string, string>>): void {
    const { pstream, stream } = options;
    if (pstream === this.#passive && stream === this.#active) return;
    this.#reset();
    this.#passive = pstream;
    // As with the real device, listening and connecting exclude each other.
    this.#active = pstream === undefined ? stream : undefined;
    if (pstream !== undefined) this.#listen(pstream);
    else if (stream !== undefined) this.#connect(stream);
  }

  send(frame: Uint8Array): void {
    const length = Buffer.alloc(2);
    length.writeUInt16BE(frame.length);
    for (const peer of this.#peers) peer.write(Buffer.concat([length, frame]));
  }

  close(): void {
    this.#closed = true;
    this.#reset();
  }

  #reset(): void {
    clearTimeout(this.#timer);
    this.#server?.close();
    this.#server = undefined;
    for (const peer of this.#peers) peer.destroy();
    this.#peers.clear();
  }

  #listen(target: string): void {
    const at = endpoint(target);
    if (at === undefined) return;
    this.#server = createServer((peer) => this.#adopt(peer));
    this.#server.on('error', () => {});
    this.#server.listen(at);
  }

  #connect(target: string): void {
    const at = endpoint(target);
    if (at === undefined || this.#closed || this.#active !== target) return;
    const peer = createConnection(at);
    const again = (): void => {
      if (this.#closed || this.#active !== target) return;
      this.#timer = setTimeout(() => this.#connect(target), RECONNECT_MS);
      this.#timer.unref();
    };
    peer.on('connect', () => this.#adopt(peer));
    peer.on('error', () => {});
    peer.on('close', again);
  }

  #adopt(peer: Socket): void {
    this.#peers.add(peer);
    let buffered = Buffer.alloc(0);
    peer.on('error', () => peer.destroy());
    peer.on('close', () => this.#peers.delete(peer));
    peer.on('data', (chunk: Buffer) => {
      buffered = Buffer.concat([buffered, chunk]);
      while (buffered.length >= 2) {
        const length = buffered.readUInt16BE(0);
        if (length < FRAME_MIN) {
          peer.destroy();
          return;
        }
        if (buffered.length < 2 + length) return;
        this.#onFrame(Uint8Array.from(buffered.subarray(2, 2 + length)));
        buffered = buffered.subarray(2 + length);
      }
    });
  }
}
