// Flows of bundles that are not committed (src/switch/preparedFlow.ts): nobody sees them, whatever becomes of them; and a
// bundle of many thousands keeps nobody waiting: not other connections' ECHOs, nor their flow-mods.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { F_REGS, FLOW_SIZE } from '../../contract/key.ts';
import { Connmgr } from '../../src/control/openflow/connmgr.ts';
import { FlowTables } from '../../src/switch/flowMods.ts';
import { addOf, discardFlow, prepareFlow } from '../../src/switch/preparedFlow.ts';
import type { Rule } from '../../src/switch/types.ts';
import { encode } from '../../src/wire/openflow/message.ts';
import { FakeBridge, flowMod, matchOf, output } from './fakeBridge.ts';
import { OfClient } from './ofClient.ts';

const REG: Rule['match'] = matchOf({ reg0: 7n });

function lookup(bridge: FakeBridge): Rule | undefined {
  const flow = new Uint8Array(FLOW_SIZE);
  flow[F_REGS + 3] = 7;
  return bridge.tables[0]!.lookup(flow, new Uint8Array(FLOW_SIZE));
}

describe('a prepared flow', () => {
  it('is seen by nobody until it is put into its place', () => {
    const bridge = new FakeBridge();
    const tables = new FlowTables(bridge);
    const prepared = prepareFlow(bridge, flowMod({ match: REG, newCookie: 5n }))!;
    const table = bridge.tables[0]!;
    assert.equal(lookup(bridge), undefined);
    assert.equal(table.findStrict(REG, prepared.rule.priority), undefined);
    assert.equal(table.findOverlap(REG, prepared.rule.priority), undefined);
    assert.deepEqual([...table.findLoose(matchOf({}))], []);
    assert.deepEqual([...table], []);
    assert.equal(table.size, 0);
    const transaction = tables.begin();
    transaction.addPrepared(prepared);
    transaction.commit();
    assert.equal(lookup(bridge), prepared.rule);
    assert.equal(lookup(bridge)?.cookie, 5n);
    assert.equal(table.size, 1);
    assert.throws(() => tables.begin().addPrepared(prepared), /once/);
  });

  it('leaves nothing behind when it does not come', () => {
    const bridge = new FakeBridge();
    const tables = new FlowTables(bridge);
    const [first, second] = [1, 2].map(
      (priority) => prepareFlow(bridge, flowMod({ match: REG, priority }))!,
    );
    const transaction = tables.begin();
    transaction.addPrepared(first!);
    transaction.rollback();
    assert.equal(lookup(bridge), undefined);
    discardFlow(bridge, second!);
    discardFlow(bridge, second!);
    assert.equal((bridge.tables[0] as unknown as { subtableCount: number }).subtableCount, 0);
    tables.apply(flowMod({ match: REG, priority: 3 }));
    assert.equal(lookup(bridge)?.priority, 3);
  });

  it('replaces the flow that has come meanwhile, and keeps its counters', () => {
    const bridge = new FakeBridge();
    const tables = new FlowTables(bridge);
    const prepared = prepareFlow(
      bridge,
      flowMod({ match: REG, newCookie: 9n, actions: [output(2)] }),
    )!;
    tables.apply(flowMod({ match: REG, newCookie: 1n, actions: [output(1)] }));
    const rule = lookup(bridge)!;
    rule.packets = 11;
    const transaction = tables.begin();
    transaction.addPrepared(prepared);
    transaction.commit();
    assert.equal(lookup(bridge), rule);
    assert.deepEqual([rule.cookie, rule.packets], [9n, 11]);
    assert.deepEqual(rule.actions, [output(2)]);
    assert.equal(bridge.tables[0]!.size, 1);
  });

  it('is an add like any other: limits and overlaps count when it is committed', () => {
    const bridge = new FakeBridge();
    const tables = new FlowTables(bridge);
    const flags = { ...flowMod({}).flags, checkOverlap: true };
    const prepared = prepareFlow(bridge, flowMod({ match: REG, flags }))!;
    tables.apply(flowMod({ match: matchOf({ reg1: 1n }) }));
    assert.throws(() => tables.begin().addPrepared(prepared), { code: 'OFPFMFC_OVERLAP' });
    discardFlow(bridge, prepared);
    tables.configureTable(0, { flowLimit: 1 });
    const other = prepareFlow(bridge, flowMod({ match: REG }))!;
    assert.throws(() => tables.begin().addPrepared(other), { code: 'OFPFMFC_TABLE_FULL' });
  });

  it('is none where the commit has to look at more', () => {
    const bridge = new FakeBridge();
    assert.equal(prepareFlow(bridge, flowMod({ command: 'delete' })), undefined);
    assert.equal(prepareFlow(bridge, flowMod({ table: 254 })), undefined);
    assert.equal(
      prepareFlow(bridge, flowMod({ actions: [{ type: 'group', group: 1 }] })),
      undefined,
    );
    const add = flowMod({ match: REG, newCookie: 3n, idleTimeout: 4, importance: 5 });
    const { match, ...rest } = addOf(prepareFlow(bridge, add)!.rule);
    assert.deepEqual({ key: match.key, mask: match.mask }, { ...add.match });
    const { match: _, ...wanted } = add;
    assert.deepEqual({ ...rest, modifyCookie: wanted.modifyCookie }, wanted);
  });
});

