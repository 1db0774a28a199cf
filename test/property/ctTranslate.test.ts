// Translation with connection tracking is sound: packets that agree under the mask of one of them get the same program,
// whatever flows there are, whatever connection tracking has said of them, before and after recirculations.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  F_IN_PORT,
  K_CT_LABEL,
  K_CT_MARK,
  K_CT_NW_DST,
  K_CT_NW_PROTO,
  K_CT_NW_SRC,
  K_CT_STATE,
  K_CT_TP_DST,
  K_CT_TP_SRC,
  K_CT_ZONE,
  K_IN_PORT,
  K_RECIRC_ID,
  KEY_SIZE,
} from '../../contract/key.ts';
import type { SwitchBridge } from '../../src/switch/bridge.ts';
import { checkActions } from '../../src/switch/checkActions.ts';
import { be32, newRecord, putBe16, putBe32 } from '../../src/switch/flow.ts';
import { extractFlow } from '../../src/switch/flowExtract.ts';
import { formatOdpActions, formatOdpFlow } from '../../src/switch/odpText.ts';
import { translate } from '../../src/switch/translate/translate.ts';
import { datapathMask } from '../../src/switch/translate/wildcards.ts';
import type { Rule } from '../../src/switch/types.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import { ethernet, ipv4, tcp, udp } from '../oracle/frames.ts';
import { makeRule, SwitchRig } from '../oracle/openflowRig.ts';

type Generated<A> = A extends fc.Arbitrary<infer T> ? T : never;

const STATES = [
  '+trk',
  '-trk',
  '+new+trk',
  '+est-new+trk',
  '+trk+rpl',
  '+inv+trk',
  '-inv+trk+est',
  '+rel+trk',
];
const match = fc
  .record({
    ip: fc.constantFrom('ip', 'tcp', 'udp', 'tcp,tp_dst=2', 'udp,tp_src=1'),
    state: fc.constantFrom('', ...STATES.map((state) => `ct_state=${state}`)),
    more: fc.subarray(
      ['ct_zone=1', 'ct_mark=0x1/0x3', 'ct_label=0x1/0x1', 'reg0=1', 'reg1=0x2/0x2', 'in_port=1'],
      { maxLength: 2 },
    ),
    tuple: fc.constantFrom('', '', 'ct_nw_src=10.0.0.0/31', 'ct_nw_proto=6', 'ct_tp_dst=2'),
  })
  .map(({ ip, state, more, tuple }) =>
    // The original tuple can be matched where there is one.
    [ip, state, ...more, /\+(new|est|rpl|rel)/.test(state) ? tuple : ''].filter(Boolean).join(),
  );
const action = fc.constantFrom(
  'ct(table=1)',
  'ct(table=0,zone=1)',
  'ct(commit)',
  'ct(commit,zone=NXM_NX_REG0[0..15],table=2)',
  'ct(commit,force,exec(load:0x1->NXM_NX_CT_MARK[0..3]),table=1)',
  'ct(commit,exec(move:NXM_NX_CT_MARK[0..7]->NXM_NX_CT_LABEL[8..15],set_field:0x2/0x2->ct_label))',
  'ct(commit,exec(move:NXM_OF_IP_SRC[0..1]->NXM_NX_CT_MARK[4..5]),nat(src=10.0.0.9))',
  'ct(nat,table=2)',
  'ct_clear',
  'load:1->NXM_NX_REG0[]',
  'move:NXM_NX_CT_MARK[0..1]->NXM_NX_REG1[0..1]',
  'move:NXM_NX_CT_STATE[0..5]->NXM_NX_REG0[0..5]',
  'move:NXM_NX_CT_NW_SRC[0..1]->NXM_NX_REG1[0..1]',
  'dec_ttl',
  'mod_nw_tos:4',
  'resubmit(,1)',
  'resubmit(,2)',
  'resubmit(,2,ct)',
  'output:1',
  'output:2',
  'output:9',
);
const rule = fc.record({
  table: fc.nat(2),
  priority: fc.nat(3),
  match,
  actions: fc.array(action, { maxLength: 4 }).map((list) => list.join()),
});

const tracked = fc.record({
  state: fc.constantFrom(0, 0x21, 0x22, 0x2a, 0x26, 0x30, 0x62, 0xa2, 0x25),
  zone: fc.nat(1),
  mark: fc.nat(3),
  label: fc.nat(3),
  source: fc.nat(3),
  port: fc.nat(2),
  // Which frozen pipeline the packet comes out of, if any: metadata and table.
  frozen: fc.nat(3),
});
const packet = fc.record({
  protocol: fc.constantFrom(6, 17),
  source: fc.nat(3),
  srcPort: fc.nat(2),
  dstPort: fc.nat(2),
  tracked,
});

