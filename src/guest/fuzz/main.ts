// The fuzzing guest as a process of its own: node main.ts SOCKET SEED SECONDS SECRET [server]
//
// Session after session: connects to a port of the switch, shakes hands (or not to the end), then bends rings and sends
// messages, and goes in one of several ways. Every second, and at the end, one line of JSON on stdout with what has been
// tried. As a server it is the switch that connects, to a port of type dpdkvhostuserclient; now and then nobody listens
// then, or nobody answers. SECRET (hexadecimal) is in all frames of the innocent guests: the fuzzer looks for it in its own memory.
// Exit status 3: the switch did not answer; 4: the secret was found.

import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { closeFd } from '../../sys/fd.ts';
import { memfdCreate, truncateFd } from '../../sys/memory.ts';
import { unixAccept, unixListen } from '../../sys/unix.ts';
import { Attacker } from '../attacker.ts';
import { guestFeatures } from '../guest.ts';
import { fuzzMessage } from './messages.ts';
import { Random } from './random.ts';
import { fuzzRing } from './rings.ts';

export interface FuzzReport {
  seed: number;
  sessions: number;
  handshakes: number;
  /** Mutations of rings, and messages. */
  rings: number;
  messages: number;
  truncations: number;
  refusedConnections: number;
}

const BYTES = 4 << 20;
const SESSION_MAX_MS = 30_000;
const HANG = 3;
const LEAK = 4;

const [path = '', seedText = '1', secondsText = '10', secretText = '', role = 'client'] =
  process.argv.slice(2);
let listener = role === 'server' ? unixListen(path) : -1;
const secret = Buffer.from(secretText, 'hex');
const random = new Random(Number(seedText));
const report: FuzzReport = {
  seed: Number(seedText),
  sessions: 0,
  handshakes: 0,
  rings: 0,
  messages: 0,
  truncations: 0,
  refusedConnections: 0,
};

function say(): void {
  process.stdout.write(`${JSON.stringify(report)}\n`);
}

function die(status: number, text: string): never {
  say();
  console.error(`fuzz: seed ${seedText}, session ${report.sessions}: ${text}`);
  process.exit(status);
}

function lookForSecret(attacker: Attacker): void {
  if (secret.length > 0 && Buffer.from(attacker.memory.buffer).includes(secret)) {
    die(LEAK, 'the frames of others are in our memory');
  }
}

function features(): bigint {
  const flip = (): boolean => random.once(2);
  return guestFeatures({
    packed: flip(),
    inOrder: flip(),
    mergeable: flip(),
    eventIdx: flip(),
    offloads: flip(),
  });
}

/** The switch's next connection. */
async function accepted(): Promise<number> {
  if (random.once(16)) {
    closeFd(listener);
    await sleep(random.below(300));
    listener = unixListen(path);
  }
  for (;;) {
    const socket = unixAccept(listener);
    if (socket >= 0) return socket;
    await sleep(2);
  }
}

async function connect(): Promise<Attacker> {
  const fd = memfdCreate('xvio-fuzz', BYTES, random.once(2));
  const pairs = random.pick([1, 1, 2]);
  const queueSize = random.pick([2, 8, 64, 256]);
  const options = { fd, bytes: BYTES, features: features(), pairs, queueSize };
  if (listener >= 0) {
    const socket = await accepted();
    // The switch waits for the first word.
    if (random.once(16)) await sleep(random.below(300));
    return new Attacker(path, { ...options, socket });
  }
  for (;;) {
    try {
      return new Attacker(path, options);
    } catch {
      // The port is busy with the session before.
      report.refusedConnections++;
      await sleep(2);
    }
  }
}

/** Rings and messages until the switch has had enough of us, or we of it. */
async function attack(attacker: Attacker): Promise<void> {
  const { frontend } = attacker;
  const rounds = 5 + random.below(200);
  const messageOdds = random.pick([2, 8, 40, 1000]);
  for (let round = 0; round < rounds && !frontend.closed; round++) {
    for (let i = random.below(40); i > 0; i--) {
      fuzzRing(attacker, random);
      report.rings++;
    }
    if (random.once(messageOdds)) {
      fuzzMessage(attacker, random);
      report.messages++;
    }
    await turn();
  }
}

async function session(): Promise<void> {
  report.sessions++;
  using attacker = await connect();
  try {
    if (random.once(8)) {
      // Without any manners.
      for (let i = random.below(20); i > 0; i--) {
        fuzzMessage(attacker, random);
        report.messages++;
        await turn();
      }
      return;
    }
    await attacker.handshake();
    report.handshakes++;
    await attack(attacker);
  } catch {
    // Refused or disconnected: what we deserve.
    await sleep(1);
  }
  lookForSecret(attacker);
  if (random.once(4)) {
    try {
      truncateFd(attacker.fd, random.pick([0, 4096, 0x100000]));
      report.truncations++;
      for (let ring = 0; ring < attacker.pairs * 2; ring++) attacker.kick(ring);
      await sleep(1);
    } catch {
      // sealed
    }
  }
}

const end = performance.now() + Number(secondsText) * 1000;
const ticker = setInterval(say, 1000);
while (performance.now() < end) {
  const watchdog = setTimeout(() => die(HANG, 'no answer from the switch'), SESSION_MAX_MS);
  await session();
  clearTimeout(watchdog);
}
clearInterval(ticker);
say();
