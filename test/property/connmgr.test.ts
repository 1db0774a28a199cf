// A peer that sends anything: random messages of every kind, as they are and with bytes changed. Whatever it is, the
// answer is a reply, an error or the end of that one connection; another connection goes on being served, and nothing
// provokes a fault (which would be logged with its stack).

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { Connmgr } from '../../src/control/openflow/connmgr.ts';
import { checkActions } from '../../src/switch/checkActions.ts';
import { encode } from '../../src/wire/openflow/message.ts';
import type { Message } from '../../src/wire/openflow/messages.ts';
import type { OfVersion } from '../../src/wire/openflow/types.ts';
import { FakeBridge } from '../unit/fakeBridge.ts';
import { OfClient } from '../unit/ofClient.ts';
import { flowModFor } from './openflowArbitraries.ts';
import { messageFor } from './openflowMessages.ts';

let dir: string;
let connmgr: Connmgr;
const faults: string[] = [];

before(async () => {
  dir = mkdtempSync(join(tmpdir(), 'xvio-hostile-'));
  const bridge = new FakeBridge();
  bridge.addPort(1, 'p1');
  bridge.addPort(2, 'p2');
  const note = (text: string) => {
    if (text.includes('\n    at ')) faults.push(text);
  };
  connmgr = new Connmgr({
    bridge,
    runDir: dir,
    log: { dbg: note, info: note, warn: note, err: note },
    checkActions,
  });
  await connmgr.configure({ controllers: [], failMode: 'secure' });
});

after(() => {
  connmgr.close();
  rmSync(dir, { recursive: true, force: true });
});

/** Places (as fractions of the length) and what is written there. */
type Damage = { at: number; value: number }[];

function messagesFor(version: OfVersion): fc.Arbitrary<{ message: Message; damage: Damage }[]> {
  const flowMod = flowModFor(version).map(
    (mod): Message => ({ type: 'flow_mod', nxt: false, flowMod: mod }),
  );
  const damage = fc.array(
    fc.record({ at: fc.double({ min: 0, max: 0.999, noNaN: true }), value: fc.nat(255) }),
    { maxLength: 3 },
  );
  return fc.array(fc.record({ message: fc.oneof(flowMod, messageFor(version)), damage }), {
    minLength: 1,
    maxLength: 20,
  });
}

function bytesOf(version: OfVersion, message: Message, damage: Damage): Uint8Array[] {
  return encode(version, 7, message).map((part) => {
    const bytes = part.slice();
    for (const { at, value } of damage) {
      // The header stays: framing has tests of its own.
      const place = 8 + Math.floor(at * (bytes.length - 8));
      if (place < bytes.length) bytes[place] = value;
    }
    return bytes;
  });
}

describe('hostile peers', () => {
  for (const version of [1, 4, 5, 6] as const) {
    it(`of wire version ${version} disturb nobody`, async () => {
      const path = join(dir, 'br0.mgmt');
      using bystander = await OfClient.connect(path, version);
      await fc.assert(
        fc.asyncProperty(messagesFor(version), async (messages) => {
          using peer = await OfClient.connect(path, version);
          peer.strict = false;
          for (const { message, damage } of messages) {
            for (const bytes of bytesOf(version, message, damage)) peer.socket.write(bytes);
          }
          // Either all of it has been answered, or the connection is gone.
          peer.send({ type: 'barrier_request' });
          await peer.next(({ type }) => type === 'barrier_reply').catch(() => peer.untilClosed());
          await bystander.request({ type: 'barrier_request' }, 'barrier_reply');
          assert.deepEqual(faults, []);
        }),
        { numRuns: 60 },
      );
    });
  }
});
