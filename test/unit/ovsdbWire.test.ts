// Values on the wire: JSON without loss, the stream splitter, datums and their constraints, schema,
// JSON-RPC.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  applyDiff,
  type ColumnType,
  datumFromJson,
  datumToJson,
  datumToString,
  diffDatum,
  typeToEnglish,
} from '../../src/wire/ovsdb/datum.ts';
import { OvsdbError } from '../../src/wire/ovsdb/error.ts';
import { canonicalJson, type Json, parseJson, stringifyJson } from '../../src/wire/ovsdb/json.ts';
import { formatRpc, parseRpc } from '../../src/wire/ovsdb/rpc.ts';
import { columnType, parseSchema, schemaToJson } from '../../src/wire/ovsdb/schema.ts';
import { JsonSplitter } from '../../src/wire/ovsdb/splitter.ts';

const bytes = (text: string) => new TextEncoder().encode(text);
const fails = (run: () => unknown, json: object) => {
  assert.throws(run, (error) => {
    assert.ok(error instanceof OvsdbError, String(error));
    assert.deepEqual(error.toJson(), json);
    return true;
  });
};

test('integers of 64 bits survive, others are plain numbers', () => {
  const text =
    '[9223372036854775807,-9223372036854775808,9007199254740993,12,-0,1.5,"1234567890123456789"]';
  const json = parseJson(text) as Json[];
  assert.equal(json[0], 9223372036854775807n);
  assert.equal(json[1], -9223372036854775808n);
  assert.equal(json[2], 9007199254740993n);
  assert.equal(json[3], 12);
  assert.equal(json[6], '1234567890123456789');
  assert.equal(stringifyJson(json), text.replace('-0', '0'));
  assert.equal(parseJson('[1e16]')?.toString(), '10000000000000000');
});

test('strings that UTF-8 cannot carry are refused', () => {
  assert.throws(() => parseJson('["\\u0000"]'), /null bytes/);
  assert.throws(() => parseJson('["\\ud800"]'), /surrogate/);
  assert.deepEqual(parseJson('["\\ud83d\\ude00","\\\\u0000"]'), ['😀', '\\u0000']);
});

test('canonical JSON sorts members', () => {
  assert.equal(
    canonicalJson({ b: [1, { d: 1, c: 2 }], a: null }),
    '{"a":null,"b":[1,{"c":2,"d":1}]}',
  );
});

test('the splitter finds messages whatever the chunks are', () => {
  const texts = ['{"a":"}{\\"]["}', '[1,[2,{"x":"\\\\"}]]', '{"ü":"😀"}'];
  const stream = bytes(`${texts[0]}\n ${texts[1]}${texts[2]}\r\n`);
  for (let size = 1; size <= stream.length; size++) {
    const splitter = new JsonSplitter();
    const found: string[] = [];
    for (let i = 0; i < stream.length; i += size) {
      found.push(...splitter.push(stream.subarray(i, i + size)));
    }
    assert.deepEqual(found, texts);
    assert.equal(splitter.pending, false);
  }
});

test('the splitter has limits', () => {
  assert.throws(() => new JsonSplitter().push(bytes('nonsense')), /beginning of input/);
  assert.throws(() => new JsonSplitter().push(bytes('}')), /beginning of input/);
  assert.throws(() => new JsonSplitter().push(bytes('['.repeat(1001))), /depth/);
  assert.throws(() => new JsonSplitter(100).push(bytes(`["${'x'.repeat(200)}`)), /longer/);
  assert.throws(
    () => new JsonSplitter().push(new Uint8Array([0x5b, 0x22, 0xff, 0x22, 0x5d])),
    /UTF-8/,
  );
});

const STRINGS: ColumnType = columnType({ key: 'string', min: 0, max: 'unlimited' });
const MAP: ColumnType = columnType({ key: 'string', value: 'integer', min: 0, max: 'unlimited' });

