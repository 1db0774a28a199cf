// Loading the data plane's module (made by scripts/build.ts) and what it imports.

import { readFileSync } from 'node:fs';
import path from 'node:path';

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
