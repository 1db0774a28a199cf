// Flow-mod semantics: what each command does to tables, counters, cookies and timeouts, and that a transaction leaves
// nothing behind when it is rolled back.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { expireFlows } from '../../src/switch/expire.ts';
import { type FlowEvent, FlowTables } from '../../src/switch/flowMods.ts';
import type { Rule } from '../../src/switch/types.ts';
import { OFPP_CONTROLLER, OfError } from '../../src/wire/openflow/types.ts';
import { FakeBridge, flowMod, matchOf, output } from './fakeBridge.ts';

const ALL_ONES = 0xffffffffffffffffn;
const TCP = { eth_type: 0x800n, ip_proto: 6n };

function setup() {
  const bridge = new FakeBridge();
  bridge.clockMs = 1000;
  const tables = new FlowTables(bridge);
  const events: FlowEvent[] = [];
  tables.onEvents = (batch) => events.push(...batch);
  return { bridge, tables, events };
}

function rules(bridge: FakeBridge): Rule[] {
  return bridge.tables.flatMap((table) => [...table]);
}

function code(run: () => void): string {
  try {
    run();
  } catch (error) {
    assert.ok(error instanceof OfError, `${error}`);
    return error.code;
  }
  return 'no error';
}

describe('add', () => {
  it('makes a rule with what the message says', () => {
    const { bridge, tables, events } = setup();
    const match = matchOf({ in_port: 1n });
    tables.apply(
      flowMod({ table: 3, match, priority: 7, newCookie: 9n, idleTimeout: 5, importance: 2 }),
    );
    const [rule] = rules(bridge);
    assert.equal(rule.table, 3);
    assert.equal(rule.priority, 7);
    assert.equal(rule.cookie, 9n);
    assert.equal(rule.idleTimeout, 5);
    assert.equal(rule.importance, 2);
    assert.equal(rule.createdMs, 1000);
    assert.deepEqual(
      events.map(({ event }) => event),
      ['added'],
    );
    assert.equal(bridge.changes, 1);
  });

  it('puts a flow without a table into table 0', () => {
    const { bridge, tables } = setup();
    tables.apply(flowMod({ table: 0xff }));
    assert.equal(bridge.tables[0].size, 1);
  });

  it('replaces the same match and priority; keeps counters unless they are reset', () => {
    const { bridge, tables } = setup();
    tables.apply(flowMod({ newCookie: 1n, actions: [output(1)], hardTimeout: 9 }));
    const [first] = rules(bridge);
    first.packets = 10;
    bridge.clockMs = 5000;
    tables.apply(flowMod({ newCookie: 2n, actions: [output(2)] }));
    let [rule] = rules(bridge);
    assert.equal(rules(bridge).length, 1);
    assert.equal(rule.packets, 10);
    assert.equal(rule.cookie, 2n);
    assert.equal(rule.hardTimeout, 0);
    assert.equal(rule.createdMs, 5000);
    assert.deepEqual(rule.actions, [output(2)]);
    bridge.onSync = () => {
      rule.packets += 5;
    };
    tables.apply(flowMod({ flags: { ...flowMod({}).flags, resetCounts: true } }));
    [rule] = rules(bridge);
    assert.equal(rule.packets, 0, 'packets counted before the reset do not come back');
  });

  it('refuses overlaps only when asked to', () => {
    const { bridge, tables } = setup();
    tables.apply(flowMod({ match: matchOf({ in_port: 1n }) }));
    const overlapping = flowMod({ match: matchOf(TCP) });
    overlapping.flags.checkOverlap = true;
    assert.equal(
      code(() => tables.apply(overlapping)),
      'OFPFMFC_OVERLAP',
    );
    overlapping.priority = 1;
    assert.equal(
      code(() => tables.apply(overlapping)),
      'no error',
    );
    tables.apply(flowMod({ match: matchOf(TCP) }));
    assert.equal(rules(bridge).length, 3);
  });

  it('refuses what it cannot do', () => {
    const { tables } = setup();
    const emergency = { ...flowMod({}).flags, emergency: true };
    assert.equal(
      code(() => tables.apply(flowMod({ bufferId: 7 }))),
      'OFPBRC_BUFFER_UNKNOWN',
    );
    assert.equal(
      code(() => tables.apply(flowMod({ table: 254 }))),
      'OFPBRC_EPERM',
    );
    assert.equal(
      code(() => tables.apply(flowMod({ flags: emergency }))),
      'OFPFMFC_TABLE_FULL',
    );
    assert.equal(
      code(() => tables.apply(flowMod({ flags: emergency, idleTimeout: 1 }))),
      'OFPFMFC_BAD_EMERG_TIMEOUT',
    );
  });

  it('respects the limit of a table, and evicts what expires first if it may', () => {
    const { bridge, tables, events } = setup();
    tables.config[0].flowLimit = 2;
    tables.apply(flowMod({ priority: 1, idleTimeout: 60 }));
    tables.apply(flowMod({ priority: 2, idleTimeout: 30 }));
    const third = flowMod({ priority: 3 });
    assert.equal(
      code(() => tables.apply(third)),
      'OFPFMFC_TABLE_FULL',
    );
    assert.equal(rules(bridge).length, 2);
    tables.config[0].evictByDatabase = true;
    tables.apply(third);
    assert.deepEqual(
      rules(bridge)
        .map(({ priority }) => priority)
        .sort(),
      [1, 3],
    );
    const evicted = events.filter((event) => event.event === 'removed');
    assert.deepEqual(
      evicted.map(({ reason }) => reason),
      ['eviction'],
    );
    // Rules without a timeout are never evicted.
    tables.apply(flowMod({ priority: 4 }));
    assert.equal(
      code(() => tables.apply(flowMod({ priority: 5 }))),
      'OFPFMFC_TABLE_FULL',
    );
  });

  it('evicts at once when the limit falls', () => {
    const { bridge, tables } = setup();
    for (let priority = 1; priority <= 5; priority++) {
      tables.apply(flowMod({ priority, idleTimeout: priority < 4 ? 10 * priority : 0 }));
    }
    tables.configureTable(0, { name: 'main', flowLimit: 3, overflowPolicy: 'refuse' });
    assert.equal(bridge.tables[0].size, 5);
    tables.configureTable(0, { name: 'main', flowLimit: 3, overflowPolicy: 'evict' });
    assert.deepEqual(
      rules(bridge)
        .map(({ priority }) => priority)
        .sort(),
      [3, 4, 5],
    );
    tables.configureTable(0, { flowLimit: 1, overflowPolicy: 'evict' });
    assert.deepEqual(
      rules(bridge)
        .map(({ priority }) => priority)
        .sort(),
      [4, 5],
    );
  });

  it('asks whether the bridge can execute the actions', () => {
    const bridge = new FakeBridge();
    const tables = new FlowTables(bridge, {
      checkActions: () => {
        throw new OfError('OFPBAC_BAD_OUT_PORT');
      },
    });
    assert.equal(
      code(() => tables.apply(flowMod({}))),
      'OFPBAC_BAD_OUT_PORT',
    );
    assert.equal(rules(bridge).length, 0);
    assert.equal(bridge.changes, 0);
  });
});