test('datums: sorted, scalars bare, sets and maps wrapped', () => {
  const set = datumFromJson(STRINGS, ['set', ['b', 'a', 'B']]);
  assert.deepEqual(set.keys, ['B', 'a', 'b']);
  assert.deepEqual(datumToJson(STRINGS, set), ['set', ['B', 'a', 'b']]);
  assert.deepEqual(datumToJson(STRINGS, datumFromJson(STRINGS, ['set', ['a']])), 'a');
  assert.equal(datumToString(STRINGS, set), '[B, a, b]');
  const map = datumFromJson(MAP, [
    'map',
    [
      ['y', 2],
      ['x', 1],
    ],
  ]);
  assert.equal(datumToString(MAP, map), '{x=1, y=2}');
  assert.equal(datumToString(STRINGS, datumFromJson(STRINGS, 'a b')), '["a b"]');
});

test('strings sort by code points', () => {
  const set = datumFromJson(STRINGS, ['set', ['😀', '\uffff', 'a']]);
  assert.deepEqual(set.keys, ['a', '\uffff', '😀']);
});

test('datum errors are the real server’s', () => {
  const one = columnType('integer');
  fails(() => datumFromJson(one, 'x'), {
    error: 'syntax error',
    details: 'expected integer',
    syntax: '"x"',
  });
  fails(() => datumFromJson(one, ['set', [1, 2]]), {
    error: 'syntax error',
    details: 'set must have exactly one member but 2 are present',
    syntax: '["set",[1,2]]',
  });
  fails(() => datumFromJson(MAP, ['set', []]), {
    error: 'syntax error',
    details: 'expected ["map", <array>]',
    syntax: '["set",[]]',
  });
  fails(() => datumFromJson(STRINGS, ['set', ['a', 'a']]), {
    error: 'ovsdb error',
    details: 'set contains duplicate',
  });
  fails(
    () =>
      datumFromJson(MAP, [
        'map',
        [
          ['a', 1],
          ['a', 2],
        ],
      ]),
    {
      error: 'ovsdb error',
      details: 'map contains duplicate key',
    },
  );
  fails(() => datumFromJson(columnType('uuid'), ['uuid', 'zzz']), {
    error: 'syntax error',
    details: '"zzz" is not a valid UUID',
    syntax: '["uuid","zzz"]',
  });
  const few = columnType({ key: 'integer', min: 0, max: 3 });
  fails(() => datumFromJson(few, ['set', [1, 2, 3, 4]]), {
    error: 'syntax error',
    details: 'set must have 0 to 3 members but 4 are present',
    syntax: '["set",[1,2,3,4]]',
  });
});

test('constraint violations are the real server’s', () => {
  const range = columnType({ key: { type: 'integer', minInteger: 0, maxInteger: 4095 } });
  const min = columnType({ key: { type: 'integer', minInteger: 1 } });
  const max = columnType({ key: { type: 'integer', maxInteger: 5 } });
  const word = columnType({ key: { type: 'string', enum: ['set', ['b', 'a']] } });
  const text = columnType({ key: { type: 'string', minLength: 2, maxLength: 3 } });
  const cases: [ColumnType, Json, string][] = [
    [range, 5000, '5000 is not in the valid range 0 to 4095 (inclusive)'],
    [min, 0, '0 is less than minimum allowed value 1'],
    [max, 6, '6 is greater than maximum allowed value 5'],
    [word, 'c', 'c is not one of the allowed values ([a, b])'],
    [text, 'x', '"x" length 1 is less than minimum allowed length 2'],
    [text, 'xxxx', '"xxxx" length 4 is greater than maximum allowed length 3'],
  ];
  for (const [type, json, details] of cases) {
    fails(() => datumFromJson(type, json), { error: 'constraint violation', details });
  }
  assert.deepEqual(datumFromJson(text, '😀😀').keys, ['😀😀']);
});

