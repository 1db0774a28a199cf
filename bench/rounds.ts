// Rounds: all peers run at the same time, on the same cores, but only one is awake. They take turns, many short times,
// so that whatever else happens on the machine happens to all of them; what counts is the ratio within a round.
//
// While it is another one's turn, a peer is stopped (SIGSTOP): a polling switch would otherwise take half of the core.

import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  bucketUs,
  Generator,
  percentileUs,
  type Stream,
  type TrialCounts,
} from './generator/generator.ts';
import { noTally, type Placement, type Tally } from './placement.ts';
import { medianDetails, type Sample, Score } from './score.ts';
import type { Measurement, Options, Peer, Series, Setup, SwitchThread, Testbed } from './types.ts';

export interface Contestant {
  testbed: Testbed;
  generator: Generator;
  threads: SwitchThread[];
  /** What a reader of the figures has to know: it goes into those of the measurement. */
  notes: string[];
  placement: Placement | undefined;
  tally: Tally;
}

/** Of those wanted, the peers that can run here; what the others lack goes to the log and to the notes. */
export function usablePeers<P extends Pick<Peer, 'name' | 'missing'>>(
  peers: readonly P[],
  options: Options,
  notes: string[] = [],
): P[] {
  return peers.filter((peer) => {
    const wanted = options.peers?.includes(peer.name) ?? true;
    if (!wanted && !peer.name.startsWith('xvio:')) return false;
    const missing = peer.missing();
    if (missing) {
      notes.push(`${peer.name}: left out: ${missing}`);
      options.log(notes.at(-1)!);
    }
    return !missing;
  });
}

/** What is worth reading of an error: the daemon's log and the stack are not. */
export function errorText(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.split('\n').slice(0, 2).join(' ').slice(0, 300);
}

function signal(testbed: Testbed, name: NodeJS.Signals): void {
  try {
    for (const pid of testbed.pids) process.kill(pid, name);
  } catch {
    // It has ended: what is measured next says so.
  }
}

/** CPU time that threads have used so far (schedstat: nanoseconds on a core). */
export function cpuNs(threads: readonly SwitchThread[]): number {
  let total = 0;
  for (const { pid, tid } of threads) {
    try {
      total += Number(readFileSync(`/proc/${pid}/task/${tid}/schedstat`, 'utf8').split(' ')[0]);
    } catch {
      // The thread has ended: helpers of a daemon come and go.
    }
  }
  return total;
}

/**
 * What the threads of a switch that has forwarded nothing were doing. Such a round is either the machine's (they wanted a core
 * and got none: another real-time thread had it) or the switch's (they slept, with packets before them).
 */
export function idleNote(name: string, threads: readonly SwitchThread[], ranNs: number): string {
  const states = threads.map(({ pid, tid }) => {
    try {
      const stat = readFileSync(`/proc/${pid}/task/${tid}/stat`, 'utf8');
      const state = stat.charAt(stat.lastIndexOf(')') + 2);
      return state === 'R' ? 'wants a core' : state === 'S' ? 'sleeps' : `is in state ${state}`;
    } catch {
      return 'has ended';
    }
  });
  const ranMs = (ranNs / 1e6).toFixed(1);
  return `${name}: nothing forwarded; its threads ran for ${ranMs} ms: ${states.join(', ')}`;
}

/** Starts a peer with a guest at each of its ports. */
export async function enlist(peer: Peer, setup: Setup, options: Options): Promise<Contestant> {
  const testbed = await peer.start(setup);
  let generator: Generator | undefined;
  try {
    generator = new Generator(testbed.sockets, options, setup.mtu, setup.offloads);
    if (testbed.wire) generator.setWire(testbed.wire);
    await generator.start();
    await testbed.ready();
    const { placement } = options;
    return {
      testbed,
      generator,
      threads: testbed.threads(),
      notes: [],
      placement,
      tally: noTally(),
    };
  } catch (error) {
    await dismiss(testbed, generator);
    throw error;
  }
}

/** Ends a peer and its guests. */
export async function dismiss(testbed: Testbed, generator?: Generator): Promise<void> {
  signal(testbed, 'SIGCONT');
  try {
    await generator?.[Symbol.asyncDispose]();
  } finally {
    await testbed[Symbol.asyncDispose]();
  }
}

export interface Match {
  scenario: string;
  variant: string;
  unit: string;
  higherIsBetter?: boolean;
  baseline?: string;
  peers: readonly Peer[];
  setup: (peer: Peer) => Omit<Setup, 'switchCore' | 'generatorCore'>;
  /** Once for each peer, before the rounds: learn addresses, fill caches. */
  prepare?: (contestant: Contestant) => Promise<void>;
  measure: (contestant: Contestant) => Promise<Sample>;
  /** Hears of each round that counts (score.ts), when all have been played. */
  kept?: (peer: string, sample: Sample) => void;
  notes?: readonly string[];
}

