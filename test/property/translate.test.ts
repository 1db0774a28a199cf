// Translation against the oracle of the pipeline, through the real data plane: random flow tables, random packets.
// Packets that hit a megaflow made for an earlier packet must fare exactly as the oracle says, so these tests
// prove the masks too.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { F_IN_PORT, FLOW_SIZE, K_IN_PORT, KEY_SIZE } from '../../contract/key.ts';
import type { SwitchBridge } from '../../src/switch/bridge.ts';
import { putBe32 } from '../../src/switch/flow.ts';
import { extractFlow } from '../../src/switch/flowExtract.ts';
import { PacketIns } from '../../src/switch/packetIns.ts';
import { translate } from '../../src/switch/translate/translate.ts';
import { datapathMask } from '../../src/switch/translate/wildcards.ts';
import type { BridgePort, Rule } from '../../src/switch/types.ts';
import { OFPGC_ADD, OFPGT_ALL, OFPGT_FF } from '../../src/wire/openflow/group.ts';
import { OFPP_NORMAL, type PacketIn } from '../../src/wire/openflow/types.ts';
import { anyFrame } from '../oracle/frames.ts';
import { OpenflowOracle, type OracleRule, withoutChecksums } from '../oracle/openflow.ts';
import { WORLD_GROUPS, worldFrame, worldRules } from '../oracle/openflowArbitraries.ts';
import { makeRule, SwitchRig } from '../oracle/openflowRig.ts';
import { parseFrame } from '../oracle/parse.ts';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

/** Fills the tables of a bridge; the returned rules are in the order given. */
function install(bridge: SwitchBridge, rules: readonly OracleRule[]): Rule[] {
  return rules.map((r) => {
    const rule = makeRule(r.table, r.priority, { key: r.key, mask: r.mask }, r.actions);
    bridge.tables[r.table]!.insert(rule);
    return rule;
  });
}

/** The groups that the world's actions name. */
function addGroups(bridge: SwitchBridge): void {
  for (const [id, { first, buckets }] of WORLD_GROUPS) {
    bridge.groups.apply({
      command: OFPGC_ADD,
      group: id,
      groupType: first ? OFPGT_FF : OFPGT_ALL,
      commandBucket: 0xffffffff,
      buckets: buckets.map(({ watchPort, actions }, i) => ({
        id: i,
        weight: 0,
        watchPort,
        watchGroup: 0xffffffff,
        actions: [...actions],
      })),
    });
  }
}

function uninstall(bridge: SwitchBridge, rules: readonly Rule[]): void {
  for (const rule of rules) bridge.tables[rule.table]!.remove(rule);
}

for (const vlanLimit of [1, 2]) {
  test(`verdicts and bytes equal the oracle's, vlan limit ${vlanLimit}`, async () => {
    const rig = await SwitchRig.create({ debug: true, vlanLimit });
    const bridge = rig.addBridge('br0');
    bridge.fragHandling = 3;
    bridge.vlanLimit = vlanLimit;
    addGroups(bridge);
    const ports = [1, 2, 3, 4].map((n) => rig.addPort(bridge, `p${n}`, {}, n));
    ports[3]!.desc = { ...ports[3]!.desc, config: 16 }; // no flood
    const packetIns: PacketIn[] = [];
    bridge.onPacketIn = (packet) => packetIns.push(packet);
    let hits = 0;
    await fc.assert(
      fc.asyncProperty(
        worldRules,
        fc.array(fc.tuple(fc.nat(2), worldFrame), { minLength: 1, maxLength: 12 }),
        async (rules, packets) => {
          const oracle = new OpenflowOracle(
            rules,
            ports.map(({ ofport, desc }) => ({ ofport, config: desc.config })),
            vlanLimit,
            WORLD_GROUPS,
          );
          const installed = install(bridge, rules);
          const expectedHits = new Map<OracleRule, number>();
          try {
            for (const [index, frame] of packets) {
              const port = ports[index]!;
              const expected = oracle.run(frame, port.ofport);
              for (const rule of expected.hits) {
                expectedHits.set(rule, (expectedHits.get(rule) ?? 0) + 1);
              }
              const before = rig.datapath.handler.upcallCount;
              packetIns.length = 0;
              rig.send(port, frame);
              if (rig.datapath.handler.upcallCount === before) hits++;
              const sent = rig
                .sent(bridge)
                .map((s) => `${s.port.ofport} ${hex(withoutChecksums(s.frame))}`);
              const wanted = expected.outputs.map(
                (o) => `${o.port} ${hex(withoutChecksums(o.frame))}`,
              );
              assert.deepEqual(sent.sort(), wanted.sort());
              assert.deepEqual(
                packetIns.map((p) => `${p.reason} ${p.table} ${hex(withoutChecksums(p.data))}`),
                expected.packetIns.map(
                  (p) => `${p.reason} ${p.table} ${hex(withoutChecksums(p.frame))}`,
                ),
              );
            }
            bridge.syncStats();
            for (const [i, rule] of installed.entries()) {
              assert.equal(rule.packets, expectedHits.get(rules[i]!) ?? 0, `rule ${i}`);
            }
          } finally {
            uninstall(bridge, installed);
            await rig.datapath.purge();
            rig.sent(bridge);
          }
        },
      ),
      { numRuns: 800 },
    );
    assert.ok(hits > 100, `only ${hits} packets met a megaflow`);
    rig.close();
  });
}

