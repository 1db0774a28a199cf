// Spanning trees in random topologies, with links that go and come: when time has passed, the ports that forward connect
// what can be connected and close no loop, whatever came in between; with STP, with RSTP, and with both mixed.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Rstp } from '../../src/protocol/spanningTree/rstp.ts';
import { Stp } from '../../src/protocol/spanningTree/stp.ts';

interface Link {
  a: number;
  b: number;
  costA: number;
  costB: number;
  up: boolean;
}
interface Topology {
  /** Priority of each bridge, and whether it speaks the rapid protocol. */
  bridges: { priority: number; rapid: boolean }[];
  links: Link[];
}

/** A port is a number: 2 * link + side. */
type Bridge = (Stp<number> | Rstp<number>) & { readonly rapid?: boolean };

class Network {
  readonly bridges: Bridge[];
  readonly links: Link[];
  #queue: { port: number; bpdu: Uint8Array }[] = [];
  nowMs = 0;
  sent = 0;

  constructor(topology: Topology) {
    this.links = topology.links.map((link) => ({ ...link }));
    const events = {
      send: (port: number, bpdu: Uint8Array) => {
        this.sent++;
        if (this.links[port >> 1]!.up) this.#queue.push({ port: port ^ 1, bpdu });
      },
      flush: () => {},
      info: () => {},
      warn: (text: string) => assert.match(text, /unexpected type 2/),
    };
    this.bridges = topology.bridges.map(({ priority, rapid }, i) => {
      const bridgeId = (BigInt(priority) << 48n) | BigInt(i + 1);
      return rapid
        ? new Rstp(
            `b${i}`,
            { bridgeId, maxAgeS: 20, forwardDelayS: 15, transmitHoldCount: 6, forceVersion: 2 },
            events,
            0,
          )
        : new Stp(
            `b${i}`,
            { bridgeId, helloTimeMs: 2000, maxAgeMs: 20_000, forwardDelayMs: 15_000 },
            events,
            0,
          );
    });
    for (let link = 0; link < this.links.length; link++) this.#setLink(link);
    this.#deliver();
  }

  bridgeOf(port: number): number {
    const { a, b } = this.links[port >> 1]!;
    return (port & 1) === 0 ? a : b;
  }

  #setLink(link: number): void {
    const { costA, costB, up } = this.links[link]!;
    for (const side of [0, 1]) {
      const port = 2 * link + side;
      const bridge = this.bridges[this.bridgeOf(port)]!;
      const common = { name: `p${port}`, number: port + 1, priority: 128 };
      const pathCost = side === 0 ? costA : costB;
      if (bridge instanceof Stp) bridge.setPort(port, { ...common, pathCost }, up, this.nowMs);
      else {
        const rapid = { adminEdge: false, autoEdge: true, pointToPoint: true, adminEnabled: true };
        bridge.setPort(port, { ...common, pathCost, ...rapid }, up, this.nowMs);
      }
    }
  }

  toggle(link: number): void {
    this.links[link]!.up = !this.links[link]!.up;
    this.#setLink(link);
    this.#deliver();
  }

  #deliver(): void {
    for (let n = 0; this.#queue.length > 0; n++) {
      assert.ok(n < 20_000, 'a storm of BPDUs');
      const { port, bpdu } = this.#queue.shift()!;
      const bridge = this.bridges[this.bridgeOf(port)]!;
      if (this.links[port >> 1]!.up) bridge.receive(port, bpdu, this.nowMs);
    }
  }

  pass(ms: number): void {
    for (const end = this.nowMs + ms; this.nowMs < end; ) {
      this.nowMs += 500;
      for (const bridge of this.bridges) {
        bridge.tick(this.nowMs);
        this.#deliver();
      }
    }
  }

  forwards(port: number): boolean {
    const state = this.bridges[this.bridgeOf(port)]!.state(port);
    return state === 'forwarding' || state === 'Forwarding';
  }

  /** Links over which packets go both ways, and all that are up. */
  check(): void {
    const find = (sets: number[], i: number): number => (sets[i] === i ? i : find(sets, sets[i]!));
    const tree = this.bridges.map((_, i) => i);
    const whole = this.bridges.map((_, i) => i);
    for (const [i, { a, b, up }] of this.links.entries()) {
      if (!up) continue;
      whole[find(whole, a)] = find(whole, b);
      if (!this.forwards(2 * i) || !this.forwards(2 * i + 1)) continue;
      assert.notEqual(find(tree, a), find(tree, b), `link ${i} closes a loop`);
      tree[find(tree, a)] = find(tree, b);
    }
    for (const [i] of this.bridges.entries()) {
      for (const [j] of this.bridges.entries()) {
        const together = find(whole, i) === find(whole, j);
        assert.equal(find(tree, i) === find(tree, j), together, `bridges ${i} and ${j}`);
      }
    }
  }
}

