// Fairness between ports when more packets miss than the control plane can translate.
//
// Each port may have BUDGET upcalls handled as they come in one turn of the event loop; what exceeds that waits in a
// bounded queue per port, emptied round robin in later turns. A port that floods the switch with new flows
// fills its own queue only, and loses its own packets, under a name.

import { DROP_UPCALL_FULL } from '../../contract/drop.ts';
import type { Upcall } from '../engine/types.ts';

const BUDGET = 256;
/** With what comes at once, a full ring of a guest: after a restart every packet there misses. */
const QUEUE_MAX = 1024;
/** Of frames that wait. */
const QUEUE_MAX_BYTES = 16 << 20;
const SLICE_MS = 5;

export class UpcallQueue {
  readonly #handle: (upcall: Upcall) => void;
  readonly #budget: number;
  readonly #waiting = new Map<number, Upcall[]>();
  readonly #bytes = new Map<number, number>();
  readonly #spent = new Map<number, number>();
  /** Upcalls thrown away, by input port (DROP_UPCALL_FULL). */
  readonly dropped = new Map<number, number>();
  #scheduled = false;
  #closed = false;

  constructor(handle: (upcall: Upcall) => void, budget = BUDGET) {
    this.#handle = handle;
    this.#budget = budget;
  }

  static readonly dropReason = DROP_UPCALL_FULL;

  /** Takes an upcall whose buffers are valid during the call only. */
  push(upcall: Upcall): void {
    if (this.#closed) return;
    const port = upcall.inPort;
    const spent = this.#spent.get(port) ?? 0;
    const queue = this.#waiting.get(port);
    this.#schedule();
    // Nobody else waits or has come in this turn: there is no one to be fair to.
    const alone =
      this.#waiting.size === 0 &&
      (this.#spent.size === 0 || this.#spent.size === (spent > 0 ? 1 : 0));
    if ((spent < this.#budget || alone) && queue === undefined) {
      this.#spent.set(port, spent + 1);
      this.#handle(upcall);
      return;
    }
    const bytes = (this.#bytes.get(port) ?? 0) + upcall.data.length;
    if (queue !== undefined && (queue.length >= QUEUE_MAX || bytes > QUEUE_MAX_BYTES)) {
      this.dropped.set(port, (this.dropped.get(port) ?? 0) + 1);
      return;
    }
    const kept = {
      ...upcall,
      key: upcall.key.slice(),
      data: upcall.data.slice(),
      vnet: upcall.vnet.slice(),
    };
    this.#bytes.set(port, bytes);
    if (queue === undefined) this.#waiting.set(port, [kept]);
    else queue.push(kept);
  }

  /** Whether upcalls wait for their turn. */
  get busy(): boolean {
    return this.#waiting.size > 0;
  }

  close(): void {
    this.#closed = true;
    this.#waiting.clear();
    this.#bytes.clear();
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => this.#turn());
  }

  /** One turn: new budgets, then what waits, one of each port after the other, for a few milliseconds. */
  #turn(): void {
    this.#scheduled = false;
    this.#spent.clear();
    if (this.#waiting.size === 0) return;
    const end = performance.now() + SLICE_MS;
    const positions = new Map<number, number>();
    while (this.#waiting.size > 0 && performance.now() < end) {
      for (const [port, queue] of this.#waiting) {
        const at = positions.get(port) ?? 0;
        const upcall = queue[at]!;
        this.#bytes.set(port, this.#bytes.get(port)! - upcall.data.length);
        this.#handle(upcall);
        if (at + 1 < queue.length) {
          positions.set(port, at + 1);
        } else {
          this.#waiting.delete(port);
          this.#bytes.delete(port);
          positions.delete(port);
        }
      }
    }
    for (const [port, at] of positions) this.#waiting.get(port)?.splice(0, at);
    if (this.#waiting.size > 0) this.#schedule();
  }
}
