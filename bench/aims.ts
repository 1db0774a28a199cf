// What xvio is meant to reach, and whether this run did: one line for each aim and each measurement that it is about.

import { median, medianRatio } from './medians.ts';
import { ratioFigure, silentText } from './ratios.ts';
import { figure, markdownTable } from './tables.ts';
import type { Measurement, Series } from './types.ts';

interface Aim {
  scenario: string;
  /** Only variants that match. */
  variant?: RegExp;
  aim: string;
  /** undefined: this measurement cannot say. */
  check(m: Measurement): { measured: string; met: boolean } | undefined;
}

const of = ({ series }: Measurement, peer: string): Series | undefined =>
  series.find((s) => s.peer === peer);

type Format = (value: number, more?: number) => string;

const SIZES: Readonly<Record<string, number>> = { k: 1e3, M: 1e6, G: 1e9 };

/** What a reader sees: "24.00 M" → 24000000. */
function printed(text: string): number {
  const [digits, size = ''] = text.split(' ');
  return Number(digits) * (SIZES[size] ?? 1);
}

/**
 * Whether an aim holds, and its figures as text: with as many digits as it takes for one that was missed not to look met (1.999 is not
 * "2.00 x … no"). `holds` is asked with the values themselves and as they look when printed.
 */
function judged(
  format: Format,
  holds: (seen: (value: number) => number) => boolean,
): { met: boolean; text: (value: number) => string } {
  const met = holds((value) => value);
  let more = 0;
  while (!met && more < 6 && holds((value) => printed(format(value, more)))) more++;
  return { met, text: (value) => format(value, more) };
}

/** Our figure is at least (at most) so many times the peer's, round by round. */
const times =
  (peer: string, limit: number, ours = 'xvio'): Aim['check'] =>
  (m) => {
    const [mine, theirs] = [of(m, ours), of(m, peer)];
    if (!mine || !theirs) return undefined;
    const ratio = medianRatio(mine, theirs);
    if (Number.isNaN(ratio)) return undefined;
    const { met, text } = judged(ratioFigure, (seen) =>
      m.higherIsBetter ? seen(ratio) >= limit : seen(ratio) <= limit,
    );
    const silent = silentText(mine, theirs);
    return { measured: `${text(ratio)} x${silent && `, without ${silent} (0)`}`, met };
  };

/** A wait as it was measured, with what is taken off it where it is judged. */
interface Raw {
  label: string;
  /** undefined: the value of each round. */
  detail?: string;
}

/** Median of the rounds and the worst of them, as far as a run has kept that. */
function typicalAndWorst({ rounds, details, greatest }: Series, detail?: string) {
  if (detail === undefined) return { typical: median(rounds), worst: Math.max(...rounds) };
  return { typical: details[detail], worst: greatest?.[detail] };
}

/**
 * A figure of ours, the value itself or one of the details, below a limit: that of the median round; the worst one is told beside it.
 * `raw`: what was measured before something was taken off, or a pause of nothing could be one of milliseconds that was explained away.
 */
const below =
  (limit: number, unit: string, detail?: string, raw: readonly Raw[] = []): Aim['check'] =>
  (m) => {
    const mine = of(m, 'xvio');
    if (!mine) return undefined;
    const { typical, worst } = typicalAndWorst(mine, detail);
    if (typical === undefined) return undefined;
    const { met, text } = judged(figure, (seen) => seen(typical) < limit);
    const both = (first: string, last: number | undefined): string => {
      const all = `${first} ${unit}`;
      if (mine.rounds.length < 2) return all;
      return `${all} in the median round${last === undefined ? '' : `, ${figure(last)} in the worst`}`;
    };
    const parts = [both(text(typical), worst)];
    for (const { label, detail: name } of raw) {
      const measured = typicalAndWorst(mine, name);
      if (measured.typical === undefined) continue;
      parts.push(`${label}: ${both(figure(measured.typical), measured.worst)}`);
    }
    return { measured: parts.join('; '), met };
  };

