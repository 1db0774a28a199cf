// Changes of single flows leave most megaflows alone (src/switch/ruleChange.ts). Packets that meet one of those must fare as the
// changed tables say: random flow tables, random packets, flows that come and go, against the oracle of the pipeline.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { FlowEvent } from '../../src/switch/flowMods.ts';
import type { Rule } from '../../src/switch/types.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import { ethernet, ipv4, udp } from '../oracle/frames.ts';
import { OpenflowOracle, withoutChecksums } from '../oracle/openflow.ts';
import { worldFrame, worldRules } from '../oracle/openflowArbitraries.ts';
import { makeRule, SwitchRig } from '../oracle/openflowRig.ts';

const change = (event: 'added' | 'removed', rule: Rule): FlowEvent =>
  event === 'added'
    ? { event, rule, oldActions: undefined, requester: undefined }
    : { event, rule, reason: 'delete', requester: undefined };

const text = (port: number, frame: Uint8Array): string =>
  `${port} ${Buffer.from(withoutChecksums(frame)).toString('hex')}`;

test('packets of megaflows that a changed flow has left alone fare as the changed tables say', async () => {
  const rig = await SwitchRig.create({ vlanLimit: 2 });
  const bridge = rig.addBridge('br0');
  bridge.fragHandling = 3;
  bridge.vlanLimit = 2;
  const ports = [1, 2, 3, 4].map((n) => rig.addPort(bridge, `p${n}`, {}, n));
  let kept = 0;
  let redone = 0;
  let narrowed = 0;
  let hits = 0;
  await fc.assert(
    fc.asyncProperty(
      worldRules,
      fc.array(fc.tuple(fc.nat(2), worldFrame), { minLength: 4, maxLength: 10 }),
      fc.boolean(),
      async (rules, packets, busy) => {
        // Narrower megaflows in the places of those that match too much, or none.
        rig.datapath.revalidator.busyPackets = busy ? 0 : Number.POSITIVE_INFINITY;
        const all = rules.map((r) =>
          makeRule(r.table, r.priority, { key: r.key, mask: r.mask }, r.actions),
        );
        const there = new Set<number>();
        const check = (): void => {
          const oracle = new OpenflowOracle(
            rules.filter((_, i) => there.has(i)),
            ports.map(({ ofport, desc }) => ({ ofport, config: desc.config })),
            2,
            new Map(),
          );
          for (const [index, frame] of packets) {
            const port = ports[index]!;
            const before = rig.datapath.handler.upcallCount;
            rig.send(port, frame);
            if (rig.datapath.handler.upcallCount === before) hits++;
            const sent = rig.sent(bridge).map((s) => text(s.port.ofport, s.frame));
            const wanted = oracle.run(frame, port.ofport).outputs.map((o) => text(o.port, o.frame));
            assert.deepEqual(sent.sort(), wanted.sort());
          }
        };
        const apply = async (event: 'added' | 'removed', i: number): Promise<void> => {
          const rule = all[i]!;
          const table = bridge.tables[rule.table]!;
          if (event === 'added') {
            table.insert(rule);
            there.add(i);
          } else {
            table.remove(rule);
            there.delete(i);
          }
          const old = new Map([...rig.datapath.megaflows].map((flow) => [flow, flow.effects]));
          bridge.flowsChanged([change(event, rule)]);
          await bridge.settled();
          for (const flow of rig.datapath.megaflows) {
            if (old.get(flow) === flow.effects) kept++;
            else if (old.has(flow)) redone++;
            else narrowed++;
          }
          check();
        };
        try {
          check();
          for (let i = 0; i < all.length; i++) await apply('added', i);
          for (let i = 0; i < all.length; i++) await apply('removed', i);
        } finally {
          for (const i of there) bridge.tables[all[i]!.table]!.remove(all[i]!);
          bridge.flowsChanged();
          await rig.datapath.purge();
          rig.sent(bridge);
        }
      },
    ),
    { numRuns: 1500 },
  );
  assert.ok(
    kept > 1000 && redone > 100 && narrowed > 100 && hits > 1000,
    `${kept} ${redone} ${narrowed} ${hits}`,
  );
  rig.close();
});

test('a flow that matches a header as it was rewritten touches the megaflow', async () => {
  const rig = await SwitchRig.create();
  const bridge = rig.addBridge('br0');
  const [p1, p2] = [1, 2].map((n) => rig.addPort(bridge, `p${n}`, {}, n));
  const add = (table: number, priority: number, match: string, actions: string): Rule => {
    const rule = makeRule(table, priority, parseMatch(match), parseActions(actions));
    bridge.tables[table]!.insert(rule);
    bridge.flowsChanged([change('added', rule)]);
    return rule;
  };
  add(0, 1, 'dl_dst=02:00:00:00:00:0b', 'mod_dl_dst:02:00:00:00:00:0c,resubmit(,1)');
  add(1, 1, '', 'drop');
  const frame = ethernet(0x0800, ipv4(17, udp(1, 2, new Uint8Array(18))));
  rig.send(p1!, frame);
  assert.equal(rig.sent(bridge).length, 0);
  add(1, 2, 'dl_dst=02:00:00:00:00:0d', 'output:2');
  await bridge.settled();
  rig.send(p1!, frame);
  assert.equal(rig.sent(bridge).length, 0, 'matches neither');
  const upcalls = rig.datapath.handler.upcallCount;
  const rule = add(1, 2, 'dl_dst=02:00:00:00:00:0c', 'output:2');
  await bridge.settled();
  rig.send(p1!, frame);
  assert.deepEqual(
    rig.sent(bridge).map(({ port }) => port),
    [p2],
  );
  bridge.tables[1]!.remove(rule);
  bridge.flowsChanged([change('removed', rule)]);
  await bridge.settled();
  rig.send(p1!, frame);
  assert.equal(rig.sent(bridge).length, 0);
  assert.equal(rig.datapath.handler.upcallCount - upcalls, 0, 'all by the one megaflow');
  rig.close();
});
