// What happens to whole bursts: order, floods, clones, recirculation, drops under their names, full rings.

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import {
  ACT_DROP,
  ACT_END,
  ACT_OUTPUT,
  ACT_PUSH_VLAN,
  ACT_RECIRC,
  ACT_USERSPACE,
  UPCALL_CONTROLLER,
  UPCALL_MISS,
} from '../../contract/action.ts';
import {
  DROP_FLOW_EXPLICIT,
  DROP_NO_PORT,
  DROP_RECIRC_LIMIT,
  DROP_RX_DISABLED,
  DROP_STP,
  DROP_UPCALL_FULL,
  DROP_UPCALL_NO_FLOW,
  DROP_VLAN_FILTER,
} from '../../contract/drop.ts';
import { K_NW_SRC, K_RECIRC_ID } from '../../contract/key.ts';
import {
  CONTROL_BASE,
  CTL_GENERATION,
  CTL_UPCALLS_ENABLED,
  WK_ACK,
  WK_LOST,
  WK_MISSES,
  WK_RECIRC,
  WORKER_BASE,
} from '../../contract/memory.ts';
import { PORT_NO_RX, PORT_UP } from '../../contract/port.ts';
import { be32, bytes, ethernet, ipv4, tcp, udp } from '../oracle/frames.ts';
import { Rig } from '../oracle/rig.ts';

let rig: Rig;
let input: number;

beforeEach(async () => {
  rig = await Rig.create();
  input = rig.addPort();
});

const output = (port: number): number[] => [ACT_OUTPUT | (2 << 16), port];
const end = [ACT_END | (1 << 16)];

function flow(actions: number[], match = Rig.matchPort(input)): number {
  return rig.flows.put(match.key, match.mask, Uint32Array.from([...actions, ...end]));
}

/** A frame that carries a number, and whose flow depends on `source`. */
function numbered(number: number, source = 1): Uint8Array {
  const payload = bytes(be32(number), new Uint8Array(30));
  return ethernet(0x0800, ipv4(17, udp(5, 6, payload), { src: [10, 0, 0, source] }));
}

function numberOf(frame: Uint8Array, tags = 0): number {
  return new DataView(frame.buffer).getUint32(42 + 4 * tags);
}

test('a burst of one flow keeps its order', () => {
  const out = rig.addPort();
  flow(output(out));
  for (let i = 0; i < 256; i++) rig.send(input, numbered(i));
  assert.equal(rig.poll(), 256);
  assert.deepEqual(
    rig.sent(out).map(({ frame }) => numberOf(frame)),
    [...Array(256).keys()],
  );
});

test('mixed flows keep the order of each, and each is counted', () => {
  const out = rig.addPort();
  const ids = [1, 2, 3].map((source) => {
    const { key, mask } = Rig.matchPort(input);
    key.set([10, 0, 0, source], K_NW_SRC);
    mask.fill(0xff, K_NW_SRC, K_NW_SRC + 4);
    return flow(output(out), { key, mask });
  });
  for (let i = 0; i < 240; i++) rig.send(input, numbered(i, 1 + (i % 3)));
  rig.poll();
  const sent = rig.sent(out).map(({ frame }) => ({ number: numberOf(frame), source: frame[29]! }));
  assert.equal(sent.length, 240);
  for (const source of [1, 2, 3]) {
    const numbers = sent.filter((s) => s.source === source).map((s) => s.number);
    assert.deepEqual(
      numbers,
      numbers.toSorted((a, b) => a - b),
    );
    const stats = rig.flows.stats(ids[source - 1]!);
    assert.equal(stats.packets, 80);
    assert.equal(stats.bytes, 80 * numbered(0).length);
    assert.equal(stats.usedMs, rig.nowNs / 1e6);
  }
});

test('a new instance does not trust what the old one has left', () => {
  const outs = [1, 2, 3].map((source) => {
    const out = rig.addPort({ sends: false });
    const { key, mask } = Rig.matchPort(input);
    key.set([10, 0, 0, source], K_NW_SRC);
    mask.fill(0xff, K_NW_SRC, K_NW_SRC + 4);
    flow(output(out), { key, mask });
    return out;
  });
  for (let round = 0; round < 5; round++) {
    rig.restart();
    for (let i = 0; i < 60; i++) rig.send(input, numbered(i, 1 + ((i + round) % 3)));
    rig.poll();
    for (const out of outs) assert.equal(rig.sent(out).length, 20);
  }
});

test('flood to more ports than there are output slots', () => {
  const ports = Array.from({ length: 100 }, () => rig.addPort({ sends: false }));
  flow(ports.flatMap(output));
  for (let i = 0; i < 50; i++) rig.send(input, numbered(i));
  rig.poll();
  for (const port of ports) {
    assert.deepEqual(
      rig.sent(port).map(({ frame }) => numberOf(frame)),
      [...Array(50).keys()],
    );
  }
});

