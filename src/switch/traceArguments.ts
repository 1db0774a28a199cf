// The command line of ofproto/trace: [dpname] odp_flow | bridge br_flow, options, packet (ovs-vswitchd(8)). Errors are
// texts of the real daemon, byte by byte.

import {
  F_IN_PORT,
  F_METADATA,
  FLOW_SIZE,
  K_CT_LABEL,
  K_CT_STATE,
  K_ETH_TYPE,
  K_IN_PORT,
  K_IPV6_SRC,
  K_MPLS_COUNT,
  K_MPLS_LSE,
  K_PKT_MARK,
  K_RECIRC_ID,
  K_VLAN1_TCI,
  K_VLAN1_TPID,
  VLAN_PRESENT,
} from '../../contract/key.ts';
import { TextError } from '../wire/openflow/fieldText.ts';
import { parseExactFlow } from '../wire/openflow/matchParse.ts';
import type { Action } from '../wire/openflow/types.ts';
import { composeFrame, countingPayload } from './composeFrame.ts';
import type { Datapath, DatapathBridge, LocatedFlow } from './datapath.ts';
import { be32, clearField, newRecord, putBe32 } from './flow.ts';
import { extractFlow } from './flowExtract.ts';
import { parseOdpFlow } from './odpParse.ts';
import { parseNextState } from './traceRecirc.ts';
import type { FrozenState } from './translate/types.ts';
import { hasTunnel } from './tunnel/record.ts';

/** A request that cannot be traced; the text is what ovs-appctl shows. */
export class TraceError extends Error {}

/** What to trace. */
export interface TraceRequest {
  bridge: DatapathBridge;
  /** FLOW_SIZE bytes. */
  flow: Uint8Array;
  packet: Uint8Array | undefined;
  /** --names: ports by name. */
  names: boolean;
  /** --ct-next: states that connection tracking gives, in turn. */
  ctStates: readonly number[];
  /** The flow comes out of a recirculation. */
  frozen?: FrozenState | undefined;
  /** A packet-out: these actions are run instead of a look-up. */
  actions?: readonly Action[];
}

/** A frame in hexadecimal; undefined when it is none. */
function parseHexFrame(text: string): Uint8Array | undefined {
  const digits = text.replace(/\s/g, '');
  if (digits.length < 28 || digits.length % 2 !== 0 || !/^[0-9a-f]+$/i.test(digits)) {
    return undefined;
  }
  return Uint8Array.from(digits.match(/../g)!, (pair) => Number.parseInt(pair, 16));
}

interface Options {
  generate: boolean;
  names: boolean;
  payload: Uint8Array;
  ctStates: number[];
  args: string[];
}

/** Splits options from arguments; throws TraceError. */
function parseOptions(argv: readonly string[]): Options {
  const options: Options = {
    generate: false,
    names: false,
    payload: countingPayload(64),
    ctStates: [],
    args: [],
  };
  const rest = [...argv];
  const value = (option: string): string => {
    const next = rest.shift();
    if (next === undefined) throw new TraceError(`Missing argument for option ${option}`);
    return next;
  };
  for (let arg = rest.shift(); arg !== undefined; arg = rest.shift()) {
    if (arg === '-generate' || arg === '--generate') {
      options.generate = true;
    } else if (arg === '--l7') {
      const bytes = value(arg).replace(/\s/g, '');
      if (!/^([0-9a-f]{2})*$/i.test(bytes)) throw new TraceError('Trailing garbage in packet data');
      options.payload = Uint8Array.from(bytes.match(/../g) ?? [], (p) => Number.parseInt(p, 16));
    } else if (arg === '--l7-len') {
      const length = value(arg);
      if (Number(length) > 64000) throw new TraceError(`${length}: too much L7 data`);
      options.payload = countingPayload(Number.parseInt(length, 10) || 0);
    } else if (arg === '-names' || arg === '--names') {
      options.names = true;
    } else if (arg === '--ct-next') {
      const state = parseNextState(value(arg));
      if (typeof state === 'string') throw new TraceError(state);
      options.ctStates.push(state);
    } else if (arg.startsWith('-')) {
      throw new TraceError(`${arg}: unknown option`);
    } else if (options.args.length >= 3) {
      throw new TraceError('too many arguments');
    } else {
      options.args.push(arg);
    }
  }
  return options;
}

