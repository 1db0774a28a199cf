// Tunnels in the data plane beside an obvious model (test/oracle/tunnel.ts): what push makes of any frame is what the RFCs say,
// byte by byte, and pop gives the frame back, with the tunnel's fields in the key. Damaged packets are dropped under a name.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  ACT_END,
  ACT_OUTPUT,
  ACT_TUNNEL_POP,
  ACT_TUNNEL_PUSH,
  ACT_USERSPACE,
  UPCALL_CONTROLLER,
} from '../../contract/action.ts';
import {
  DROP_TUNNEL_CHECKSUM,
  DROP_TUNNEL_HEADER,
  DROP_TUNNEL_PROTOCOL,
} from '../../contract/drop.ts';
import {
  K_TUN_DST,
  K_TUN_ERSPAN,
  K_TUN_FLAGS,
  K_TUN_ID,
  K_TUN_IPV6_DST,
  K_TUN_OPTS,
  K_TUN_OPTS_LEN,
  K_TUN_TOS,
  TUN_CSUM,
  TUN_KEY,
} from '../../contract/key.ts';
import { VNET_GSO_TCPV4, VNET_NEEDS_CSUM } from '../../contract/packet.ts';
import {
  TUNNEL_ERSPAN,
  TUNNEL_GENEVE,
  TUNNEL_GRE,
  TUNNEL_IP6GRE,
  TUNNEL_VXLAN,
} from '../../contract/tunnel.ts';
import { ethernet, ipv4, tcp, validFrame } from '../oracle/frames.ts';
import { Rig } from '../oracle/rig.ts';
import { type Encapsulation, encapsulate, template } from '../oracle/tunnel.ts';

const END = ACT_END | (1 << 16);
const L4 = { 4: 34, 6: 54 } as const;

const geneveOptions = fc
  .array(
    fc.record({
      class: fc.integer({ min: 0, max: 0xffff }),
      type: fc.integer({ min: 0, max: 0x7f }),
      value: fc
        .integer({ min: 0, max: 4 })
        .chain((words) => fc.uint8Array({ minLength: 4 * words, maxLength: 4 * words })),
    }),
    { maxLength: 4 },
  )
  .map((list) =>
    Uint8Array.from(
      list.flatMap((o) => [o.class >> 8, o.class & 0xff, o.type, o.value.length / 4, ...o.value]),
    ),
  );

const encapsulation: fc.Arbitrary<Encapsulation> = fc.record({
  type: fc.constantFrom('vxlan', 'geneve', 'gre'),
  version: fc.constantFrom(4, 6),
  key: fc.integer({ min: 0, max: 0xffffff }),
  csum: fc.boolean(),
  sequence: fc.constant(undefined),
  options: geneveOptions,
  tos: fc.integer({ min: 0, max: 0xff }),
});

function typeOf({ type, version }: Encapsulation): number {
  if (type === 'vxlan') return TUNNEL_VXLAN;
  if (type === 'geneve') return TUNNEL_GENEVE;
  return version === 4 ? TUNNEL_GRE : TUNNEL_IP6GRE;
}

function pushProgram(e: Encapsulation, tunnel: number, out: number): number[] {
  const header = template(e);
  const words = new Uint32Array(Math.ceil(header.length / 4));
  new Uint8Array(words.buffer).set(header);
  return [
    ACT_TUNNEL_PUSH | ((5 + words.length) << 16),
    tunnel,
    out,
    typeOf(e) | (header.length << 16),
    (32768 | (28232 << 16)) >>> 0,
    ...words,
    ...[ACT_OUTPUT | (2 << 16), out, END],
  ];
}

interface Bench {
  rig: Rig;
  guest: number;
  wire: number;
  tunnel: number;
}

async function bench(): Promise<Bench> {
  const rig = await Rig.create();
  return { rig, guest: rig.addPort(), wire: rig.addPort(), tunnel: rig.addPort({ sends: false }) };
}

function setFlow(rig: Rig, port: number, program: readonly number[]): void {
  const { key, mask } = Rig.matchPort(port);
  rig.flows.put(key, mask, Uint32Array.from(program));
}

const sourcePort = (frame: Uint8Array, version: 4 | 6): number =>
  (frame[L4[version]]! << 8) | frame[L4[version] + 1]!;

