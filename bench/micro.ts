// Nanoseconds of the data plane's own code for a packet, in one thread: the module polls rings of two guests that this
// program plays, and only poll() is timed. No other core, so no cache line moves: what remains is code and the own caches.
// Rates say nothing here; what a change of the code costs or saves does, even on a busy machine:
//
//   node bench/micro.ts [--rounds N] [--burst N] [--only NAME,…] [OTHER/build/dataplane.wasm …]
//
// --burst 1: packets that come alone; --burst 0: polls that find nothing (nanoseconds a poll). Modules take turns in each round; printed are the least and the median of each case. All must have the same contract/.

import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import {
  ACT_CT,
  ACT_CT_WORDS,
  ACT_END,
  ACT_OUTPUT,
  ACT_RECIRC,
  CT_COMMIT,
} from '../contract/action.ts';
import { CS_EST, CS_NEW, CS_TRK } from '../contract/ct.ts';
import {
  K_CT_STATE,
  K_ETH_TYPE,
  K_IN_PORT,
  K_NW_FRAG,
  K_NW_PROTO,
  K_NW_SRC,
  K_RECIRC_ID,
  K_TP_SRC,
  KEY_SIZE,
} from '../contract/key.ts';
import {
  CONTROL_BASE,
  CTL_CACHE_INSERT_INV_PROB,
  CTL_PATIENCE_US,
  CTL_UPCALLS_ENABLED,
  CTL_VLAN_LIMIT,
  WINDOW_BASE,
  WK_CALL_COUNT,
  WK_FLUSH_COUNT,
  WK_RXQ,
  WK_RXQ_COUNT,
  WORKER_BASE,
} from '../contract/memory.ts';
import {
  PT_REGION_COUNT,
  PT_REGIONS,
  portAddress,
  Q_ENABLED,
  QUEUE_SPLIT,
  queueAddress,
} from '../contract/port.ts';
import {
  VFH_VERSION_1,
  VQ_AVAIL,
  VQ_CALL_FD,
  VQ_DESC,
  VQ_FEATURES_HIGH,
  VQ_HEADER,
  VQ_SIZE,
  VQ_USED,
} from '../contract/virtqueue.ts';
import {
  MAX_REGIONS_PER_PORT,
  RG_BASE,
  RG_BYTES,
  RG_GPA,
  regionAddress,
} from '../contract/window.ts';
import { ConntrackTable } from '../src/engine/conntrack.ts';
import { dataPlaneImports } from '../src/engine/dataPlane.ts';
import { FlowTable } from '../src/engine/flowTable.ts';
import { Grace } from '../src/engine/grace.ts';
import type { DataPlane } from '../src/engine/hostLoop.ts';
import { EngineMemory } from '../src/engine/memory.ts';
import { Ports } from '../src/engine/ports.ts';
import { frameTemplate } from '../src/guest/thread.ts';
import { commandLine, fail, wholeNumber } from './commandLine.ts';

const RING = 1024;
const BURST = 256;
const BUFFER = 2048;
const HEADER = 12;
const GUEST_BYTES = 16 << 20;
const AVAIL = 0x8000;
const USED = 0x10000;
const RING_BYTES = 0x20000;
const BUFFERS = 0x100000;

interface Queue {
  at: number;
  desc: number;
  buffers: number;
  index: number;
}

interface Case {
  name: string;
  flows: number;
  lengths: readonly number[];
  install(bench: Bench): void;
}

/** One module, its memory, two ports with a ring each way. */
class Bench {
  readonly memory = new EngineMemory();
  readonly dataPlane: DataPlane;
  readonly flows: FlowTable;
  readonly ports: Ports;
  readonly guests: { port: number; rx: Queue; tx: Queue }[] = [];
  lowNs = 0;
  #frames: Uint8Array = new Uint8Array(0);
  #next = 0;

