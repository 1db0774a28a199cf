// decode(encode(x)) = x for random matches, flow-mods and other messages in every version; and whatever bytes come in,
// the decoder ends with a message or an OfError.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { K_ETH_TYPE, K_NW_PROTO } from '../../contract/key.ts';
import { formatActions } from '../../src/wire/openflow/actionText.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import { formatMatch } from '../../src/wire/openflow/matchText.ts';
import { decode, encode } from '../../src/wire/openflow/message.ts';
import type { Message } from '../../src/wire/openflow/messages.ts';
import { packMatch } from '../../src/wire/openflow/packedMatch.ts';
import { MessageSplitter } from '../../src/wire/openflow/stream.ts';
import type { Match, OfVersion } from '../../src/wire/openflow/types.ts';
import { OfError } from '../../src/wire/openflow/types.ts';
import { flowModFor, match } from './openflowArbitraries.ts';
import { messageFor } from './openflowMessages.ts';

const VERSIONS: readonly OfVersion[] = [1, 2, 3, 4, 5, 6];
const RUNS = Number(process.env.FC_RUNS ?? 150);

/** Plain values that print in one line: bytes as hexadecimal, matches by their non-zero bytes. */
function canon(value: unknown): unknown {
  if (typeof value === 'bigint') return `${value}n`;
  if (value instanceof Uint8Array) {
    const hex = Buffer.from(value).toString('hex');
    if (value.length < 300) return hex;
    return Object.fromEntries([...value.entries()].filter(([, b]) => b !== 0));
  }
  if (Array.isArray(value)) return value.map(canon);
  if (typeof value !== 'object' || value === null) return value;
  // What a flow-mod adds to its actions from the match is no part of the message.
  const entries = Object.entries(value).filter(([k]) => k !== 'flowHasVlan');
  return Object.fromEntries(entries.map(([k, v]) => [k, canon(v)]));
}

function check<T extends unknown[]>(property: fc.IProperty<T>, numRuns: number): void {
  const result = fc.check(property, { numRuns });
  if (!result.failed) return;
  const error = result.errorInstance as Error;
  const example = JSON.stringify(canon(result.counterexample));
  throw new Error(
    `seed ${result.seed}, path ${result.counterexamplePath}: ${example}\n${error?.stack}`,
  );
}

function roundTrip(version: OfVersion, message: Message): void {
  const [bytes, ...more] = encode(version, 0x12345678, message);
  assert.equal(more.length, 0);
  const back = decode(bytes!);
  assert.equal(back.xid, 0x12345678);
  assert.equal(back.version, version);
  assert.deepEqual(canon(back.message), canon(message));
}

/** The same mask and kind of packet, with other values. */
function withOtherValues({ key, mask }: Match, noise: Uint8Array): Match {
  const other = key.map((byte, i) => (byte ^ noise[i % noise.length]!) & mask[i]!);
  for (const [at, end] of KIND_OF_PACKET) other.set(key.subarray(at, end), at);
  return { key: other, mask };
}

const KIND_OF_PACKET = [
  [K_ETH_TYPE, K_ETH_TYPE + 2],
  [K_NW_PROTO, K_NW_PROTO + 1],
] as const;

for (const version of VERSIONS) {
  test(`packed matches of version ${version} are written as any others`, () => {
    const property = fc.property(
      flowModFor(version),
      fc.uint8Array({ minLength: 1, maxLength: 40 }),
      (flowMod, noise) => {
        for (const one of [flowMod.match, withOtherValues(flowMod.match, noise)]) {
          for (const nxt of version === 1 ? [false, true] : [false]) {
            const message = { type: 'flow_mod', nxt, flowMod: { ...flowMod, match: one } } as const;
            const packed = { ...message, flowMod: { ...flowMod, match: packMatch(one) } };
            assert.deepEqual(encode(version, 1, packed), encode(version, 1, message));
          }
        }
      },
    );
    check(property, RUNS);
  });

  test(`flow-mods of version ${version} survive the wire`, () => {
    check(
      fc.property(flowModFor(version), (flowMod) =>
        roundTrip(version, { type: 'flow_mod', nxt: false, flowMod }),
      ),
      RUNS,
    );
  });

  test(`messages of version ${version} survive the wire`, () => {
    check(
      fc.property(messageFor(version), (message) => roundTrip(version, message)),
      4 * RUNS,
    );
  });

  test(`version ${version}: damaged messages end in OfError`, () => {
    const damage = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 6 });
    check(
      fc.property(
        fc.oneof(
          messageFor(version),
          flowModFor(version).map(
            (flowMod): Message => ({ type: 'flow_mod', nxt: false, flowMod }),
          ),
        ),
        damage,
        fc.option(fc.nat()),
        (message, places, cut) => {
          let bytes = encode(version, 1, message)[0]!.slice();
          if (cut !== null) bytes = bytes.slice(0, 8 + (cut % (bytes.length - 7)));
          for (const [at, value] of places) bytes[at % bytes.length] = value;
          new DataView(bytes.buffer).setUint16(2, bytes.length);
          decodesOrRefuses(bytes);
        },
      ),
      4 * RUNS,
    );
  });
}

test('NXT_FLOW_MOD survives the wire', () => {
  check(
    fc.property(flowModFor(1, true), (flowMod) =>
      roundTrip(1, { type: 'flow_mod', nxt: true, flowMod }),
    ),
    RUNS,
  );
});

function decodesOrRefuses(bytes: Uint8Array): void {
  try {
    decode(bytes);
  } catch (error) {
    assert.ok(error instanceof OfError, String((error as Error).stack));
  }
}

test('random bytes end in OfError', () => {
  const header = fc.tuple(fc.integer({ min: 0, max: 7 }), fc.integer({ min: 0, max: 40 }));
  check(
    fc.property(header, fc.uint8Array({ maxLength: 200 }), ([version, type], body) => {
      const bytes = new Uint8Array(8 + body.length);
      bytes.set(body, 8);
      bytes[0] = version;
      bytes[1] = type;
      new DataView(bytes.buffer).setUint16(2, bytes.length);
      decodesOrRefuses(bytes);
    }),
    20 * RUNS,
  );
});

test('a stream is cut at the messages, however it is chunked', () => {
  check(
    fc.property(
      fc.array(messageFor(4), { minLength: 1, maxLength: 5 }),
      fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 20 }),
      (messages, sizes) => {
        const whole = messages.flatMap((m, i) => encode(4, i, m));
        const stream = Buffer.concat(whole);
        const splitter = new MessageSplitter();
        const out: Uint8Array[] = [];
        for (let at = 0, i = 0; at < stream.length; i++) {
          const size = sizes[i % sizes.length]!;
          splitter.push(stream.subarray(at, at + size));
          at += size;
          out.push(...splitter);
        }
        assert.deepEqual(
          out.map((m) => Buffer.from(m).toString('hex')),
          whole.map((m) => Buffer.from(m).toString('hex')),
        );
        assert.equal(splitter.buffered, 0);
      },
    ),
    RUNS,
  );
});

test('formatMatch is undone by parseMatch', () => {
  check(
    fc.property(match, (m) => {
      const text = formatMatch(m);
      assert.equal(formatMatch(parseMatch(text)), text);
    }),
    4 * RUNS,
  );
});

test('every list of actions has a text', () => {
  for (const version of VERSIONS)
    check(
      fc.property(flowModFor(version), ({ actions }) => {
        assert.ok(formatActions(actions).length > 0);
      }),
      30,
    );
});
