// Single megaflows by ovs-appctl: dpctl/get-flow and dpctl/del-flow.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { switchCommandTable } from '../../src/switch/commands.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import { ethernet, MAC_A, MAC_B } from '../oracle/frames.ts';
import { makeRule, SwitchRig } from '../oracle/openflowRig.ts';

test('a megaflow is shown and removed, by its name or by a packet that meets it', async () => {
  const rig = await SwitchRig.create({ debug: true });
  const bridge = rig.addBridge('br0');
  const ports = [1, 2].map((n) => rig.addPort(bridge, `p${n}`, {}, n));
  const rule = makeRule(0, 1, parseMatch('in_port=1'), parseActions('output:2'));
  bridge.tables[0]!.insert(rule);
  bridge.flowsChanged();
  const run = async (name: string, ...args: string[]): Promise<string> => {
    const command = switchCommandTable(rig.datapath).find((one) => one.name === name)!;
    const [text] = await Promise.all([command.run(args), rig.settled()]);
    return text;
  };
  const frame = ethernet(0x1234, new Uint8Array(50), { src: MAC_A, dst: MAC_B });
  const send = (): void => rig.send(ports[0]!, frame, frame, frame);

  send();
  const [, line] = (await run('dpctl/dump-flows', '-m')).split('\n');
  const ufid = /^ufid:[-0-9a-f]+/.exec(line!)![0];
  const { dpPort } = ports[0]!;
  const text = `recirc_id(0),in_port(${dpPort}),packet_type(ns=0,id=0),eth_type(0x1234)`;
  const shown = await run('dpctl/get-flow', ufid);
  assert.ok(shown.startsWith(`${text}, packets:`), shown);
  assert.ok(shown.endsWith(`actions:${ports[1]!.dpPort}\n`), shown);
  assert.match(await run('dpctl/get-flow', '--names', 'ovs-netdev', ufid), /in_port\(p1\)/);

  assert.match(await run('dpctl/del-flow', '-s', ufid), /^packets:\d+, bytes:\d+\n$/);
  assert.equal(rig.datapath.megaflows.size, 0);
  bridge.syncStats();
  assert.equal(rule.packets, 3, 'what a removed megaflow has counted is not lost');
  const none = /\(No such file or directory\)$/;
  await assert.rejects(run('dpctl/del-flow', ufid), none);
  await assert.rejects(run('dpctl/get-flow', ufid), none);
  await assert.rejects(
    run('dpctl/get-flow', 'nonsense'),
    /parsing flow ufid \(Invalid argument\)$/,
  );

  send();
  assert.equal(rig.datapath.megaflows.size, 1);
  await assert.rejects(run('dpctl/del-flow', `in_port(${dpPort}),nonsense(1)`), /syntax error/);
  await assert.rejects(run('dpctl/del-flow', 'in_port(77),eth_type(0x1234)'), /specify a UFID/);
  assert.equal(await run('dpctl/del-flow', `in_port(p1),eth_type(0x1234)`), '');
  assert.equal(rig.datapath.megaflows.size, 0);
  rig.close();
});