  constructor(file: string) {
    const module = new WebAssembly.Module(new Uint8Array(readFileSync(file)));
    const imports = dataPlaneImports(this.memory.memory, () => 0);
    const instance = (): DataPlane =>
      new WebAssembly.Instance(module, imports).exports as unknown as DataPlane;
    this.dataPlane = instance();
    this.ports = new Ports(this.memory);
    const grace = new Grace(this.memory, () => [0]);
    this.flows = new FlowTable(this.memory, grace, (key, subtable) =>
      this.dataPlane.hashOf(key, subtable),
    );
    const control = (at: number, value: number): void =>
      this.memory.store(CONTROL_BASE + at, value);
    control(CTL_VLAN_LIMIT, 1);
    control(CTL_CACHE_INSERT_INV_PROB, 1);
    control(CTL_UPCALLS_ENABLED, 1);
    control(CTL_PATIENCE_US, 1e6);
    this.dataPlane.start(0, 1e9, 0);
    // For its timeouts.
    new ConntrackTable(this.memory, instance(), () => 1000 + this.lowNs / 1e6);
    for (let i = 0; i < 2; i++) this.#addGuest(i);
    this.memory.store(WORKER_BASE + WK_RXQ_COUNT, 2);
  }

  #addGuest(i: number): void {
    const { memory, ports } = this;
    const port = ports.add(undefined);
    ports.set(port, { offloads: 0, mtu: 65535 });
    const base = WINDOW_BASE + (i + 1) * GUEST_BYTES;
    const record = regionAddress(port * MAX_REGIONS_PER_PORT);
    const view = new DataView(memory.memory.buffer);
    view.setBigUint64(record + RG_GPA, 0n, true);
    view.setBigUint64(record + RG_BYTES, BigInt(GUEST_BYTES), true);
    memory.set(record + RG_BASE, base);
    memory.set(portAddress(port) + PT_REGIONS, port * MAX_REGIONS_PER_PORT);
    memory.set(portAddress(port) + PT_REGION_COUNT, 1);
    const ring = (direction: 'rx' | 'tx', n: number): Queue => {
      const spec = { index: 0, kind: QUEUE_SPLIT, waitFd: -1, direction } as const;
      const number = ports.addQueue(port, spec);
      const q = queueAddress(number);
      const desc = base + n * RING_BYTES;
      memory.set(q + VQ_SIZE, RING);
      memory.set(q + VQ_FEATURES_HIGH, VFH_VERSION_1);
      memory.set(q + VQ_HEADER, HEADER);
      memory.set(q + VQ_DESC, desc);
      memory.set(q + VQ_AVAIL, desc + AVAIL);
      memory.set(q + VQ_USED, desc + USED);
      memory.set(q + VQ_CALL_FD, 0xffffffff);
      memory.set(q + Q_ENABLED, 1);
      if (direction === 'rx') memory.set(WORKER_BASE + WK_RXQ + i * 4, number);
      else ports.setTxQueue(port, number, true);
      // No interrupts (2.7.7), and buffer n belongs to descriptor n.
      memory.u16[(desc + AVAIL) >> 1] = 1;
      const buffers = BUFFERS + n * RING * BUFFER;
      for (let slot = 0; slot < RING; slot++) {
        // Frames begin at a cache line.
        view.setBigUint64(desc + slot * 16, BigInt(buffers + slot * BUFFER + 64 - HEADER), true);
        memory.set(desc + slot * 16 + 8, 1536);
        memory.u16[(desc + slot * 16 + 12) >> 1] = direction === 'tx' ? 2 : 0;
        memory.u16[((desc + AVAIL) >> 1) + 2 + slot] = slot;
      }
      return { at: q, desc, buffers: base + buffers, index: 0 };
    };
    this.guests.push({ port, rx: ring('rx', 0), tx: ring('tx', 1) });
  }

  /** Frame `slot` of guest `from`: flow `flow`, `reply` in the other direction of that flow. */
  frame(from: number, slot: number, flow: number, bytes: number, reply = false): void {
    const { rx } = this.guests[from]!;
    const side = (n: number): string => `10.${n}.${n === 0 ? `${flow >> 8}.${flow & 255}` : '0.1'}`;
    const frame = frameTemplate(
      {
        send: true,
        sourceMac: `02:00:00:00:00:0${from}`,
        destinationMac: `02:00:00:00:00:0${1 - from}`,
        sourceIp: side(reply ? 1 : 0),
        destinationIp: side(reply ? 0 : 1),
      },
      bytes,
    );
    const view = new DataView(frame.buffer);
    const port = 1024 + ((flow * 40503) & 0x3fff);
    view.setUint16(34, reply ? 9 : port);
    view.setUint16(36, reply ? port : 9);
    const at = rx.buffers + slot * BUFFER + 64;
    this.memory.u8.fill(0, at - HEADER, at + bytes);
    this.memory.u8.set(frame, at);
    this.memory.set(rx.desc + slot * 16 + 8, HEADER + bytes);
  }

  #give(queue: Queue, n: number): void {
    queue.index = (queue.index + n) & 0xffff;
    Atomics.store(this.memory.u16, (queue.desc + AVAIL + 2) >> 1, queue.index);
  }

  /** Sends frames of 60 bytes of more flows than there are buffers: they are written anew before each turn. */
  rotate(flows: number): void {
    this.#frames = new Uint8Array(flows * 60);
    for (let flow = 0; flow < flows; flow++) {
      this.frame(0, 0, flow, 60);
      const at = this.guests[0]!.rx.buffers + 64;
      this.#frames.set(this.memory.u8.subarray(at, at + 60), flow * 60);
    }
    for (let slot = 0; slot < RING; slot++) this.frame(0, slot, slot, 60);
  }

  #renew(rx: Queue, n: number): void {
    for (let i = 0; i < n; i++) {
      const at = rx.buffers + ((rx.index + i) & (RING - 1)) * BUFFER + 64;
      this.memory.u8.set(this.#frames.subarray(this.#next, this.#next + 60), at);
      // In an order that no cache foresees.
      this.#next = (this.#next + 60 * 40503) % this.#frames.length;
    }
  }

  /** Offers `n` packets of a guest; returns the nanoseconds that one poll took. */
  turn(from: number, n: number): number {
    const { rx } = this.guests[from]!;
    const { tx } = this.guests[1 - from]!;
    if (from === 0 && this.#frames.length > 0) this.#renew(rx, n);
    this.#give(rx, n);
    const used = this.memory.u16[(tx.desc + USED + 2) >> 1]!;
    const room = (used + RING - tx.index) & 0xffff;
    if (room > 0) this.#give(tx, room);
    this.lowNs = (this.lowNs + 10_000) | 0;
    const before = process.hrtime.bigint();
    const got = this.dataPlane.poll(this.lowNs);
    const after = process.hrtime.bigint();
    if (got !== n) throw new Error(`${got} packets instead of ${n}`);
    this.memory.set(WORKER_BASE + WK_CALL_COUNT, 0);
    this.memory.set(WORKER_BASE + WK_FLUSH_COUNT, 0);
    return Number(after - before);
  }

  delivered(to: number): number {
    const { tx } = this.guests[to]!;
    return this.memory.u16[(tx.desc + USED + 2) >> 1]!;
  }

  /** A megaflow of a port; `fields`: [offset, bytes, mask]. */
  flow(
    from: number,
    recirc: number,
    fields: readonly [number, readonly number[], readonly number[]][],
    words: readonly number[],
  ): void {
    const key = new Uint8Array(KEY_SIZE);
    const mask = new Uint8Array(KEY_SIZE);
    const view = new DataView(key.buffer);
    view.setUint32(K_IN_PORT, this.guests[from]!.port);
    view.setUint32(K_RECIRC_ID, recirc);
    mask.fill(0xff, 0, 8);
    for (const [at, value, bits] of [[K_ETH_TYPE, [8, 0], [255, 255]] as const, ...fields]) {
      value.forEach((byte, i) => {
        key[at + i] = byte & bits[i]!;
        mask[at + i] = bits[i]!;
      });
    }
    this.flows.put(key, mask, Uint32Array.from([...words, ACT_END | (1 << 16)]));
  }

  output(to: number): number[] {
    return [ACT_OUTPUT | (2 << 16), this.guests[to]!.port];
  }
}

