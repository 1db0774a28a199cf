// Scenarios of pure forwarding with the saturating generator: how many packets a second one core moves from one guest
// to another. The shared part; the scenarios are one file each.

import path from 'node:path';
import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { xvio, xvioOf, xvioRelay } from '../peers/xvio.ts';
import { acquaint, play, trialOf } from '../rounds.ts';
import type { Measurement, Options, Peer, Wiring } from '../types.ts';

export interface Variant {
  label: string;
  frameBytes?: number;
  flows?: number;
  spread?: 'port' | 'address';
  /** Sizes of IMIX in turn. */
  imix?: boolean;
  mtu?: number;
}

export interface Field {
  peers: readonly Peer[];
  baseline: string;
}

const WITH_DPDK: Field = { peers: [xvio, ovsDpdk], baseline: 'ovs-dpdk' };
/** And with what the same packets cost without services. */
export const WITH_RELAY: Field = { peers: [xvio, ovsDpdk, xvioRelay], baseline: 'ovs-dpdk' };

export const FLOW_VARIANTS: readonly Variant[] = [
  { label: '64 B, 1 flow', flows: 1 },
  { label: '64 B, 1 000 flows', flows: 1000 },
  { label: '64 B, 64 000 flows', flows: 64_000 },
];

export async function forwarding(
  scenario: string,
  wiring: Wiring,
  variants: readonly Variant[],
  options: Options,
  field: Field = WITH_DPDK,
): Promise<Measurement[]> {
  const measurements: Measurement[] = [];
  for (const { label, mtu, ...stream } of variants) {
    // A trial so short is one of correctness: no time for tens of thousands of flows.
    if (options.durationMs < 100 && (stream.flows ?? 1) > 1000) continue;
    const streams = [{ from: 0, to: 1, ...stream }];
    const measurement = await play(
      {
        scenario,
        variant: label,
        unit: 'packets/s',
        peers: [...field.peers, ...options.compare.map(xvioOf)],
        setup: (peer) => ({
          wiring: peer.wirings.includes(wiring) ? wiring : peer.wirings[0]!,
          ports: 2,
          ...(mtu ? { mtu } : {}),
        }),
        baseline:
          options.compare.length > 0
            ? `xvio:${path.basename(options.compare[0]!)}`
            : field.baseline,
        prepare: async (contestant) => {
          await acquaint(contestant, streams, options);
          // A round over all flows that was stopped half-way would count as slow, and lower the limit of flows.
          if (contestant.testbed.name !== 'testpmd-vhost')
            contestant.testbed.appctl?.('revalidator/pause');
        },
        measure: (contestant) => trialOf(contestant, streams, options),
      },
      options,
    );
    measurements.push(measurement);
  }
  return measurements;
}
