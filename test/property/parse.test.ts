// The parser of the data plane against the oracle: same key for every frame, whatever is in it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { K_MPLS_COUNT } from '../../contract/key.ts';
import { anyFrame } from '../oracle/frames.ts';
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
