// The behaviours of node:ffi, libuv and the kernel that src/sys relies on: if a new Node breaks one, this says which.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { eventfdCreate, eventfdSignal, eventfdTake } from '../../src/sys/eventfd.ts';
import { closeFd, OwnedFd, openPath, pollRaw, readFd, setNonBlocking } from '../../src/sys/fd.ts';
import {
  addressOf,
  bytesAt,
  c,
  check,
  cString,
  errno,
  NativeBuffer,
  SysError,
  strerror,
} from '../../src/sys/ffi.ts';
import { watchListener } from '../../src/sys/listener.ts';
import { lockHolder, tryLock } from '../../src/sys/lock.ts';
import {
  addSeals,
  F_SEAL_SHRINK,
  fileSize,
  getSeals,
  Mapping,
  mapAnonymous,
  mapFixed,
  mapNone,
  memfdCreate,
  memoryBase,
  truncateFd,
} from '../../src/sys/memory.ts';
import { watchFd } from '../../src/sys/poll.ts';
import {
  getThreadAffinity,
  getThreadScheduling,
  getTid,
  processCpuNs,
  processExists,
  setThreadAffinity,
  setThreadSlice,
  threadCpuNs,
} from '../../src/sys/process.ts';
import { FdMessenger, unixAccept, unixConnect, unixListen } from '../../src/sys/unix.ts';

const scratch = mkdtempSync(join(tmpdir(), 'xvio-sys-'));
after(() => rmSync(scratch, { recursive: true }));

test('errno is still that of the call when it is read right after it', () => {
  let others = 0;
  for (let i = 0; i < 20000; i++) {
    assert.equal(c.close(-1), -1);
    const number = errno();
    if (number === 9) continue;
    // V8 may have to wait for a lock of its own in between (src/sys/ffi.ts): once in a million calls on a busy machine.
    assert.equal(strerror(number), 'Resource temporarily unavailable');
    others++;
  }
  assert.ok(others <= 1, `${others} times`);
});

test('a failed call becomes a SysError with the name and the text of its errno', () => {
  assert.throws(
    () => openPath(join(scratch, 'nowhere'), 0),
    (e) => e instanceof SysError && e.code === 'ENOENT' && e.text === 'No such file or directory',
  );
  assert.equal(strerror(19), 'No such device');
  assert.equal(strerror(1), 'Operation not permitted');
  assert.throws(() => check(c.close(-1), 'close'), {
    code: 'EBADF',
    message: 'close: Bad file descriptor',
  });
});

test('NativeBuffer does not move, and views of foreign memory see it', () => {
  const buffer = new NativeBuffer(64);
  const before = addressOf(buffer.buffer);
  const garbage: Uint8Array[] = [];
  for (let i = 0; i < 2000; i++) garbage.push(new Uint8Array(10000));
  assert.equal(addressOf(buffer.buffer), before);
  assert.equal(addressOf(buffer.bytes.subarray(8)), before + 8n);
  buffer.bytes[3] = 77;
  assert.equal(bytesAt(before, 64)[3], 77);
  assert.equal(Buffer.from(bytesAt(cString('abc').address, 4)).toString('latin1'), 'abc\0');
});

test('a file is mapped over a range of a shared WebAssembly memory, and unmapped again', () => {
  const memory = new WebAssembly.Memory({ initial: 65536, maximum: 65536, shared: true });
  const base = memoryBase(memory);
  assert.equal(base & 0xfffn, 0n);
  const bytes = new Uint8Array(memory.buffer);
  using fd = new OwnedFd(memfdCreate('xvio-test', 65536));
  assert.equal(fileSize(fd.fd), 65536);
  mapFixed(base + 0x40000000n, fd.fd, 4096, 8192);
  using other = new Mapping(fd.fd, 0, 65536);
  const second = bytesAt(other.address, 65536);
  bytes[0x40000000 + 5] = 99;
  assert.equal(second[4096 + 5], 99);
  second[4096 + 8191] = 42;
  assert.equal(bytes[0x40000000 + 8191], 42);
  mapAnonymous(base + 0x40000000n, 8192);
  assert.equal(bytes[0x40000000 + 5], 0);
  assert.equal(second[4096 + 5], 99);
  assert.throws(() => mapFixed(base + 0x40000000n, -1, 0, 4096), { code: 'EBADF' });
  assert.throws(() => mapFixed(base + 1n, fd.fd, 0, 4096), { code: 'EINVAL' });
});

