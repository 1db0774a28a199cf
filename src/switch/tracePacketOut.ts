// ofproto/trace-packet-out: what would happen to a packet that a controller sends with these actions.

import { F_IN_PORT, FLOW_SIZE } from '../../contract/key.ts';
import { parseActions } from '../wire/openflow/actionParse.ts';
import { TextError } from '../wire/openflow/fieldText.ts';
import { type Action, OFPP_MAX, OfError } from '../wire/openflow/types.ts';
import { checkActions } from './checkActions.ts';
import type { Datapath } from './datapath.ts';
import { be32 } from './flow.ts';
import { parseTraceArguments, TraceError, type TraceRequest } from './traceArguments.ts';

/** Numbers of ports end below; then come the reserved ones, with a gap. */
const PORTS_MAX = 0xff00;

/**
 * Arguments of ofproto/trace-packet-out: those of ofproto/trace with actions behind them, and "-consistent": actions have
 * to fit the flow, as OpenFlow 1.1 and later want it. Throws TraceError.
 */
export function parsePacketOutArguments(datapath: Datapath, argv: readonly string[]): TraceRequest {
  const words = argv.filter((word) => word !== '-consistent' && word !== '--consistent');
  let actions: Action[];
  try {
    actions = parseActions(words.at(-1) ?? '');
  } catch (error) {
    if (error instanceof TextError) throw new TraceError(error.message);
    throw error;
  }
  const request = parseTraceArguments(datapath, words.slice(0, -1));
  const { bridge, flow } = request;
  const inPort = be32(flow, F_IN_PORT);
  if (inPort >= PORTS_MAX && inPort < OFPP_MAX) throw new TraceError('invalid in_port');
  const match = { key: flow, mask: new Uint8Array(FLOW_SIZE).fill(0xff) };
  try {
    checkActions(actions, match, 0, words.length < argv.length ? 4 : undefined, bridge);
  } catch (error) {
    if (error instanceof OfError) throw new TraceError(`Bad actions: ${error.code}`);
    throw error;
  }
  return { ...request, actions };
}
