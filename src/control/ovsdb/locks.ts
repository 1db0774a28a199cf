// Database locks (RFC 7047 §4.1.8): a queue of sessions for each name; the head owns the lock.

export interface LockClient {
  /** The session got or lost a lock without asking: notification "locked" or "stolen". */
  notifyLock(method: 'locked' | 'stolen', name: string): void;
}

export class Locks {
  readonly #queues = new Map<string, LockClient[]>();

  owns(client: LockClient, name: string): boolean {
    return this.#queues.get(name)?.[0] === client;
  }

  waits(client: LockClient, name: string): boolean {
    return this.#queues.get(name)?.includes(client) ?? false;
  }

  /**
   * Enters the queue, with `steal` at its head, which the owner is told. True if the client owns
   * the lock now.
   */
  request(client: LockClient, name: string, steal: boolean): boolean {
    const queue = this.#queues.get(name) ?? [];
    this.#queues.set(name, queue);
    if (!steal) {
      queue.push(client);
    } else {
      const victim = queue[0];
      queue.unshift(client);
      victim?.notifyLock('stolen', name);
    }
    return queue[0] === client;
  }

  /** Leaves the queue; a new owner is told. */
  release(client: LockClient, name: string): void {
    const queue = this.#queues.get(name);
    if (!queue) return;
    const owned = queue[0] === client;
    const rest = queue.filter((other) => other !== client);
    if (rest.length === 0) this.#queues.delete(name);
    else this.#queues.set(name, rest);
    if (owned) rest[0]?.notifyLock('locked', name);
  }

  releaseAll(client: LockClient): void {
    for (const name of [...this.#queues.keys()]) {
      if (this.waits(client, name)) this.release(client, name);
    }
  }
}
