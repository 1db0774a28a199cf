// Two innocent guests that exchange checked frames through a switch while others misbehave: not a byte may be lost,
// changed, doubled or overtaken, and their frames carry a secret that nobody else may ever see.
//
// A closed loop: each round sends a burst in both directions and waits until all of it has arrived, so the rings never
// overflow, and a frame that does not come is a frame that the switch has lost.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Guest, guestFeatures } from '../../src/guest/guest.ts';
import { type GuestFrame, TestDriver } from '../../src/guest/testDriver.ts';

const BURST = 32;
const ROUND_MAX_MS = 30_000;
/** A worker that runs into a hole in an attacker's memory stands for up to 200 ms; there are two attackers. */
export const SLOW_MS = 500;
const SIZES = [60, 64, 100, 200, 256, 300, 600, 1000, 1514];

export class Innocents {
  readonly secret = randomBytes(16);
  readonly #guests: [Guest, Guest];
  #drivers: [TestDriver, TestDriver] | undefined;
  #stop = false;
  #running: Promise<void> | undefined;
  /** Frames that arrived as they were sent. */
  frames = 0;
  /** The longest that a burst took to arrive. */
  slowestMs = 0;
  /** Bursts, and those that took longer than SLOW_MS. */
  bursts = 0;
  slowBursts = 0;

  /** Sockets of two ports of type dpdkvhostuser that forward to each other. */
  constructor(first: string, second: string) {
    const make = (path: string, packed: boolean) =>
      new Guest({
        path,
        mode: 'client',
        features: guestFeatures({ packed }),
        memoryBytes: 8 << 20,
      });
    this.#guests = [make(first, false), make(second, true)];
  }

  async start(): Promise<void> {
    for (const guest of this.#guests) guest.open();
    await Promise.all(this.#guests.map((guest) => guest.connected()));
    const [a, b] = this.#guests;
    this.#drivers = [new TestDriver(a), new TestDriver(b)];
    // The first frame of a flow takes the slow path, where those behind it may overtake it: one at a time, first.
    for (const [from, driver] of this.#drivers.entries()) {
      const peer = this.#drivers[1 - from]!;
      while ((await peer.expect(1, 50)).length === 0) driver.send(this.#frame(from, 0));
      while ((await peer.expect(1, 300)).length > 0);
    }
    this.#running = this.#run();
    this.#running.catch(() => {});
  }

  #frame(from: number, number: number): Uint8Array {
    const frame = new Uint8Array(SIZES[number % SIZES.length]!);
    const view = new DataView(frame.buffer);
    frame.set([2, 0, 0, 0, 0, 2 - from, 2, 0, 0, 0, 0, 1 + from, 0x88, 0xb5]);
    frame.set(this.secret, 14);
    view.setUint32(30, number);
    for (let i = 34; i < frame.length; i++) frame[i] = Math.imul(number + i, 0x9e3779b1) >>> 24;
    return frame;
  }

  async #run(): Promise<void> {
    for (let number = 0; !this.#stop; number += BURST) {
      const startedMs = performance.now();
      for (const [from, driver] of this.#drivers!.entries()) {
        for (let i = 0; i < BURST; i++) assert.ok(driver.send(this.#frame(from, number + i)));
      }
      await Promise.all([0, 1].map((to) => this.#expect(to, number)));
      const tookMs = performance.now() - startedMs;
      this.slowestMs = Math.max(this.slowestMs, tookMs);
      this.bursts++;
      if (tookMs > SLOW_MS) this.slowBursts++;
      await sleep(1);
    }
  }

  async #expect(to: number, number: number): Promise<void> {
    const got: GuestFrame[] = await this.#drivers![to]!.expect(BURST, ROUND_MAX_MS);
    assert.equal(got.length, BURST, `guest ${to}: ${got.length} of ${BURST} frames arrived`);
    for (const [i, { frame }] of got.entries()) {
      const sent = this.#frame(1 - to, number + i);
      assert.ok(Buffer.compare(frame, sent) === 0, `guest ${to}: frame ${number + i} has changed`);
      this.frames++;
    }
  }

  /** Rejects as soon as something is wrong with their traffic. */
  get failed(): Promise<void> {
    return this.#running ?? Promise.resolve();
  }

  /** Ends the traffic; rejects if any of it was not right. */
  async stop(): Promise<void> {
    this.#stop = true;
    try {
      await this.#running;
    } finally {
      for (const guest of this.#guests) guest.close();
    }
  }
}
