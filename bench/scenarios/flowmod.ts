// 100 000 flows in one bundle of ovs-ofctl: how many a second, and who has to wait meanwhile: an OpenFlow client that
// asks for an ECHO all the time, and the packets of a known flow.

import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import type { OvsTestbed } from '../peers/ovs.ts';
import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { ovsUserspace } from '../peers/ovsUserspace.ts';
import { xvio, xvioOf } from '../peers/xvio.ts';
import { acquaint, type Contestant, play } from '../rounds.ts';
import type { Sample } from '../score.ts';
import type { Measurement, Options, Peer, Scenario } from '../types.ts';

const STREAM = { from: 0, to: 1, perSecond: 20_000 };
const ECHO_INTERVAL_MS = 20;
const VERSION = 4; // OpenFlow 1.3
const [HELLO, ECHO_REQUEST, ECHO_REPLY] = [0, 2, 3];

/** Asks for an ECHO again and again; remembers the longest wait for an answer. */
class Echoes {
  longestMs = 0;
  #askedAt = 0;
  readonly #socket: Socket;
  #timer: NodeJS.Timeout | undefined;

  constructor(path: string) {
    this.#socket = connect(path);
    this.#socket.on('error', () => {});
    let pending = Buffer.alloc(0);
    this.#socket.on('data', (chunk: Buffer) => {
      pending = Buffer.concat([pending, chunk]);
      while (pending.length >= 8 && pending.length >= pending.readUInt16BE(2)) {
        if (pending[1] === ECHO_REPLY) this.#answered();
        pending = pending.subarray(pending.readUInt16BE(2));
      }
    });
    this.#send(HELLO);
    this.#ask();
  }

  #send(type: number): void {
    this.#socket.write(Uint8Array.of(VERSION, type, 0, 8, 0, 0, 0, 1));
  }

  #ask(): void {
    this.#askedAt = performance.now();
    this.#send(ECHO_REQUEST);
  }

  #answered(): void {
    this.longestMs = Math.max(this.longestMs, performance.now() - this.#askedAt);
    this.#askedAt = 0;
    this.#timer = setTimeout(() => this.#ask(), ECHO_INTERVAL_MS);
  }

  close(): number {
    clearTimeout(this.#timer);
    const waiting = this.#askedAt === 0 ? 0 : performance.now() - this.#askedAt;
    this.#socket.destroy();
    return Math.max(this.longestMs, waiting);
  }
}

function flowLines(count: number): string {
  const lines: string[] = [];
  for (let i = 0; i < count; i++) {
    const address = `172.${16 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}`;
    lines.push(
      `priority=100,in_port=2,udp,nw_src=${address},tp_dst=${1 + (i % 1000)},actions=output:1`,
    );
  }
  return `${lines.join('\n')}\n`;
}

interface Waits {
  elapsedMs: number;
  longestEchoMs: number;
  lost: number;
  /** Oldest packet, and the same without the time for which the generator stood still: a packet lay in its ring then. */
  worstMs: number;
  pauseMs: number;
  gapMs: number;
}

/** Adds the flows as one bundle, beside slices of traffic if the switch has guests. `boost`: threads in real time. */
async function addBundle(
  { testbed, generator }: Contestant,
  boost: readonly number[],
): Promise<Waits> {
  const { box } = testbed as OvsTestbed;
  box.ofctl('del-flows', 'br0', 'udp');
  const echoes = new Echoes(box.path('br0.mgmt'));
  // Without guests who waits is the client alone.
  const guests = testbed.sockets.length > 0;
  if (guests) generator.setStreams([STREAM]);
  const from = performance.now();
  const file = box.path('many.txt');
  const ofctl = box.spawn('ovs-ofctl', ['-O', 'OpenFlow14', '--bundle', 'add-flows', 'br0', file]);
  let done = false;
  const ended = once(ofctl, 'exit').then(([code]) => {
    done = true;
    if (code !== 0) throw new Error(`ovs-ofctl: status ${code}`);
    return performance.now() - from;
  });
  ended.catch(() => {});
  let [lost, worstMs, pauseMs, gapMs] = [0, 0, 0, 0];
  while (guests && !done) {
    // No packet is under way between two slices: it would grow old while nobody looks.
    const slice = { durationMs: 200, warmUpMs: 5, drainMs: 5, boost, boostGenerator: false };
    const counts = await generator.trial(slice);
    lost += counts.lost;
    worstMs = Math.max(worstMs, counts.latencyMaxMs);
    gapMs = Math.max(gapMs, counts.longestGapMs);
    pauseMs = Math.max(pauseMs, counts.latencyMaxMs - counts.longestGapMs);
  }
  const elapsedMs = await ended;
  return { elapsedMs, longestEchoMs: echoes.close(), lost, worstMs, pauseMs, gapMs };
}

/**
 * The rate with all threads alike, as they share the cores. Then, in another bundle, how long the data plane itself stands
 * still: its thread runs in real time, or it would wait for a core behind ovs-ofctl, the control plane and the generator.
 */
async function measure(contestant: Contestant, count: number, realtime: boolean): Promise<Sample> {
  const { testbed, threads } = contestant;
  const shared = await addBundle(contestant, []);
  const value = (count / shared.elapsedMs) * 1000;
  const { longestEchoMs } = shared;
  if (testbed.sockets.length === 0) return { value, details: { longestEchoMs } };
  const tids = threads.map(({ tid }) => tid);
  const alone = realtime ? await addBundle(contestant, tids) : shared;
  return {
    value,
    details: {
      longestEchoMs,
      longestForwardingMs: shared.worstMs,
      longestRealtimeMs: alone.worstMs,
      pauseMs: alone.pauseMs,
      gapMs: alone.gapMs,
      lost: realtime ? shared.lost + alone.lost : shared.lost,
    },
  };
}

/**
 * Beside guests, whose packets and generator want the cores, too; and with the cores for ovs-ofctl and the control plane alone, as
 * the real userspace datapath has them, which has no ports for guests.
 */
interface Variant {
  label: string;
  ports: number;
  baseline: string;
  peers: readonly Peer[];
}

const VARIANTS: readonly Variant[] = [
  { label: '', ports: 2, baseline: 'ovs-dpdk', peers: [xvio, ovsDpdk] },
  { label: ', no guests', ports: 0, baseline: 'ovs-userspace', peers: [xvio, ovsUserspace] },
];

function ofVariant({ label, ports, baseline, peers }: Variant, options: Options) {
  const count = options.durationMs < 100 ? 2000 : 100_000;
  return play(
    {
      scenario: 'flowmod',
      variant: `a bundle of ${count} flows${label}`,
      unit: 'flow-mods/s',
      baseline,
      peers: [...peers, ...options.compare.map(xvioOf)],
      setup: () => ({ wiring: ports === 0 ? 'none' : 'port', ports }),
      prepare: async (contestant) => {
        const { box } = contestant.testbed as OvsTestbed;
        writeFileSync(box.path('many.txt'), flowLines(count));
        if (contestant.testbed.sockets.length > 0) await acquaint(contestant, [STREAM], options);
      },
      measure: (contestant) => measure(contestant, count, options.realtime),
    },
    { ...options, rounds: Math.min(options.rounds, 5) },
  );
}

async function run(options: Options): Promise<Measurement[]> {
  const results: Measurement[] = [];
  for (const variant of VARIANTS) results.push(await ofVariant(variant, options));
  return results;
}

export const flowmod: Scenario = {
  name: 'flowmod',
  title: 'flow-mods a second, and who waits meanwhile',
  run,
};