test('a load from a range mapped with mapNone is a WebAssembly trap, not a dead process', () => {
  // (module (import "m" "m" (memory 1 65536 shared)) (func (export "f") (param i32) (result i32) local.get 0 i32.load))
  const code = new Uint8Array([
    0, 97, 115, 109, 1, 0, 0, 0, 1, 6, 1, 96, 1, 127, 1, 127, 2, 11, 1, 1, 109, 1, 109, 2, 3, 1,
    128, 128, 4, 3, 2, 1, 0, 7, 5, 1, 1, 102, 0, 0, 10, 9, 1, 7, 0, 32, 0, 40, 2, 0, 11,
  ]);
  const memory = new WebAssembly.Memory({ initial: 1024, maximum: 65536, shared: true });
  const f = new WebAssembly.Instance(new WebAssembly.Module(code), { m: { m: memory } }).exports
    .f as (at: number) => number;
  mapNone(memoryBase(memory) + 65536n, 65536);
  assert.throws(() => f(65536 + 8), WebAssembly.RuntimeError);
  mapAnonymous(memoryBase(memory) + 65536n, 65536);
  assert.equal(f(65536 + 8), 0);
});

test('seals of a memfd', () => {
  using fd = new OwnedFd(memfdCreate('sealed', 8192));
  assert.equal(getSeals(fd.fd), 0);
  addSeals(fd.fd, F_SEAL_SHRINK);
  assert.equal(getSeals(fd.fd), F_SEAL_SHRINK);
  assert.throws(() => truncateFd(fd.fd, 4096), { code: 'EPERM' });
});

test('eventfd: signalled, polled, taken; a bad descriptor is reported and harmless', () => {
  using fd = new OwnedFd(eventfdCreate());
  const pollfd = new NativeBuffer(8);
  pollfd.view.setInt32(0, fd.fd, true);
  pollfd.view.setInt16(4, 1, true);
  assert.equal(pollRaw(pollfd.address, 1, 0), 0);
  assert.equal(eventfdSignal(fd.fd), true);
  assert.equal(eventfdSignal(fd.fd), true);
  assert.equal(pollRaw(pollfd.address, 1, -1), 1);
  assert.equal(eventfdTake(fd.fd), 2);
  assert.equal(eventfdTake(fd.fd), 0);
  assert.equal(eventfdSignal(-1), false);
});

test('watchFd: calls back, drains promises, can be paused and disposed; plain files are refused', async () => {
  using a = new OwnedFd(eventfdCreate());
  using b = new OwnedFd(eventfdCreate());
  let wakeups = 0;
  const order: string[] = [];
  const first = Promise.withResolvers<void>();
  using watcherA = watchFd(a.fd, { read: true }, ({ readable, error }) => {
    assert.deepEqual([readable, error], [true, 0]);
    wakeups += eventfdTake(a.fd);
    Promise.resolve().then(() => order.push('microtask'));
    process.nextTick(() => order.push('tick'));
    setImmediate(() => first.resolve());
  });
  eventfdSignal(a.fd);
  await first.promise;
  assert.equal(wakeups, 1);
  assert.deepEqual(order.toSorted(), ['microtask', 'tick']);
  watcherA.want({});
  eventfdSignal(a.fd);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(wakeups, 1);
  watcherA.want({ read: true });
  for (let i = 0; i < 500 && wakeups < 2; i++) await sleep(10);
  assert.equal(wakeups, 2);
  watcherA[Symbol.dispose]();
  eventfdSignal(a.fd);
  const second = Promise.withResolvers<boolean>();
  using _b = watchFd(b.fd, { read: true, write: true }, ({ writable }) => {
    second.resolve(writable);
    _b.want({});
  });
  assert.equal(await second.promise, true);
  assert.equal(wakeups, 2);
  using file = new OwnedFd(openSync(process.execPath, 'r'));
  assert.throws(() => watchFd(file.fd, { read: true }, () => {}), { code: 'EPERM' });
});