function topologies(rapid: fc.Arbitrary<boolean>): fc.Arbitrary<Topology> {
  return fc.integer({ min: 2, max: 7 }).chain((n) =>
    fc.record({
      bridges: fc.array(fc.record({ priority: fc.constantFrom(0x1000, 0x8000, 0xf000), rapid }), {
        minLength: n,
        maxLength: n,
      }),
      links: fc.array(
        fc
          .record({
            a: fc.nat(n - 1),
            b: fc.nat(n - 1),
            costA: fc.constantFrom(2, 4, 19),
            costB: fc.constantFrom(2, 4, 19),
            up: fc.boolean(),
          })
          .filter(({ a, b }) => a !== b),
        { minLength: 1, maxLength: 12 },
      ),
    }),
  );
}

/** Longer than maximum age and twice the forward delay. */
const SETTLE_MS = 80_000;

for (const [name, rapid] of [
  ['STP', fc.constant(false)],
  ['RSTP', fc.constant(true)],
  ['STP and RSTP', fc.boolean()],
] as const) {
  test(`${name}: a tree in the end, whatever happens to links`, () => {
    fc.assert(
      fc.property(
        topologies(rapid),
        fc.array(fc.record({ link: fc.nat(11), afterMs: fc.integer({ min: 0, max: 40_000 }) }), {
          maxLength: 6,
        }),
        (topology, changes) => {
          const network = new Network(topology);
          for (const { link, afterMs } of changes) {
            network.pass(afterMs);
            if (link < network.links.length) network.toggle(link);
          }
          network.pass(SETTLE_MS);
          network.check();
          // And so it stays, with a hello now and then and nothing else.
          const before = network.sent;
          network.pass(20_000);
          network.check();
          assert.ok(network.sent - before <= 12 * 2 * network.links.length + 24, 'not quiet');
        },
      ),
      { numRuns: 150 },
    );
  });
}

test('RSTP: a tree of links between bridges that are there from the start forwards within four seconds', () => {
  fc.assert(
    fc.property(topologies(fc.constant(true)), (topology) => {
      const network = new Network(topology);
      network.pass(4000);
      network.check();
    }),
    { numRuns: 100 },
  );
});

// With links that go it is different: news of a root that is gone may go round for a while ("count to infinity").
test('RSTP: no loop at any moment while links come', () => {
  fc.assert(
    fc.property(
      topologies(fc.constant(true)),
      fc.array(fc.nat(11), { maxLength: 4 }),
      (topology, links) => {
        const network = new Network(topology);
        network.pass(6000);
        for (const link of links) {
          if (network.links[link]?.up === false) network.toggle(link);
          for (let i = 0; i < 12; i++) {
            network.pass(500);
            assertNoLoop(network);
          }
        }
      },
    ),
    { numRuns: 100 },
  );
});

function assertNoLoop(network: Network): void {
  const find = (sets: number[], i: number): number => (sets[i] === i ? i : find(sets, sets[i]!));
  const sets = network.bridges.map((_, i) => i);
  for (const [i, { a, b, up }] of network.links.entries()) {
    if (!up || !network.forwards(2 * i) || !network.forwards(2 * i + 1)) continue;
    assert.notEqual(find(sets, a), find(sets, b), `link ${i} closes a loop`);
    sets[find(sets, a)] = find(sets, b);
  }
}
