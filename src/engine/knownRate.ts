// Whether packets of known flows are so few that they may wait for a nap of their worker (HostLoop.letMainCatchUp()).

/** Apart by so much in the mean of a window. Rings of guests have room for ten times as many as come in a nap then. */
const GAP_NS = 10_000;
const WINDOW_NS = 5_000_000;

export class KnownRate {
  /** What the window began with. An array, for a number that is no small integer would be allocated with each change. */
  private readonly hitsBefore = new Float64Array(1);
  private sinceNs = 0;

  /** `hits`: packets that have met a megaflow since the worker began. `lowNs`: the low half of its clock. */
  areFew(hits: number, lowNs: number): boolean {
    const passedNs = (lowNs - this.sinceNs) >>> 0;
    const few = (hits - this.hitsBefore[0]!) * GAP_NS <= passedNs;
    if (passedNs > WINDOW_NS) {
      this.sinceNs = lowNs;
      this.hitsBefore[0] = hits;
    }
    return few;
  }
}
