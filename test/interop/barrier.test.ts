// A barrier reply means that no packet can meet the old flow any more: a flow is changed, the barrier is answered, a packet
// is sent, a thousand times over, and each must meet the change. The same for bundles; and a large bundle keeps neither
// the probes of other connections nor traffic waiting.

import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import type { Message } from '../../src/wire/openflow/messages.ts';
import { flowMod } from '../unit/fakeBridge.ts';
import { OfClient } from '../unit/ofClient.ts';
import { Sandbox } from './sandbox.ts';

const OPENFLOW15 = 6;
const ROUNDS = 1000;
const BUNDLE_FLOWS = 50_000;

let box: Sandbox;
let peers: ChildProcess;
let answers: AsyncIterator<string>;
let lines: Interface;

before(async () => {
  box = await Sandbox.start();
  box.vsctl(
    ...['add-br', 'br0', '--', 'set', 'Bridge', 'br0', 'datapath_type=netdev', 'fail_mode=secure'],
  );
  const spaces = [box.addNamespace('a'), box.addNamespace('b')];
  for (const [i, space] of spaces.entries()) {
    const device = `m${i + 1}`;
    const peer = ['type', 'veth', 'peer', 'name', 'eth0', 'netns', space];
    box.must('ip', 'link', 'add', device, ...peer);
    box.must('ip', 'link', 'set', device, 'up');
    const ofport = `ofport_request=${i + 1}`;
    box.vsctl('add-port', 'br0', device, '--', 'set', 'Interface', device, ofport);
    execFileSync('ip', ['netns', 'exec', space, 'ethtool', '-K', 'eth0', 'tx', 'off']);
    execFileSync('ip', ['-n', space, 'address', 'add', `10.0.0.${i + 1}/24`, 'dev', 'eth0']);
    execFileSync('ip', ['-n', space, 'link', 'set', 'eth0', 'up']);
  }
  box.ofctl('add-flow', 'br0', 'priority=1,actions=NORMAL');
  const program = join(import.meta.dirname, 'tosPeers.py');
  peers = spawn('python3', [program, ...spaces, '10.0.0.2'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  lines = createInterface({ input: peers.stdout! });
  answers = lines[Symbol.asyncIterator]();
  assert.equal((await answers.next()).value, 'ready');
  assert.equal(await send(), '0');
});

after(async () => {
  peers?.kill('SIGKILL');
  await box?.stop();
});

async function send(): Promise<string> {
  peers.stdin!.write('x\n');
  return (await answers.next()).value as string;
}

const change = (tos: number): Message => ({
  type: 'flow_mod',
  nxt: false,
  flowMod: flowMod({
    priority: 100,
    match: parseMatch('udp,in_port=1'),
    actions: parseActions(`mod_nw_tos:${tos},output:2`),
  }),
});

const tosOf = (round: number): number => 4 * (1 + (round % 60));

test(`a flow is there when the barrier is answered, ${ROUNDS} times`, async () => {
  using client = await OfClient.connect(box.path('br0.mgmt'), OPENFLOW15);
  for (let round = 0; round < ROUNDS; round++) {
    client.send(change(tosOf(round)));
    await client.request({ type: 'barrier_request' }, 'barrier_reply');
    assert.equal(await send(), String(tosOf(round)), `round ${round}`);
  }
});

test('a bundle of tens of thousands of flows keeps nobody waiting', async () => {
  const file = box.path('flows');
  let text = '';
  for (let i = 0; i < BUNDLE_FLOWS; i++) {
    text += `table=${1 + (i % 8)},ip,nw_src=10.${i >> 16}.${(i >> 8) & 255}.${i & 255} actions=output:2\n`;
  }
  writeFileSync(file, text);
  using client = await OfClient.connect(box.path('br0.mgmt'), OPENFLOW15);
  const words = ['netns', 'exec', box.namespace!, 'ovs-ofctl', '-O', 'OpenFlow15', '--bundle'];
  const ofctl = spawn('ip', [...words, 'add-flows', 'br0', file], { env: box.env });
  const ended = new Promise<number | null>((resolve) => ofctl.once('close', resolve));
  let worstMs = 0;
  let lost = 0;
  const startedMs = performance.now();
  while (ofctl.exitCode === null) {
    const askedMs = performance.now();
    await client.request({ type: 'echo_request', data: new Uint8Array(8) }, 'echo_reply');
    worstMs = Math.max(worstMs, performance.now() - askedMs);
    if ((await send()) === 'lost') lost++;
    await sleep(10);
  }
  assert.equal(await ended, 0);
  assert.equal(
    box.ofctl('dump-aggregate', 'br0').match(/flow_count=(\d+)/)?.[1],
    `${BUNDLE_FLOWS + 2}`,
  );
  const tookMs = Math.round(performance.now() - startedMs);
  console.log(`${BUNDLE_FLOWS} flows in ${tookMs} ms, slowest echo ${Math.round(worstMs)} ms`);
  assert.equal(lost, 0, 'packets lost meanwhile');
  // ovn-controller gives up after 5 s. Idle cores answer within a fraction of a second.
  assert.ok(worstMs < 4000, `an echo took ${worstMs} ms`);
});