test('a connection for which there is no descriptor waits, without turning the loop, until there is one', async () => {
  const path = join(scratch, 'full');
  using listener = new OwnedFd(unixListen(path));
  using client = new OwnedFd(unixConnect(path));
  // The limit is one of numbers: the next descriptor would be the lowest that is free.
  const next = client.fd + 1;
  const limits = readFileSync('/proc/self/limits', 'utf8');
  const [, soft] = /^Max open files +(\d+)/m.exec(limits)!;
  const limit = `prlimit --pid ${process.pid} --nofile`;
  const script = `${limit}=${next}: && sleep 0.5 && ${limit}=${soft}:`;
  const helper = spawn('sh', ['-c', script], { stdio: 'ignore' });
  const ended = once(helper, 'exit');
  const isLow = (): boolean => {
    try {
      closeFd(openSync('/dev/null', 'r'));
      return false;
    } catch {
      return true;
    }
  };
  while (!isLow()) await sleep(2);
  const failures: string[] = [];
  const come = Promise.withResolvers<number>();
  const before = process.cpuUsage();
  using _watch = watchListener(
    listener.fd,
    (fd) => come.resolve(fd),
    (text) => failures.push(text),
  );
  using connection = new OwnedFd(await come.promise);
  const { user, system } = process.cpuUsage(before);
  assert.deepEqual(await ended, [0, null]);
  assert.ok(connection.fd >= 0);
  assert.equal(failures.length, 1);
  assert.match(failures[0]!, /accept/);
  assert.ok(user + system < 250_000, `${user + system} µs of processor time in half a second`);
});

test('descriptors travel over a Unix socket; the peer closing is an empty message', () => {
  const path = join(scratch, 'sock');
  using listener = new OwnedFd(unixListen(path));
  assert.equal(unixAccept(listener.fd), -1);
  using client = new OwnedFd(unixConnect(path));
  using server = new OwnedFd(unixAccept(listener.fd));
  const messenger = new FdMessenger();
  assert.equal(messenger.receive(server.fd), undefined);
  using file = new OwnedFd(memfdCreate('sent', 12345));
  assert.equal(messenger.send(client.fd, Buffer.from('hello'), [file.fd, file.fd]), 5);
  const first = messenger.receive(server.fd, 2)!;
  assert.equal(Buffer.from(first.data).toString(), 'he');
  assert.equal(first.fds.length, 2);
  assert.equal(first.truncated, false);
  assert.equal(fileSize(first.fds[0]!), 12345);
  assert.notEqual(first.fds[0], file.fd);
  for (const fd of first.fds) {
    assert.equal(c.fcntl(fd, 1, 0n), 1); // F_GETFD: FD_CLOEXEC
    closeFd(fd);
  }
  const rest = messenger.receive(server.fd)!;
  assert.deepEqual([Buffer.from(rest.data).toString(), rest.fds.length], ['llo', 0]);
  closeFd(client.release());
  assert.equal(messenger.receive(server.fd)!.data.length, 0);
  assert.throws(() => messenger.send(server.fd, Buffer.from('x')), { code: 'EPIPE' });
});

test('a full socket takes what fits and then says so', () => {
  const path = join(scratch, 'full');
  using _listener = new OwnedFd(unixListen(path));
  using client = new OwnedFd(unixConnect(path));
  const messenger = new FdMessenger();
  let sent = 0;
  for (;;) {
    const taken = messenger.send(client.fd, new Uint8Array(60000));
    if (taken < 0) break;
    sent += taken;
  }
  assert.ok(sent > 60000);
});

test('connect and bind: every refusal has its errno; stale sockets are replaced; full queues say EAGAIN', () => {
  assert.throws(() => unixConnect(join(scratch, 'none')), { code: 'ENOENT' });
  const path = join(scratch, 'stale');
  closeFd(unixListen(path));
  assert.throws(() => unixConnect(path), { code: 'ECONNREFUSED' });
  using again = new OwnedFd(unixListen(path, 0));
  assert.throws(() => unixListen(path), { code: 'EADDRINUSE' });
  const file = join(scratch, 'file');
  writeFileSync(file, 'mine');
  assert.throws(() => unixListen(file), { code: 'EADDRINUSE' });
  assert.equal(readFileSync(file, 'utf8'), 'mine', 'only sockets are replaced');
  const clients: OwnedFd[] = [];
  assert.throws(
    () => {
      for (let i = 0; i < 10; i++) clients.push(new OwnedFd(unixConnect(path)));
    },
    { code: 'EAGAIN' },
  );
  for (const client of clients) client[Symbol.dispose]();
  assert.ok(again.fd > 0);
});