test('more copies than clone records, each with its own header', () => {
  const [a, b] = [rig.addPort(), rig.addPort()];
  const push = (vlan: number): number[] => [
    ACT_PUSH_VLAN | (2 << 16),
    (0x8100 | (vlan << 16)) >>> 0,
  ];
  const steps = [1, 2, 3, 4].flatMap((vlan) => [...push(vlan), ...output(a), ...output(b)]);
  flow(steps);
  for (let i = 0; i < 200; i++) rig.send(input, numbered(i));
  rig.poll();
  for (const port of [a, b]) {
    const sent = rig.sent(port);
    assert.equal(sent.length, 800);
    for (const tags of [1, 2, 3, 4]) {
      const mine = sent.filter(({ frame }) => frame.length === numbered(0).length + 4 * tags);
      assert.deepEqual(
        mine.map(({ frame }) => numberOf(frame, tags)),
        [...Array(200).keys()],
      );
      assert.ok(mine.every(({ frame }) => frame[15] === tags));
    }
  }
});

test('too many tags for the headroom are a drop', () => {
  const out = rig.addPort();
  const push = [ACT_PUSH_VLAN | (2 << 16), 0x8100];
  flow([...Array(33).fill(push).flat(), ...output(out)]);
  rig.send(input, numbered(1));
  rig.poll();
  assert.equal(rig.sent(out).length, 0);
  assert.equal(
    rig.counters(input).drops.reduce((a, b) => a + b),
    1,
  );
});

test('a recirculation without end stops under its name', () => {
  flow([ACT_RECIRC | (2 << 16), 1]);
  const again = Rig.matchPort(input, 1);
  flow([ACT_RECIRC | (2 << 16), 1], again);
  for (let i = 0; i < 10; i++) rig.send(input, numbered(i));
  rig.poll();
  assert.equal(rig.counters(input).drops[DROP_RECIRC_LIMIT], 10);
  assert.equal(rig.memory.f64[(WORKER_BASE + WK_RECIRC) / 8], 90);
});

test('a recirculated packet without a flow is an upcall with its recirculation id', () => {
  flow([ACT_RECIRC | (2 << 16), 0x01020304]);
  rig.send(input, numbered(1));
  rig.poll();
  const [upcall] = rig.upcalls();
  assert.equal(upcall!.reason, UPCALL_MISS);
  assert.deepEqual([...upcall!.key.subarray(K_RECIRC_ID, K_RECIRC_ID + 4)], [1, 2, 3, 4]);
});

test('clones that wait for recirculation can use up the pool, under a name', () => {
  flow([
    ...Array(4)
      .fill([ACT_RECIRC | (2 << 16), 1])
      .flat(),
  ]);
  const out = rig.addPort();
  flow(output(out), Rig.matchPort(input, 1));
  for (let i = 0; i < 256; i++) rig.send(input, numbered(i));
  rig.poll();
  const sent = rig.sent(out).length;
  assert.equal(sent + rig.counters(input).drops[DROP_RECIRC_LIMIT]!, 1024);
  assert.ok(sent >= 1000, `${sent}`);
});

test('drops have names', () => {
  flow([]);
  rig.send(input, numbered(1));
  rig.poll();
  flow([ACT_DROP | (2 << 16), DROP_VLAN_FILTER]);
  rig.send(input, numbered(2));
  rig.poll();
  flow([...output(999), ...output(0xffffff)]);
  rig.send(input, numbered(3));
  rig.poll();
  const { drops } = rig.counters(input);
  assert.equal(drops[DROP_FLOW_EXPLICIT], 1);
  assert.equal(drops[DROP_VLAN_FILTER], 1);
  assert.equal(drops[DROP_NO_PORT], 2);
});

test('a port that is down, or told not to receive', () => {
  flow(output(rig.addPort()));
  rig.ports.set(input, { flags: 0 });
  rig.send(input, numbered(1));
  rig.poll();
  rig.ports.set(input, { flags: PORT_UP | PORT_NO_RX });
  rig.send(input, numbered(2));
  rig.poll();
  const { drops } = rig.counters(input);
  assert.equal(drops[DROP_RX_DISABLED], 1);
  assert.equal(drops[DROP_STP], 1);
});

test('without a control plane a miss is a drop', () => {
  rig.set(CTL_UPCALLS_ENABLED, 0);
  rig.send(input, numbered(1));
  rig.poll();
  assert.equal(rig.upcalls().length, 0);
  assert.equal(rig.counters(input).drops[DROP_UPCALL_NO_FLOW], 1);
});

test('a full upcall ring loses packets under a name, and works again when drained', () => {
  let sent = 0;
  for (let round = 0; round < 20; round++) {
    for (let i = 0; i < 256; i++) rig.send(input, numbered(sent++));
    rig.poll();
  }
  const lost = rig.counters(input).drops[DROP_UPCALL_FULL]!;
  assert.ok(lost > 0);
  const upcalls = rig.upcalls();
  assert.equal(upcalls.length + lost, sent);
  upcalls.forEach(({ data }, i) => {
    assert.equal(numberOf(data), i);
  });
  assert.equal(rig.memory.f64[(WORKER_BASE + WK_LOST) / 8], lost);
  assert.equal(rig.memory.f64[(WORKER_BASE + WK_MISSES) / 8], upcalls.length);
  // Over the end of the ring, several times.
  for (let round = 0; round < 40; round++) {
    for (let i = 0; i < 200; i++) rig.send(input, numbered(i));
    rig.poll();
    assert.deepEqual(
      rig.upcalls().map(({ data }) => numberOf(data)),
      [...Array(200).keys()],
    );
  }
});