describe('modify', () => {
  it('changes actions of all that match loosely, and nothing else', () => {
    const { bridge, tables, events } = setup();
    tables.apply(
      flowMod({ match: matchOf({ in_port: 1n, ...TCP }), newCookie: 1n, idleTimeout: 3 }),
    );
    tables.apply(flowMod({ match: matchOf({ in_port: 2n }), newCookie: 2n }));
    const [rule] = [...bridge.tables[0]].filter(({ cookie }) => cookie === 1n);
    rule.packets = 4;
    bridge.clockMs = 9000;
    events.length = 0;
    tables.apply(
      flowMod({
        command: 'modify',
        match: matchOf({ in_port: 1n }),
        actions: [output(3)],
        newCookie: ALL_ONES,
        idleTimeout: 77,
        priority: 1,
      }),
    );
    assert.deepEqual(rule.actions, [output(3)]);
    assert.equal(rule.idleTimeout, 3);
    assert.equal(rule.packets, 4);
    assert.equal(rule.createdMs, 1000);
    assert.equal(rule.modifiedMs, 9000);
    assert.equal(events.length, 1);
    assert.equal(rules(bridge).length, 2);
  });

  it('strict means match and priority', () => {
    const { bridge, tables } = setup();
    const match = matchOf({ in_port: 1n });
    tables.apply(flowMod({ match, priority: 5 }));
    const modify = { match, actions: [output(2)], newCookie: ALL_ONES } as const;
    tables.apply(
      flowMod({ ...modify, actions: [output(2)], command: 'modify_strict', priority: 6 }),
    );
    assert.deepEqual(rules(bridge)[0].actions, []);
    tables.apply(
      flowMod({ ...modify, actions: [output(2)], command: 'modify_strict', priority: 5 }),
    );
    assert.deepEqual(rules(bridge)[0].actions, [output(2)]);
  });

  it('adds in OpenFlow 1.0 when nothing matches, never when the cookie was matched', () => {
    const { bridge, tables } = setup();
    tables.apply(flowMod({ command: 'modify', newCookie: 4n, cookieMask: ALL_ONES }));
    assert.equal(rules(bridge).length, 0);
    tables.apply(flowMod({ command: 'modify', newCookie: ALL_ONES }));
    assert.equal(rules(bridge).length, 0);
    tables.apply(flowMod({ command: 'modify', newCookie: 4n, modifyCookie: true }));
    assert.equal(rules(bridge)[0].cookie, 4n);
  });

  it('selects by masked cookie and changes the cookie only if told', () => {
    const { bridge, tables } = setup();
    tables.apply(flowMod({ match: matchOf({ in_port: 1n }), newCookie: 0x11n }));
    tables.apply(flowMod({ match: matchOf({ in_port: 2n }), newCookie: 0x21n }));
    const modify = flowMod({
      command: 'modify',
      cookie: 0x10n,
      cookieMask: 0xf0n,
      newCookie: ALL_ONES,
      actions: [output(9)],
    });
    tables.apply(modify);
    const changed = rules(bridge).filter(({ actions }) => actions.length === 1);
    assert.deepEqual(
      changed.map(({ cookie }) => cookie),
      [0x11n],
    );
    tables.apply({ ...modify, newCookie: 0x99n, modifyCookie: true });
    assert.ok(rules(bridge).some(({ cookie }) => cookie === 0x99n));
  });

  it('tells nobody when nothing changed', () => {
    const { tables, events } = setup();
    tables.apply(flowMod({ actions: [output(1)] }));
    events.length = 0;
    tables.apply(flowMod({ command: 'modify', actions: [output(1)], newCookie: ALL_ONES }));
    assert.deepEqual(events, []);
  });
});