function addRules(bridge: SwitchBridge, rules: readonly Generated<typeof rule>[]): Rule[] {
  const installed: Rule[] = [];
  for (const { table, priority, match, actions } of rules) {
    const parsed = parseMatch(match);
    const list = parseActions(actions);
    try {
      checkActions(list, parsed, table, 1);
    } catch {
      continue; // resubmit(,2,ct), or an original tuple, without a state in the match
    }
    const made = makeRule(table, priority, parsed, list);
    const old = bridge.tables[table]!.findStrict(parsed, priority);
    if (old !== undefined) continue;
    bridge.tables[table]!.insert(made);
    installed.push(made);
  }
  return installed;
}

test('packets that agree under the mask get the same program, with connection tracking', async () => {
  const rig = await SwitchRig.create();
  const br0 = rig.addBridge('br0');
  const br1 = rig.addBridge('br1');
  const port = rig.addPort(br0, 'p1', {}, 1);
  rig.addPort(br0, 'p2', {}, 2);
  const far = rig.addPort(br1, 'q1', {}, 1);
  const [near] = rig.patch(br0, br1);
  const { datapath } = rig;
  // Output 9 leads to the other bridge, which tracks in its own zone.
  assert.ok(near.ofport !== 9);
  br1.tables[0]!.insert(
    makeRule(0, 1, parseMatch('ip,ct_state=-trk'), parseActions('ct(zone=7,table=1)')),
  );
  br1.tables[1]!.insert(
    makeRule(1, 1, parseMatch('ip,ct_mark=1'), parseActions(`output:${far.ofport}`)),
  );
  const metadata = (reg0: number): Uint8Array => {
    const record = newRecord();
    putBe32(record, F_IN_PORT, 1);
    record[331] = reg0;
    return record;
  };
  const states = [1, 2, 1].map((table, i) =>
    datapath.recircs.add({
      bridge: br0,
      table,
      conntracked: i < 2,
      metadata: metadata(i),
      actionSet: [],
      actions: [],
      stack: [],
    }),
  );

  const keyOf = ({
    protocol,
    source,
    srcPort,
    dstPort,
    tracked: ct,
  }: Generated<typeof packet>): Uint8Array => {
    const segment =
      protocol === 6
        ? tcp(srcPort, dstPort, new Uint8Array(0))
        : udp(srcPort, dstPort, new Uint8Array(0));
    const record = newRecord();
    extractFlow(record, ethernet(0x0800, ipv4(protocol, segment, { src: [10, 0, 0, source] })), 1);
    putBe32(record, K_IN_PORT, port.dpPort);
    if (ct.frozen === 0) return record.slice(0, KEY_SIZE);
    putBe32(record, K_RECIRC_ID, states[ct.frozen - 1]!);
    putBe32(record, K_CT_STATE, ct.state);
    if (ct.state === 0) return record.slice(0, KEY_SIZE);
    putBe16(record, K_CT_ZONE, ct.zone);
    if ((ct.state & 0x0b) === 0) return record.slice(0, KEY_SIZE);
    putBe32(record, K_CT_MARK, ct.mark);
    record[K_CT_LABEL + 15] = ct.label;
    record.set([10, 0, 0, ct.source], K_CT_NW_SRC);
    record.set([10, 0, 0, 2], K_CT_NW_DST);
    record[K_CT_NW_PROTO] = protocol;
    putBe16(record, K_CT_TP_SRC, ct.port);
    putBe16(record, K_CT_TP_DST, 2);
    return record.slice(0, KEY_SIZE);
  };

  let pairs = 0;
  let recirculated = 0;
  fc.assert(
    fc.property(
      fc.array(rule, { minLength: 1, maxLength: 12 }),
      fc.array(packet, { minLength: 2, maxLength: 24 }),
      (rules, packets) => {
        const installed = addRules(br0, rules);
        const held: number[][] = [];
        try {
          const results = packets.map((p) => {
            const key = keyOf(p);
            const located = datapath.flowOf(key)!;
            const out = translate({
              ...located,
              packetIns: datapath.packetIns,
              recircs: datapath.recircs,
              learn: false,
            });
            held.push(out.effects.recircs);
            const text = formatOdpActions(out.program, key);
            assert.ok(
              text !== '' && formatOdpFlow(key, datapathMask(out.wildcards, key), true) !== '',
            );
            if (be32(key, K_RECIRC_ID) !== 0) recirculated++;
            return { key, mask: datapathMask(out.wildcards, key), program: out.program, text };
          });
          for (const a of results) {
            for (const b of results) {
              if (a.key.some((byte, i) => ((byte ^ b.key[i]!) & a.mask[i]!) !== 0)) continue;
              if (a !== b) pairs++;
              assert.equal(a.text, b.text);
              assert.equal(a.program.join(), b.program.join());
            }
          }
        } finally {
          for (const made of installed) br0.tables[made.table]!.remove(made);
          for (const ids of held) datapath.recircs.release(ids);
        }
      },
    ),
    { numRuns: 400 },
  );
  assert.ok(pairs > 500 && recirculated > 500, `${pairs} pairs, ${recirculated} recirculated`);
  rig.clock.nowMs += 60_000;
  datapath.recircs.sweep();
  assert.equal(datapath.recircs.size, states.length, 'every id was given back');
  rig.close();
});
