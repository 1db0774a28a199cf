// Time that tests stop and warp (src/main/dummyClock.ts), and which interface types become dummies.

import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { Dummies } from '../../src/main/dummies.ts';
import { type DummyClock, installDummyClock } from '../../src/main/dummyClock.ts';

describe('a stopped clock', () => {
  let clock: DummyClock;
  beforeEach(() => {
    clock = installDummyClock();
  });
  afterEach(() => {
    clock.uninstall();
  });
  const rest = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

  it('stands still until it is warped', async () => {
    clock.stop();
    const start = performance.now();
    await rest();
    assert.equal(performance.now(), start);
    await clock.warp(500, 100, rest);
    assert.equal(performance.now(), start + 500);
  });

  it('runs timers in their order when they fall due, intervals once a step', async () => {
    clock.stop();
    const seen: string[] = [];
    setTimeout(() => seen.push('late'), 150);
    setTimeout(() => seen.push('early'), 50);
    const cancelled = setTimeout(() => seen.push('cancelled'), 60);
    clearTimeout(cancelled);
    const interval = setInterval(() => seen.push('tick'), 100);
    await clock.warp(200, 100, rest);
    assert.deepEqual(seen, ['early', 'tick', 'late', 'tick']);
    clearInterval(interval);
    await clock.warp(1000, 1000, rest);
    assert.equal(seen.length, 4);
  });

  it('reaches what is due after as many steps as it takes, whatever fraction of a millisecond it was stopped in', async () => {
    const missed: number[] = [];
    for (let i = 0; i < 200; i++) {
      clock.uninstall();
      const start = 662.9 + i * 0.000_371;
      performance.now = () => start;
      clock = installDummyClock();
      clock.stop();
      // As whoever waits until a time does it: with whole milliseconds.
      let ticks = 0;
      const arm = (atMs: number): void => {
        setTimeout(
          () => {
            ticks++;
            arm(performance.now() + 1000);
          },
          Math.ceil(atMs - performance.now()),
        );
      };
      arm(performance.now() + 1000);
      await clock.warp(3000, 1000, rest);
      if (ticks !== 3) missed.push(start);
    }
    assert.deepEqual(missed, []);
  });

  it('tells how far it is ahead, and lets time run on when it was never stopped', async () => {
    const skews: number[] = [];
    clock.onSkew = (ms) => skews.push(ms);
    const before = performance.now();
    await clock.warp(10_000, 5000, rest);
    assert.ok(performance.now() >= before + 10_000);
    assert.deepEqual(skews.map(Math.round), [5000, 10_000]);
  });

  it('leaves nothing behind', () => {
    const ours = globalThis.setTimeout;
    clock.uninstall();
    assert.notEqual(globalThis.setTimeout, ours);
    assert.equal(Object.hasOwn(performance, 'now'), false);
  });
});

it('dummies stand in for other types as --enable-dummy says', () => {
  const none = new Dummies('none');
  const system = new Dummies('system');
  const override = new Dummies('override');
  const types = ['dummy', 'dummy-pmd', 'system', 'internal', 'tap', 'patch', 'dpdkvhostuser'];
  const served = (dummies: Dummies): string[] => types.filter((type) => dummies.serves(type));
  assert.deepEqual(served(none), ['dummy', 'dummy-pmd']);
  assert.deepEqual(served(system), ['dummy', 'dummy-pmd', 'system']);
  assert.deepEqual(served(override), ['dummy', 'dummy-pmd', 'system', 'internal', 'tap']);
  assert.equal(none.internalType('dummy'), 'dummy-internal');
  assert.equal(none.internalType('netdev'), 'internal');
  assert.equal(override.internalType(''), 'dummy-internal');
});
