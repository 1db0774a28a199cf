// The pieces of the OpenFlow front-end that need no connection: names of targets, framing, version sets, rate limit,
// masks of asynchronous messages, mapping of tunnel options.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { changeAsync, defaultAsync, packetInBit } from '../../src/control/openflow/asyncConfig.ts';
import { FlowModLog } from '../../src/control/openflow/flowModLog.ts';
import { FramingError, MessageSplitter } from '../../src/control/openflow/framing.ts';
import { Pinsched } from '../../src/control/openflow/pinsched.ts';
import { ReplyPacker } from '../../src/control/openflow/replyPacker.ts';
import { TlvTable } from '../../src/control/openflow/tlvTable.ts';
import { parseTarget } from '../../src/control/openflow/vconn.ts';
import {
  ALL_VERSIONS,
  commonVersion,
  formatVersions,
  needsBitmap,
  versionsFromNames,
  versionsUpTo,
} from '../../src/control/openflow/versions.ts';

describe('targets', () => {
  const cases: [string, unknown][] = [
    ['tcp:10.0.0.1', { kind: 'tcp', host: '10.0.0.1', port: 6653 }],
    ['tcp:10.0.0.1:6633', { kind: 'tcp', host: '10.0.0.1', port: 6633 }],
    ['ssl:[fe80::1]:1', { kind: 'ssl', host: 'fe80::1', port: 1 }],
    ['tcp:[::1]', { kind: 'tcp', host: '::1', port: 6653 }],
    ['tcp:::1', { kind: 'tcp', host: '::1', port: 6653 }],
    ['ptcp:', { kind: 'ptcp', host: '', port: 6653 }],
    ['ptcp:0:127.0.0.1', { kind: 'ptcp', host: '127.0.0.1', port: 0 }],
    ['pssl:6640:[::1]', { kind: 'pssl', host: '::1', port: 6640 }],
    ['unix:/a/b', { kind: 'unix', path: '/a/b' }],
    ['punix:x', { kind: 'punix', path: '/run/x' }],
    ['tcp:', undefined],
    ['tcp:host:99999', undefined],
    ['ptcp:x', undefined],
    ['none', undefined],
    ['http:host', undefined],
  ];
  for (const [text, target] of cases) {
    it(text, () => assert.deepEqual(parseTarget(text, '/run'), target));
  }
});

describe('framing', () => {
  const message = (length: number, body: number) => {
    const bytes = new Uint8Array(length).fill(body);
    bytes[0] = 4;
    bytes[2] = length >> 8;
    bytes[3] = length & 0xff;
    return bytes;
  };
  const stream = Buffer.concat([message(8, 1), message(300, 2), message(65535, 3), message(9, 4)]);

  for (const size of [1, 7, 8, 64, 4096, stream.length]) {
    it(`finds messages in chunks of ${size} bytes`, () => {
      const splitter = new MessageSplitter();
      const lengths: number[] = [];
      for (let i = 0; i < stream.length; i += size) {
        splitter.push(new Uint8Array(stream.subarray(i, i + size)), (m) => lengths.push(m.length));
      }
      assert.deepEqual(lengths, [8, 300, 65535, 9]);
      assert.equal(splitter.pendingBytes, 0);
    });
  }

  it('gives up on a length below the header’s', () => {
    const splitter = new MessageSplitter();
    assert.throws(
      () => splitter.push(Uint8Array.of(1, 0, 0, 7, 0, 0, 0, 0), () => {}),
      FramingError,
    );
  });
});

describe('versions', () => {
  it('come from Bridge.protocols', () => {
    assert.equal(versionsFromNames([]), ALL_VERSIONS);
    assert.equal(versionsFromNames(['OpenFlow10', 'OpenFlow13', 'OpenFlow99']), 0b10010);
  });

  it('agree on the highest common one', () => {
    assert.equal(commonVersion(ALL_VERSIONS, versionsUpTo(1)), 1);
    assert.equal(commonVersion(0b10010, ALL_VERSIONS), 4);
    assert.equal(commonVersion(0b10000, versionsUpTo(1)), undefined);
    assert.equal(commonVersion(ALL_VERSIONS, versionsUpTo(255)), 6);
  });

  it('need a bitmap only if the header misleads', () => {
    assert.equal(needsBitmap(ALL_VERSIONS), false);
    assert.equal(needsBitmap(0b10), false);
    assert.equal(needsBitmap(0b10010), true);
  });

  it('are named as in the messages about failures', () => {
    assert.equal(formatVersions(0b10), 'version 0x01');
    assert.equal(formatVersions(ALL_VERSIONS), 'version 0x06 and earlier');
    assert.equal(formatVersions(0b10010), 'versions 0x01, 0x04');
  });
});

describe('packet-in scheduler', () => {
  it('lets a burst through, then drops from the longest queue', () => {
    let nowMs = 0;
    const sent: string[] = [];
    const sched = new Pinsched<string>(
      { rate: 10, burst: 4 },
      (item) => sent.push(item),
      () => nowMs,
    );
    for (let i = 0; i < 10; i++) sched.send(1, `a${i}`);
    sched.send(2, 'b0');
    assert.deepEqual(sent, ['a0', 'a1', 'a2', 'a3']);
    assert.equal(sched.stats.queued, 4);
    assert.equal(sched.stats.dropped, 3);
    assert.equal(sched.stats.limited, 7);
    assert.equal(sched.stats.normal, 4);
    nowMs = 1000;
    // Nothing may overtake what waits.
    sched.send(3, 'c0');
    assert.equal(sent.includes('c0'), false);
    sched.close();
  });

  it('serves ports in turn', async () => {
    const sent: string[] = [];
    const sched = new Pinsched<string>({ rate: 1000, burst: 6 }, (item) => sent.push(item));
    for (let i = 0; i < 6; i++) sched.send(9, 'x');
    sent.length = 0;
    for (const item of ['a0', 'a1', 'a2', 'a3']) sched.send(1, item);
    for (const item of ['b0', 'b1']) sched.send(2, item);
    while (sched.stats.queued > 0) await new Promise((resolve) => setTimeout(resolve, 2));
    assert.deepEqual(sent, ['a0', 'b0', 'a1', 'b1', 'a2', 'a3']);
    sched.close();
  });
});