const ct = (flags: number): number[] => {
  const words = new Array<number>(ACT_CT_WORDS).fill(0);
  words[0] = ACT_CT | (ACT_CT_WORDS << 16);
  words[1] = flags;
  words[2] = 1;
  return words;
};

function installRules(bench: Bench, flows: number): void {
  for (let flow = 0; flow < flows; flow++) {
    const port = 1024 + ((flow * 40503) & 0x3fff);
    const wide = [0xfc, 0xff, 0xff, 0xff][flow & 3]!;
    const narrow = [0x00, 0x00, 0xc0, 0xff][flow & 3]!;
    bench.flow(
      0,
      0,
      [
        [K_NW_FRAG, [0], [0xff]],
        [K_NW_PROTO, [17], [0xff]],
        [K_NW_SRC, [10, 0, flow >> 8, flow & 255], [255, 255, 255, 255]],
        [K_TP_SRC, [port >> 8, port & 255, 0, 9], [wide, narrow, 255, 255]],
      ],
      bench.output(1),
    );
  }
}

/** Megaflows of 64 addresses each. */
function installPrefixes(bench: Bench, flows: number): void {
  for (let flow = 0; flow < flows; flow += 64) {
    bench.flow(
      0,
      0,
      [
        [K_NW_FRAG, [0], [0xff]],
        [K_NW_PROTO, [17], [0xff]],
        [K_NW_SRC, [10, 0, flow >> 8, flow & 255], [255, 255, 255, 0xc0]],
        [K_TP_SRC, [0, 0, 0, 9], [0, 0, 255, 255]],
      ],
      bench.output(1),
    );
  }
}

