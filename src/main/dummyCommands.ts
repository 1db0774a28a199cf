// unixctl commands of --enable-dummy: netdev-dummy/* (packets and states of dummy devices) and time/*.

import { type Command, CommandError } from '../control/appctl/server.ts';
import type { DummyDevice } from '../port/dummy.ts';
import { composeFrame, countingPayload } from '../switch/composeFrame.ts';
import { parseOdpFlow } from '../switch/odpParse.ts';
import { parsePrefix } from '../switch/underlay/address.ts';
import type { Dummies } from './dummies.ts';
import type { DummyClock } from './dummyClock.ts';

/** Header and least payload, without checksum. */
const ETH_TOTAL_MIN = 60;
const ETH_HEADER_LEN = 14;

export interface DummyCommandModules {
  dummies: Dummies;
  clock: DummyClock;
  /** Datapath port of a name. */
  portByName: (name: string) => number | undefined;
  /** Resolves when no packet is on its way. */
  settle: () => Promise<void>;
  /** What megaflows have counted goes to the flows, at the time that stands. */
  credit: () => void;
}

/** A frame from hexadecimal text, undefined if it is none. */
function frameFromHex(text: string): Uint8Array | undefined {
  const digits = text.replace(/\s+/g, '');
  if (!/^([0-9a-f]{2})+$/i.test(digits)) return undefined;
  const frame = Uint8Array.from(Buffer.from(digits, 'hex'));
  return frame.length >= ETH_HEADER_LEN ? frame : undefined;
}

/** A frame with the headers of a datapath flow: 64 bytes of payload, or `length` bytes in all. */
function frameFromFlow(
  text: string,
  length: number,
  portByName: DummyCommandModules['portByName'],
): Uint8Array {
  let flow: Uint8Array;
  try {
    flow = parseOdpFlow(text, portByName);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new CommandError(error.message);
  }
  if (length === 0) return composeFrame(flow, countingPayload(64));
  const headers = composeFrame(flow, new Uint8Array(0)).length;
  if (headers > length) throw new CommandError('');
  return composeFrame(flow, new Uint8Array(length - headers));
}

export function dummyCommands(modules: DummyCommandModules): Command[] {
  const { dummies, clock, portByName, settle, credit } = modules;
  let isWarping = false;
  const device = (name: string | undefined, error: string): DummyDevice => {
    const found = dummies.devices.get(name ?? '');
    if (found === undefined) throw new CommandError(error);
    return found;
  };
  const command = (
    name: string,
    usage: string,
    minArgs: number,
    maxArgs: number,
    run: Command['run'],
  ): Command => ({ name, usage, minArgs, maxArgs, run });
  const setAddress = ([name, text]: readonly string[], isIpv4: boolean): string => {
    const one = device(name, 'Unknown Dummy Interface');
    const prefix = parsePrefix(text!);
    if (prefix?.isIpv4 !== isIpv4) {
      throw new CommandError(`${text}: invalid ${isIpv4 ? 'IP' : 'IPv6'} address`);
    }
    const { address: bytes, prefixBits } = prefix;
    if (isIpv4) one.address = { bytes: bytes.slice(12), prefix: prefixBits - 96 };
    else one.address6 = { bytes, prefix: prefixBits };
    return 'OK';
  };
  return [
    command(
      'netdev-dummy/receive',
      'name [--qid queue_id] packet|flow [--len packet_len]',
      2,
      Number.MAX_SAFE_INTEGER,
      async (args) => {
        const words = [...args];
        const one = device(words.shift(), 'no such dummy netdev');
        if (words.length > 1 && words[0] === '--qid') {
          const queue = Number.parseInt(words[1]!, 10) || 0;
          if (queue < 0 || queue >= one.rxQueues) throw new CommandError('bad rx queue id.');
          words.splice(0, 2);
        }
        for (let i = 0; i < words.length; i++) {
          const text = words[i]!;
          let frame = frameFromHex(text);
          if (frame === undefined) {
            let length = 0;
            if (words[i + 1] === '--len' && words[i + 2] !== undefined) {
              length = Number.parseInt(words[i + 2]!, 10) || 0;
              if (length < ETH_TOTAL_MIN) throw new CommandError('too small packet len');
              i += 2;
            }
            frame = frameFromFlow(text, length, portByName);
          }
          one.receive(frame);
        }
        await settle();
        return '';
      },
    ),
    command('netdev-dummy/set-admin-state', '[netdev] up|down', 1, 2, (args) => {
      const state = args.at(-1)!.toLowerCase();
      if (state !== 'up' && state !== 'down') throw new CommandError('Invalid Admin State');
      const some =
        args.length > 1 ? [device(args[0], 'Unknown Dummy Interface')] : dummies.devices.values();
      for (const one of some) one.setAdminUp(state === 'up');
      return 'OK';
    }),
    command('netdev-dummy/conn-state', '[netdev]', 0, 1, ([name]) => {
      if (name !== undefined) {
        return `${name}: ${dummies.devices.get(name)?.connection ?? 'unknown'}\n`;
      }
      return [...dummies.devices.values()]
        .filter(({ connection }) => connection !== 'unknown')
        .map((one) => `${one.name}: ${one.connection}\n`)
        .join('');
    }),
    command('netdev-dummy/ip4addr', '[netdev] ipaddr/mask-prefix-len', 2, 2, (args) =>
      setAddress(args, true),
    ),
    command('netdev-dummy/ip6addr', '[netdev] ip6addr', 2, 2, (args) => setAddress(args, false)),
    command('time/stop', '', 0, 0, () => {
      clock.stop();
      return '';
    }),
    command('time/warp', '[large_msecs] msecs', 1, 2, async (args) => {
      const stepMs = Number.parseInt(args.at(-1)!, 10) || 0;
      const totalMs = args.length > 1 ? Number.parseInt(args[0]!, 10) || 0 : 0;
      if (stepMs <= 0 || totalMs < 0) throw new CommandError('invalid MSECS');
      if (isWarping) throw new CommandError('A previous warp in progress');
      isWarping = true;
      try {
        await settle();
        credit();
        await clock.warp(totalMs || stepMs, stepMs, settle);
      } finally {
        isWarping = false;
      }
      return 'warped';
    }),
  ];
}