test('differences of sets, maps and scalars', () => {
  const from = datumFromJson(MAP, [
    'map',
    [
      ['a', 1],
      ['b', 2],
      ['c', 3],
    ],
  ]);
  const to = datumFromJson(MAP, [
    'map',
    [
      ['b', 2],
      ['c', 4],
      ['d', 5],
    ],
  ]);
  const diff = diffDatum(MAP, from, to);
  assert.deepEqual(datumToJson(MAP, diff), [
    'map',
    [
      ['a', 1],
      ['c', 4],
      ['d', 5],
    ],
  ]);
  assert.deepEqual(applyDiff(MAP, from, diff), to);
});

test('types in English', () => {
  assert.equal(typeToEnglish(columnType('real')), 'real');
  assert.equal(typeToEnglish(STRINGS), 'set of strings');
  assert.equal(typeToEnglish(MAP), 'map of (string, integer) pairs');
  assert.equal(typeToEnglish(columnType({ key: 'uuid', min: 1, max: 3 })), 'set of 1 to 3 uuids');
  assert.equal(typeToEnglish(columnType({ key: 'uuid', min: 0, max: 3 })), 'set of up to 3 uuids');
});

test('schemas: read, checked, written', () => {
  const json = {
    name: 'db',
    version: '1.2.3',
    tables: {
      T: {
        columns: {
          a: { type: 'string', mutable: false },
          r: { type: { key: { type: 'uuid', refTable: 'T', refType: 'weak' }, min: 0 } },
        },
        indexes: [['a']],
        isRoot: true,
      },
      U: { columns: { e: { type: 'integer', ephemeral: true } } },
    },
  };
  const schema = parseSchema(json);
  assert.equal(schema.tables.get('T')!.isRoot, true);
  assert.equal(schema.tables.get('U')!.isRoot, false);
  assert.equal(schema.tables.get('T')!.columns.get('r')!.mutable, true);
  assert.deepEqual(parseSchema(schemaToJson(schema)), schema);
  const broken = (tables: Json, text: RegExp) =>
    assert.throws(() => parseSchema({ name: 'db', tables }), text);
  broken({ T: { columns: {} } }, /table must have at least one column/);
  broken({ _T: { columns: { a: { type: 'string' } } } }, /reserved/);
  broken({ T: { columns: { a: { type: 'text' } } } }, /"text" is not an atomic-type/);
  broken(
    { T: { columns: { a: { type: { key: { type: 'uuid', refTable: 'X' } } } } } },
    /undefined table X/,
  );
  broken(
    { T: { columns: { a: { type: 'string', ephemeral: true } }, indexes: [['a']] } },
    /indexed/,
  );
});

test('JSON-RPC: what a message is', () => {
  assert.deepEqual(parseRpc({ method: 'echo', params: [], id: 0 }), {
    kind: 'request',
    method: 'echo',
    params: [],
    id: 0,
  });
  assert.equal(parseRpc({ method: 'update', params: [1], id: null }).kind, 'notification');
  assert.equal(parseRpc({ result: {}, error: null, id: 'x' }).kind, 'reply');
  assert.equal(parseRpc({ result: null, error: 'e', id: 'x' }).kind, 'error');
  const bad: [Json, RegExp][] = [
    [[], /not a JSON object/],
    [{ method: 1, params: [], id: 1 }, /method is not a JSON string/],
    [{ method: 'x', params: {}, id: 1 }, /"params" must be JSON array/],
    [{ method: 'x', id: 1 }, /request must have "params"/],
    [{ method: 'x', params: [], id: 1, foo: 1 }, /unexpected member "foo"/],
    [{ result: 1, id: 1, method: 'x' }, /reply must not have "method"/],
  ];
  for (const [json, text] of bad) assert.throws(() => parseRpc(json), text);
  const message = { kind: 'request', id: 3, method: 'm', params: [9007199254740993n] } as const;
  assert.deepEqual(parseRpc(parseJson(formatRpc(message))), message);
});