describe('bundles', () => {
  let dir: string;
  let bridge: FakeBridge;
  let connmgr: Connmgr;

  beforeEach(async () => {
    dir = mkdtempSync(join(tmpdir(), 'xvio-prepared-'));
    bridge = new FakeBridge();
    const note = () => {};
    connmgr = new Connmgr({
      bridge,
      runDir: dir,
      log: { dbg: note, info: note, warn: note, err: note },
    });
    await connmgr.configure({ controllers: [], failMode: 'secure' });
  });

  afterEach(() => {
    connmgr.close();
    rmSync(dir, { recursive: true, force: true });
  });

  const control = (type: 'open' | 'commit' | 'discard') =>
    ({ type: 'bundle_control', bundleId: 1, control: `${type}_request`, flags: 3 }) as const;
  const add = (match: Rule['match'], cookie: bigint) =>
    ({
      type: 'bundle_add',
      bundleId: 1,
      flags: 3,
      xid: 0,
      message: { type: 'flow_mod', nxt: false, flowMod: flowMod({ match, newCookie: cookie }) },
    }) as const;

  it('that are discarded, or whose connection ends, give up the places of their flows', async () => {
    for (const end of ['discard', 'close'] as const) {
      using peer = await OfClient.connect(join(dir, 'br0.mgmt'), 5);
      await peer.request(control('open'), 'bundle_control');
      assert.equal(await peer.errorOf(add(REG, 1n)), 'no error');
      const table = bridge.tables[0] as unknown as { subtableCount: number };
      assert.equal(table.subtableCount, 1);
      assert.equal(bridge.tables[0]!.size, 0);
      if (end === 'discard') await peer.request(control('discard'), 'bundle_control');
      else peer.socket.destroy();
      while (table.subtableCount > 0) await new Promise((resolve) => setImmediate(resolve));
    }
  });

  it('of 20 000 flows let others through: ECHOs, and a flow-mod that comes before or after all of it', async () => {
    const FLOWS = 20_000;
    using peer = await OfClient.connect(join(dir, 'br0.mgmt'), 5);
    using other = await OfClient.connect(join(dir, 'br0.mgmt'), 5);
    const parts: Uint8Array[] = [];
    for (const part of encode(5, 1, control('open'))) parts.push(part);
    for (let i = 0; i < FLOWS; i++) {
      const match = matchOf({ reg0: BigInt(i) });
      for (const part of encode(5, 2, { ...add(match, 1n), xid: 2 })) parts.push(part);
    }
    for (const part of encode(5, 3, control('commit'))) parts.push(part);
    const sizes = new Set<number>();
    peer.socket.write(Buffer.concat(parts));
    // The same match as one of the bundle's: whichever is later has the last word, and the tables never hold a part.
    other.send({ type: 'flow_mod', nxt: false, flowMod: flowMod({ match: REG, newCookie: 2n }) });
    let echoes = 0;
    let done = false;
    const committed = peer.next(
      (message) => message.type === 'bundle_control' && message.control === 'commit_reply',
    );
    void committed.finally(() => {
      done = true;
    });
    while (!done) {
      await other.request({ type: 'echo_request', data: new Uint8Array(0) }, 'echo_reply');
      echoes++;
      sizes.add(bridge.tables[0]!.size);
    }
    await committed;
    assert.ok(echoes >= 3, `${echoes} ECHOs were answered meanwhile`);
    for (const size of sizes) assert.ok([0, 1, FLOWS].includes(size), `${size} flows were seen`);
    assert.equal(bridge.tables[0]!.size, FLOWS);
    assert.ok([1n, 2n].includes(lookup(bridge)!.cookie));
  });
});