/** A detail of ours at or below that of the peer. */
const notAbove =
  (peer: string, detail: string, unit: string): Aim['check'] =>
  (m) => {
    const [mine, theirs] = [of(m, 'xvio')?.details[detail], of(m, peer)?.details[detail]];
    if (mine === undefined || theirs === undefined) return undefined;
    const { met, text } = judged(figure, (seen) => seen(mine) <= seen(theirs));
    return { measured: `${text(mine)} against ${text(theirs)} ${unit}`, met };
  };

/** The same for what is judged as tables mark it, by the ratios of the rounds. */
const notAboveByRounds =
  (peer: string, unit: string): Aim['check'] =>
  (m) => {
    const [mine, theirs] = [of(m, 'xvio'), of(m, peer)];
    const judgement = times(peer, 1)(m);
    if (!mine || !theirs || !judgement) return undefined;
    const medians = `${figure(median(mine.rounds))} against ${figure(median(theirs.rounds))} ${unit}`;
    return { measured: `${medians}, ${judgement.measured}`, met: judgement.met };
  };

/** A figure of ours, whatever the others reach. */
const atLeast =
  (limit: number, unit: string): Aim['check'] =>
  (m) => {
    const mine = of(m, 'xvio');
    if (!mine) return undefined;
    const value = median(mine.rounds);
    const { met, text } = judged(figure, (seen) => seen(value) >= limit);
    return { measured: `${text(value)} ${unit}`, met };
  };

/** What further ones cost, over what the first ones cost. */
const GROWTH = 1.25;

/** Waits as they were, before the time is taken off for which the generator itself stood still. */
const WITH_OWN = "with the generator's own";

const DPDK = 'ovs-dpdk';
const SATURATED = ['port', 'l2', 'rules', 'imix'];

const AIMS: readonly Aim[] = [
  ...SATURATED.flatMap((scenario) => [
    { scenario, aim: 'at least 2 x OVS-DPDK', check: times(DPDK, 2) },
    { scenario, aim: 'aiming at 3 x', check: times(DPDK, 3) },
    { scenario, aim: 'at least 0.7 x its own relay', check: times('xvio-relay', 0.7) },
  ]),
  { scenario: 'port', aim: 'aiming at 24 Mpps on one core', check: atLeast(24e6, 'packets/s') },
  ...['acl-vxlan', 'firewall', '1500', '9000', 'rfc2544', 'ports'].map((scenario) => ({
    scenario,
    aim: 'ahead of OVS-DPDK',
    check: times(DPDK, 1),
  })),
  // At equal rates a worker that polls and a PMD thread that does take the same time, a core.
  { scenario: 'workers', variant: /saturated/, aim: 'ahead of OVS-DPDK', check: times(DPDK, 1) },
  {
    scenario: 'relay',
    aim: "relay at least testpmd's vhost",
    check: times('testpmd-vhost', 1, 'xvio-relay'),
  },
  { scenario: 'testpmd', variant: /loop, 64 B$/, aim: 'at least 1.2 x', check: times(DPDK, 1.2) },
  {
    scenario: 'testpmd',
    variant: /time of a packet/,
    aim: 'at most half the time a packet',
    check: times(DPDK, 0.5),
  },
  {
    scenario: 'tcp',
    variant: /ports/,
    aim: 'at least OVS with userspace TSO',
    check: times('ovs-userspace-tso', 1),
  },
  { scenario: 'tcp', aim: 'at least the Linux bridge', check: times('linux-bridge', 1) },
  { scenario: 'tcp', variant: /guest/, aim: 'at least OVS-DPDK with TSO', check: times(DPDK, 1) },
  {
    scenario: 'latency',
    variant: /Mpps/,
    aim: 'p50 not above OVS-DPDK',
    check: notAbove(DPDK, 'p50Us', 'µs'),
  },
  {
    scenario: 'latency',
    variant: /Mpps/,
    aim: 'p99 not above OVS-DPDK',
    check: notAboveByRounds(DPDK, 'µs'),
  },
  {
    scenario: 'pauses',
    aim: "no pause above 1 ms but for the generator's own",
    check: below(1000, 'µs', 'pauseUs', [{ label: WITH_OWN }]),
  },
  { scenario: 'idle', variant: /32/, aim: 'under 1 % of a core', check: below(1, '%') },
  {
    scenario: 'idle',
    aim: 'first packet under 200 µs',
    check: below(200, 'µs', 'firstPacketUs'),
  },
  { scenario: 'upcall', aim: 'at least ovs-vswitchd (DPDK)', check: times(DPDK, 1) },
  {
    scenario: 'upcall',
    aim: 'at least ovs-vswitchd (userspace, taps)',
    check: times('ovs-userspace-taps', 1),
  },
  {
    scenario: 'upcall',
    aim: 'known flows go on: no wait above 10 ms',
    check: below(10, 'ms', 'knownPauseMs', [{ label: WITH_OWN, detail: 'knownLongestMs' }]),
  },
  { scenario: 'flowmod', aim: 'at least ovs-vswitchd (DPDK)', check: times(DPDK, 1) },
  {
    scenario: 'flowmod',
    aim: 'at least ovs-vswitchd (userspace)',
    check: times('ovs-userspace', 1),
  },
  {
    scenario: 'flowmod',
    aim: 'known flows go on: no wait above 10 ms',
    check: below(10, 'ms', 'pauseMs', [
      { label: WITH_OWN, detail: 'longestRealtimeMs' },
      { label: 'without real time', detail: 'longestForwardingMs' },
    ]),
  },
  {
    scenario: 'flowmod',
    aim: 'ECHO answered within 1 s',
    check: below(1000, 'ms', 'longestEchoMs'),
  },
  {
    scenario: 'explosion',
    aim: 'at least half of the legitimate traffic',
    check: atLeast(50, '% of the rate before'),
  },
  {
    scenario: 'memory',
    variant: /each/,
    aim: `grows linearly: further ones cost at most ${GROWTH} x the first`,
    check(m) {
      const { first, further } = of(m, 'xvio')?.details ?? {};
      if (first === undefined || further === undefined) return undefined;
      const { met, text } = judged(figure, (seen) => seen(further) <= GROWTH * seen(first));
      return { measured: `${text(further)} bytes after ${text(first)}`, met };
    },
  },
];

