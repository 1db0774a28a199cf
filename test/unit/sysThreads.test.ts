// Threads that end while V8 compiles their calls of C functions: the process must outlive them (src/sys/ffi.ts).

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';

const url = (name: string): string => new URL(`../../src/sys/${name}.ts`, import.meta.url).href;

// Each thread lives a little longer than the one before, so that some end in the midst of a compilation.
const THREAD = `
  import { workerData } from 'node:worker_threads';
  import { eventfdSignal, eventfdTake } from '${url('eventfd')}';
  const turn = () => {
    eventfdSignal(workerData.fd);
    return eventfdTake(workerData.fd);
  };
  const end = performance.now() + workerData.lifeMs;
  while (performance.now() < end) for (let i = 0; i < 50; i++) turn();`;

const PROCESS = `
  import { once } from 'node:events';
  import { Worker } from 'node:worker_threads';
  import { eventfdCreate } from '${url('eventfd')}';
  const thread = new URL('data:text/javascript,' + encodeURIComponent(${JSON.stringify(THREAD)}));
  const fd = eventfdCreate();
  let ended = 0;
  for (let i = 0; i < 60; i++) {
    const worker = new Worker(thread, { workerData: { fd, lifeMs: 1 + (i % 20) } });
    const [status] = await once(worker, 'exit');
    if (status === 0) ended++;
  }
  console.log(ended);`;

test('threads that end while their calls are being compiled', () => {
  const words = ['--disable-warning=ExperimentalWarning', '--input-type=module', '-e', PROCESS];
  const { stdout, stderr, signal } = spawnSync(process.execPath, words, {
    encoding: 'utf8',
    timeout: 120_000,
  });
  assert.equal(signal, null, stderr);
  assert.equal(stdout.trim(), '60', stderr);
});