/** Everything in one: NORMAL on several VLAN modes, a second bridge behind patch ports. */
test('packets that agree under the mask get the same program', async () => {
  const rig = await SwitchRig.create({ vlanLimit: 2 });
  const br0 = rig.addBridge('br0');
  const br1 = rig.addBridge('br1');
  br0.fragHandling = 3;
  addGroups(br0);
  const ports = [
    rig.addPort(br0, 'p1', {}, 1),
    rig.addPort(br0, 'p2', { vlanMode: 'access', tag: 1 }, 2),
    rig.addPort(br0, 'p3', { vlanMode: 'native-untagged', tag: 2, trunks: new Set([1, 2]) }, 3),
    rig.addPort(br0, 'p4', { vlanMode: 'dot1q-tunnel', tag: 1, cvlans: new Set([2]) }, 4),
    rig.addPort(br0, 'p5', { vlanMode: 'native-tagged', tag: 1, priorityTags: 'if-nonzero' }, 5),
  ];
  rig.patch(br0, br1);
  rig.addPort(br1, 'q1', { vlanMode: 'access', tag: 2, priorityTags: 'always' }, 20);
  br0.macs.addStatic(Uint8Array.of(2, 0, 0, 0, 0, 0x0a), 1, ports[1]!.bundle);
  br0.macs.addStatic(Uint8Array.of(2, 0, 0, 0, 0, 0x0b), 2, ports[2]!.bundle);
  const packetIns = new PacketIns(() => 0);
  const normal = { type: 'output' as const, port: OFPP_NORMAL, maxLen: 0 };
  const everything = { key: new Uint8Array(FLOW_SIZE), mask: new Uint8Array(FLOW_SIZE) };
  br1.tables[0]!.insert(makeRule(0, 0, everything, [normal]));
  let pairs = 0;
  const run = (frame: Uint8Array, port: BridgePort) => {
    const flow = new Uint8Array(FLOW_SIZE);
    extractFlow(flow, frame, 2);
    putBe32(flow, K_IN_PORT, port.dpPort);
    putBe32(flow, F_IN_PORT, port.ofport);
    const key = flow.slice(0, KEY_SIZE);
    const out = translate({ bridge: br0, flow, packetIns, learn: false });
    return { key, mask: datapathMask(out.wildcards, key), program: out.program };
  };
  fc.assert(
    fc.property(
      worldRules,
      fc.boolean(),
      fc.nat(4),
      fc.array(worldFrame, { minLength: 2, maxLength: 30 }),
      (rules, alsoNormal, index, frames) => {
        const installed = install(br0, rules);
        if (alsoNormal) {
          const rule = makeRule(0, 65535, everything, [normal]);
          br0.tables[0]!.insert(rule);
          installed.push(rule);
        }
        try {
          const results = frames.map((frame) => run(frame, ports[index]!));
          for (const a of results) {
            for (const b of results) {
              if (a.key.some((byte, i) => ((byte ^ b.key[i]!) & a.mask[i]!) !== 0)) continue;
              if (a !== b) pairs++;
              assert.equal(a.program.join(), b.program.join());
            }
          }
        } finally {
          uninstall(br0, installed);
        }
      },
    ),
    { numRuns: 5000 },
  );
  assert.ok(pairs > 1000, `only ${pairs} pairs compared`);
  rig.close();
});

test('the control plane parses frames as the oracle does', () => {
  fc.assert(
    fc.property(anyFrame, fc.constantFrom(1, 2), (frame, vlanLimit) => {
      const record = new Uint8Array(FLOW_SIZE);
      extractFlow(record, frame, vlanLimit);
      const { key } = parseFrame(frame, 0, vlanLimit);
      assert.equal(hex(record.subarray(0, KEY_SIZE)), hex(key));
    }),
    { numRuns: 5000 },
  );
});
