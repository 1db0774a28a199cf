// Compiles the WebAssembly modules: `npm run build`, and by itself before `npm start` and `npm test`.
//
//   dataplane/index.ts         build/dataplane.wasm (release), build/dataplane.debug.wasm (assertions on)
//   src/guest/driver/index.ts  build/guest.wasm (the rings of our own guests), if present
//   src/guest/driver/saturate.ts  build/saturate.wasm (the same for benchmarks: offers more than a switch can take)
//
// A module newer than all its sources is left alone. Each output is written beside its place and renamed, so that
// a process that loads it at that moment gets the old module or the new one, never half of one. Release modules have no
// data segments: every worker instantiates them over one memory, and would overwrite it each time. (The debug module
// has the texts of its assertions, the same for every instance, below 64 KiB where nothing else lives.)

import {
  existsSync,
  globSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import asc from 'assemblyscript/asc';
import binaryen from 'binaryen';

const root = path.join(import.meta.dirname, '..');
const buildDir = path.join(root, 'build');

const sharedMemory = [
  '--runtime',
  'stub',
  '--importMemory',
  '--sharedMemory',
  '--initialMemory',
  '65536',
  '--maximumMemory',
  '65536',
  '--enable',
  'simd,threads,relaxed-simd',
];
const release = ['-O3', '--noAssert', '--converge'];
const debug = ['-O1', '--debug'];
// asc puts small functions into their callers only, which leaves a dozen calls for each packet. V8 would do more (with larger
// limits, --wasm-inlining-…), but where it has counted many calls, and while it counts most looks at rings find nothing.
const inlining = { flexibleBytes: 1000, oneCallerBytes: 5000 };
const { Features } = binaryen;
const features =
  Features.Atomics |
  Features.BulkMemory |
  Features.BulkMemoryOpt |
  Features.MutableGlobals |
  Features.NontrappingFPToInt |
  Features.RelaxedSIMD |
  Features.SignExt |
  Features.SIMD128;

interface Target {
  entry: string;
  output: string;
  options: string[];
}

const targets: readonly Target[] = [
  { entry: 'dataplane/index.ts', output: 'dataplane.wasm', options: release },
  { entry: 'dataplane/index.ts', output: 'dataplane.debug.wasm', options: debug },
  { entry: 'src/guest/driver/index.ts', output: 'guest.wasm', options: release },
  { entry: 'src/guest/driver/saturate.ts', output: 'saturate.wasm', options: release },
];

function newestSourceMs(entry: string): number {
  const sources = [
    ...globSync('contract/**/*.ts', { cwd: root }),
    ...globSync(`${path.dirname(entry)}/**/*.ts`, { cwd: root }),
    'scripts/build.ts',
  ];
  return Math.max(...sources.map((file) => statSync(path.join(root, file)).mtimeMs));
}

/** Puts functions into their callers, small or called from one place, loops in them or not. */
function inline(file: string): void {
  const module = binaryen.readBinaryWithFeatures(readFileSync(file), features);
  binaryen.setOptimizeLevel(3);
  binaryen.setShrinkLevel(0);
  binaryen.setFlexibleInlineMaxSize(inlining.flexibleBytes);
  binaryen.setOneCallerInlineMaxSize(inlining.oneCallerBytes);
  binaryen.setAllowInliningFunctionsWithLoops(true);
  module.optimize();
  writeFileSync(file, module.emitBinary());
  module.dispose();
}

/** Compiles one entry into `output` (absolute). Throws with the compiler's messages. */
export async function compile(entry: string, output: string, options = release): Promise<void> {
  const temporary = `${output}.${process.pid}`;
  mkdirSync(path.dirname(output), { recursive: true });
  const { error, stderr } = await asc.main(
    [entry, '--baseDir', root, '-o', path.relative(root, temporary), ...sharedMemory, ...options],
    {},
  );
  if (error) {
    rmSync(temporary, { force: true });
    throw new Error(`${entry}: ${stderr.toString() || error.message}`);
  }
  if (options === release) inline(temporary);
  if (options.includes('--noAssert')) refuseData(temporary);
  renameSync(temporary, output);
}

/** Looks for section 11 of the module (WebAssembly core specification, 5.5). */
function refuseData(file: string): void {
  const bytes = readFileSync(file);
  let at = 8;
  while (at < bytes.length) {
    const id = bytes[at++];
    let length = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++]!;
      length |= (byte & 0x7f) << shift;
      if (byte < 0x80) break;
    }
    if (id === 11 && length > 1) throw new Error(`${file}: has static data (strings, arrays?)`);
    at += length;
  }
}

/** Brings build/ up to date. Returns the names of the modules that were compiled. */
export async function build(force = false): Promise<string[]> {
  const made: string[] = [];
  for (const { entry, output, options } of targets) {
    if (!existsSync(path.join(root, entry))) continue;
    const file = path.join(buildDir, output);
    if (!force && existsSync(file) && statSync(file).mtimeMs > newestSourceMs(entry)) continue;
    await compile(entry, file, options);
    made.push(output);
  }
  return made;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const made = await build(process.argv.includes('--force'));
  if (made.length > 0) console.log(`built ${made.join(', ')}`);
}
