// The parser of the data plane against the oracle: same key for every frame, whatever is in it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { K_MPLS_COUNT } from '../../contract/key.ts';
import { anyFrame, ethernet, ipv4 } from '../oracle/frames.ts';
import { parseFrame } from '../oracle/parse.ts';
import { Rig } from '../oracle/rig.ts';

function hex(key: Uint8Array): string {
  return Buffer.from(key).toString('hex');
}

for (const debug of [true, false]) {
  for (const vlanLimit of [1, 2]) {
    test(`flow key of any frame, vlan limit ${vlanLimit}, ${debug ? 'debug' : 'release'}`, async () => {
      const rig = await Rig.create({ debug, vlanLimit });
      const port = rig.addPort();
      fc.assert(
        fc.property(fc.array(anyFrame, { minLength: 1, maxLength: 24 }), (frames) => {
          for (const frame of frames) rig.send(port, frame);
          assert.equal(rig.poll(), frames.length);
          const upcalls = rig.upcalls();
          assert.equal(upcalls.length, frames.length);
          upcalls.forEach((upcall, i) => {
            const frame = frames[i]!;
            assert.equal(hex(upcall.data), hex(frame));
            assert.equal(hex(upcall.key), hex(parseFrame(frame, port, vlanLimit).key));
          });
        }),
        { numRuns: Number(process.env.FUZZ_RUNS ?? 400) },
      );
    });
  }
}

// TCP and UDP over plain IPv4 have a parser of their own, which must leave to the other one whatever is not quite that.
test('flow key of plain IPv4 whose lengths lie, at each bound', async () => {
  const rig = await Rig.create();
  const port = rig.addPort();
  const lengths = [0, 19, 20, 27, 28, 29, 39, 40, 41, 43, 44, 60, 61, 74, 80, 0xffff];
  const frames: Uint8Array[] = [];
  for (const proto of [6, 17]) {
    for (const total of lengths) {
      for (const size of [33, 34, 41, 42, 43, 53, 54, 55, 74, 300]) {
        for (let word = 0; word < 16; word++) {
          const frame = ethernet(0x0800, ipv4(proto, new Uint8Array(300).fill(7)));
          frame.set([total >> 8, total & 255], 16);
          frame[46] = (word << 4) | 3; // TCP: length of the header, a flag of the upper four
          frames.push(frame.slice(0, size));
        }
      }
    }
  }
  // Version and length of the header, fragment bits.
  for (let first = 0; first < 256; first++) {
    for (const fragment of [0, 0x40, 0x80, 0x20, 0x01]) {
      const frame = ethernet(0x0800, ipv4(6, new Uint8Array(40).fill(0x55)));
      frame[14] = first;
      frame[20] = fragment;
      frames.push(frame);
    }
  }
  for (let from = 0; from < frames.length; from += 250) {
    const burst = frames.slice(from, from + 250);
    for (const frame of burst) rig.send(port, frame);
    assert.equal(rig.poll(), burst.length);
    rig.upcalls().forEach(({ key }, i) => {
      const frame = burst[i]!;
      assert.equal(hex(key), hex(parseFrame(frame, port, 1).key), hex(frame));
    });
  }
});

test('the arbitrary reaches the deep branches', () => {
  const seen = new Set<string>();
  fc.assert(
    fc.property(anyFrame, (frame) => {
      const { key, l4 } = parseFrame(frame, 1, 2);
      if (key[K_MPLS_COUNT + 1] === 3) seen.add('three labels');
      if (key.subarray(112, 128).some((b) => b !== 0)) seen.add('ND target');
      if (key[31] === 3) seen.add('later fragment');
      if (key[31] === 1) seen.add('first fragment');
      if (l4 > 200) seen.add('transport far away');
      if (key[28] !== 0) seen.add('two tags');
      if (key[38] !== 0 || key[39] !== 0) seen.add('TCP flags');
    }),
    { numRuns: 3000, seed: 7 },
  );
  assert.equal(seen.size, 7, [...seen].join(', '));
});