describe('delete', () => {
  function populated() {
    const test = setup();
    test.tables.apply(flowMod({ match: matchOf({ in_port: 1n }), actions: [output(5)] }));
    test.tables.apply(flowMod({ match: matchOf({ in_port: 1n, ...TCP }), table: 1 }));
    test.tables.apply(
      flowMod({
        match: matchOf({ in_port: 2n }),
        actions: [{ type: 'write_actions', actions: [output(5)] }],
      }),
    );
    test.events.length = 0;
    return test;
  }

  it('takes all tables, or one', () => {
    const { bridge, tables } = populated();
    tables.apply(flowMod({ command: 'delete', table: 1 }));
    assert.equal(rules(bridge).length, 2);
    tables.apply(flowMod({ command: 'delete', table: 0xff }));
    assert.equal(rules(bridge).length, 0);
  });

  it('filters by output port, in instructions too', () => {
    const { bridge, tables } = populated();
    tables.apply(flowMod({ command: 'delete', table: 0xff, outPort: 5 }));
    assert.deepEqual(
      rules(bridge).map(({ table }) => table),
      [1],
    );
    tables.apply(flowMod({ command: 'delete', table: 0xff, outPort: OFPP_CONTROLLER }));
    assert.equal(rules(bridge).length, 1);
  });

  it('strict deletes one', () => {
    const { bridge, tables, events } = populated();
    const match = matchOf({ in_port: 1n });
    tables.apply(flowMod({ command: 'delete_strict', match, priority: 1 }));
    assert.equal(rules(bridge).length, 3);
    tables.apply(flowMod({ command: 'delete_strict', match }));
    assert.equal(rules(bridge).length, 2);
    assert.equal(events.length, 1);
  });

  it('does not reach the rules of the switch itself', () => {
    const { bridge, tables } = setup();
    tables.addOwn({ match: matchOf({}), priority: 0xf0f0f0, actions: [] });
    tables.addOwn({ match: matchOf({}), priority: 0, actions: [], table: 254 });
    tables.apply(flowMod({ command: 'delete', table: 0xff }));
    assert.equal(rules(bridge).length, 2);
    assert.equal(
      code(() => tables.apply(flowMod({ command: 'delete', table: 254 }))),
      'OFPBRC_EPERM',
    );
    assert.equal(
      code(() => tables.apply(flowMod({ command: 'delete', table: 255 }))),
      'no error',
    );
  });
});

