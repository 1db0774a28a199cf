// Which rounds count. Waiting and playing again (placement.ts) do not help where the host of a virtual machine leaves its cores far from each
// other for longer. A ratio of a round in which one peer had them near and another far says where the cores were, not who is faster;
// so rounds that anybody has played with far cores are left out, and others played for them, as long as enough remain.

import { median } from './medians.ts';
import { noTally, type Placement, type Tally, tallyNotes, whileNear } from './placement.ts';
import { figure } from './tables.ts';
import type { Options } from './types.ts';

export interface Sample {
  value: number;
  details?: Record<string, number>;
  /** Ages of packets (generator.ts). */
  histogram?: Float64Array;
}

/** No further round begins: enough of them, and the time is over. Says so in the notes. */
export function outOfTime(played: number, options: Options, notes: string[]): boolean {
  const { rounds, deadlineMs = Number.POSITIVE_INFINITY } = options;
  if (played < Math.min(LEAST_ROUNDS, rounds) || played >= rounds) return false;
  if (Date.now() < deadlineMs) return false;
  notes.push(`${played} rounds instead of ${rounds}: the time was over`);
  return true;
}

/** So many have to be left, or all of them count, and the tables mark it. */
const LEAST_ROUNDS = 3;
/** For those that were played with far cores, at most so many more, as a share. */
const FURTHER = 0.5;

/** Of each detail the median of the rounds that have it. */
export function medianDetails(samples: readonly Sample[]): Record<string, number> {
  const names = new Set(samples.flatMap(({ details }) => Object.keys(details ?? {})));
  return Object.fromEntries(
    [...names].map((name) => [name, median(samples.flatMap((s) => s.details?.[name] ?? []))]),
  );
}

interface Player {
  name: string;
  tally: Tally;
  /** By round; a peer that fell out has none from then on. */
  samples: Sample[];
  far: boolean[];
  /** How far the cores were behind each round, as far as that was asked: what is near shows when they once are. */
  ns: (number | undefined)[];
}

export class Score {
  private readonly players: Player[];
  private readonly options: Options;
  private readonly notes: string[];
  private placement: Placement | undefined;

  /** `tallies`: of the peers, if others add to them too. */
  constructor(names: readonly string[], options: Options, notes: string[], tallies: Tally[] = []) {
    this.options = options;
    this.notes = notes;
    this.players = names.map((name, i) => ({
      name,
      tally: tallies[i] ?? noTally(),
      samples: [],
      far: [],
      ns: [],
    }));
  }

  /** Whether another round is to be played after so many. */
  goesOn(played: number): boolean {
    const { rounds, deadlineMs = Number.POSITIVE_INFINITY } = this.options;
    if (played < rounds) return !outOfTime(played, this.options, this.notes);
    if (Date.now() >= deadlineMs || played >= rounds + Math.floor(rounds * FURTHER)) return false;
    return this.near().length < rounds;
  }

  /** Has a peer play its next round. */
  async play(
    at: number,
    placement: Placement | undefined,
    turn: () => Promise<Sample>,
  ): Promise<void> {
    const { tally, samples, far, ns } = this.players[at]!;
    const before = tally.far;
    this.placement = placement;
    samples.push(await whileNear(placement, tally, turn));
    far.push(tally.far > before);
    ns.push(placement?.lastNs?.());
  }

  private isFar({ far, ns }: Player, round: number): boolean {
    const then = ns[round];
    return far[round] || (then !== undefined && this.placement?.isNear?.(then) === false);
  }

  /** Rounds in which nobody had far cores. */
  private near(): number[] {
    const rounds = Math.max(...this.players.map(({ samples }) => samples.length), 0);
    return [...Array(rounds).keys()].filter((n) =>
      this.players.every((player) => !this.isFar(player, n)),
    );
  }

  /** Rounds that count: undefined if all of them do. */
  private counted(): number[] | undefined {
    const near = this.near();
    return near.length >= LEAST_ROUNDS ? near : undefined;
  }

  /** A peer's rounds that count. */
  of(at: number): Sample[] {
    const { samples } = this.players[at]!;
    return this.counted()?.flatMap((n) => samples[n] ?? []) ?? samples;
  }

  /** All rounds of a peer, those too that do not count. */
  allOf(at: number): readonly Sample[] {
    return this.players[at]!.samples;
  }

  /** How many of those that count were played with far cores. */
  farOf(at: number): number {
    if (this.counted()) return 0;
    const player = this.players[at]!;
    return player.samples.filter((_, n) => this.isFar(player, n)).length;
  }

  /** For the notes of a measurement: what was played again, and what does not count. */
  tallies(): string[] {
    const counted = this.counted();
    const notes = this.players.flatMap(({ name, tally }, at) =>
      tallyNotes(name, { ...tally, far: this.farOf(at) }),
    );
    const apart = this.players.flatMap((player) => {
      const { name, samples } = player;
      const values = samples.filter((_, n) => this.isFar(player, n)).map(({ value }) => value);
      return values.length === 0 ? [] : `${name} in ${values.length}: ${figure(median(values))}`;
    });
    if (counted && apart.length > 0) {
      const all = Math.max(...this.players.map(({ samples }) => samples.length));
      notes.push(
        `${all - counted.length} of ${all} rounds do not count, cores were far from each other (${apart.join('; ')})`,
      );
    }
    return notes;
  }
}
