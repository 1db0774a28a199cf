// Raw file descriptors as event sources of Node's loop, by libuv's own uv_poll (http://docs.libuv.org/en/v1.x/poll.html).
//
// The C callback only notes which watchers are ready; their JavaScript callbacks run in the check phase of the same
// loop iteration (setImmediate). So they run as ordinary JavaScript: promises and nextTicks drain after them, and an
// exception is an uncaught exception, not an abort inside a foreign call.
//
// Node aborts the process when a thread ends whose loop still has handles that Node does not know, or calls back while it
// is being torn down. A thread that ends by itself is taken care of here; one that is terminated from outside must have no
// watcher.

import { c, check, eventLoop, pollCallback, SysError } from './ffi.ts';

const UV_POLL = 8;
const UV_READABLE = 1;
const UV_WRITABLE = 2;

export interface Ready {
  readable: boolean;
  writable: boolean;
  /** Not 0: libuv could not poll the descriptor (a negative errno). */
  error: number;
}

export interface Watcher extends Disposable {
  /** What to wait for from now on; both false pauses the watcher. */
  want(events: { read?: boolean; write?: boolean }): void;
  /** The loop may end although this watcher is active. */
  unref(): void;
}

interface Entry {
  fd: number;
  handle: bigint;
  callback: (ready: Ready) => void;
  pending: number;
  error: number;
  closed: boolean;
}

const entries = new Map<bigint, Entry>();
let readyList: Entry[] = [];

function runReady(): void {
  const list = readyList;
  readyList = [];
  for (let i = 0; i < list.length; i++) {
    const entry = list[i]!;
    const events = entry.pending;
    const error = entry.error;
    entry.pending = 0;
    entry.error = 0;
    if (entry.closed || (events === 0 && error === 0)) continue;
    // The next callbacks must run even if this one throws.
    if (i + 1 < list.length) {
      try {
        entry.callback(readyOf(events, error));
      } catch (thrown) {
        setImmediate(() => {
          throw thrown;
        });
      }
    } else entry.callback(readyOf(events, error));
  }
}

function readyOf(events: number, error: number): Ready {
  return {
    readable: (events & UV_READABLE) !== 0,
    writable: (events & UV_WRITABLE) !== 0,
    error,
  };
}

let onPoll = 0n;

function registerCallback(): void {
  process.once('exit', closeAll);
  onPoll = pollCallback((handle, status, events) => {
    const entry = entries.get(handle);
    if (entry === undefined) return;
    if (entry.pending === 0 && entry.error === 0) {
      if (readyList.length === 0) setImmediate(runReady);
      readyList.push(entry);
    }
    entry.pending |= events;
    if (status < 0) {
      entry.error = -status;
      c.uv_poll_stop(handle); // or it would spin
    }
  });
}

/** The memory may go only when libuv says so: free() itself is the callback, so that no JavaScript has to run any more. */
function close(entry: Entry): void {
  entry.closed = true;
  entries.delete(entry.handle);
  c.uv_poll_stop(entry.handle);
  c.uv_close(entry.handle, c.free.pointer);
}

function closeAll(): void {
  for (const entry of [...entries.values()]) close(entry);
}

/**
 * Calls back whenever `fd` is ready (level-triggered: read until it would block). Dispose it before closing the
 * descriptor. One watcher per descriptor; SysError if the descriptor cannot be polled (a plain file, EPERM).
 */
export function watchFd(
  fd: number,
  events: { read?: boolean; write?: boolean },
  callback: (ready: Ready) => void,
): Watcher {
  if (onPoll === 0n) registerCallback();
  const handle = c.malloc(c.uv_handle_size(UV_POLL));
  const failed = c.uv_poll_init(eventLoop(), handle, fd);
  if (failed < 0) {
    c.free(handle);
    throw new SysError('uv_poll_init', -failed);
  }
  const entry: Entry = { fd, handle, callback, pending: 0, error: 0, closed: false };
  entries.set(handle, entry);
  const want = (wanted: { read?: boolean; write?: boolean }): void => {
    if (entry.closed) return;
    const mask = (wanted.read ? UV_READABLE : 0) | (wanted.write ? UV_WRITABLE : 0);
    entry.pending &= mask;
    if (mask === 0) c.uv_poll_stop(handle);
    else check(c.uv_poll_start(handle, mask, onPoll), 'uv_poll_start');
  };
  want(events);
  return {
    want,
    unref: () => c.uv_unref(handle),
    [Symbol.dispose]: () => {
      if (entry.closed) return;
      close(entry);
    },
  };
}
