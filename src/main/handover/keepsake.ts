// What survives a crash of the daemon under --monitor: the table of connections, and the OpenFlow state of the bridges,
// in two files in memory that the monitor keeps open and gives to the next daemon (src/cli/daemonize.ts).
//
// The table of connections is the memory that the data plane works on. The OpenFlow state, and with it the keys of the
// busiest megaflows and what the bridges have learned, is written some time after it
// has changed, in two places by turns; the header, which says which one is whole, is written last.
//
//   journal   0  u32 magic, u32 place (0 or 1), f64 bytes       4096 + place * 2^31: State (messages.ts), packed

import { readSync, writeSync } from 'node:fs';
import { pack, type State, unpack } from './messages.ts';

const MAGIC = 0x6b697678; // "xvik"
const HEADER = 16;
const placeAt = (place: number): number => 4096 + place * 2 ** 31;
/** The state is looked at so often, and written when the tables have changed. */
const INTERVAL_MS = 250;
/** Megaflows and learned addresses come and go without that: they are at most so old. */
const REFRESH_MS = 2000;
/** Writing takes at most this share of the main thread's time. */
const TIME_SHARE = 0.02;

/** Where the whole state is; undefined if nothing was written yet. */
function readHeader(fd: number): { place: number; bytes: number } | undefined {
  const header = Buffer.alloc(HEADER);
  if (readSync(fd, header, 0, HEADER, 0) !== HEADER) return undefined;
  if (header.readUInt32LE(0) !== MAGIC) return undefined;
  return { place: header.readUInt32LE(4), bytes: header.readDoubleLE(8) };
}

/** The state that a predecessor left in its journal; undefined if there is no whole one. */
export function readJournal(fd: number): State | undefined {
  try {
    const header = readHeader(fd);
    if (header === undefined) return undefined;
    const { place, bytes } = header;
    const body = Buffer.alloc(bytes);
    if (readSync(fd, body, 0, bytes, placeAt(place)) !== bytes) return undefined;
    return unpack<State>(body);
  } catch {
    return undefined;
  }
}

/** Keeps the journal up to date from now on. */
export class Journal implements Disposable {
  readonly #fd: number;
  readonly #revision: () => string;
  readonly #state: () => State;
  readonly #timer: NodeJS.Timeout;
  #written: string | undefined;
  #place: number;
  #notBeforeMs = 0;
  #refreshAtMs = 0;

  constructor(fd: number, revision: () => string, state: () => State) {
    this.#fd = fd;
    this.#revision = revision;
    this.#state = state;
    // What a predecessor left there stays whole until ours is.
    this.#place = readHeader(fd)?.place ?? 0;
    this.#timer = setInterval(() => this.#look(), INTERVAL_MS);
    this.#timer.unref();
    this.#look();
  }

  #look(): void {
    const startMs = performance.now();
    if (startMs < this.#notBeforeMs) return;
    const revision = this.#revision();
    if (revision === this.#written && startMs < this.#refreshAtMs) return;
    const body = pack(this.#state());
    this.#place ^= 1;
    const at = placeAt(this.#place);
    for (let done = 0; done < body.length; ) {
      done += writeSync(this.#fd, body, done, body.length - done, at + done);
    }
    const header = Buffer.alloc(HEADER);
    header.writeUInt32LE(MAGIC, 0);
    header.writeUInt32LE(this.#place, 4);
    header.writeDoubleLE(body.length, 8);
    writeSync(this.#fd, header, 0, HEADER, 0);
    this.#written = revision;
    const endMs = performance.now();
    this.#notBeforeMs = endMs + (endMs - startMs) / TIME_SHARE;
    this.#refreshAtMs = endMs + REFRESH_MS;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}