test('push is what the RFCs say, pop undoes it', async () => {
  const { rig, guest, wire, tunnel } = await bench();
  await fc.assert(
    fc.asyncProperty(encapsulation, validFrame, async (e, frame) => {
      setFlow(rig, guest, pushProgram(e, tunnel, wire));
      setFlow(rig, wire, [ACT_TUNNEL_POP | (4 << 16), tunnel, typeOf(e), 0, END]);
      const up = [ACT_USERSPACE | (4 << 16), UPCALL_CONTROLLER, 1, 0xffff];
      setFlow(rig, tunnel, [...up, ACT_OUTPUT | (2 << 16), guest, END]);
      rig.send(guest, frame);
      rig.poll();
      const [pushed, ...more] = rig.sent(wire);
      assert.equal(more.length, 0);
      assert.ok(pushed !== undefined, 'encapsulated');
      const port = e.type === 'gre' ? 0 : sourcePort(pushed.frame, e.version);
      if (e.type !== 'gre') assert.ok(port >= 32768 && port < 61000, `source port ${port}`);
      assert.deepEqual(pushed.frame, encapsulate(e, frame, port));

      rig.send(wire, pushed.frame);
      rig.poll();
      const [popped] = rig.sent(guest);
      assert.ok(popped !== undefined, 'decapsulated');
      assert.deepEqual(popped.frame, frame);
      const key = rig.upcalls()[0]!.key;
      const view = new DataView(key.buffer, key.byteOffset);
      assert.equal(view.getBigUint64(K_TUN_ID), BigInt(e.key));
      assert.equal(key[K_TUN_TOS], e.tos);
      const summed = e.csum || (e.version === 6 && e.type !== 'gre');
      assert.equal(view.getUint16(K_TUN_FLAGS), TUN_KEY | (summed ? TUN_CSUM : 0));
      if (e.version === 4) assert.equal(view.getUint32(K_TUN_DST), 0xac100002);
      else assert.equal(key[K_TUN_IPV6_DST + 15], 2);
      const options = e.type === 'geneve' ? e.options : new Uint8Array(0);
      assert.equal(key[K_TUN_OPTS_LEN], options.length);
      assert.deepEqual(key.slice(K_TUN_OPTS, K_TUN_OPTS + options.length), options);
      await rig.settle();
    }),
    { numRuns: 300 },
  );
});

test('a packet that is damaged on the way is dropped, or comes out whole', async () => {
  const { rig, guest, wire, tunnel } = await bench();
  setFlow(rig, tunnel, [ACT_OUTPUT | (2 << 16), guest, END]);
  await fc.assert(
    fc.asyncProperty(encapsulation, validFrame, fc.nat(), fc.nat(), async (e, frame, cut, flip) => {
      setFlow(rig, wire, [ACT_TUNNEL_POP | (4 << 16), tunnel, typeOf(e), 0, END]);
      const whole = encapsulate({ ...e, csum: true }, frame, 40000);
      const damaged = whole.slice(0, Math.max(14, whole.length - (cut % whole.length)));
      const outer = whole.length - frame.length;
      const at = 14 + (flip % Math.max(1, Math.min(outer, damaged.length) - 14));
      if (damaged.length > at) damaged[at]! ^= 1 << (flip & 7);
      rig.send(wire, damaged);
      rig.poll();
      for (const sent of rig.sent(guest)) {
        // Whatever got through is a tail of the packet: nothing was read from elsewhere.
        const tail = damaged.subarray(damaged.length - sent.frame.length);
        assert.ok(sent.frame.length <= damaged.length);
        if (sent.frame.length === frame.length) assert.deepEqual(sent.frame, tail);
      }
      await rig.settle();
    }),
    { numRuns: 300 },
  );
});

test('ERSPAN headers come and go: numbered, version 2 with the time', async () => {
  const { rig, guest, wire, tunnel } = await bench();
  const frame = ethernet(0x0800, ipv4(6, tcp(1, 2, new Uint8Array(20))), {
    src: [2, 3, 5, 7, 11, 13],
  });
  const gre: Encapsulation = {
    ...{ type: 'gre', version: 4, key: 0, csum: false, sequence: 0, tos: 0 },
    options: new Uint8Array(0),
  };
  const ip = template(gre).subarray(0, L4[4]);
  const program = (type: number, behind: readonly number[]): number[] => {
    const header = Uint8Array.of(...ip, ...behind);
    const words = new Uint32Array(Math.ceil(header.length / 4));
    new Uint8Array(words.buffer).set(header);
    const push = [tunnel, wire, type | (header.length << 16), 0, ...words];
    const output = [ACT_OUTPUT | (2 << 16), wire, END];
    return [ACT_TUNNEL_PUSH | ((1 + push.length) << 16), ...push, ...output];
  };
  const pushed = (): Uint8Array => {
    rig.send(guest, frame);
    rig.poll();
    return rig.sent(wire)[0]!.frame;
  };
  const number = (bytes: Uint8Array, at: number): number =>
    new DataView(bytes.buffer, bytes.byteOffset).getUint32(at);
  const session = [0x10, 0, 0, 0x7b];
  const one = [0x10, 0, 0x88, 0xbe, 0, 0, 0, 0, ...session, 0, 0x0a, 0xbc, 0xde];
  const two = [0x10, 0, 0x22, 0xeb, 0, 0, 0, 0, 0x20, 0, 0, 0x7b, 0, 0, 0, 0, 0, 0, 2, 0xa8];
  setFlow(rig, wire, [ACT_TUNNEL_POP | (4 << 16), tunnel, TUNNEL_ERSPAN, 0, END]);
  const up = [ACT_USERSPACE | (4 << 16), UPCALL_CONTROLLER, 1, 0xffff];
  setFlow(rig, tunnel, [...up, ACT_OUTPUT | (2 << 16), guest, END]);
  let sequence: number | undefined;
  for (const [behind, word] of [
    [one, 0x1abcde00],
    [two, 0x2000006a],
  ] as const) {
    setFlow(rig, guest, program(TUNNEL_ERSPAN, behind));
    const packet = pushed();
    const at = L4[4];
    if (sequence !== undefined) assert.equal(number(packet, at + 4), sequence + 1);
    sequence = number(packet, at + 4);
    const wanted = Uint8Array.from(behind);
    wanted.set(packet.subarray(at + 4, at + 8), 4);
    if (behind === two) wanted.set(packet.subarray(at + 12, at + 16), 12);
    assert.deepEqual(packet.subarray(at), Uint8Array.of(...wanted, ...frame));
    rig.send(wire, packet);
    rig.poll();
    assert.deepEqual(rig.sent(guest)[0]!.frame, frame);
    const { key } = rig.upcalls()[0]!;
    assert.equal(number(key, K_TUN_ERSPAN), word);
    assert.equal(number(key, K_TUN_ID + 4), 0x7b);
  }
  // A layer 3 tunnel may carry what has that type, and its bytes are not ours.
  setFlow(rig, guest, program(TUNNEL_GRE, [0, 0, 0x22, 0xeb]));
  assert.deepEqual(pushed().subarray(L4[4]), Uint8Array.of(0, 0, 0x22, 0xeb, ...frame));
});

