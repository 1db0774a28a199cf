// Event counters of the control plane: coverage/show and coverage/read-counter of ovs-appctl. Averages are over the
// last 5 seconds, the last minute and the last hour, sampled every 5 seconds.

const SLOT_MS = 5000;
const MINUTE_SLOTS = 12;
const HOUR_SLOTS = 60;

interface Counter {
  total: number;
  lastTotal: number;
  minute: number[];
  hour: number[];
}

export class Coverage {
  readonly #counters = new Map<string, Counter>();
  readonly #sources: (() => Iterable<[string, number]>)[] = [];
  #slot = 0;
  #minuteSum = 0;

  /** Declares a counter, so that it can be read before it was hit. */
  declare(...names: readonly string[]): void {
    for (const name of names) this.#get(name);
  }

  hit(name: string, n = 1): void {
    this.#get(name).total += n;
  }

  /** Counters kept elsewhere (drops in the data plane): read when somebody asks and at each sample. */
  addSource(source: () => Iterable<[string, number]>): void {
    this.#sources.push(source);
  }

  #get(name: string): Counter {
    let counter = this.#counters.get(name);
    if (!counter) {
      counter = {
        total: 0,
        lastTotal: 0,
        minute: new Array(MINUTE_SLOTS).fill(0),
        hour: new Array(HOUR_SLOTS).fill(0),
      };
      this.#counters.set(name, counter);
    }
    return counter;
  }

  #pull(): void {
    for (const source of this.#sources) {
      for (const [name, total] of source()) this.#get(name).total = total;
    }
  }

  /** To be called every 5 seconds. */
  sample(): void {
    this.#pull();
    const index = this.#slot % MINUTE_SLOTS;
    const minute = Math.floor(this.#minuteSum / MINUTE_SLOTS) % HOUR_SLOTS;
    const fresh = this.#minuteSum % MINUTE_SLOTS === 0;
    for (const counter of this.#counters.values()) {
      const grown = counter.total - counter.lastTotal;
      counter.lastTotal = counter.total;
      counter.minute[index] = grown;
      counter.hour[minute] = (fresh ? 0 : counter.hour[minute]!) + grown;
    }
    this.#slot++;
    this.#minuteSum++;
  }

  read(name: string): number | undefined {
    this.#pull();
    return this.#counters.get(name)?.total;
  }

  show(): string {
    this.#pull();
    const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
    const last = (this.#slot + MINUTE_SLOTS - 1) % MINUTE_SLOTS;
    const hit = [...this.#counters]
      .filter(([, c]) => c.total > 0)
      .sort(([a], [b]) => (a < b ? -1 : 1));
    const lines = hit.map(([name, c]) => {
      const rate5 = (c.minute[last]! / (SLOT_MS / 1000)).toFixed(1).padStart(5);
      const rate60 = (sum(c.minute) / 60).toFixed(3).padStart(9);
      const rate3600 = (sum(c.hour) / 3600).toFixed(4).padStart(13);
      return `${name.padEnd(24)} ${rate5}/sec ${rate60}/sec ${rate3600}/sec   total: ${c.total}\n`;
    });
    let hash = 0;
    for (const [name] of hit) for (const ch of name) hash = (hash * 31 + ch.charCodeAt(0)) >>> 0;
    return (
      'Event coverage, avg rate over last: 5 seconds, last minute, last hour,  ' +
      `hash=${hash.toString(16).padStart(8, '0')}:\n${lines.join('')}` +
      `${this.#counters.size - hit.length} events never hit\n`
    );
  }
}
