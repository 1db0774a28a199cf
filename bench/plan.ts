// How long a run takes, and how many rounds fit into the time there is. The seconds were measured with the default options
// on a machine of two cores with nothing else to do; a slower one corrects itself, since the plan is made anew before each scenario.

import type { Options } from './types.ts';

interface Cost {
  /** Daemons, guests, warm-up: of all variants and peers together. */
  setupS: number;
  /** One round of all of them, with trials of 300 ms. */
  roundS: number;
}

const COSTS: Readonly<Record<string, Cost>> = {
  relay: { setupS: 8, roundS: 1.4 },
  testpmd: { setupS: 12, roundS: 1.2 },
  port: { setupS: 25, roundS: 3 },
  l2: { setupS: 30, roundS: 4 },
  rules: { setupS: 20, roundS: 2 },
  'acl-vxlan': { setupS: 60, roundS: 6 },
  firewall: { setupS: 110, roundS: 6 },
  imix: { setupS: 7, roundS: 1 },
  1500: { setupS: 7, roundS: 1 },
  9000: { setupS: 7, roundS: 1 },
  tcp: { setupS: 25, roundS: 14 },
  latency: { setupS: 45, roundS: 10 },
  rfc2544: { setupS: 25, roundS: 16 },
  cpu: { setupS: 10, roundS: 4 },
  pauses: { setupS: 14, roundS: 3 },
  idle: { setupS: 25, roundS: 6 },
  upcall: { setupS: 9, roundS: 1.5 },
  flowmod: { setupS: 9, roundS: 9 },
  explosion: { setupS: 16, roundS: 1.2 },
  ports: { setupS: 45, roundS: 4 },
  workers: { setupS: 14, roundS: 2 },
  memory: { setupS: 35, roundS: 0 },
  stages: { setupS: 50, roundS: 0 },
};
const UNKNOWN: Cost = { setupS: 10, roundS: 2 };

/** Rounds of a scenario are not fewer, as long as there is any time at all. */
const LEAST_ROUNDS = 3;

const costOf = (name: string): Cost => COSTS[name] ?? UNKNOWN;

function roundSeconds(name: string, durationMs: number): number {
  return costOf(name).roundS * ((durationMs + 150) / 450);
}

/** Of scenarios by name, with so many rounds each. */
export function estimateS(names: readonly string[], rounds: number, durationMs: number): number {
  return names.reduce(
    (sum, name) => sum + costOf(name).setupS + rounds * roundSeconds(name, durationMs),
    0,
  );
}

/** Rounds for each of the scenarios still to come; 0 = the time is over. */
export function roundsWithin(
  secondsLeft: number,
  names: readonly string[],
  { rounds, durationMs }: Pick<Options, 'rounds' | 'durationMs'>,
): number {
  if (secondsLeft <= 0) return 0;
  const each = estimateS(names, 1, durationMs) - estimateS(names, 0, durationMs);
  const fit = Math.floor((secondsLeft - estimateS(names, 0, durationMs)) / Math.max(each, 0.001));
  return Math.min(rounds, Math.max(fit, LEAST_ROUNDS));
}
