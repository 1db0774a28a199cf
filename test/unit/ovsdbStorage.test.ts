// The database file: what survives a crash, what is refused, what happens on a full disk.

import assert from 'node:assert/strict';
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { silentLog } from '../../src/control/ovsdb/log.ts';
import { Storage } from '../../src/control/ovsdb/storage.ts';
import { OvsdbError } from '../../src/wire/ovsdb/error.ts';
import { execute } from '../../src/wire/ovsdb/execute.ts';
import type { Json } from '../../src/wire/ovsdb/json.ts';
import { encodeRecord } from '../../src/wire/ovsdb/log.ts';
import { parseSchema } from '../../src/wire/ovsdb/schema.ts';

const schemaJson = (version: string, more = {}) => ({
  name: 'db',
  version,
  cksum: '1 2',
  tables: {
    T: {
      columns: {
        name: { type: 'string' },
        tags: { type: { key: 'string', min: 0, max: 'unlimited' } },
        seen: { type: 'integer', ephemeral: true },
        ...more,
      },
      isRoot: true,
    },
  },
});
const SCHEMA = parseSchema(schemaJson('1.0.0'));

let directory: string;
let file: string;
let warnings: string[];
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'xvio-storage-'));
  file = join(directory, 'conf.db');
  warnings = [];
});
afterEach(() => rmSync(directory, { recursive: true }));

const log = { ...silentLog, warn: (text: string) => void warnings.push(text) };
const open = (more = {}) => new Storage({ file, schema: SCHEMA, log, ...more });

/** Executes and commits as the server does. */
function transact(storage: Storage, ...operations: Json[]): Json {
  const execution = execute(storage.database, ['db', ...operations], { elapsedMs: 0 });
  assert.equal(execution.kind, 'done', JSON.stringify(execution));
  if (execution.kind !== 'done') return null;
  const changes = execution.transaction.prepare();
  storage.append(changes, execution.transaction.comments, execution.durable);
  execution.transaction.apply();
  return execution.results;
}
const insert = (name: string): Json => ({ op: 'insert', table: 'T', row: { name } });
const names = (storage: Storage) =>
  [...storage.database.tables.get('T')!.rows.values()].map((row) => row.fields[2]!.keys[0]).sort();

test('content survives a restart, ephemeral columns do not', () => {
  using first = open();
  transact(first, {
    op: 'insert',
    table: 'T',
    row: { name: 'a', tags: ['set', ['x', 'y']], seen: 5 },
  });
  transact(first, insert('b'), { op: 'comment', comment: 'why' }, { op: 'commit', durable: true });
  transact(first, {
    op: 'update',
    table: 'T',
    where: [['name', '==', 'a']],
    row: { name: 'c', tags: 'z' },
  });
  transact(first, { op: 'delete', table: 'T', where: [['name', '==', 'b']] });
  const size = statSync(file).size;
  transact(first, { op: 'update', table: 'T', where: [], row: { seen: 6 } });
  assert.equal(statSync(file).size, size, 'an ephemeral change is not written');
  first.close();
  using second = open();
  assert.deepEqual(names(second), ['c']);
  const [row] = [...second.database.tables.get('T')!.rows.values()];
  assert.deepEqual(row!.fields[3]!.keys, ['z']);
  assert.deepEqual(row!.fields[4]!.keys, [0]);
  assert.match(readFileSync(file, 'utf8'), /"_comment":"why"/);
});

test('a crash at any byte loses the unfinished transaction only', () => {
  const storage = open();
  const ends: number[] = [statSync(file).size];
  for (const name of ['a', 'b', 'ü😀']) {
    transact(storage, insert(name));
    ends.push(statSync(file).size);
  }
  storage.close();
  const bytes = readFileSync(file);
  for (let length = ends[0]!; length <= bytes.length; length++) {
    writeFileSync(file, bytes.subarray(0, length));
    warnings = [];
    using reopened = open();
    const whole = ends.filter((end) => end <= length).length - 1;
    assert.deepEqual(names(reopened), ['a', 'b', 'ü😀'].slice(0, whole));
    assert.equal(warnings.length, ends.includes(length) ? 0 : 1, `at ${length}: ${warnings}`);
    assert.equal(statSync(file).size, length, 'reading changes nothing');
    transact(reopened, insert('zz'));
    reopened.close();
    using again = open();
    assert.deepEqual(names(again), [...['a', 'b', 'ü😀'].slice(0, whole), 'zz'].sort());
  }
});

test('zeros after a power failure are an unfinished record', () => {
  const storage = open();
  transact(storage, insert('a'));
  storage.close();
  appendFileSync(file, Buffer.alloc(300));
  using reopened = open();
  assert.deepEqual(names(reopened), ['a']);
  assert.equal(warnings.length, 1);
});

