// What a connection costs in connection tracking alone: nanoseconds of processor time a packet of the data plane's
// module in one thread, without rings of guests and without a control plane.
//
//   node bench/connections.ts [CONNECTIONS]
//
//   commit      ct(commit) of a packet that begins a connection
//   established ct() of a packet of a connection, in random order
//   end         ending by flush, from the control plane's side
//   again       ct(commit) into records that have been used

import { ACT_CT, ACT_DROP, ACT_END } from '../contract/action.ts';
import { ctAction } from '../test/oracle/ctRig.ts';
import { ethernet, ipv4, udp } from '../test/oracle/frames.ts';
import { Rig } from '../test/oracle/rig.ts';

const BURST = 256;
const CONNECTIONS = Number(process.argv[2] ?? 1_000_000);

const rig = await Rig.create({ debug: false });
const port = rig.addPort();
const { key, mask } = Rig.matchPort(port);

function install(commit: boolean): void {
  const program = [...ctAction({ commit }), ACT_DROP | (2 << 16), 6, ACT_END | (1 << 16)];
  if (program[0]! % 0x10000 !== ACT_CT) throw new Error('not a ct action');
  rig.flows.put(key, mask, Uint32Array.from(program));
}

const SRC = [10, 0, 0, 0];
const DST = [10, 200, 0, 1];
const frame = ethernet(0x0800, ipv4(17, udp(1024, 53, new Uint8Array(18)), { src: SRC, dst: DST }));
frame.fill(0, 40, 42); // no UDP checksum

/** Frame of connection `n`: the source address and port say which. */
function frameOf(n: number): Uint8Array {
  const high = n >>> 14;
  const portOf = 1024 + (n & 0x3fff);
  frame[28] = high >>> 8;
  frame[29] = high & 0xff;
  frame[34] = portOf >>> 8;
  frame[35] = portOf & 0xff;
  // The IP checksum over what has changed.
  frame.fill(0, 24, 26);
  let sum = 0;
  for (let i = 14; i < 34; i += 2) sum += (frame[i]! << 8) | frame[i + 1]!;
  sum = (sum & 0xffff) + (sum >>> 16);
  sum = ~((sum & 0xffff) + (sum >>> 16)) & 0xffff;
  frame[24] = sum >>> 8;
  frame[25] = sum & 0xff;
  return frame;
}

/** Time on the processor: others may be busy, too. */
function processorUs(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

function run(name: string, next: (i: number) => number): void {
  let us = 0;
  const total = CONNECTIONS - (CONNECTIONS % BURST);
  for (let i = 0; i < total; i += BURST) {
    for (let j = 0; j < BURST; j++) rig.send(port, frameOf(next(i + j)));
    const start = processorUs();
    rig.poll();
    us += processorUs() - start;
  }
  const each = (1e3 * us) / total;
  const perSecond = (1e3 / each).toFixed(2);
  console.log(
    `${name.padEnd(12)} ${each.toFixed(1).padStart(7)} ns  ${perSecond} million a second`,
  );
}

const inOrder = (i: number): number => i;
let state = 1;
const random = (): number => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state % CONNECTIONS;
};

install(true);
run('commit', inOrder);
install(false);
run('established', random);
run('established', random);
const start = processorUs();
const ended = rig.conntrack.flush();
const ns = (1e3 * (processorUs() - start)) / ended;
console.log(`${'end'.padEnd(12)} ${ns.toFixed(1).padStart(7)} ns  ${ended} connections`);
install(true);
run('again', inOrder);
if (rig.conntrack.count() !== CONNECTIONS - (CONNECTIONS % BURST)) {
  throw new Error(`${rig.conntrack.count()} connections`);
}