function installFirewall(bench: Bench, flows: number): void {
  const state = (bits: number): [number, number[], number[]] => [
    K_CT_STATE,
    [0, 0, 0, bits],
    [0, 0, 0, CS_EST | CS_NEW | CS_TRK],
  ];
  for (const from of [0, 1]) {
    const out = bench.output(1 - from);
    bench.flow(from, 0, [[K_NW_FRAG, [0], [0xff]]], [...ct(0), ACT_RECIRC | (2 << 16), 1]);
    bench.flow(from, 1, [state(CS_TRK | CS_EST)], out);
    bench.flow(from, 1, [state(CS_TRK | CS_NEW)], [...ct(CT_COMMIT), ...out]);
  }
  // Each connection is opened and answered.
  for (let flow = 0; flow < flows; flow++) {
    bench.frame(0, flow % RING, flow, 60);
    bench.frame(1, flow % RING, flow, 60, true);
    bench.turn(0, 1);
    bench.turn(1, 1);
  }
  // Position back to a whole ring.
  while (bench.guests[0]!.rx.index % RING !== 0) bench.turn(0, 1);
}

const port = (bench: Bench): void => bench.flow(0, 0, [], bench.output(1));

const CASES: readonly Case[] = [
  { name: 'port', flows: 1000, lengths: [60], install: port },
  {
    name: 'imix',
    flows: 1000,
    lengths: [60, 60, 60, 60, 60, 60, 60, 566, 566, 566, 566, 1514],
    install: port,
  },
  { name: '150', flows: 1000, lengths: [150], install: port },
  { name: '250', flows: 1000, lengths: [250], install: port },
  { name: '566', flows: 1000, lengths: [566], install: port },
  { name: '1514', flows: 1000, lengths: [1514], install: port },
  { name: 'rules', flows: 1000, lengths: [60], install: (bench) => installRules(bench, 1000) },
  {
    name: 'rules-64000',
    flows: 64000,
    lengths: [60],
    install: (bench) => installRules(bench, 64000),
  },
  {
    name: 'prefixes-64000',
    flows: 64000,
    lengths: [60],
    install: (bench) => installPrefixes(bench, 64000),
  },
  { name: 'firewall-1', flows: 1, lengths: [60], install: (bench) => installFirewall(bench, 1) },
  {
    name: 'firewall-1000',
    flows: 1000,
    lengths: [60],
    install: (bench) => installFirewall(bench, 1000),
  },
  {
    name: 'firewall-64000',
    flows: 64000,
    lengths: [60],
    install: (bench) => installFirewall(bench, 64000),
  },
];

