// Random sequences of flow-mods against a model that is one list of flows and OpenFlow's words: the tables hold the same
// flows afterwards; and a transaction that is rolled back leaves what was there before.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { FlowTables } from '../../src/switch/flowMods.ts';
import type { Rule } from '../../src/switch/types.ts';
import { type FlowMod, type Match, OfError } from '../../src/wire/openflow/types.ts';
import { FakeBridge, flowMod, matchOf, output } from '../unit/fakeBridge.ts';

const ALL_ONES = 0xffffffffffffffffn;
const ANY_PORT = 0xffffffff;

interface ModelFlow {
  table: number;
  priority: number;
  fields: Fields;
  cookie: bigint;
  port: number;
}

type Fields = { in_port?: bigint; reg0?: bigint; eth_type?: bigint };

interface Step {
  command: FlowMod['command'];
  table: number;
  priority: number;
  fields: Fields;
  newCookie: bigint;
  cookie: bigint;
  cookieMask: bigint;
  port: number;
  outPort: number;
  overlap: boolean;
}

const fieldsArb: fc.Arbitrary<Fields> = fc.record(
  {
    in_port: fc.bigInt(1n, 2n),
    reg0: fc.bigInt(1n, 2n),
    eth_type: fc.constantFrom(0x800n, 0x806n),
  },
  { requiredKeys: [] },
);

const stepArb: fc.Arbitrary<Step> = fc.record({
  command: fc.constantFrom(
    'add',
    'add',
    'add',
    'modify',
    'modify_strict',
    'delete',
    'delete_strict',
  ),
  table: fc.constantFrom(0, 1),
  priority: fc.constantFrom(1, 2),
  fields: fieldsArb,
  newCookie: fc.constantFrom(1n, 2n, ALL_ONES),
  cookie: fc.bigInt(0n, 2n),
  cookieMask: fc.constantFrom(0n, 0n, 3n, ALL_ONES),
  port: fc.integer({ min: 1, max: 3 }),
  outPort: fc.constantFrom(ANY_PORT, ANY_PORT, 1, 2),
  overlap: fc.boolean(),
});

function toFlowMod(step: Step): FlowMod {
  const { command, table, priority, newCookie, cookie, cookieMask, outPort } = step;
  const deletes = command.startsWith('delete');
  const mod = flowMod({
    command,
    table,
    priority,
    match: matchOf(step.fields as Record<string, bigint>),
    newCookie,
    modifyCookie: newCookie !== ALL_ONES,
    cookie: command === 'add' ? 0n : cookie,
    cookieMask: command === 'add' ? 0n : cookieMask,
    actions: deletes ? [] : [output(step.port)],
    outPort,
  });
  mod.flags.checkOverlap = step.overlap && command === 'add';
  return mod;
}

const same = (a: Fields, b: Fields) =>
  a.in_port === b.in_port && a.reg0 === b.reg0 && a.eth_type === b.eth_type;
const keys = ['in_port', 'reg0', 'eth_type'] as const;
const within = (flow: Fields, criteria: Fields) =>
  keys.every((key) => criteria[key] === undefined || flow[key] === criteria[key]);
const meet = (a: Fields, b: Fields) =>
  keys.every((key) => a[key] === undefined || b[key] === undefined || a[key] === b[key]);

/** False when the step is an error. */
function model(flows: ModelFlow[], step: Step): boolean {
  const strict = step.command.endsWith('strict');
  const { command, table, priority, fields, port } = step;
  const meant = (flow: ModelFlow) =>
    flow.table === table &&
    (strict
      ? flow.priority === priority && same(flow.fields, fields)
      : within(flow.fields, fields)) &&
    ((flow.cookie ^ step.cookie) & step.cookieMask) === 0n;
  const add = () => {
    const old = flows.find(
      (flow) => flow.table === table && flow.priority === priority && same(flow.fields, fields),
    );
    if (old !== undefined) {
      old.port = port;
      if (step.newCookie !== ALL_ONES) old.cookie = step.newCookie;
      return true;
    }
    const overlaps = flows.some(
      (flow) => flow.table === table && flow.priority === priority && meet(flow.fields, fields),
    );
    if (command === 'add' && step.overlap && overlaps) return false;
    const cookie = step.newCookie === ALL_ONES ? 0n : step.newCookie;
    flows.push({ table, priority, fields, cookie, port });
    return true;
  };
  if (command === 'add') return add();
  if (command.startsWith('delete')) {
    const gone = flows.filter(
      (flow) => meant(flow) && (step.outPort === ANY_PORT || flow.port === step.outPort),
    );
    for (const flow of gone) flows.splice(flows.indexOf(flow), 1);
    return true;
  }
  const changed = flows.filter(meant);
  for (const flow of changed) {
    flow.port = port;
    if (step.newCookie !== ALL_ONES) flow.cookie = step.newCookie;
  }
  if (changed.length > 0 || step.cookieMask !== 0n || step.newCookie === ALL_ONES) return true;
  return add();
}

const text = (table: number, priority: number, match: Match, cookie: bigint, port: number) =>
  `${table} ${priority} ${Buffer.from(match.key).toString('hex')} ` +
  `${Buffer.from(match.mask).toString('hex')} ${cookie} ${port}`;

function contents(bridge: FakeBridge): string[] {
  const rules: Rule[] = bridge.tables.flatMap((table) => [...table]);
  return rules
    .map(({ table, priority, match, cookie, actions }) => {
      const [action] = actions;
      const port = action?.type === 'output' ? action.port : 0;
      return text(table, priority, match, cookie, port);
    })
    .sort();
}

function expected(flows: readonly ModelFlow[]): string[] {
  return flows
    .map(({ table, priority, fields, cookie, port }) =>
      text(table, priority, matchOf(fields as Record<string, bigint>), cookie, port),
    )
    .sort();
}

describe('random flow-mods', () => {
  it('do what the model does', () => {
    fc.assert(
      fc.property(fc.array(stepArb, { maxLength: 30 }), (steps) => {
        const bridge = new FakeBridge();
        const tables = new FlowTables(bridge);
        const flows: ModelFlow[] = [];
        for (const step of steps) {
          let applied = true;
          try {
            tables.apply(toFlowMod(step));
          } catch (error) {
            assert.ok(error instanceof OfError);
            assert.equal(error.code, 'OFPFMFC_OVERLAP');
            applied = false;
          }
          assert.equal(applied, model(flows, step));
          assert.deepEqual(contents(bridge), expected(flows));
        }
      }),
      { numRuns: 150 },
    );
  });

  it('are forgotten when rolled back', () => {
    fc.assert(
      fc.property(
        fc.array(stepArb, { maxLength: 15 }),
        fc.array(stepArb, { maxLength: 15 }),
        (before, within) => {
          const bridge = new FakeBridge();
          const tables = new FlowTables(bridge);
          for (const step of before) {
            try {
              tables.apply(toFlowMod({ ...step, overlap: false }));
            } catch (error) {
              assert.ok(error instanceof OfError);
            }
          }
          const contentsBefore = contents(bridge);
          const transaction = tables.begin();
          try {
            for (const step of within) transaction.apply(toFlowMod(step));
          } catch (error) {
            assert.ok(error instanceof OfError);
          }
          transaction.rollback();
          assert.deepEqual(contents(bridge), contentsBefore);
        },
      ),
      { numRuns: 150 },
    );
  });
});
