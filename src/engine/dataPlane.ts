// Loading the data plane's module (made by scripts/build.ts) and what it imports.

import { readFileSync } from 'node:fs';
import path from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { isMainThread } from 'node:worker_threads';

// V8 puts functions of the module into their callers while it optimizes them, but not beyond these sizes, which are by default
// a fraction of what a burst runs through; a call costs as much as a few cache hits, and there were a dozen a packet.
// Flags of the whole process, so they are set once. They are read when a function is compiled.
if (isMainThread) {
  setFlagsFromString('--wasm-inlining-max-size=2000'); // bytes of a function, instead of 500
  setFlagsFromString('--wasm-inlining-budget=20000'); // nodes of a graph, instead of 5 000
  setFlagsFromString('--wasm-inlining-factor=10'); // times its size without, instead of 3
}

/** Maps a chunk of a port's guest memory: dataplane/host.ts. */
export type Fault = (port: number, chunk: number) => number;

/** Compiles the module. `debug`: with assertions. Throws if it has not been built. */
export function loadDataPlane(debug = false): WebAssembly.Module {
  const name = debug ? 'dataplane.debug.wasm' : 'dataplane.wasm';
  const file = path.join(import.meta.dirname, '..', '..', 'build', name);
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    bytes = new Uint8Array(readFileSync(file));
  } catch (error) {
    throw new Error(`${file}: not built (npm run build): ${(error as Error).message}`);
  }
  return new WebAssembly.Module(bytes);
}

export function dataPlaneImports(memory: WebAssembly.Memory, fault: Fault): WebAssembly.Imports {
  return {
    env: {
      memory,
      // Only the debug module has assertions; their texts are UTF-16 behind a 32-bit length in bytes.
      abort: (message: number, file: number, line: number, column: number): void => {
        const where = `${text(memory, file)}:${line}:${column}`;
        throw new WebAssembly.RuntimeError(
          `assertion failed: ${text(memory, message)} at ${where}`,
        );
      },
    },
    host: { fault },
  };
}

function text(memory: WebAssembly.Memory, address: number): string {
  if (address === 0) return '';
  const length = new Uint32Array(memory.buffer, address - 4, 1)[0]!;
  return Buffer.from(new Uint8Array(memory.buffer, address, length)).toString('utf16le');
}