/** Details of which the worst round counts, too: pauseUs, knownPauseMs, longestEchoMs, firstPacketUs, gapMs. */
const WAITS = /(?:pause|longest|firstPacket|gap)\w*[MU]s$/i;

/** What the rounds of a peer that count come to. */
function seriesOf(peer: string, score: Score, at: number): Series {
  const samples = score.of(at);
  const details = medianDetails(samples);
  const series: Series = { peer, rounds: samples.map(({ value }) => value), details };
  for (const name of Object.keys(details).filter((each) => WAITS.test(each))) {
    // A wait has happened, wherever the cores were.
    const waits = score.allOf(at).flatMap((sample) => sample.details?.[name] ?? []);
    series.greatest = { ...series.greatest, [name]: Math.max(...waits) };
  }
  const latency = sumOf(samples.flatMap(({ histogram }) => histogram ?? []));
  if (latency.length > 0) series.latency = latency;
  series.far = score.farOf(at);
  return series;
}

/** Of all rounds together: [upper end in microseconds, packets], empty buckets left out. */
function sumOf(histograms: readonly Float64Array[]): [us: number, packets: number][] {
  const sums = new Map<number, number>();
  for (const histogram of histograms) {
    for (const [i, n] of histogram.entries()) {
      if (n > 0) sums.set(bucketUs(i), (sums.get(bucketUs(i)) ?? 0) + n);
    }
  }
  return [...sums].sort(([a], [b]) => a - b);
}

/**
 * Runs all rounds of one variant of a scenario. A peer that fails is out from then on, which the failures say; the others go on.
 */
export async function play(match: Match, options: Options): Promise<Measurement> {
  const notes = [...(match.notes ?? [])];
  const failures: string[] = [];
  const fail = (text: string): void => {
    failures.push(text);
    options.log(`${match.scenario}, ${match.variant}: ${text}`);
  };
  const contestants: Contestant[] = [];
  const out = new Set<Contestant>();
  try {
    for (const peer of usablePeers(match.peers, options, notes)) {
      try {
        contestants.push(await enter(peer, match, options));
      } catch (error) {
        fail(`${peer.name} did not take part: ${errorText(error)}`);
      }
    }
    const names = contestants.map(({ testbed }) => testbed.name);
    const score = new Score(
      names,
      options,
      notes,
      contestants.map(({ tally }) => tally),
    );
    for (let round = 0; out.size < contestants.length && score.goesOn(round); round++) {
      for (let i = 0; i < contestants.length; i++) {
        // Turned by one in each round: nobody is always the first.
        const at = (i + round) % contestants.length;
        const contestant = contestants[at]!;
        if (out.has(contestant)) continue;
        try {
          await score.play(at, contestant.placement, () => takeTurn(contestant, match));
        } catch (error) {
          fail(`${contestant.testbed.name}, out from round ${round + 1} on: ${errorText(error)}`);
          out.add(contestant);
        }
      }
    }
    notes.push(...score.tallies());
    const series: Series[] = [];
    for (const [at, contestant] of contestants.entries()) {
      const name = names[at]!;
      const one = seriesOf(name, score, at);
      series.push(one);
      for (const sample of score.of(at)) match.kept?.(name, sample);
      notes.push(...contestant.notes);
      if (out.has(contestant)) continue;
      notes.push(...dropNotes(contestant.testbed));
      const loss = await lossOf(contestant);
      if (loss) one.loss = loss;
    }
    const { scenario, variant, unit, higherIsBetter = true, baseline = 'ovs-dpdk' } = match;
    const result: Measurement = {
      ...{ scenario, variant, unit, higherIsBetter, baseline, notes, failures },
      series: series.filter(({ rounds }) => rounds.length > 0),
    };
    options.played?.(result);
    return result;
  } finally {
    for (const { testbed, generator } of contestants) await dismiss(testbed, generator);
  }
}

/** A peer that has its guests and has been prepared, and waits for its turn. */
async function enter(peer: Peer, match: Match, options: Options): Promise<Contestant> {
  const { switchCore, generatorCore } = options;
  const setup = { ...match.setup(peer), switchCore, generatorCore };
  const contestant = await enlist(peer, setup, options);
  try {
    await match.prepare?.(contestant);
    signal(contestant.testbed, 'SIGSTOP');
    return contestant;
  } catch (error) {
    await dismiss(contestant.testbed, contestant.generator);
    throw error;
  }
}