test('drops have names', async () => {
  const { rig, guest, wire, tunnel } = await bench();
  setFlow(rig, tunnel, [ACT_OUTPUT | (2 << 16), guest, END]);
  setFlow(rig, wire, [ACT_TUNNEL_POP | (4 << 16), tunnel, TUNNEL_VXLAN, 0, END]);
  const frame = ethernet(0x0800, ipv4(6, tcp(1, 2, new Uint8Array(20))));
  const e: Encapsulation = {
    type: 'vxlan',
    version: 4,
    key: 1,
    csum: true,
    sequence: undefined,
    options: new Uint8Array(0),
    tos: 0,
  };
  const drops = (change: (packet: Uint8Array) => void, reason: number): void => {
    const packet = encapsulate(e, frame, 40000);
    change(packet);
    const before = rig.counters(wire).drops[reason]!;
    rig.send(wire, packet);
    rig.poll();
    assert.equal(rig.counters(wire).drops[reason], before + 1);
    assert.equal(rig.sent(guest).length, 0);
  };
  const withoutSum = (packet: Uint8Array): void => void packet.fill(0, 40, 42);
  for (const at of [-1, 25]) {
    drops((packet) => {
      packet[at < 0 ? packet.length + at : at]! ^= 1;
    }, DROP_TUNNEL_CHECKSUM);
  }
  drops((packet) => {
    withoutSum(packet);
    packet[42] = 0; // no VNI
  }, DROP_TUNNEL_HEADER);
  drops((packet) => {
    withoutSum(packet);
    packet[42] = 0x0c; // GPE
    packet[45] = 9; // of something
  }, DROP_TUNNEL_PROTOCOL);
});

test('a packet to be segmented is segmented first, and each segment is encapsulated', async () => {
  const { rig, guest, wire, tunnel } = await bench();
  for (const csum of [false, true]) {
    const e: Encapsulation = {
      type: 'geneve',
      version: 6,
      key: 5,
      csum,
      sequence: undefined,
      options: Uint8Array.of(1, 2, 3, 1, 9, 9, 9, 9),
      tos: 0,
    };
    setFlow(rig, guest, pushProgram(e, tunnel, wire));
    const payload = Uint8Array.from({ length: 4000 }, (_, i) => i & 0xff);
    const frame = ethernet(0x0800, ipv4(6, tcp(7, 8, payload), { partial: true }));
    const offload = { flags: VNET_NEEDS_CSUM, gsoType: VNET_GSO_TCPV4, gsoSize: 1400 };
    rig.send(guest, { frame, ...offload, csumStart: 34, csumOffset: 16 });
    rig.poll();
    const sent = rig.sent(wire);
    assert.equal(sent.length, 3);
    let done = 0;
    for (const { frame: outer, flags } of sent) {
      assert.equal(flags, 0);
      const inner = outer.subarray(54 + 8 + 8 + 8);
      assert.deepEqual(outer, encapsulate(e, inner, sourcePort(outer, 6)));
      const part = inner.subarray(54);
      assert.deepEqual(part, payload.subarray(done, done + part.length));
      done += part.length;
    }
    assert.equal(done, payload.length);
    await rig.settle();
  }
});
