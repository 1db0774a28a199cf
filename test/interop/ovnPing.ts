// A machine that pings another fifty times a second: how long no answers came is how long the other was not to be had.

import type { OvnNet } from './ovnNet.ts';

const INTERVAL_S = 0.02;

export interface PingStream {
  /** Answers so far. */
  answered(): number;
  /** Longest time without an answer. */
  longestGapMs(): number;
  /** Answers that came more than once. */
  duplicates(): number;
  stop(): void;
}

export function startPing(net: OvnNet, from: string, to: string): PingStream {
  const child = net.start(from, 'ping', '-i', String(INTERVAL_S), to);
  let text = '';
  child.stdout?.on('data', (chunk) => {
    text += chunk;
  });
  const numbers = (): number[] =>
    [...text.matchAll(/icmp_seq=(\d+) ttl/g)].map((match) => Number(match[1]));
  return {
    answered: () => numbers().length,
    longestGapMs: () => {
      const seen = numbers();
      const gaps = seen.slice(1).map((number, i) => number - seen[i]! - 1);
      return Math.round(Math.max(0, ...gaps) * INTERVAL_S * 1000);
    },
    duplicates: () => text.match(/DUP!/g)?.length ?? 0,
    stop: () => child.kill('SIGKILL'),
  };
}
