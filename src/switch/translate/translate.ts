// Translation: OpenFlow tables applied to one flow, giving the megaflow that does the same to all packets like it.
//
//   flow ── table look-ups ── actions change the flow record ── outputs commit the difference as datapath actions
//
// Everything looked at is or-ed into the wildcards. test/property/translate.test.ts proves that to be sound: two
// packets that agree under the mask get the same program.

import {
  ACT_CLONE,
  ACT_DROP,
  ACT_END,
  ACT_METER,
  ACT_TRUNC,
  ACTIONS_MAX_WORDS,
} from '../../../contract/action.ts';
import {
  DROP_FLOW_EXPLICIT,
  DROP_STP,
  DROP_TUNNEL_CONGESTION,
  DROP_VLAN_FILTER,
} from '../../../contract/drop.ts';
import { F_ACTSET_OUTPUT, F_IN_PORT } from '../../../contract/key.ts';
import { OFPP_UNSET } from '../../wire/openflow/types.ts';
import { be32, putBe32 } from '../flow.ts';
import { processSpecial, SLOW_ACTION } from '../protocolPort.ts';
import { coverOptions } from '../tunnel/metadata.ts';
import { hasTunnel } from '../tunnel/record.ts';
import { runActions } from './actions.ts';
import { isHashed } from './bondOutput.ts';
import { thaw } from './conntrack.ts';
import { newScratch, newXlate, report } from './context.ts';
import { finish } from './freeze.ts';
import { deliverDhcp } from './inBand.ts';
import { isMirrorOutput, mirrorInput } from './mirror.ts';
import { coverNetflow, noteNetflow } from './netflow.ts';
import { mayReceive } from './output.ts';
import { finishSamples, isOnlySampled, sampleInput } from './sample.ts';
import { lookupRule, reportTable } from './tables.ts';
import { coverTunnel, receiveFromTunnel } from './tunnel.ts';
import type { XlateIn, XlateOut } from './types.ts';
import { finishWildcards, initWildcards } from './wildcards.ts';

/** Nothing follows a clone that ends the program: the packet itself will do. And so on inside of it. */
function unwrapLast(program: number[]): void {
  let at = 0;
  while (at < program.length) {
    const header = program[at]!;
    const end = at + (header >>> 16);
    if (end < program.length) {
      at = end;
    } else if ((header & 0xffff) === ACT_CLONE && program[at + 1] === 0) {
      program.pop();
      program.splice(at, 2);
    } else {
      return;
    }
  }
}

/** Translates a flow. Never throws for anything a packet or a flow table can cause. */
export function translate(input: XlateIn): XlateOut {
  const scratch = input.scratch ?? newScratch(input.flow);
  const { original } = scratch;
  original.set(input.flow);
  putBe32(input.flow, F_ACTSET_OUTPUT, OFPP_UNSET);
  const x = newXlate(input, scratch);
  initWildcards(x.wildcards, original);
  if (input.bridge.netflow !== undefined) coverNetflow(x.wildcards, original);
  coverTunnel(x.wildcards, original);
  const { frozen } = input;
  const port = input.bridge.ports.get(be32(input.flow, F_IN_PORT));
  x.trace = report(x, 'bridge', `bridge("${(input.traceBridge ?? input.bridge).name}")`);

  if (frozen !== undefined) thaw(x, frozen);
  const decapsulated = receiveFromTunnel(x, port);
  const actions =
    input.actions ?? (frozen && frozen.actions.length > 0 ? frozen.actions : undefined);
  if (actions === undefined) {
    const rule = lookupRule(x, be32(input.flow, F_IN_PORT), x.table, true, true);
    x.rule = rule;
    x.effects.rules.push(rule);
    reportTable(x, rule);
  }
  let sampled = 0;
  if (frozen === undefined && input.actions === undefined) {
    for (const meter of port?.policers?.input ?? []) x.program.push(ACT_METER | (2 << 16), meter);
  }
  // What comes out of a recirculation has been looked at before.
  if (frozen === undefined && processSpecial(x, port)) {
    mirrorInput(x);
  } else if (port !== undefined && isMirrorOutput(x, port.bundle)) {
    report(
      x,
      'error',
      `dropping packet received on port ${port.name}, which is reserved exclusively for mirroring`,
    );
    x.dropReason = DROP_VLAN_FILTER;
  } else {
    const start = x.program.length;
    if (frozen === undefined) sampleInput(x);
    sampled = x.program.length > start ? x.program.length : 0;
    if (decapsulated && (port === undefined || mayReceive(x, port))) {
      mirrorInput(x);
      if (x.rule !== undefined) x.cookie = x.rule.cookie;
      runActions(x, actions ?? x.rule!.actions);
      if (port?.tree?.forwards === false) {
        // A port that learns: actions have had their look at the packet.
        x.error = 'Forwarding disabled';
        x.dropReason = DROP_STP;
      } else {
        const isDone = x.freezing !== undefined || (frozen !== undefined && isHashed(frozen));
        if (input.bridge.hasInBand === true && !isDone) deliverDhcp(x);
        finish(x);
      }
    } else if (!decapsulated) {
      x.dropReason = DROP_TUNNEL_CONGESTION; // whatever the tables would have said
    }
  }

  if (hasTunnel(original)) coverOptions(x.wildcards, original, input.bridge.tlvs ?? []);
  finishWildcards(x.wildcards, x.wildcardWords, original);
  const program = x.error === undefined ? x.program : [];
  // A spanning tree stops packets, but not samples of them.
  if (x.error === 'Forwarding disabled') program.push(...x.program.slice(0, sampled));
  if (x.patchClone >= 0) unwrapLast(program);
  if (x.samples.length > 0) finishSamples(x, program);
  if (frozen === undefined && input.bridge.netflow !== undefined) noteNetflow(x);
  // A truncation that no output follows does nothing.
  while (program.length >= 2 && program[program.length - 2] === (ACT_TRUNC | (2 << 16))) {
    program.length -= 2;
  }
  // A packet that is only sampled is dropped all the same.
  const isDrop =
    program.length === 0
      ? x.dropReason !== DROP_FLOW_EXPLICIT
      : x.samples.length > 0 && isOnlySampled(program);
  if (isDrop) program.push(ACT_DROP | (2 << 16), x.dropReason);
  program.push(ACT_END | (1 << 16));
  return {
    program: scratch.results.program(program),
    wildcards: x.wildcards,
    effects: input.scratch === undefined ? x.effects : scratch.results.keep(),
    error: x.error,
    passing: x.passing,
    slow: x.slow !== 0 || program.length > ACTIONS_MAX_WORDS,
    slowReasons: x.slow | (program.length > ACTIONS_MAX_WORDS ? SLOW_ACTION : 0),
  };
}