async function takeTurn(
  contestant: Contestant,
  { measure, higherIsBetter = true }: Match,
): Promise<Sample> {
  signal(contestant.testbed, 'SIGCONT');
  try {
    await sleep(30);
    let sample = await measure(contestant);
    // In a trial in which nothing arrives a thread had no core, or the switch was busy with what was before: short ones ask for
    // correctness alone, on busy machines; OVS-DPDK may still be emptying its table of connections.
    for (let i = 0; i < 5 && higherIsBetter && sample.value === 0; i++) {
      sample = await measure(contestant);
    }
    if (!Number.isFinite(sample.value)) throw new Error('nothing that could be measured');
    return sample;
  } finally {
    signal(contestant.testbed, 'SIGSTOP');
  }
}

function dropNotes(testbed: Testbed): string[] {
  signal(testbed, 'SIGCONT');
  try {
    const drops = Object.entries(testbed.drops?.() ?? {});
    if (drops.length === 0) return [];
    const text = drops.map(([name, n]) => `${name} ${n}`).join(', ');
    return [`${testbed.name}: drops in the switch's own counters: ${text}`];
  } catch (error) {
    return [`${testbed.name}: no counters: ${errorText(error)}`];
  }
}

/** What has not arrived, and the names that it has in the switch; undefined: the switch does not name every drop. */
async function lossOf({ testbed, generator }: Contestant): Promise<Series['loss']> {
  if (testbed.namedDrops?.() === undefined) return undefined;
  try {
    const packets = await generator.missing();
    return { packets, named: testbed.namedDrops()! };
  } catch {
    return undefined; // dropNotes has said why it cannot be asked.
  }
}

export function latencies({ histogram, latencyMaxMs }: TrialCounts): Record<string, number> {
  return {
    p50Us: percentileUs(histogram, 0.5),
    p99Us: percentileUs(histogram, 0.99),
    p999Us: percentileUs(histogram, 0.999),
    maxUs: latencyMaxMs * 1000,
  };
}

/** One trial with these streams: packets received a second, and what it cost. */
export async function trialOf(
  contestant: Contestant,
  streams: readonly Stream[],
  options: Pick<Options, 'durationMs' | 'realtime'>,
): Promise<Sample & { counts: TrialCounts }> {
  const { testbed, generator, threads } = contestant;
  generator.setStreams(streams);
  testbed.clearBusy?.();
  const tids = threads.map(({ tid }) => tid);
  const counts = await generator.trial({
    durationMs: options.durationMs,
    boost: options.realtime ? tids : [],
    watch: tids,
  });
  if (counts.received === 0 && counts.sent > 0) {
    contestant.notes.push(idleNote(testbed.name, threads, counts.watchedNs));
  }
  const busy = testbed.busy?.();
  const details: Record<string, number> = {
    lostPerMillion: (counts.lost / Math.max(counts.sent, 1)) * 1e6,
    reordered: counts.reordered,
    gapMs: counts.longestGapMs,
    threadNs: counts.watchedNs / Math.max(counts.received, 1),
    ...latencies(counts),
  };
  if (busy && busy.packets > 0) details.busyNs = busy.busyNs / busy.packets;
  return { value: (counts.received / counts.elapsedMs) * 1000, details, counts };
}

const ACQUAINT_MAX_MS = 20_000;

/** Traffic in both directions, at the speed of ordinary threads, until all addresses and flows are known. */
export async function acquaint(
  { generator, testbed, notes }: Contestant,
  streams: readonly Stream[],
  { log }: Pick<Options, 'log'>,
): Promise<void> {
  const back = streams.map((s) => ({ ...s, from: s.to, to: s.from, flows: 1, perSecond: 1000 }));
  generator.setStreams(back);
  await generator.trial({ durationMs: 100, drainMs: 20 });
  const flows = streams.reduce((sum, { flows = 1 }) => sum + flows, 0);
  // Each trial goes through all flows once and a bit.
  const durationMs = 100 + flows / 100;
  generator.setStreams(streams.map((s) => ({ ...s, perSecond: s.perSecond ?? 120_000 })));
  const until = Date.now() + ACQUAINT_MAX_MS;
  let known = 0;
  for (;;) {
    const { sent, received } = await generator.trial({ durationMs, warmUpMs: 0, drainMs: 50 });
    // A slow switch, or a busy machine, lets the generator send less than it would.
    known = received >= sent ? known + sent : 0;
    if (known > flows) return;
    if (Date.now() > until) {
      notes.push(`${testbed.name}: not all of ${flows} flows known after ${ACQUAINT_MAX_MS} ms`);
      log(notes.at(-1)!);
      return;
    }
  }
}
