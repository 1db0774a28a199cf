// How often something may be said in the log whose text costs something to make: a token bucket that is asked first. (The log's own
// limits, src/observe/vlog.ts, drop texts that have been made.)

const MINUTE_MS = 60_000;

export class MessageBudget {
  readonly #perMinute: number;
  readonly #burst: number;
  readonly #nowMs: () => number;
  #tokens: number;
  #filledMs: number;

  constructor(perMinute: number, burst: number, nowMs: () => number) {
    this.#perMinute = perMinute;
    this.#burst = burst;
    this.#nowMs = nowMs;
    this.#tokens = burst;
    this.#filledMs = nowMs();
  }

  /** May it be said once more? */
  take(): boolean {
    const nowMs = this.#nowMs();
    const came = ((nowMs - this.#filledMs) / MINUTE_MS) * this.#perMinute;
    this.#tokens = Math.min(this.#burst, this.#tokens + Math.max(0, came));
    this.#filledMs = nowMs;
    if (this.#tokens < 1) return false;
    this.#tokens--;
    return true;
  }
}
