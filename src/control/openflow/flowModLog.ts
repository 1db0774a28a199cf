// Counts the flow-mods of a connection and logs them now and then in one line: ten seconds after the first, and then
// not again for a minute, however many there are.

const REPORT_AFTER_MS = 10_000;
const QUIET_MS = 60_000;

export class FlowModLog {
  readonly #log: (text: string) => void;
  readonly #nowMs: () => number;
  readonly #counts = { add: 0, delete: 0, modify: 0 };
  #firstMs = 0;
  #lastMs = 0;
  #reportMs = Number.POSITIVE_INFINITY;
  #backoffMs = Number.NEGATIVE_INFINITY;

  constructor(log: (text: string) => void, nowMs: () => number) {
    this.#log = log;
    this.#nowMs = nowMs;
  }

  note(kind: 'add' | 'delete' | 'modify'): void {
    this.#counts[kind]++;
    const now = this.#nowMs();
    if (this.#reportMs === Number.POSITIVE_INFINITY) {
      this.#firstMs = now;
      this.#reportMs = Math.max(now + REPORT_AFTER_MS, this.#backoffMs);
      this.#backoffMs = this.#reportMs + QUIET_MS;
    }
    this.#lastMs = now;
  }

  /** Logs if it is time. Called every few seconds. */
  run(): void {
    if (this.#nowMs() >= this.#reportMs) this.flush();
  }

  /** Logs what has not been logged yet. */
  flush(): void {
    const { add, delete: deletes, modify } = this.#counts;
    const total = add + deletes + modify;
    this.#reportMs = Number.POSITIVE_INFINITY;
    if (total === 0) return;
    const agoS = Math.floor((this.#nowMs() - this.#firstMs) / 1000);
    const intervalS = Math.floor((this.#lastMs - this.#firstMs) / 1000);
    let when = `${agoS} s ago`;
    if (intervalS === agoS) when = `in the last ${agoS} s`;
    else if (intervalS > 0) when = `in the ${intervalS} s starting ${agoS} s ago`;
    const parts: string[] = [];
    if (add > 0) parts.push(`${add} adds`);
    if (deletes > 0) parts.push(`${deletes} deletes`);
    if (modify > 0) parts.push(`${modify} modifications`);
    this.#log(`${total} flow_mods ${when} (${parts.join(', ')})`);
    this.#counts.add = 0;
    this.#counts.delete = 0;
    this.#counts.modify = 0;
  }
}
