// Network service headers in the data plane (RFC 8300): what push puts in front of any frame, and pop takes off again; packets that
// lie about them are dropped or stay as they are.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  ACT_END,
  ACT_OUTPUT,
  ACT_POP_ETH,
  ACT_POP_NSH,
  ACT_PUSH_ETH,
  ACT_PUSH_NSH,
  ACT_RECIRC,
  ACT_SET_NSH,
} from '../../contract/action.ts';
import { DROP_BAD_ACTION } from '../../contract/drop.ts';
import { K_RECIRC_ID } from '../../contract/key.ts';
import { ethernet, validFrame } from '../oracle/frames.ts';
import { Rig } from '../oracle/rig.ts';

const END = ACT_END | (1 << 16);
const PUSH_ETH = [ACT_PUSH_ETH | (4 << 16), 0, 0, 0];
const NSH = 0x894f;

/** With the addresses of PUSH_ETH. */
const around = (nsh: Uint8Array, frame: Uint8Array): Uint8Array =>
  ethernet(NSH, Uint8Array.of(...nsh, ...frame), { src: NO_MAC, dst: NO_MAC });
const NO_MAC = [0, 0, 0, 0, 0, 0];

const wordsOf = (bytes: Uint8Array): number[] => [...new Uint32Array(bytes.slice().buffer)];

interface Header {
  flags: number;
  ttl: number;
  spi: number;
  si: number;
  /** 16 bytes: metadata of type 1; else of type 2. */
  metadata: Uint8Array;
  isFixed: boolean;
}

const header: fc.Arbitrary<Header> = fc
  .record({
    flags: fc.integer({ min: 0, max: 3 }),
    ttl: fc.integer({ min: 0, max: 63 }),
    spi: fc.integer({ min: 0, max: 0xffffff }),
    si: fc.integer({ min: 0, max: 255 }),
    words: fc.option(fc.integer({ min: 0, max: 20 })),
  })
  .chain(({ words, ...rest }) =>
    fc
      .uint8Array({ minLength: 4 * (words ?? 4), maxLength: 4 * (words ?? 4) })
      .map((metadata) => ({ ...rest, metadata, isFixed: words === null })),
  );

const damaged = fc
  .tuple(
    header,
    fc.uint8Array({ maxLength: 100, size: 'max' }),
    fc.nat(7),
    fc.nat(255),
    fc.boolean(),
  )
  .map(([one, rest, at, value, isBad]) => {
    const bytes = Uint8Array.of(...bytesOf(one), ...rest);
    if (isBad) bytes[at] = value;
    return bytes;
  });

/** RFC 8300 §2.2, with an Ethernet frame inside. */
function bytesOf({ flags, ttl, spi, si, metadata, isFixed }: Header, next = 3): Uint8Array {
  const first = (flags << 12) | (ttl << 6) | ((8 + metadata.length) / 4);
  return Uint8Array.of(
    ...[first >> 8, first & 255, isFixed ? 1 : 2, next],
    ...[spi >> 16, (spi >> 8) & 255, spi & 255, si],
    ...metadata,
  );
}

function push(bytes: Uint8Array): number[] {
  const words = wordsOf(bytes);
  return [ACT_PUSH_NSH | ((1 + words.length) << 16), ...words];
}

async function bench() {
  const rig = await Rig.create();
  const [from, to] = [rig.addPort(), rig.addPort()];
  const output = [ACT_OUTPUT | (2 << 16), to, END];
  const flow = (program: readonly number[], recirc = 0): void => {
    const { key, mask } = Rig.matchPort(from);
    new DataView(key.buffer, key.byteOffset).setUint32(K_RECIRC_ID, recirc);
    mask.fill(0xff, K_RECIRC_ID, K_RECIRC_ID + 4);
    rig.flows.put(key, mask, Uint32Array.from(program));
  };
  const sent = (frame: Uint8Array): Uint8Array[] => {
    rig.send(from, frame);
    rig.poll();
    return rig.sent(to).map((one) => one.frame);
  };
  return { rig, from, output, flow, sent };
}

test('push puts the header in front, set changes what its mask says, pop takes it off', async () => {
  const { output, flow, sent } = await bench();
  await fc.assert(
    fc.asyncProperty(header, header, validFrame, async (one, other, frame) => {
      const before = bytesOf(one);
      const value = bytesOf({ ...other, metadata: one.metadata, isFixed: one.isFixed });
      flow([...push(before), ...PUSH_ETH, ...output]);
      assert.deepEqual(sent(frame), [around(before, frame)]);
      // The path and the flags, and of metadata of type 1 the first word.
      const fields = new Uint8Array(48);
      fields.set([other.flags, other.ttl, 0, 0, ...value.subarray(4, 8), 1, 2, 3, 4]);
      fields.set([3, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255], 24);
      flow([
        ...push(before),
        ...[ACT_SET_NSH | (13 << 16), ...wordsOf(fields)],
        ...[...PUSH_ETH, ...output],
      ]);
      const wanted = bytesOf({ ...one, flags: other.flags, spi: other.spi, si: other.si });
      if (one.isFixed) wanted.set([1, 2, 3, 4], 8);
      assert.deepEqual(sent(frame), [around(wanted, frame)]);
      flow([...push(before), ACT_POP_NSH | (1 << 16), ACT_RECIRC | (2 << 16), 1, END]);
      flow(output, 1);
      assert.deepEqual(sent(frame), [frame]);
    }),
    { numRuns: 150 },
  );
});

test('what is too short to be a frame does not come out of a service header', async () => {
  const { rig, from, output, flow, sent } = await bench();
  flow([ACT_POP_ETH | (1 << 16), ACT_POP_NSH | (1 << 16), ACT_RECIRC | (2 << 16), 1, END]);
  flow(output, 1);
  const plain: Header = {
    ...{ flags: 0, ttl: 63, spi: 1, si: 255 },
    ...{ metadata: new Uint8Array(16), isFixed: true },
  };
  for (let inside = 0; inside < 20; inside++) {
    const frame = ethernet(NSH, Uint8Array.of(...bytesOf(plain), ...new Uint8Array(inside)));
    const before = rig.counters(from).drops[DROP_BAD_ACTION]!;
    assert.equal(sent(frame).length, inside < 14 ? 0 : 1, `${inside} bytes`);
    assert.equal(rig.counters(from).drops[DROP_BAD_ACTION]! - before, inside < 14 ? 1 : 0);
  }
});

test('any bytes behind the type of a service header cost no more than their packet', async () => {
  const { output, flow, sent } = await bench();
  flow([ACT_POP_ETH | (1 << 16), ACT_POP_NSH | (1 << 16), ACT_RECIRC | (2 << 16), 1, END]);
  flow(output, 1);
  let arrived = 0;
  fc.assert(
    fc.property(damaged, (bytes) => {
      const outside = ethernet(NSH, bytes);
      for (const frame of sent(outside)) {
        arrived++;
        assert.ok(frame.length < outside.length);
        assert.deepEqual(frame, outside.slice(outside.length - frame.length));
      }
    }),
    { numRuns: 500 },
  );
  assert.ok(arrived > 50, `${arrived} of 500 had a header that can be taken off`);
});
