// Runs lists of OpenFlow actions on the flow of a translation (ovs-actions(7)): one by one, until a list ends, the packet
// is dropped, or the rest has to wait. What goes on in tables is in tables.ts, what changes headers in headerActions.ts.

import { ACT_METER } from '../../../contract/action.ts';
import { F_ACTSET_OUTPUT, K_PRIORITY } from '../../../contract/key.ts';
import { type Action, OFPP_IN_PORT, OFPP_MAX, OFPP_UNSET } from '../../wire/openflow/types.ts';
import { be32, exact, putBe32 } from '../flow.ts';
import { NETFLOW_DROP } from '../netflow.ts';
import { SLOW_ACTION } from '../protocolPort.ts';
import { outputHashed } from './bondOutput.ts';
import { clearTracking, trackConnection } from './conntrack.ts';
import { inPort, report, type Xlate } from './context.ts';
import { decap, encap } from './encap.ts';
import { moveSubfield, readSubfield } from './fieldOps.ts';
import { awaitParse, keepForLater, pause } from './freeze.ts';
import { translateGroup } from './groupActions.ts';
import {
  decrementTtl,
  deleteField,
  popVlan,
  pushVlan,
  setField,
  setVlan,
  VLAN_PCP,
  VLAN_VID,
  writeMetadata,
} from './headerActions.ts';
import { learn } from './learn.ts';
import { decrementMplsTtl, popMpls, pushMpls, wantsParsed } from './mpls.ts';
import { decrementNshTtl } from './nsh.ts';
import {
  bundle,
  checkPktLarger,
  clone,
  finTimeout,
  multipath,
  stackPop,
  stackPush,
} from './nxActions.ts';
import {
  addNetflowOutput,
  output,
  outputToPort,
  outputTruncated,
  REASONS,
  sendToController,
} from './output.ts';
import { sample } from './sample.ts';
import { reportActionSet, resubmit, translateTable, writeActions } from './tables.ts';

function setPriority(x: Xlate, priority: number): void {
  exact(x.wildcards, K_PRIORITY, 4);
  putBe32(x.flow, K_PRIORITY, priority);
}

function popQueue(x: Xlate): void {
  const { originalPriority } = x;
  const changed = be32(x.flow, K_PRIORITY) !== originalPriority;
  setPriority(x, originalPriority);
  if (!changed) return;
  const text = originalPriority === 0 ? '0' : `0x${originalPriority.toString(16)}`;
  report(x, 'detail', `queue = ${text}`);
}

function enqueue(x: Xlate, action: Action & { type: 'enqueue' }): void {
  exact(x.wildcards, K_PRIORITY, 4);
  const port = action.port === OFPP_IN_PORT ? inPort(x) : action.port;
  if (port === inPort(x) && action.port !== OFPP_IN_PORT) return;
  const before = be32(x.flow, K_PRIORITY);
  putBe32(x.flow, K_PRIORITY, queuePriority(action.queue));
  const netflowBefore = x.netflowOutput;
  x.netflowOutput = NETFLOW_DROP;
  outputToPort(x, port);
  addNetflowOutput(x, netflowBefore);
  putBe32(x.flow, K_PRIORITY, before);
}

/** Queue number to packet priority, as in the userspace datapath: the number itself. */
function queuePriority(queue: number): number {
  return queue;
}

function meter(x: Xlate, id: number): void {
  const number = x.bridge.meters?.get(id)?.number;
  if (number !== undefined) x.program.push(ACT_METER | (2 << 16), number);
}

/** The actions that follow are those of another rule. */
function restoreRule(x: Xlate, table: number, cookie: bigint): void {
  x.table = table;
  x.cookie = cookie;
  if (x.trace === undefined) return;
  // Open vSwitch shows the cookie as it stands in memory: in network byte order.
  const bytes = new DataView(new ArrayBuffer(8));
  bytes.setBigUint64(0, cookie);
  const shown = bytes.getBigUint64(0, true);
  const text = shown === 0n ? '0' : `0x${shown.toString(16)}`;
  report(x, 'thaw', `restored state: table=${table}, cookie=${text}`);
}