/** Over all scenarios in which the switch says how many packets it has dropped. */
function lossVerdict(measurements: readonly Measurement[]): Verdict[] {
  const known = measurements.filter((m) => of(m, 'xvio')?.loss);
  if (known.length === 0) return [];
  const losses = known.map((m) => of(m, 'xvio')!.loss!);
  const sum = losses.reduce((total, { packets }) => total + packets, 0);
  const nameless = losses.reduce((total, l) => total + Math.max(l.packets - l.named, 0), 0);
  return [
    {
      scenario: 'all',
      variant: `${known.length} variants`,
      aim: 'no packet is lost without a name',
      measured: `${figure(sum)} lost, ${figure(nameless)} without a name`,
      met: nameless === 0,
    },
  ];
}

export interface Verdict {
  scenario: string;
  variant: string;
  aim: string;
  measured: string;
  met: boolean;
}

export function judge(measurements: readonly Measurement[]): Verdict[] {
  const verdicts: Verdict[] = [];
  for (const { scenario, variant, aim, check } of AIMS) {
    for (const m of measurements) {
      if (m.scenario !== scenario || !(variant?.test(m.variant) ?? true)) continue;
      const result = check(m);
      if (result) verdicts.push({ scenario, variant: m.variant, aim, ...result });
    }
  }
  return [...verdicts, ...lossVerdict(measurements)];
}

/** `which`: those that were met, or those that were missed; without it all of them. */
export function aimsTable(measurements: readonly Measurement[], which?: 'met' | 'missed'): string {
  const body = judge(measurements)
    .filter(({ met }) => which === undefined || met === (which === 'met'))
    .map(({ scenario, variant, aim, measured, met }) => [
      `\`${scenario}\`, ${variant}`,
      aim,
      measured,
      met ? 'yes' : '**no**',
    ]);
  return markdownTable(['measured', 'aim', 'result', 'met'], body);
}