function prepare(file: string, of: Case): Bench {
  const bench = new Bench(file);
  of.install(bench);
  if (of.flows > RING) bench.rotate(of.flows);
  else
    for (let slot = 0; slot < RING; slot++) {
      bench.frame(0, slot, slot % of.flows, of.lengths[slot % of.lengths.length]!);
    }
  return bench;
}

function round(bench: Bench, turns: number, burst: number): number {
  const before = bench.delivered(1);
  const times: number[] = [];
  for (let i = 0; i < turns; i++) times.push(bench.turn(0, burst) / Math.max(burst, 1));
  const arrived = (bench.delivered(1) - before) & 0xffff;
  if (arrived !== ((turns * burst) & 0xffff)) throw new Error(`${arrived} packets arrived`);
  times.sort((a, b) => a - b);
  return times[times.length >> 2]!; // a quarter of the turns were quicker: interrupts do not count
}

const HELP = `usage: node bench/micro.ts [OPTIONS] [OTHER/build/dataplane.wasm …]

  --rounds N       alternating rounds of each module (default 15)
  --turns N        polls a round (default 400)
  --burst N        packets a poll, 0 to ${BURST} (default ${BURST}); 0: polls that find nothing
  --only NAME,…    only these of: ${CASES.map(({ name }) => name).join(', ')}
`;

const { values, positionals } = commandLine(HELP, {
  options: {
    rounds: { type: 'string', default: '15' },
    turns: { type: 'string', default: '400' },
    burst: { type: 'string', default: String(BURST) },
    only: { type: 'string', default: '' },
  },
  allowPositionals: true,
});
const own = path.join(import.meta.dirname, '../build/dataplane.wasm');
const files = [own, ...positionals];
for (const file of files) if (!existsSync(file)) fail(`no module ${file}: npm run build`);
const rounds = wholeNumber('rounds', values.rounds, 1);
const turns = wholeNumber('turns', values.turns, 1);
const burst = wholeNumber('burst', values.burst, 0, BURST);
const names = CASES.map(({ name }) => name);
const only = values.only === '' ? names : values.only.split(',');
for (const name of only) if (!names.includes(name)) fail(`no case '${name}'\n${HELP}`);
for (const of of CASES.filter(({ name }) => only.includes(name))) {
  const benches = files.map((file) => prepare(file, of));
  const results: number[][] = files.map(() => []);
  for (let i = 0; i < rounds + 3; i++) {
    benches.forEach((_, n) => {
      const k = (n + i) % benches.length;
      const ns = round(benches[k]!, turns, burst);
      if (i >= 3) results[k]!.push(ns); // the first ones have V8 compile
    });
  }
  const text = results.map((ns) => {
    ns.sort((a, b) => a - b);
    return `${ns[0]!.toFixed(1).padStart(7)} (${ns[ns.length >> 1]!.toFixed(1)})`;
  });
  console.log(of.name.padEnd(16), text.join('  '));
}
process.exit(0);
