// A worker of the data plane in a thread of its own that does nothing but connection tracking: it injects packets of a
// small set of tuples, in both directions, with actions that make, turn round, translate and end connections.

import { parentPort, workerData } from 'node:worker_threads';
import { ACT_DROP, ACT_END } from '../../contract/action.ts';
import { CT_CONTROL_PLANE } from '../../contract/ct.ts';
import { dataPlaneImports, loadDataPlane } from '../../src/engine/dataPlane.ts';
import type { DataPlane } from '../../src/engine/hostLoop.ts';
import { EngineMemory } from '../../src/engine/memory.ts';
import { InjectRing } from '../../src/engine/rings.ts';
import { type CtSpec, ctAction, segment } from '../oracle/ctRig.ts';
import { ethernet, ipv4, udp } from '../oracle/frames.ts';

interface Orders {
  memory: WebAssembly.Memory;
  worker: number;
  packets: number;
}

const { memory, worker, packets } = workerData as Orders;
if (worker >= CT_CONTROL_PLANE) throw new Error(`worker ${worker}`);

const shared = new EngineMemory(memory);
const dataPlane = new WebAssembly.Instance(
  loadDataPlane(),
  dataPlaneImports(memory, () => 0),
).exports as unknown as DataPlane;
dataPlane.start(worker, 0, 0);
const ring = new InjectRing(shared, worker);

const specs: readonly CtSpec[] = [
  { commit: true },
  { commit: true },
  { force: true },
  {},
  { commit: true, zone: 1, policy: 1 },
  { zone: 1 },
  { commit: true, zone: 2, nat: { side: 'src', low: [10, 0, 0, 99], ports: [3000, 3015] } },
  { zone: 2, nat: {} },
  { commit: true, zone: 2, nat: { side: 'dst', low: [10, 0, 0, 50], high: [10, 0, 0, 53] } },
];
const programs = specs.map((spec) =>
  Uint32Array.from([...ctAction(spec), ACT_DROP | (2 << 16), 6, ACT_END | (1 << 16)]),
);

const frames: Uint8Array[] = [];
for (let client = 0; client < 8; client++) {
  for (let port = 1; port <= 4; port++) {
    for (const turned of [false, true]) {
      const [a, b] = [
        [10, 0, 0, client],
        [10, 0, 1, 1],
      ];
      const [src, dst] = turned ? [b, a] : [a, b];
      const [sport, dport] = turned ? [53, 1000 + port] : [1000 + port, 53];
      const data = udp(sport, dport, new Uint8Array(8));
      frames.push(ethernet(0x0800, ipv4(17, data, { src, dst })));
      for (const flags of [2, 0x12, 0x10, 0x11, 4]) {
        const tcp = segment({ src: sport, dst: dport, flags, seq: 100, ack: 101 });
        frames.push(ethernet(0x0800, ipv4(6, tcp, { src, dst })));
      }
    }
  }
}

let random = worker * 7919 + 1;
function next(below: number): number {
  random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
  return Math.floor((random / 2 ** 32) * below);
}

let done = 0;
while (done < packets) {
  for (let i = 0; i < 200; i++) {
    ring.push({
      inPort: 0,
      frame: frames[next(frames.length)]!,
      actions: programs[next(programs.length)]!,
    });
  }
  // Time runs, so that connections of policy 1 (one second) end all the time.
  dataPlane.setTime(done * 1e6, 0);
  done += Math.max(dataPlane.poll(0), 0);
}
parentPort!.postMessage(done);
