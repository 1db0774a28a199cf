// Samples: a share of the packets goes up to exporters, by the upcall ring. The action `sample` (ovs-actions(7)) and
// Bridge.ipfix make IPFIX records, Bridge.sflow makes sFlow. What a record says of the packet's way is known only when
// the whole pipeline has run, so the program gets the numbers of its samples at the end.

import {
  ACT_CHECK_PKT_LEN,
  ACT_CLONE,
  ACT_METER,
  ACT_OUTPUT,
  ACT_RECIRC,
  ACT_SAMPLE,
  ACT_TUNNEL_POP,
  ACT_USERSPACE,
  UPCALL_SAMPLE,
} from '../../../contract/action.ts';
import { K_VLAN0_TCI } from '../../../contract/key.ts';
import { OFPM_SLOWPATH } from '../../wire/openflow/meter.ts';
import { type Action, OFPP_NONE } from '../../wire/openflow/types.ts';
import { be16, newRecord } from '../flow.ts';
import { commit } from './commit.ts';
import { inPort, type PendingSample, portOf, report, type Xlate } from './context.ts';
import { egressOf } from './egress.ts';
import { nest } from './nxActions.ts';
import type { Sample, SflowSample } from './types.ts';

const ODPP_NONE = 0xffffffff;
const ALWAYS = 0xffffffff;
const NOTHING = newRecord();
/** Formats of an sFlow output: dropped for an unknown reason, and so many outputs. */
const SFLOW_DROPPED = 0x40000000 | 256;
const SFLOW_MULTIPLE = 0x80000000;

/** The action `sample`. */
export function sample(x: Xlate, action: Action & { type: 'sample' }): void {
  // Without exporters, samples go nowhere.
  if (x.bridge.sampling?.flows !== true) return;
  const { probability, collectorSetId, obsDomainId, obsPointId, samplingPort, direction } = action;
  let outputPort = ODPP_NONE;
  if (samplingPort !== OFPP_NONE && samplingPort !== inPort(x)) {
    const port = portOf(x, samplingPort);
    if (port === undefined || port.dpPort < 0) {
      const shown = samplingPort > 0xffff ? samplingPort & 0xffff : samplingPort;
      report(x, 'error', `can't use unknown port ${shown} in flow sample action`);
      return;
    }
    outputPort = port.dpPort;
  }
  commit(x);
  const pending = {
    ...{ probability, collectorSetId, obsDomainId, obsPointId, outputPort, direction },
    kind: 'flow',
  } as const;
  // The same share of 32 bits.
  push(x, pending, ((probability << 16) | probability) >>> 0, 0);
}

/** Bridge.sflow and Bridge.ipfix: a share of what comes in, before anything is done to it. */
export function sampleInput(x: Xlate): void {
  const { sampling } = x.bridge;
  if (sampling === undefined || inPort(x) === OFPP_NONE) return;
  const { sflow, ipfix } = sampling;
  if (sflow !== undefined) push(x, { kind: 'sflow' }, sflow.probability, sflow.headerBytes);
  if (ipfix?.input) push(x, { kind: 'bridge', outputPort: ODPP_NONE }, ipfix.probability, 0);
}

/** Bridge.ipfix: a share of what goes out; `at`: before these words of the program. */
export function sampleOutput(x: Xlate, outputPort: number, at: number): void {
  const rest = x.program.splice(at);
  push(x, { kind: 'bridge', outputPort }, x.bridge.sampling!.ipfix!.probability, 0);
  x.program.push(...rest);
}

/** `share`: of 2^32 - 1; `bytes` of each packet. */
function push(x: Xlate, pending: PendingSample, share: number, bytes: number): void {
  x.samples.push(pending);
  x.sampleBridges.push(x.bridge);
  const start = x.program.length;
  const meter = x.bridge.meters?.get(OFPM_SLOWPATH)?.number;
  if (meter !== undefined) x.program.push(ACT_METER | (2 << 16), meter);
  x.program.push(ACT_USERSPACE | (4 << 16), UPCALL_SAMPLE, x.samples.length, bytes);
  if (share !== ALWAYS || meter !== undefined) nest(x, start, ACT_SAMPLE, [share]);
}

/** Calls back for each action, also for those inside of others. */
function eachAction(program: readonly number[], visit: (op: number, at: number) => void): void {
  for (let at = 0; at < program.length; ) {
    const op = program[at]! & 0xffff;
    visit(op, at);
    if (op === ACT_CLONE || op === ACT_SAMPLE) at += 2;
    else if (op === ACT_CHECK_PKT_LEN) at += 3;
    else at += program[at]! >>> 16;
  }
}

/** Actions after which a packet is no drop; those of a choice by length count for themselves. */
const HANDS_ON: ReadonlySet<number> = new Set([
  ACT_OUTPUT,
  ACT_RECIRC,
  ACT_TUNNEL_POP,
  ACT_CHECK_PKT_LEN,
]);

/** Samples are all that the program makes of a packet, so that it is dropped. */
export function isOnlySampled(program: readonly number[]): boolean {
  let only = true;
  eachAction(program, (op, at) => {
    if (HANDS_ON.has(op)) only = false;
    else if (op === ACT_USERSPACE && program[at + 1] !== UPCALL_SAMPLE) only = false;
  });
  return only;
}

/** The program is complete: its samples get the numbers under which their descriptions are found. */
export function finishSamples(x: Xlate, program: number[]): void {
  let forwarded = false;
  eachAction(program, (op) => {
    if (op === ACT_OUTPUT) forwarded = true;
  });
  eachAction(program, (op, at) => {
    if (op !== ACT_USERSPACE || program[at + 1] !== UPCALL_SAMPLE) return;
    const index = program[at + 2]! - 1;
    const pending = x.samples[index]!;
    const id = x.in.packetIns.add({
      bridge: x.sampleBridges[index]!,
      reason: 'action',
      table: 0,
      cookie: 0n,
      controllerId: 0,
      maxLen: 0xffff,
      userdata: undefined,
      metadata: NOTHING,
      conntracked: false,
      sample: finished(x, program, pending, forwarded),
    });
    // 0, if there are too many: an upcall that leads nowhere, and is counted there (DROP_CONTROLLER_RATE).
    program[at + 2] = id;
    if (id !== 0) x.effects.packetIns.push(id);
  });
}

function finished(
  x: Xlate,
  program: readonly number[],
  pending: PendingSample,
  forwarded: boolean,
): Sample {
  return pending.kind === 'sflow' ? sflowSample(x, program) : { ...pending, forwarded };
}

function sflowSample(x: Xlate, program: readonly number[]): SflowSample {
  const { outputs, lastOutput } = x;
  const one = outputs === 1;
  // Of other bridges' ports sFlow knows nothing.
  const own = one && lastOutput !== undefined && portOf(x, lastOutput.ofport) === lastOutput;
  const ifindex = own ? Math.max(0, lastOutput.netdev.status().ifindex) : 0;
  const several = (SFLOW_MULTIPLE | outputs) >>> 0;
  const { tunnel, labels } = egressOf(program, x.received);
  return {
    kind: 'sflow',
    vlanTci: be16(x.base, K_VLAN0_TCI),
    output: outputs === 0 ? SFLOW_DROPPED : ifindex || several,
    tunnel: one ? tunnel : undefined,
    labels: one ? labels : [],
  };
}
