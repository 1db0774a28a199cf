// How long a run takes, and how many rounds fit into the time there is. The seconds were measured with the default options
// on a machine of two cores with nothing else to do; a slower one corrects itself, since the plan is made anew before each scenario.

import type { Options } from './types.ts';

interface Cost {
  /** Daemons, guests, warm-up: of all variants and peers together. */
  setupS: number;
  /** One round of all of them, with trials of 300 ms. */
  roundS: number;
  /** The scenario plays no more rounds than that. */
  most?: number;
}

const COSTS: Readonly<Record<string, Cost>> = {
  relay: { setupS: 8, roundS: 1.4 },
  testpmd: { setupS: 14, roundS: 1.4 },
  port: { setupS: 28, roundS: 4 },
  l2: { setupS: 28, roundS: 4 },
  rules: { setupS: 22, roundS: 2.7 },
  'acl-vxlan': { setupS: 45, roundS: 5.4 },
  firewall: { setupS: 115, roundS: 6 },
  imix: { setupS: 8, roundS: 1.4 },
  1500: { setupS: 6, roundS: 0.9 },
  9000: { setupS: 6, roundS: 0.9 },
  tcp: { setupS: 34, roundS: 11 },
  rfc2544: { setupS: 20, roundS: 30, most: 3 },
  cpu: { setupS: 25, roundS: 5.5 },
  latency: { setupS: 55, roundS: 5.5 },
  pauses: { setupS: 9, roundS: 2.4 },
  idle: { setupS: 20, roundS: 6.4, most: 5 },
  upcall: { setupS: 24, roundS: 4 },
  flowmod: { setupS: 11, roundS: 13, most: 5 },
  explosion: { setupS: 12, roundS: 1 },
  ports: { setupS: 40, roundS: 3.6 },
  workers: { setupS: 8, roundS: 1.8 },
  memory: { setupS: 110, roundS: 0 },
  stages: { setupS: 40, roundS: 9, most: 3 },
};
const UNKNOWN: Cost = { setupS: 10, roundS: 2 };

/** Rounds of a scenario are not fewer, as long as there is any time at all. */
const LEAST_ROUNDS = 3;

/** Waiting for near cores, and trials played again (placement.ts), make rounds longer where the host moves its cores. */
const RESTLESS = 1.2;

/** Of scenarios by name, with so many rounds each. */
export function estimateS(names: readonly string[], rounds: number, durationMs: number): number {
  const slower = (RESTLESS * (durationMs + 150)) / 450;
  return names.reduce((sum, name) => {
    const { setupS, roundS, most = rounds } = COSTS[name] ?? UNKNOWN;
    return sum + setupS + Math.min(rounds, most) * roundS * slower;
  }, 0);
}

/** Rounds for each of the scenarios still to come; 0 = the time is over. */
export function roundsWithin(
  secondsLeft: number,
  names: readonly string[],
  { rounds, durationMs }: Pick<Options, 'rounds' | 'durationMs'>,
): number {
  if (secondsLeft <= 0) return 0;
  let fit = rounds;
  while (fit > LEAST_ROUNDS && estimateS(names, fit, durationMs) > secondsLeft) fit--;
  return fit;
}

/** Those that will not begin in that time, by the estimates. */
export function leftOut(
  seconds: number,
  names: readonly string[],
  options: Pick<Options, 'rounds' | 'durationMs'>,
): string[] {
  let left = seconds;
  for (const [i, name] of names.entries()) {
    const rounds = roundsWithin(left, names.slice(i), options);
    if (rounds === 0) return names.slice(i);
    left -= estimateS([name], rounds, options.durationMs);
  }
  return [];
}

/** How long a scenario may take before it is ended by force: it hangs, or it takes the others' time. */
export function limitS(
  secondsLeft: number,
  [name, ...rest]: readonly [string, ...string[]],
  { rounds, durationMs }: Pick<Options, 'rounds' | 'durationMs'>,
): number {
  const own = estimateS([name], rounds, durationMs);
  const spare = secondsLeft - estimateS(rest, LEAST_ROUNDS, durationMs);
  return Math.min(PATIENCE * own + PATIENCE_S, Math.max(1.5 * own + 30, spare));
}

/** A scenario that takes so many times what was estimated, and this long on top, hangs. */
const PATIENCE = 3;
const PATIENCE_S = 150;
