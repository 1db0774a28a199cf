// For files of the bench that a daemon loads into each of its threads (launcher.ts): the data plane of a worker, as somebody else wants
// it to be called.

import { isMainThread } from 'node:worker_threads';
import type { DataPlane } from '../src/engine/hostLoop.ts';

/** In a worker, if the environment variable names a file: what its module exports goes through `wrap`. */
export function wrapDataPlane(
  variable: string,
  wrap: (plane: DataPlane, file: string) => DataPlane,
): void {
  const file = process.env[variable];
  if (isMainThread || !file) return;
  const Instance = WebAssembly.Instance;
  WebAssembly.Instance = new Proxy(Instance, {
    construct(_, [module, imports]: [WebAssembly.Module, WebAssembly.Imports?]) {
      const instance = new Instance(module, imports);
      if (!('wakeUp' in instance.exports)) return instance;
      return { exports: wrap(instance.exports as unknown as DataPlane, file) };
    },
  });
}
