// Geneve options in translation: a megaflow must not speak for packets whose options decide otherwise.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  F_TUN_METADATA,
  K_ETH_TYPE,
  K_IN_PORT,
  K_PACKET_TYPE,
  K_TUN_DST,
  K_TUN_ERSPAN,
  K_TUN_GBP_ID,
  K_TUN_GTPU_FLAGS,
  K_TUN_OPTS,
  K_TUN_OPTS_LEN,
  K_TUN_SRC,
  KEY_SIZE,
} from '../../contract/key.ts';
import { parseTunnelConfig } from '../../src/port/tunnelConfig.ts';
import type { SwitchBridge } from '../../src/switch/bridge.ts';
import { putBe32 } from '../../src/switch/flow.ts';
import { translate } from '../../src/switch/translate/translate.ts';
import { datapathMask } from '../../src/switch/translate/wildcards.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import { makeRule, SwitchRig } from '../oracle/openflowRig.ts';

const TLVS = [{ optionClass: 0x102, optionType: 0x80, optionLen: 4, index: 0, offset: 0 }];

/** Key of a packet from a tunnel; `value`: its option, undefined = it has none. */
function keyOf(port: number, value: number | undefined): Uint8Array {
  const key = new Uint8Array(KEY_SIZE);
  putBe32(key, K_IN_PORT, port);
  putBe32(key, K_PACKET_TYPE, 0);
  putBe32(key, K_TUN_SRC, 0x0a000002);
  putBe32(key, K_TUN_DST, 0x0a000001);
  key.set([8, 0], K_ETH_TYPE);
  if (value === undefined) return key;
  key[K_TUN_OPTS_LEN] = 8;
  key.set([0x01, 0x02, 0x80, 1], K_TUN_OPTS);
  putBe32(key, K_TUN_OPTS + 4, value);
  return key;
}

function run(rig: SwitchRig, key: Uint8Array) {
  const { datapath } = rig;
  const { packetIns, tunnels, recircs, timeoutPolicy } = datapath;
  const located = datapath.flowOf(key)!;
  const out = translate({ ...located, packetIns, tunnels, recircs, timeoutPolicy, learn: false });
  return { program: out.program, mask: datapathMask(out.wildcards, key) };
}

/** Packets that the first one's megaflow covers must get its program. */
function agree(rig: SwitchRig, first: Uint8Array, second: Uint8Array): void {
  const a = run(rig, first);
  const b = run(rig, second);
  const covered = first.every((byte, i) => ((byte ^ second[i]!) & a.mask[i]!) === 0);
  if (covered) assert.deepEqual(b.program, a.program);
}

async function bridgeWith(rules: (bridge: SwitchBridge) => void) {
  const rig = await SwitchRig.create();
  const bridge = rig.addBridge('br0');
  bridge.tlvMappings = () => TLVS;
  const port = rig.addPort(bridge, 'p1', {}, 1);
  rig.addPort(bridge, 'p2', {}, 2);
  rules(bridge);
  return { rig, bridge, port: port.dpPort };
}

test('a packet without options says nothing about those with options, and the reverse', async () => {
  const { rig, port } = await bridgeWith((bridge) => {
    const match = parseMatch('');
    match.key.set([0, 0, 0, 7], F_TUN_METADATA);
    match.mask.fill(0xff, F_TUN_METADATA, F_TUN_METADATA + 4);
    bridge.tables[0]!.insert(makeRule(0, 2, match, parseActions('output:2')));
    bridge.tables[0]!.insert(makeRule(0, 1, parseMatch(''), []));
  });
  for (const a of [undefined, 7, 8]) {
    for (const b of [undefined, 7, 8]) agree(rig, keyOf(port, a), keyOf(port, b));
  }
  rig.close();
});

const RECEIVED: readonly (readonly [
  type: string,
  options: Readonly<Record<string, string>>,
  at: number,
])[] = [
  ['vxlan', { exts: 'gbp' }, K_TUN_GBP_ID + 1],
  ['gtpu', {}, K_TUN_GTPU_FLAGS],
  ['erspan', { erspan_ver: 'flow' }, K_TUN_ERSPAN + 2],
];

for (const [type, options, at] of RECEIVED) {
  test(`what ${type} brings besides options is looked at before a recirculation, and by none else`, async () => {
    const { rig, bridge, port } = await bridgeWith((bridge) => {
      const actions = parseActions('ct(table=1)');
      bridge.tables[0]!.insert(makeRule(0, 0, parseMatch(''), actions));
    });
    const keys = [0, 1, 2].map((value) => {
      const key = keyOf(port, undefined);
      key[at] = value;
      return key;
    });
    for (const isTunnel of [false, true]) {
      if (isTunnel) {
        const tunnel = parseTunnelConfig(
          'p1',
          type,
          { remote_ip: 'flow', ...options },
          assert.fail,
        );
        Object.assign(bridge.ports.get(1)!.netdev, { tunnel });
      }
      for (const a of keys) {
        assert.equal(run(rig, a).mask[at] !== 0, isTunnel);
        for (const b of keys) if (isTunnel) agree(rig, a, b);
      }
    }
    rig.close();
  });
}

test('options that are looked at behind a recirculation are looked at before it', async () => {
  const { rig, port } = await bridgeWith((bridge) => {
    bridge.tables[0]!.insert(makeRule(0, 0, parseMatch(''), parseActions('ct(table=1)')));
  });
  for (const a of [undefined, 7, 8]) {
    for (const b of [undefined, 7, 8]) {
      agree(rig, keyOf(port, a), keyOf(port, b));
    }
  }
  rig.close();
});