test('a port that floods the control plane leaves room for others', () => {
  const other = rig.addPort();
  for (let round = 0; round < 20; round++) {
    for (let i = 0; i < 256; i++) rig.send(input, numbered(i));
    rig.poll();
  }
  for (let i = 0; i < 200; i++) rig.send(other, numbered(i));
  rig.poll();
  assert.ok(rig.counters(input).drops[DROP_UPCALL_FULL]! > 1000);
  assert.equal(rig.counters(other).drops[DROP_UPCALL_FULL], 0);
  assert.equal(rig.upcalls().filter(({ inPort }) => inPort === other).length, 200);
  rig.send(input, numbered(1));
  rig.poll();
  assert.equal(rig.upcalls().length, 1);
});

test('and so do several that flood it', () => {
  const others = [rig.addPort(), rig.addPort(), rig.addPort(), rig.addPort(), rig.addPort()];
  const quiet = rig.addPort();
  for (let round = 0; round < 20; round++) {
    for (const port of [input, ...others]) {
      for (let i = 0; i < 256; i++) rig.send(port, numbered(i));
      rig.poll();
    }
  }
  for (let i = 0; i < 200; i++) rig.send(quiet, numbered(i));
  rig.poll();
  assert.equal(rig.counters(quiet).drops[DROP_UPCALL_FULL], 0);
  const upcalls = rig.upcalls();
  for (const port of [...others, quiet]) {
    const count = upcalls.filter(({ inPort }) => inPort === port).length;
    assert.ok(count >= 200, `${count} of port ${port}`);
  }
});

test('a frame of 64 KiB crosses whole: upcall, injection, output, offload description', () => {
  const payload = Uint8Array.from({ length: 60_000 }, (_, i) => i * 7);
  const frame = ethernet(0x0800, ipv4(6, tcp(1, 2, payload), { partial: true }));
  rig.send(input, { frame, flags: 1, gsoType: 1, gsoSize: 1448, csumStart: 34, csumOffset: 16 });
  rig.poll();
  const [upcall] = rig.upcalls();
  assert.deepEqual(upcall!.data, frame);
  assert.equal(upcall!.packetLen, frame.length);
  const out = rig.addPort();
  const { data, key, vnet, inPort } = upcall!;
  const actions = Uint32Array.from([...output(out), ...end]);
  assert.equal(rig.inject({ inPort, frame: data, key, vnet, actions }), true);
  assert.equal(rig.poll(), 1);
  const [sent] = rig.sent(out);
  assert.deepEqual(sent!.frame, frame);
  assert.deepEqual(
    [sent!.flags, sent!.gsoType, sent!.gsoSize, sent!.csumStart, sent!.csumOffset],
    [1, 1, 1448, 34, 16],
  );
});

test('an upcall by action can be limited in bytes', () => {
  flow([ACT_USERSPACE | (4 << 16), UPCALL_CONTROLLER, 3, 20]);
  rig.send(input, numbered(1));
  rig.poll();
  const [upcall] = rig.upcalls();
  assert.equal(upcall!.data.length, 20);
  assert.equal(upcall!.packetLen, numbered(1).length);
});

test('a full injection ring refuses, and takes again', () => {
  const frame = new Uint8Array(60_000);
  let pushed = 0;
  while (rig.inject({ inPort: input, frame })) pushed++;
  assert.ok(pushed > 30 && pushed < 40, `${pushed}`);
  assert.equal(rig.poll(), pushed);
  assert.equal(rig.inject({ inPort: input, frame }), true);
});

test('a generation is acknowledged when all packets have run that were injected before it', () => {
  const out = rig.addPort();
  const frame = numbered(0);
  const inject = (n: number): void => {
    for (let i = 0; i < n; i++) {
      assert.ok(
        rig.inject({ inPort: input, frame, actions: Uint32Array.of(...output(out), ...end) }),
      );
    }
  };
  const raise = (): number => {
    const generation = rig.memory.load(CONTROL_BASE + CTL_GENERATION) + 1;
    rig.set(CTL_GENERATION, generation);
    return generation;
  };
  const acknowledged = (): number => rig.memory.load(WORKER_BASE + WK_ACK);
  inject(600);
  const first = raise();
  rig.poll();
  assert.notEqual(acknowledged(), first);
  inject(500); // after it: not waited for
  const second = raise();
  rig.poll();
  assert.notEqual(acknowledged(), first);
  rig.poll();
  // All have run, but the host loop has still to make the system calls for them.
  assert.notEqual(acknowledged(), first);
  assert.ok(rig.sent(out).length >= 600);
  rig.poll();
  assert.equal(acknowledged(), first);
  rig.poll();
  assert.notEqual(acknowledged(), second);
  rig.poll();
  assert.equal(acknowledged(), second);
  const third = raise();
  rig.poll();
  assert.equal(acknowledged(), third);
});