/** Runs one action. True: the rest of the list is not run. */
function runAction(x: Xlate, action: Action): boolean {
  switch (action.type) {
    case 'output':
      output(x, action.port, action.maxLen, true);
      return false;
    case 'controller':
      if (action.pause === true) {
        pause(x, action);
        return false;
      }
      sendToController(
        x,
        action.maxLen,
        REASONS[action.reason] ?? 'action',
        action.controllerId,
        action.userdata,
        action.meterId,
      );
      return false;
    case 'output_reg': {
      const port = readSubfield(action.source, x.flow, x.wildcards, x.bridge.tlvs);
      if (port > 0xffffn) {
        report(x, 'warn', `output port ${port} is out of range`);
      } else {
        report(x, 'detail', `output port is ${port}`);
        const number = Number(port);
        // 16 bits: the reserved ports are those of OpenFlow 1.0.
        const wide = number >= (OFPP_MAX & 0xffff) ? (number + 0xffff0000) >>> 0 : number;
        output(x, wide, action.maxLen, false);
      }
      return false;
    }
    case 'output_trunc':
      outputTruncated(x, action.port, action.maxLen);
      return false;
    case 'enqueue':
      enqueue(x, action);
      return false;
    case 'set_queue':
      setPriority(x, queuePriority(action.queue));
      return false;
    case 'pop_queue':
      popQueue(x);
      return false;
    case 'set_field':
    case 'load':
      setField(x, action);
      return false;
    case 'delete_field':
      deleteField(x, action.field);
      return false;
    case 'move':
      moveSubfield(action.src, action.dst, x.flow, x.wildcards, x.bridge.tlvs);
      if (x.trace !== undefined) reportSubfield(x, action.dst);
      return false;
    case 'set_vlan_vid':
      setVlan(x, VLAN_VID, action.vid, action.pushIfNeeded);
      return false;
    case 'set_vlan_pcp':
      setVlan(x, VLAN_PCP, action.pcp << 13, action.pushIfNeeded);
      return false;
    case 'strip_vlan':
      popVlan(x);
      return false;
    case 'push_vlan':
      pushVlan(x, action.ethertype);
      return false;
    case 'dec_ttl':
      return decrementTtl(x, action.controllerIds);
    case 'push_mpls':
      pushMpls(x, action.ethertype);
      return false;
    case 'pop_mpls':
      popMpls(x, action.ethertype);
      return false;
    case 'encap':
      encap(x, action.packetType, action.properties);
      return false;
    case 'dec_mpls_ttl':
      return decrementMplsTtl(x);
    case 'dec_nsh_ttl':
      return decrementNshTtl(x);
    case 'resubmit':
      resubmit(x, action);
      return false;
    case 'ct':
      trackConnection(x, action);
      return false;
    case 'ct_clear':
      clearTracking(x);
      return false;
    case 'goto_table':
      translateTable(x, inPort(x), action.table, true, true);
      return false;
    case 'write_metadata':
      writeMetadata(x, action.metadata, action.mask);
      return false;
    case 'write_actions':
      writeActions(x, action.actions);
      reportActionSet(x, 'is');
      return false;
    case 'clear_actions':
      reportActionSet(x, 'was');
      x.actionSet = [];
      putBe32(x.flow, F_ACTSET_OUTPUT, OFPP_UNSET);
      return false;
    case 'exit':
      x.exit = true;
      return false;
    case 'debug_recirc':
      awaitParse(x);
      return false;
    case 'debug_slow':
      x.slow |= SLOW_ACTION;
      return false;
    case 'group':
      return translateGroup(x, action.group);
    case 'stack_push':
      stackPush(x, action);
      return false;
    case 'stack_pop':
      stackPop(x, action);
      return false;
    case 'multipath':
      multipath(x, action);
      return false;
    case 'bundle':
      bundle(x, action);
      return false;
    case 'learn':
      learn(x, action);
      return false;
    case 'fin_timeout':
      finTimeout(x, action);
      return false;
    case 'clone':
      clone(x, action.actions);
      return false;
    case 'conjunction':
      report(x, 'info', 'executing no-op conjunction action');
      return false;
    case 'meter':
      meter(x, action.meterId);
      return false;
    case 'sample':
      sample(x, action);
      return false;
    case 'bond_output':
      outputHashed(x, action.bundle);
      return false;
    case 'unroll_xlate':
      restoreRule(x, action.table, action.cookie);
      return false;
    default:
      return false; // note, and what checkActions refuses
  }
}

export function reportSubfield(
  x: Xlate,
  dst: { field: string; offset: number; bits: number },
): void {
  report(x, 'detail', x.in.text!.subfield(dst, x.flow));
}

/** Runs a list of actions and instructions. */
export function runActions(x: Xlate, actions: readonly Action[]): void {
  if (actions.length === 0) {
    report(x, 'action', 'drop');
    return;
  }
  for (let i = 0; i < actions.length; i++) {
    if (x.error !== undefined) break;
    if (x.exit) {
      if (x.freezing !== undefined) keepForLater(x, actions.slice(i));
      break;
    }
    const action = actions[i]!;
    if (x.trace !== undefined) report(x, 'action', x.in.text!.actions([action]));
    if (wantsParsed(x, action)) {
      awaitParse(x);
      keepForLater(x, actions.slice(i));
      return;
    }
    if (action.type === 'check_pkt_larger') {
      checkPktLarger(x, action, actions.slice(i + 1));
      return;
    }
    if (action.type === 'decap') {
      if (!decap(x, action.packetType)) continue;
      awaitParse(x);
      keepForLater(x, actions.slice(i + 1));
      return;
    }
    if (runAction(x, action)) return;
    // What waits for a hash is done again with it.
    if (x.freezing?.for === 'hash' && x.frozenActions.length === 0) {
      keepForLater(x, actions.slice(i));
      break;
    }
  }
}
