// What is kept for the time after a crash (src/main/handover): the journal always has one whole state, and bridges whose
// tables have not changed are not encoded again.

import assert from 'node:assert/strict';
import { closeSync, ftruncateSync, readSync } from 'node:fs';
import { test } from 'node:test';
import { Connmgr } from '../../src/control/openflow/connmgr.ts';
import { Journal, readJournal } from '../../src/main/handover/keepsake.ts';
import type { State } from '../../src/main/handover/messages.ts';
import { BridgeSaver, saveBridge } from '../../src/main/handover/savedBridge.ts';
import { memfdCreate } from '../../src/sys/memory.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import { SwitchRig } from '../oracle/openflowRig.ts';

const NO_LOG = { info: () => {}, warn: () => {}, err: () => {}, dbg: () => {} };

const stateOf = (revision: string): State => ({
  format: 1,
  revision,
  originNs: 0n,
  conntrackLayout: '',
  bridges: [],
});

test('the state of a predecessor stays whole while its successor writes the first of its own', () => {
  const fd = memfdCreate('journal', 0, false);
  try {
    for (const revision of ['first', 'second', 'third']) {
      const header = Buffer.alloc(16);
      const before = readSync(fd, header, 0, 16, 0) === 16 ? header : undefined;
      new Journal(
        fd,
        () => revision,
        () => stateOf(revision),
      )[Symbol.dispose]();
      assert.equal(readJournal(fd)?.revision, revision);
      if (before === undefined) continue;
      const after = Buffer.alloc(16);
      readSync(fd, after, 0, 16, 0);
      assert.notEqual(after.readUInt32LE(4), before.readUInt32LE(4), 'written over the whole one');
    }
    ftruncateSync(fd, 0);
    assert.equal(readJournal(fd), undefined);
  } finally {
    closeSync(fd);
  }
});

test('tables that have not changed are not encoded again', async () => {
  const rig = await SwitchRig.create();
  const bridge = rig.addBridge('br0');
  const connmgr = new Connmgr({ bridge, runDir: '/nonexistent', log: NO_LOG });
  const unit = { bridge, connmgr };
  const add = (match: string): void => {
    connmgr.tables.addOwn({
      match: parseMatch(match),
      priority: 5,
      actions: parseActions('drop'),
    });
  };
  const saver = new BridgeSaver();
  add('in_port=1');
  const first = saver.save(unit);
  assert.deepEqual(first, saveBridge(unit));
  assert.equal(saver.save(unit).messages, first.messages);
  add('in_port=2');
  const second = saver.save(unit);
  assert.ok(second.messages.length > first.messages.length);
  assert.deepEqual(second, saveBridge(unit));
  connmgr.close();
  rig.close();
});