describe('transactions', () => {
  it('leave nothing behind when rolled back', () => {
    const { bridge, tables, events } = setup();
    tables.apply(flowMod({ match: matchOf({ in_port: 1n }), newCookie: 1n, idleTimeout: 5 }));
    tables.apply(flowMod({ match: matchOf({ in_port: 2n }), newCookie: 2n }));
    const copies = () =>
      rules(bridge).map(({ match: { key, mask }, ...rest }) => ({ ...rest, key, mask }));
    const before = structuredClone(copies());
    const changes = bridge.changes;
    events.length = 0;
    const transaction = tables.begin();
    transaction.apply(flowMod({ match: matchOf({ in_port: 3n }), hardTimeout: 1 }));
    transaction.apply(flowMod({ command: 'delete', match: matchOf({ in_port: 1n }) }));
    transaction.apply(flowMod({ command: 'modify', actions: [output(1)], newCookie: ALL_ONES }));
    transaction.apply(flowMod({ match: matchOf({ in_port: 2n }), newCookie: 8n }));
    assert.equal(rules(bridge).length, 2);
    transaction.rollback();
    const byCookie = (a: { cookie: bigint }, b: { cookie: bigint }) => Number(a.cookie - b.cookie);
    assert.deepEqual(copies().sort(byCookie), before.sort(byCookie));
    assert.equal(tables.expirable.size, 1);
    assert.deepEqual(events, []);
    assert.equal(bridge.changes, changes);
  });

  it('tell everything at once when committed', () => {
    const { bridge, tables } = setup();
    const batches: number[] = [];
    tables.onEvents = (batch) => batches.push(batch.length);
    const transaction = tables.begin();
    for (let i = 0; i < 3; i++) transaction.apply(flowMod({ priority: i }));
    assert.deepEqual(batches, []);
    transaction.commit();
    assert.deepEqual(batches, [3]);
    assert.equal(bridge.changes, 1);
  });

  it('bring counters up to date before a removal is told', () => {
    const { bridge, tables, events } = setup();
    const sendFlowRem = { ...flowMod({}).flags, sendFlowRem: true };
    tables.apply(flowMod({ flags: sendFlowRem }));
    bridge.onSync = () => {
      for (const event of events) event.rule.packets = 42;
    };
    tables.apply(flowMod({ command: 'delete' }));
    assert.equal(bridge.syncs, 1);
    assert.equal(events.at(-1)?.rule.packets, 42);
  });
});

describe('timeouts', () => {
  it('hard ones run from the last modification, idle ones from the last packet', () => {
    const { bridge, tables, events } = setup();
    tables.apply(flowMod({ priority: 1, hardTimeout: 10 }));
    tables.apply(flowMod({ priority: 2, idleTimeout: 10 }));
    tables.apply(flowMod({ priority: 3 }));
    events.length = 0;
    const [hard, idle] = rules(bridge).sort((a, b) => a.priority - b.priority);
    bridge.clockMs = 5000;
    tables.apply(
      flowMod({ command: 'modify_strict', priority: 1, actions: [output(1)], newCookie: ALL_ONES }),
    );
    bridge.onSync = () => {
      idle.usedMs = 8000;
    };
    assert.equal(expireFlows(tables, 11_000), 0);
    assert.equal(expireFlows(tables, 12_000), 0, 'the data plane had seen a packet');
    assert.equal(expireFlows(tables, 15_001), 1);
    assert.equal(hard.removed, true);
    assert.equal(expireFlows(tables, 18_000), 0);
    assert.equal(expireFlows(tables, 18_001), 1);
    const removed = events.filter((event) => event.event === 'removed');
    assert.deepEqual(
      removed.map(({ reason }) => reason),
      ['hard_timeout', 'idle_timeout'],
    );
    assert.deepEqual(
      rules(bridge).map(({ priority }) => priority),
      [3],
    );
  });
});
