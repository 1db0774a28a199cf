// Ratios as tables show them, with signs at those that need a word, and the notes below a table that say it.

import { medianRatio, roundsWithout } from './medians.ts';
import type { Measurement, Series } from './types.ts';

/**
 * 2.254 → "2.25"; a small one keeps two digits that say something: 0.00401 → "0.0040". `more`: further digits, where rounding would
 * hide what matters.
 */
export function ratioFigure(ratio: number, more = 0): string {
  if (!Number.isFinite(ratio)) return '-';
  return ratio !== 0 && ratio < 0.1 ? ratio.toPrecision(2 + more) : ratio.toFixed(2 + more);
}

/** One side was far in more than half of its rounds. */
const FAR = '°';
const FAR_NOTE = `${FAR} more than half of the rounds of xvio or of its peer were played with cores far from each other.`;

/** Rounds of the peer are missing in the ratio. */
const SILENT = '†';

/** Not a rate, but a share of one that was taken before the rounds. */
const EARLIER = '‡';
const EARLIER_TEXT =
  'the rate before was taken in another moment, ahead of the rounds and not in turns with the other peers: a share, above all one of more than 100 %, is also what the machine did between the two';
const isOfEarlier = ({ unit }: Measurement): boolean => unit.endsWith('of the rate before');

/** "4 of 9 rounds of b"; empty where every round has a ratio. */
export function silentText(mine: Series, base: Series): string {
  const { without, of } = roundsWithout(mine, base);
  return without === 0 ? '' : `${without} of ${of} rounds of ${base.peer}`;
}

/** What has to be known of a measurement's figures that stand alone, without a table in which they could be marked. */
export function ratioNotes(m: Measurement): string[] {
  const notes = isOfEarlier(m) ? [EARLIER_TEXT] : [];
  const base = m.series.find(({ peer }) => peer === m.baseline);
  const others = m.series.filter((s) => s !== base);
  const silent = base ? (others.map((s) => silentText(s, base)).find(Boolean) ?? '') : '';
  if (silent) notes.push(`ratios are without ${silent}, in which nothing arrived (0)`);
  return notes;
}

/** Marks what stands in one table, and remembers what has to be said of it below. */
export class Footnotes {
  #far = false;
  #earlier = false;
  readonly #silent: string[] = [];

  /** A row's name. */
  name(text: string, m: Measurement): string {
    if (!isOfEarlier(m)) return text;
    this.#earlier = true;
    return text + EARLIER;
  }

  /** Median of the ratios, bold where ours is the worse one; `name`: of the row, for the note. */
  ratio(name: string, m: Measurement, mine: Series, base: Series): string {
    const ratio = medianRatio(mine, base);
    const figure = ratioFigure(ratio);
    const behind = (m.higherIsBetter ? ratio < 1 : ratio > 1) && figure !== '1.00';
    let marks = '';
    if ([mine, base].some((s) => (s.far ?? 0) * 2 > s.rounds.length)) {
      this.#far = true;
      marks += FAR;
    }
    const silent = silentText(mine, base);
    if (silent) {
      this.#silent.push(`${name}: ${silent}`);
      marks += SILENT;
    }
    return (behind ? `**${figure}**` : figure) + marks;
  }

  /** What has to stand below the table; empty if nothing is marked. */
  below(): string {
    const notes: string[] = [];
    if (this.#far) notes.push(FAR_NOTE);
    if (this.#silent.length > 0) {
      const left = [...new Set(this.#silent)].join('; ');
      notes.push(
        `${SILENT} rounds in which nothing arrived at the peer (0) give no ratio; left out of it, though not of the peer's median: ${left}.`,
      );
    }
    if (this.#earlier) notes.push(`${EARLIER} ${EARLIER_TEXT}.`);
    return notes.map((note) => `\n\n${note}`).join('');
  }
}

/** How ratios are to be read, for every place that shows them. */
export const HOW_TO_READ =
  'A ratio is the median of the ratios of each round, so it need not be the quotient of the medians beside it;\n**bold**: xvio is behind (of times, CPU and memory less is better, so that is above 1).';
