// ofproto/trace behind a recirculation: what connection tracking has made of the packet is assumed ("--ct-next", by
// default a new connection), and so is what NAT has (the first address and port of its range). Text as the real
// daemon's, byte by byte.

import {
  K_CT_STATE,
  K_IPV6_DST,
  K_IPV6_SRC,
  K_NW_DST,
  K_NW_SRC,
  K_TP_DST,
  K_TP_SRC,
} from '../../contract/key.ts';
import { be16, putBe16, putBe32 } from './flow.ts';
import { CT_STATE_NAMES, ctStateText } from './odpCt.ts';
import { ipv6Text } from './odpFields.ts';
import type { RecircTrace } from './translate/types.ts';

const CS_NEW = 0x01;
const CS_EST = 0x02;
const CS_RPL = 0x08;
const CS_INV = 0x10;
const CS_TRK = 0x20;
const NAT_SRC = 1;
const NAT_DST = 2;

/** Recirculations that one trace follows: a loop through connection tracking has no end. */
export const RECIRC_TRACES_MAX = 64;

const RULER = '='.repeat(79);

/** Argument of --ct-next, as a state; or the text of an error. */
export function parseNextState(text: string): number | string {
  let state = 0;
  for (const name of text.split(/[, ]+/).filter((part) => part !== '')) {
    const bit = CT_STATE_NAMES.indexOf(name);
    if (bit < 0) return `${name}: unknown connection tracking state flag`;
    state |= 1 << bit;
  }
  const names = ctStateText(state);
  const errors: string[] = [];
  const check = (bad: boolean, why: string): void => {
    if (bad) errors.push(`${names}: invalid connection state: ${why}\n`);
  };
  check(state !== 0 && (state & CS_TRK) === 0, 'If "trk" is unset, no other flags are set');
  check(
    (state & CS_INV) !== 0 && (state & ~(CS_TRK | CS_INV)) !== 0,
    'when "inv" is set, only "trk" may also be set',
  );
  check((state & CS_NEW) !== 0 && (state & CS_EST) !== 0, '"new" and "est" are mutually exclusive');
  check((state & CS_NEW) !== 0 && (state & CS_RPL) !== 0, '"new" and "rpy" are mutually exclusive');
  return errors.length === 0 ? state : errors.join('');
}

/** Addresses and ports of the flow, as NAT of this family sees them; `bytes` undefined: NAT without an address. */
function endpoints(flow: Uint8Array, bytes: number | undefined): string {
  const ports = [be16(flow, K_TP_SRC), be16(flow, K_TP_DST)];
  if (bytes === 4) {
    const address = (at: number): string => flow.subarray(at, at + 4).join('.');
    return `nw_src=${address(K_NW_SRC)},tp_src=${ports[0]},nw_dst=${address(K_NW_DST)},tp_dst=${ports[1]}\n`;
  }
  if (bytes === 16) {
    const address = (at: number): string => `[${ipv6Text(flow.subarray(at, at + 16))}]`;
    return (
      `ipv6_src=${address(K_IPV6_SRC)},tp_src=${ports[0]}` +
      `,ipv6_dst=${address(K_IPV6_DST)},tp_dst=${ports[1]}\n`
    );
  }
  return '\n';
}

function translateAddresses(flow: Uint8Array, nat: NonNullable<RecircTrace['nat']>): void {
  const { flags, addressMin, portMin } = nat;
  if (addressMin === undefined) return;
  const ipv4 = addressMin.length === 4;
  const put = (address: number, port: number): void => {
    flow.set(addressMin, address);
    if (portMin !== 0) putBe16(flow, port, portMin);
  };
  if ((flags & NAT_SRC) !== 0) put(ipv4 ? K_NW_SRC : K_IPV6_SRC, K_TP_SRC);
  if ((flags & NAT_DST) !== 0) put(ipv4 ? K_NW_DST : K_IPV6_DST, K_TP_DST);
}

/** The heading of a recirculation's trace; sets state and NAT in `flow`. Takes the state from the front of `states`. */
export function recircHeading(node: RecircTrace, flow: Uint8Array, states: number[]): string {
  let text = `\n\n${RULER}\nrecirc(0x${node.id.toString(16)})`;
  if (node.conntrack) {
    const given = states.shift();
    text +=
      given === undefined
        ? ' - resume conntrack with default ct_state=trk|new (use --ct-next to customize)'
        : ` - resume conntrack with ct_state=${ctStateText(given)}`;
    putBe32(flow, K_CT_STATE, given ?? CS_TRK | CS_NEW);
  }
  text += '\n';
  if (node.nat !== undefined) {
    const bytes = node.nat.addressMin?.length;
    text += `Replacing src/dst IP/ports to simulate NAT:\n Initial flow: ${endpoints(flow, bytes)}`;
    translateAddresses(flow, node.nat);
    text += ` Modified flow: ${endpoints(flow, bytes)}`;
  }
  return `${text}${RULER}\n\n`;
}
