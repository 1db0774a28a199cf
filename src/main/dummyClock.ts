// time/stop and time/warp (--enable-dummy): a test stops the time of the daemon and lets it jump.
//
// All monotonic time of the main thread comes from performance.now() and from timers, so this file puts itself in their
// place, at the start and only with --enable-dummy; the workers' clocks follow by Engine.setClockSkew. Wall clock time
// (logs) goes on. While the time stands, timers sleep; a jump runs those that fall due, in their order.

export interface DummyClock {
  /** No time passes from now on, but in warps. */
  stop(): void;
  /** `totalMs` in steps of `stepMs`, one in a turn of the event loop; `betweenSteps` is waited for. */
  warp(totalMs: number, stepMs: number, betweenSteps: () => Promise<void>): Promise<void>;
  /** Told how far the daemon's time is ahead of the machine's, at every change. */
  onSkew: ((skewMs: number) => void) | undefined;
  /** Everything as it was before; sleeping timers are lost. */
  uninstall(): void;
}

interface Timer {
  atMs: number;
  sequence: number;
  intervalMs: number | undefined;
  run: () => void;
  real: NodeJS.Timeout | undefined;
  isRef: boolean;
}

/** Replaces the global timers and performance.now of this thread. */
export function installDummyClock(): DummyClock {
  const realNow = performance.now.bind(performance);
  const realSetTimeout = globalThis.setTimeout;
  const realSetInterval = globalThis.setInterval;
  const realClearTimeout = globalThis.clearTimeout;
  const realClearInterval = globalThis.clearInterval;
  const timers = new Map<object, Timer>();
  let skewMs = 0;
  let stoppedMs: number | undefined;
  let sequence = 0;

  const now = (): number => stoppedMs ?? realNow() + skewMs;

  const arm = (handle: object, timer: Timer): void => {
    const fire = (): void => {
      if (timers.get(handle) !== timer) return;
      expire(handle, timer);
      if (timers.has(handle)) arm(handle, timer);
    };
    timer.real = realSetTimeout(fire, Math.max(0, timer.atMs - now()));
    if (!timer.isRef) timer.real.unref();
  };

  const expire = (handle: object, timer: Timer): void => {
    if (timer.intervalMs === undefined) timers.delete(handle);
    else timer.atMs = Math.max(now(), timer.atMs + timer.intervalMs);
    timer.run();
  };

  const add = (run: () => void, delayMs: number, repeats: boolean): object => {
    const delay = Math.max(1, Number.isFinite(delayMs) ? delayMs : 1);
    const timer: Timer = {
      atMs: now() + delay,
      sequence: sequence++,
      intervalMs: repeats ? delay : undefined,
      run,
      real: undefined,
      isRef: true,
    };
    const setRef = (isRef: boolean): object => {
      timer.isRef = isRef;
      if (isRef) timer.real?.ref();
      else timer.real?.unref();
      return handle;
    };
    const handle = {
      ref: () => setRef(true),
      unref: () => setRef(false),
      hasRef: () => timer.isRef,
      refresh: () => {
        timer.atMs = now() + delay;
        realClearTimeout(timer.real);
        timers.set(handle, timer);
        if (stoppedMs === undefined) arm(handle, timer);
        return handle;
      },
      close: () => remove(handle),
      [Symbol.dispose]: () => remove(handle),
    };
    timers.set(handle, timer);
    if (stoppedMs === undefined) arm(handle, timer);
    return handle;
  };

  const remove = (handle: unknown): void => {
    if (handle === undefined || handle === null) return;
    const timer = timers.get(handle as object);
    if (timer === undefined) {
      realClearTimeout(handle as NodeJS.Timeout);
      return;
    }
    realClearTimeout(timer.real);
    timers.delete(handle as object);
  };

  const maker =
    (repeats: boolean) =>
    (callback: (...args: unknown[]) => void, delayMs = 1, ...args: unknown[]) =>
      add(() => callback(...args), delayMs, repeats);

  performance.now = now;
  Object.assign(globalThis, {
    setTimeout: maker(false),
    setInterval: maker(true),
    clearTimeout: remove,
    clearInterval: remove,
  });

  /** Runs what is due, earliest first; a timer that is set anew waits for the next step. */
  const runDue = (): void => {
    const due = [...timers]
      .filter(([, timer]) => timer.atMs <= now())
      .sort(([, a], [, b]) => a.atMs - b.atMs || a.sequence - b.sequence);
    for (const [handle, timer] of due) if (timers.get(handle) === timer) expire(handle, timer);
  };

  const clock: DummyClock = {
    onSkew: undefined,
    stop() {
      if (stoppedMs !== undefined) return;
      // Sums of such fractions and whole milliseconds are exact: no second is missed by rounding.
      stoppedMs = Math.round(now() * 1024) / 1024;
      for (const timer of timers.values()) {
        realClearTimeout(timer.real);
        timer.real = undefined;
      }
    },
    async warp(totalMs, stepMs, betweenSteps) {
      for (let left = totalMs; left > 0; left -= stepMs) {
        const step = Math.min(left, stepMs);
        if (stoppedMs !== undefined) stoppedMs += step;
        else skewMs += step;
        clock.onSkew?.(now() - realNow());
        runDue();
        await betweenSteps();
      }
    },
    uninstall() {
      for (const timer of timers.values()) realClearTimeout(timer.real);
      timers.clear();
      Reflect.deleteProperty(performance, 'now');
      Object.assign(globalThis, {
        setTimeout: realSetTimeout,
        setInterval: realSetInterval,
        clearTimeout: realClearTimeout,
        clearInterval: realClearInterval,
      });
    },
  };
  return clock;
}
