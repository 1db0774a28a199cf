// What xvio is meant to reach, and whether this run did: one line for each aim and each measurement that it is about.

import { median, medianRatio } from './rounds.ts';
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

/** Our figure is at least (at most) so many times the peer's, round by round. */
const times =
  (peer: string, limit: number, ours = 'xvio'): Aim['check'] =>
  (m) => {
    const [mine, theirs] = [of(m, ours), of(m, peer)];
    if (!mine || !theirs) return undefined;
    const ratio = medianRatio(mine, theirs);
    return {
      measured: `${ratio.toFixed(2)} x`,
      met: m.higherIsBetter ? ratio >= limit : ratio <= limit,
    };
  };

/** A figure of ours, the value itself or one of the details, below a limit. */
const below =
  (limit: number, unit: string, detail?: string): Aim['check'] =>
  (m) => {
    const mine = of(m, 'xvio');
    if (!mine) return undefined;
    const value = detail ? mine.details[detail] : median(mine.rounds);
    if (value === undefined) return undefined;
    return { measured: `${figure(value)} ${unit}`, met: value < limit };
  };

/** A detail of ours at or below that of the peer. */
const notAbove =
  (peer: string, detail: string, unit: string): Aim['check'] =>
  (m) => {
    const [mine, theirs] = [of(m, 'xvio')?.details[detail], of(m, peer)?.details[detail]];
    if (mine === undefined || theirs === undefined) return undefined;
    return {
      measured: `${figure(mine)} against ${figure(theirs)} ${unit}`,
      met: mine <= theirs,
    };
  };

const DPDK = 'ovs-dpdk';

const AIMS: readonly Aim[] = [
  ...['port', 'l2', 'rules', 'imix'].map((scenario) => ({
    scenario,
    aim: 'at least 2 x OVS-DPDK',
    check: times(DPDK, 2),
  })),
  {
    scenario: 'relay',
    aim: "relay at least testpmd's vhost",
    check: times('testpmd-vhost', 1, 'xvio-relay'),
  },
  {
    scenario: 'relay',
    aim: 'the switch at least 0.7 x its own relay',
    check: times('xvio-relay', 0.7),
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
    check: notAbove(DPDK, 'p99Us', 'µs'),
  },
  { scenario: 'pauses', aim: 'no pause above 1 ms', check: below(1000, 'µs') },
  { scenario: 'idle', variant: /32/, aim: 'under 1 % of a core', check: below(1, '%') },
  {
    scenario: 'idle',
    aim: 'first packet under 200 µs',
    check: below(200, 'µs', 'firstPacketUs'),
  },
  { scenario: 'upcall', aim: 'at least ovs-vswitchd (DPDK)', check: times(DPDK, 1) },
  { scenario: 'flowmod', aim: 'at least ovs-vswitchd (DPDK)', check: times(DPDK, 1) },
  {
    scenario: 'flowmod',
    aim: 'ECHO answered within 1 s',
    check: below(1000, 'ms', 'longestEchoMs'),
  },
  {
    scenario: 'explosion',
    aim: 'at least half of the legitimate traffic',
    check(m) {
      const mine = of(m, 'xvio');
      if (!mine) return undefined;
      const share = median(mine.rounds);
      return { measured: `${share.toFixed(0)} %`, met: share >= 50 };
    },
  },
];

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
  return verdicts;
}

export function aimsTable(measurements: readonly Measurement[]): string {
  const body = judge(measurements).map(({ scenario, variant, aim, measured, met }) => [
    `\`${scenario}\`, ${variant}`,
    aim,
    measured,
    met ? 'yes' : '**no**',
  ]);
  return markdownTable(['measured', 'aim', 'result', 'met'], body);
}
