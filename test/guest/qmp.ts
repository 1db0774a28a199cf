// QEMU's monitor (QMP): commands one after the other, and a live migration from beginning to end.

import { existsSync } from 'node:fs';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** Gives commands to the monitor at `path`, one after the other, and returns the last answer. Rejects with QEMU's error. */
export function qmp(
  path: string,
  ...commands: readonly object[]
): Promise<Record<string, unknown>> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    const queue: object[] = [{ execute: 'qmp_capabilities' }, ...commands];
    let text = '';
    socket.setEncoding('utf8');
    socket.on('error', reject);
    socket.on('data', (chunk: string) => {
      text += chunk;
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
        const answer = JSON.parse(text.slice(0, end));
        text = text.slice(end + 1);
        if (answer.event !== undefined) continue;
        const next = queue.shift();
        if (answer.error !== undefined) reject(new Error(JSON.stringify(answer.error)));
        else if (next !== undefined) {
          socket.write(`${JSON.stringify(next)}\n`);
          continue;
        } else resolve(answer.return ?? {});
        socket.destroy();
        return;
      }
    });
  });
}

/**
 * Resolves when the QEMU behind the monitor can take a migration: it answers once it listens, which it does once its
 * back-end has connected. That the file of its socket exists is not enough: between bind and listen it refuses.
 */
export async function incoming(monitor: string, timeoutMs = 30_000): Promise<void> {
  const end = performance.now() + timeoutMs;
  while (!existsSync(monitor)) {
    if (performance.now() > end) throw new Error(`no monitor at ${monitor} in ${timeoutMs} ms`);
    await sleep(50);
  }
  const { status } = await qmp(monitor, { execute: 'query-status' });
  if (status !== 'inmigrate') throw new Error(`QEMU waits for no migration: ${status}`);
}

export interface MigrationResult {
  /** As QEMU says it: vCPUs stopped, in milliseconds. */
  downtimeMs: number;
  totalMs: number;
}

/** Migrates the guest behind the monitor to `uri`; resolves when it runs there. Throws if it fails. */
export async function migrate(
  monitor: string,
  uri: string,
  timeoutMs = 90_000,
): Promise<MigrationResult> {
  await qmp(monitor, { execute: 'migrate', arguments: { uri } });
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    await sleep(20);
    const answer = await qmp(monitor, { execute: 'query-migrate' });
    if (answer.status === 'completed') {
      return { downtimeMs: Number(answer.downtime), totalMs: Number(answer['total-time']) };
    }
    if (answer.status === 'failed' || performance.now() > deadline) {
      throw new Error(`migration: ${JSON.stringify(answer)}`);
    }
  }
}

/** Begins a migration and gives it up again; the guest goes on where it is. */
export async function migrateAndCancel(monitor: string, uri: string): Promise<void> {
  // So slow that it cannot be over before it is given up.
  const slow = { 'max-bandwidth': 1 << 20 };
  await qmp(monitor, { execute: 'migrate-set-parameters', arguments: slow });
  await qmp(monitor, { execute: 'migrate', arguments: { uri } });
  await sleep(500);
  await qmp(monitor, { execute: 'migrate_cancel' });
  for (;;) {
    const { status } = await qmp(monitor, { execute: 'query-migrate' });
    if (status === 'cancelled') break;
    if (status !== 'cancelling' && status !== 'active') throw new Error(`migration is ${status}`);
    await sleep(20);
  }
  const fast = { 'max-bandwidth': 1 << 30 };
  await qmp(monitor, { execute: 'migrate-set-parameters', arguments: fast });
}