test('damage in the middle is refused and the file is left alone', () => {
  const storage = open();
  for (const name of ['a', 'b', 'c']) transact(storage, insert(name));
  storage.close();
  const bytes = readFileSync(file);
  const at = bytes.indexOf('"name":"b"');
  bytes[at + 8] = 0x58;
  writeFileSync(file, bytes);
  assert.throws(open, /damaged: .* have SHA-1 hash .* left untouched/);
  assert.deepEqual(readFileSync(file), bytes);
});

test('a transaction that does not apply is refused', () => {
  open().close();
  appendFileSync(file, encodeRecord({ T: { '11111111-1111-1111-1111-111111111111': null } }));
  assert.throws(open, /damaged: transaction at offset \d+ does not apply/);
});

test('foreign files are refused', () => {
  const contents = [
    'something else\n',
    'OVSDB CLUSTER 3 0000000000000000000000000000000000000000\n{}\n',
    encodeRecord({ hello: 'world' }).toString(),
    '',
  ];
  for (const text of contents) {
    writeFileSync(file, text);
    assert.throws(open, /left untouched/, text);
    assert.equal(readFileSync(file, 'utf8'), text);
  }
  writeFileSync(file, encodeRecord({ ...schemaJson('1.0.0'), name: 'other' }));
  assert.throws(open, /holds database other, not db/);
});

test('a full disk fails the transaction, the next one works', () => {
  let room = Infinity;
  const write = ((fd: number, buffer: Buffer, offset: number, length: number, position: number) => {
    if (room <= 0)
      throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
    const part = Math.min(room, length);
    room -= part;
    return writeSync(fd, buffer, offset, part, position);
  }) as typeof writeSync;
  using storage = open({ write });
  transact(storage, insert('a'));
  const size = statSync(file).size;
  for (const bytes of [0, 1, 50]) {
    room = bytes;
    assert.throws(
      () => transact(storage, insert('b')),
      (error) => {
        assert.ok(error instanceof OvsdbError);
        assert.deepEqual(error.toJson(), {
          error: 'I/O error',
          details: `${file}: write failed`,
          'io-error': 'No space left on device',
        });
        return true;
      },
    );
    assert.equal(statSync(file).size, size);
    assert.deepEqual(names(storage), ['a']);
  }
  room = Infinity;
  transact(storage, insert('c'));
  storage.close();
  using reopened = open();
  assert.deepEqual(names(reopened), ['a', 'c']);
});

test('a full disk while creating leaves no file', () => {
  const write = (() => {
    throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
  }) as unknown as typeof writeSync;
  assert.throws(() => open({ write }), /ENOSPC/);
  assert.equal(existsSync(file), false);
  assert.deepEqual(readdirSync(directory), ['.conf.db.~lock~']);
});

test('a file that grew is compacted', () => {
  using storage = open({ compactBytes: 2000 });
  for (let i = 0; i < 100; i++) {
    transact(
      storage,
      i === 0 ? insert('x0') : { op: 'update', table: 'T', where: [], row: { name: `x${i}` } },
    );
    storage.compactIfWorthwhile();
  }
  assert.ok(statSync(file).size < 4000);
  storage.close();
  using reopened = open();
  assert.deepEqual(names(reopened), ['x99']);
  assert.equal(existsSync(`${file}.tmp`), false);
});

test('an older schema is converted, with a backup', () => {
  const storage = open();
  transact(storage, insert('a'));
  storage.close();
  const before = readFileSync(file);
  const schema = parseSchema(schemaJson('1.1.0', { extra: { type: 'integer' } }));
  using newer = open({ schema });
  assert.deepEqual(names(newer), ['a']);
  assert.equal(newer.database.schema.version, '1.1.0');
  assert.deepEqual(readFileSync(`${file}.backup1.0.0-12`), before);
  transact(newer, { op: 'update', table: 'T', where: [], row: { extra: 7 } });
  newer.close();
  using older = open();
  assert.equal(older.database.schema.version, '1.1.0', 'a newer file keeps its schema');
  assert.deepEqual(names(older), ['a']);
});

test('differences in a file of a newer ovsdb-server are understood', () => {
  open().close();
  const uuid = '11111111-1111-1111-1111-111111111111';
  appendFileSync(
    file,
    encodeRecord({ T: { [uuid]: { name: 'a', tags: ['set', ['x', 'y']] } }, _is_diff: true }),
  );
  appendFileSync(
    file,
    encodeRecord({ T: { [uuid]: { tags: ['set', ['y', 'z']], name: 'b' } }, _is_diff: true }),
  );
  using storage = open();
  const row = storage.database.tables.get('T')!.rows.get(uuid)!;
  assert.deepEqual(row.fields[2]!.keys, ['b']);
  assert.deepEqual(row.fields[3]!.keys, ['x', 'z']);
});
