// The action `sample` (ovs-actions(7)): a share of the packets goes to a set of collectors, as IPFIX records. What a
// sample's record says of the megaflow (is the packet forwarded?) is known only when the whole pipeline has run, so the
// program gets the numbers of its samples at the end.

import {
  ACT_CHECK_PKT_LEN,
  ACT_CLONE,
  ACT_METER,
  ACT_OUTPUT,
  ACT_SAMPLE,
  ACT_USERSPACE,
  UPCALL_SAMPLE,
} from '../../../contract/action.ts';
import { OFPM_SLOWPATH } from '../../wire/openflow/meter.ts';
import { type Action, OFPP_NONE } from '../../wire/openflow/types.ts';
import { newRecord } from '../flow.ts';
import { commit } from './commit.ts';
import { inPort, portOf, report, type Xlate } from './context.ts';
import { nest } from './nxActions.ts';

const ODPP_NONE = 0xffffffff;
const ALWAYS = 0xffffffff;
const NOTHING = newRecord();

export function sample(x: Xlate, action: Action & { type: 'sample' }): void {
  // Without exporters, samples go nowhere.
  if (x.bridge.exportsSamples !== true) return;
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
  x.samples.push({ probability, collectorSetId, obsDomainId, obsPointId, outputPort, direction });
  x.sampleBridges.push(x.bridge);
  const start = x.program.length;
  const meter = x.bridge.meters?.get(OFPM_SLOWPATH)?.number;
  if (meter !== undefined) x.program.push(ACT_METER | (2 << 16), meter);
  x.program.push(ACT_USERSPACE | (4 << 16), UPCALL_SAMPLE, x.samples.length, 0xffff);
  // The same share of 32 bits.
  const share = ((probability << 16) | probability) >>> 0;
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

/** The program is complete: its samples get the numbers under which their descriptions are found. */
export function finishSamples(x: Xlate, program: number[]): void {
  let forwarded = false;
  eachAction(program, (op) => {
    if (op === ACT_OUTPUT) forwarded = true;
  });
  eachAction(program, (op, at) => {
    if (op !== ACT_USERSPACE || program[at + 1] !== UPCALL_SAMPLE) return;
    const index = program[at + 2]! - 1;
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
      sample: { ...x.samples[index]!, forwarded },
    });
    // 0, if there are too many: an upcall that leads nowhere, and is counted there (DROP_CONTROLLER_RATE).
    program[at + 2] = id;
    if (id !== 0) x.effects.packetIns.push(id);
  });
}