test('socket paths longer than sockaddr_un', () => {
  const directory = join(scratch, 'x'.repeat(120));
  spawnSync('mkdir', [directory]);
  const path = join(directory, 'sock');
  using listener = new OwnedFd(unixListen(path));
  using client = new OwnedFd(unixConnect(path));
  using server = new OwnedFd(unixAccept(listener.fd));
  assert.ok(client.fd > 0 && server.fd > 0);
  assert.throws(() => unixListen(join(scratch, 'y'.repeat(200))), { code: 'ENAMETOOLONG' });
});

test('the lock of a pidfile is seen by another process', () => {
  const path = join(scratch, 'pidfile');
  writeFileSync(path, '');
  using fd = new OwnedFd(openPath(path, 2));
  assert.equal(tryLock(fd.fd), true);
  assert.equal(lockHolder(fd.fd), undefined);
  const script = `import { tryLock, lockHolder } from ${JSON.stringify(new URL('../../src/sys/lock.ts', import.meta.url).href)};
    import { openSync } from 'node:fs';
    const fd = openSync(${JSON.stringify(path)}, 'r+');
    console.log(tryLock(fd), lockHolder(fd));`;
  const child = spawnSync(process.execPath, [
    '--disable-warning=ExperimentalWarning',
    '--input-type=module',
    '-e',
    script,
  ]);
  assert.equal(child.stdout.toString(), `false ${process.pid}\n`);
  assert.equal(child.stderr.toString(), '');
});

test('processes and threads', async () => {
  assert.equal(getTid(), process.pid);
  assert.ok(processExists(process.pid));
  assert.ok(processExists(1));
  assert.equal(processExists(0x3ffffff), false);
  const cores = getThreadAffinity();
  assert.ok(cores.length >= 1);
  setThreadAffinity(cores);
  assert.throws(() => setThreadAffinity([]), { code: 'EINVAL' });
  const before = getThreadScheduling();
  setThreadSlice(200_000);
  const after = getThreadScheduling();
  assert.deepEqual([after.policy, after.nice], [before.policy, before.nice]);
  // Linux before 6.12 has nothing of it to say.
  assert.ok(after.sliceNs === 200_000 || after.sliceNs === 0, `${after.sliceNs} ns`);
  if (before.sliceNs > 0) setThreadSlice(before.sliceNs);
  assert.ok(processCpuNs() >= threadCpuNs() && threadCpuNs() > 0);
  assert.ok(threadCpuNs(getTid()) > 0);
});

test('a worker thread has its own errno, its own event loop, and watches descriptors too', async () => {
  const url = (name: string) =>
    JSON.stringify(new URL(`../../src/sys/${name}.ts`, import.meta.url).href);
  const source = `
    const { parentPort } = await import('node:worker_threads');
    const { watchFd } = await import(${url('poll')});
    const { eventfdCreate, eventfdSignal, eventfdTake } = await import(${url('eventfd')});
    const { c, errno } = await import(${url('ffi')});
    const { setThreadName, getTid } = await import(${url('process')});
    c.close(-1); const e = errno();
    setThreadName('pmd-c00/id:1 and more');
    const fd = eventfdCreate();
    const w = watchFd(fd, { read: true }, () => {
      parentPort.postMessage({ e, taken: eventfdTake(fd), tid: getTid() });
      w[Symbol.dispose]();
    });
    eventfdSignal(fd);
    watchFd(eventfdCreate(), { read: true }, () => {}).unref(); // still there when the thread ends`;
  const worker = new Worker(source, { eval: true });
  const ended = once(worker, 'exit');
  const message = await new Promise<{ e: number; taken: number; tid: number }>(
    (resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    },
  );
  assert.equal(message.e, 9);
  assert.equal(message.taken, 1);
  assert.notEqual(message.tid, process.pid);
  assert.deepEqual(await ended, [0]);
});

test('reading: end of file, would block, error', () => {
  const path = join(scratch, 'data');
  writeFileSync(path, 'abc');
  using fd = new OwnedFd(openPath(path, 0));
  const buffer = new NativeBuffer(16);
  assert.equal(readFd(fd.fd, buffer), 3);
  assert.equal(Buffer.from(buffer.bytes.subarray(0, 3)).toString(), 'abc');
  assert.equal(readFd(fd.fd, buffer), 0);
  using event = new OwnedFd(eventfdCreate());
  setNonBlocking(event.fd);
  assert.equal(readFd(event.fd, buffer), -1);
  assert.throws(() => readFd(-1, buffer), { code: 'EBADF' });
});