describe('masks of asynchronous messages', () => {
  it('depend on the version', () => {
    assert.equal(defaultAsync(1)[0].packetIn & packetInBit('implicit_miss'), 1 << 7);
    assert.equal(defaultAsync(4)[0].packetIn & packetInBit('implicit_miss'), 0);
    assert.equal(defaultAsync(4)[0].packetIn & packetInBit('invalid_ttl'), 0);
    assert.equal(defaultAsync(1)[1].packetIn, 0);
    assert.equal(defaultAsync(1)[1].portStatus, 7);
    assert.equal(defaultAsync(1)[0].flowRemoved, 0b111);
    assert.equal(defaultAsync(6)[0].flowRemoved, 0b111111);
  });

  it('change where they are named', () => {
    const changed = changeAsync(defaultAsync(5), [{ packetIn: 1 }, { portStatus: 0 }], 5);
    assert.equal(changed[0].packetIn, 1 | packetInBit('explicit_miss'));
    assert.equal(changed[0].portStatus, 7);
    assert.equal(changed[1].portStatus, 0);
    const old = changeAsync(defaultAsync(4), [{ packetIn: 2 }, {}], 4);
    assert.equal(old[0].packetIn & packetInBit('packet_out'), packetInBit('packet_out'));
  });
});

describe('log of flow-mods', () => {
  it('comes ten seconds after the first, then not for a minute', () => {
    let nowMs = 0;
    const lines: string[] = [];
    const log = new FlowModLog(
      (text) => lines.push(text),
      () => nowMs,
    );
    log.note('add');
    nowMs = 3000;
    log.note('add');
    log.note('delete');
    log.run();
    assert.deepEqual(lines, []);
    nowMs = 10_000;
    log.run();
    assert.deepEqual(lines, ['3 flow_mods in the 3 s starting 10 s ago (2 adds, 1 deletes)']);
    nowMs = 20_000;
    log.note('modify');
    nowMs = 69_000;
    log.run();
    assert.equal(lines.length, 1);
    nowMs = 70_000;
    log.run();
    assert.equal(lines[1], '1 flow_mods 50 s ago (1 modifications)');
  });
});

describe('packing of replies', () => {
  it('fills each message', () => {
    const sent: Uint8Array[] = [];
    const packer = new ReplyPacker(16, (bytes) => sent.push(bytes));
    const message = (sizes: number[]) => {
      const bytes = Buffer.alloc(16 + sizes.reduce((sum, size) => sum + size, 0));
      bytes[0] = 4;
      let at = 16;
      for (const size of sizes) {
        bytes.writeUInt16BE(size, at);
        at += size;
      }
      return bytes;
    };
    packer.add(message([30_000, 30_000]));
    packer.add(message([6000, 5519]));
    packer.add(message([]));
    packer.finish();
    assert.deepEqual(
      sent.map((bytes) => [bytes.length, (bytes[2] << 8) | bytes[3], bytes[11]]),
      [
        [60_016, 60_016, 1],
        [11_535, 11_535, 0],
      ],
    );
  });
});

describe('mapping of tunnel options', () => {
  const mapping = { optionClass: 0x102, optionType: 0x80, optionLen: 4, index: 0 };
  const attempt = (table: TlvTable, change: Partial<typeof mapping>) => {
    try {
      table.add([{ ...mapping, ...change }]);
      return 'no error';
    } catch (error) {
      return (error as Error).message;
    }
  };

  it('adds all or nothing', () => {
    const table = new TlvTable();
    assert.equal(attempt(table, {}), 'no error');
    assert.equal(attempt(table, {}), 'NXTTMFC_ALREADY_MAPPED');
    assert.equal(attempt(table, { index: 1 }), 'NXTTMFC_DUP_ENTRY');
    assert.equal(attempt(table, { index: 64, optionType: 1 }), 'NXTTMFC_BAD_FIELD_IDX');
    assert.equal(attempt(table, { index: 1, optionType: 1, optionLen: 3 }), 'NXTTMFC_BAD_OPT_LEN');
    for (let index = 1; index <= 2; index++) {
      assert.equal(attempt(table, { index, optionType: index, optionLen: 124 }), 'no error');
    }
    assert.equal(attempt(table, { index: 3, optionType: 3, optionLen: 8 }), 'NXTTMFC_TABLE_FULL');
    assert.equal(table.mappings.length, 3);
    table.delete([1, 50], () => false);
    assert.deepEqual(
      table.mappings.map(({ index, offset }) => [index, offset]),
      [
        [0, 0],
        [2, 128],
      ],
      'places do not move',
    );
    assert.equal(attempt(table, { index: 9, optionType: 9, optionLen: 120 }), 'no error');
    assert.equal(table.mappings[2].offset, 4);
    const inUse = ({ index }: { index: number }) => index === 2;
    assert.throws(() => table.clear(inUse), { message: 'NXTTMFC_INVALID_TLV_DEL' });
    assert.equal(table.mappings.length, 3);
    table.clear(() => false);
    assert.deepEqual(table.mappings, []);
  });
});
