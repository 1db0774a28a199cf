// What Wireshark's dissectors say of captured frames: which protocols they see, and what they complain about.

import { spawn } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Sandbox } from './sandbox.ts';

/** Dissectors believe checksums unless they are told not to. */
const CHECKSUMS = ['ip', 'udp', 'tcp'].flatMap((name) => ['-o', `${name}.check_checksum:TRUE`]);
/** MPLS does not say what is behind its labels. What begins with neither 4 nor 6, an ARP request, is taken for a pseudowire by guess. */
const GUESSED = /:pwethheuristic:/;
/** Not about the frame: what became of others, or that a packet is of interest. */
const HARMLESS = /No response seen|Echo \(ping\)|Connection (establish|finish|reset)/;

/** Captures what a device of a sandbox sends and receives, until it is stopped. */
export class Capture {
  readonly file: string;
  readonly #child: ReturnType<typeof spawn>;

  private constructor(file: string, child: ReturnType<typeof spawn>) {
    this.file = file;
    this.#child = child;
  }

  static async start(box: Sandbox, device: string): Promise<Capture> {
    const file = box.path('tshark.pcap');
    const words = ['tcpdump', '-i', device, '-U', '-B', '16384', '-w', file];
    const child = spawn('ip', ['netns', 'exec', box.namespace!, ...words], { stdio: 'ignore' });
    // The header of the file: it listens.
    await box.until(() => existsSync(file) && statSync(file).size >= 24, 20_000, 'tcpdump');
    return new Capture(file, child);
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null) return;
    const gone = new Promise((resolve) => this.#child.once('exit', resolve));
    await sleep(200); // what the kernel still holds
    this.#child.kill('SIGINT');
    await gone;
  }
}

export interface Decoded {
  /** Stacks of protocols, "eth:ethertype:ip:udp:vxlan:…", each with its number of frames. */
  readonly stacks: ReadonlyMap<string, number>;
  /** What dissectors complain about, with the frame's number. */
  readonly complaints: readonly string[];
}

/** Decodes the frames of a capture that meet a display filter. */
export function decode(box: Sandbox, file: string, filter: string): Decoded {
  const fields = ['frame.number', 'frame.protocols', '_ws.expert.message', '_ws.malformed'];
  const text = box.must(
    ...(['tshark', '-n', '-r', file, '-Y', filter, ...CHECKSUMS] as const),
    ...['-T', 'fields', '-E', 'separator=/t', '-E', 'occurrence=a', '-E', 'aggregator=|'],
    ...fields.flatMap((field) => ['-e', field]),
  );
  const stacks = new Map<string, number>();
  const complaints: string[] = [];
  for (const line of text.split('\n').filter(Boolean)) {
    const [number, stack = '', messages = '', malformed = ''] = line.split('\t');
    stacks.set(stack, (stacks.get(stack) ?? 0) + 1);
    const bad = messages.split('|').filter((message) => message !== '' && !HARMLESS.test(message));
    if (malformed !== '') bad.push('malformed');
    if (bad.length > 0 && !GUESSED.test(stack))
      complaints.push(`${number} ${stack}: ${bad.join(', ')}`);
  }
  return { stacks, complaints };
}
