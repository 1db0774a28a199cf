// Rate limit for packet-ins of one controller (Controller.controller_rate_limit and _burst_limit): a token bucket
// before a bounded set of queues, one for each input port and served in turn, so that a port that floods the
// controller does not silence the others.

/** Most packets that leave in one go. */
const BATCH = 50;

export interface PinschedStats {
  /** Waiting now. */
  queued: number;
  /** Never waited. */
  normal: number;
  /** Had to wait. */
  limited: number;
  dropped: number;
}

export class Pinsched<T> {
  readonly #send: (item: T) => void;
  readonly #nowMs: () => number;
  readonly #queues = new Map<number, T[]>();
  readonly stats: PinschedStats = { queued: 0, normal: 0, limited: 0, dropped: 0 };
  /** Packets a second, most that may leave at once. */
  #rate = 0;
  #burst = 0;
  #tokens = 0;
  #lastFillMs: number;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    limits: { rate: number; burst: number },
    send: (item: T) => void,
    nowMs: () => number = () => performance.now(),
  ) {
    this.#send = send;
    this.#nowMs = nowMs;
    this.#lastFillMs = nowMs();
    this.setLimits(limits);
    this.#tokens = this.#burst;
  }

  /** burst 0 = a quarter of the rate. */
  setLimits(limits: { rate: number; burst: number }): void {
    this.#rate = limits.rate > 0 ? limits.rate : 1000;
    this.#burst = Math.max(1, limits.burst > 0 ? limits.burst : Math.floor(this.#rate / 4));
    this.#tokens = Math.min(this.#tokens, this.#burst);
    while (this.stats.queued > this.#burst) this.#drop();
  }

  /** Sends now, or keeps the item until there is a token; the longest queue loses when there is no room. */
  send(inPort: number, item: T): void {
    if (this.stats.queued === 0 && this.#takeToken()) {
      this.stats.normal++;
      this.#send(item);
      return;
    }
    if (this.stats.queued >= this.#burst) this.#drop();
    const queue = this.#queues.get(inPort);
    if (queue === undefined) this.#queues.set(inPort, [item]);
    else queue.push(item);
    this.stats.queued++;
    this.stats.limited++;
    this.#wait();
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#queues.clear();
    this.stats.queued = 0;
  }

  #run(): void {
    for (let i = 0; i < BATCH && this.stats.queued > 0 && this.#takeToken(); i++) {
      // Round robin: a queue that was served goes to the end of the map.
      const [port, queue] = this.#queues.entries().next().value as [number, T[]];
      this.#queues.delete(port);
      const item = queue.shift() as T;
      if (queue.length > 0) this.#queues.set(port, queue);
      this.stats.queued--;
      this.#send(item);
    }
    if (this.stats.queued > 0) this.#wait();
  }

  #wait(): void {
    if (this.#timer !== undefined) return;
    const delayMs = Math.max(1, ((1 - this.#tokens) * 1000) / this.#rate);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#run();
    }, delayMs);
    this.#timer.unref();
  }

  #takeToken(): boolean {
    const now = this.#nowMs();
    const gained = ((now - this.#lastFillMs) * this.#rate) / 1000;
    this.#tokens = Math.min(this.#burst, this.#tokens + gained);
    this.#lastFillMs = now;
    if (this.#tokens < 1) return false;
    this.#tokens--;
    return true;
  }

  #drop(): void {
    let longest: number | undefined;
    let length = 0;
    for (const [port, queue] of this.#queues) {
      if (queue.length > length) {
        longest = port;
        length = queue.length;
      }
    }
    if (longest === undefined) return;
    const queue = this.#queues.get(longest) as T[];
    queue.shift();
    if (queue.length === 0) this.#queues.delete(longest);
    this.stats.queued--;
    this.stats.dropped++;
  }
}