/** Arguments of ofproto/trace: [dpname] odp_flow | bridge br_flow, options, packet. Throws TraceError. */
export function parseTraceArguments(datapath: Datapath, argv: readonly string[]): TraceRequest {
  const { generate, names, payload, ctStates, args } = parseOptions(argv);
  let packet: Uint8Array | undefined;
  if (!generate && args.length > 1) {
    packet = parseHexFrame(args.at(-1)!);
    if (packet !== undefined) args.pop();
    else if (args.length > 2) throw new TraceError('Trailing garbage in packet data');
  }
  if (args.length !== 1 && args.length !== 2) throw new TraceError('Syntax error');
  const text = args.at(-1)!;
  const located = parseFlow(datapath, args, text);
  const { bridge } = located;
  let { flow } = located;
  if (generate) {
    packet = composeFrame(flow, payload);
  } else if (packet !== undefined) {
    const metadata = flow;
    flow = newRecord();
    extractFlow(flow, packet, vlanLimitOf(bridge));
    for (const [offset, bytes] of [
      [K_IN_PORT, 8],
      [K_PKT_MARK, 8],
      [F_METADATA, FLOW_SIZE - F_METADATA],
    ] as const) {
      flow.set(metadata.subarray(offset, offset + bytes), offset);
    }
  }
  return { bridge, flow, packet, names, ctStates, frozen: located.frozen };
}

/** TYPE@ovs-TYPE, ovs-TYPE or TYPE. */
function isNameOf(datapath: Datapath, name: string): boolean {
  const [type, own] = datapath.name.split('@');
  return name === type || name === own || name === datapath.name;
}

function vlanLimitOf(bridge: DatapathBridge): number {
  return (bridge as { vlanLimit?: number }).vlanLimit ?? 1;
}

function parseFlow(datapath: Datapath, args: readonly string[], text: string): LocatedFlow {
  const portByName = (name: string): number | undefined => {
    for (const [number, { port }] of datapath.ports) if (port.name === name) return number;
    return undefined;
  };
  let key: Uint8Array;
  try {
    key = parseOdpFlow(text, portByName);
    putBe32(key, K_IN_PORT, datapath.tunnels.realNumber(be32(key, K_IN_PORT)));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    if (args.length !== 2) {
      throw new TraceError(`${error.message} (or the bridge name was omitted)`);
    }
    return parseBridgeFlow(datapath, args[0]!, text);
  }
  if (args.length === 2 && !isNameOf(datapath, args[0]!)) {
    throw new TraceError('Cannot find the datapath');
  }
  const located = datapath.flowOf(key);
  if (located === undefined) {
    const recirc = be32(key, K_RECIRC_ID);
    if (recirc !== 0 && datapath.recircs.get(recirc) === undefined) {
      throw new TraceError(`no recirculation data for recirc_id 0x${recirc.toString(16)}`);
    }
    throw new TraceError(
      hasTunnel(key)
        ? 'no OpenFlow tunnel port for this packet'
        : `no OpenFlow port for datapath port ${be32(key, K_IN_PORT)}`,
    );
  }
  if (vlanLimitOf(located.bridge) === 1) forgetInnerTag(located.flow);
  return located;
}

/** With other_config:vlan-limit=1 a second tag is what the first one carries, and nothing behind it is known. */
function forgetInnerTag(flow: Uint8Array): void {
  if ((flow[K_VLAN1_TCI]! & (VLAN_PRESENT >> 8)) === 0) return;
  flow.copyWithin(K_ETH_TYPE, K_VLAN1_TPID, K_VLAN1_TPID + 2);
  flow.fill(0, K_VLAN1_TCI, K_CT_STATE);
  flow.fill(0, K_IPV6_SRC, K_CT_LABEL);
  clearField(flow, K_MPLS_COUNT, 2);
  clearField(flow, K_MPLS_LSE, 12);
}

function parseBridgeFlow(datapath: Datapath, name: string, text: string): LocatedFlow {
  const bridge = datapath.bridges.get(name);
  if (bridge === undefined) throw new TraceError(`${name}: unknown bridge`);
  let flow: Uint8Array;
  try {
    flow = parseExactFlow(text, {
      byName: (port) => [...bridge.ports.values()].find((p) => p.name === port)?.ofport,
    });
  } catch (error) {
    if (!(error instanceof TextError)) throw error;
    throw new TraceError(`Bad openflow flow syntax: ${error.message}`);
  }
  const port = bridge.ports.get(be32(flow, F_IN_PORT));
  const dpPort = port !== undefined && port.dpPort >= 0 ? port.dpPort : datapath.controllerPort();
  putBe32(flow, K_IN_PORT, dpPort);
  const frozen = datapath.recircs.get(be32(flow, K_RECIRC_ID));
  return { bridge, flow, frozen };
}
