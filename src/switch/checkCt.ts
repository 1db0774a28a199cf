// May a flow with this match have these ct, nat and resubmit(ct) actions? Errors are Open vSwitch's.

import { K_CT_STATE, K_ETH_TYPE, K_NW_PROTO } from '../../contract/key.ts';
import { prereqOk } from '../wire/openflow/prereq.ts';
import { type Action, OfError } from '../wire/openflow/types.ts';
import { be16, be32, ETH_TYPE_IP, ETH_TYPE_IPV6, IPPROTO_TCP, IPPROTO_UDP, isIp } from './flow.ts';

const COMMIT = 1;
const CS_INV = 0x10;
const PORT_FTP = 21;
const PORT_TFTP = 69;

function inconsistent(text: string): never {
  throw new OfError('OFPBAC_MATCH_INCONSISTENT', text);
}

/** Fields that exec(…) may write. */
export function isCtField(name: string): boolean {
  return name === 'ct_mark' || name === 'ct_label';
}

/** Checks a ct action but for its nested actions. `key`: of the match, as earlier actions have changed it. */
export function checkCt(action: Action & { type: 'ct' }, key: Uint8Array): void {
  if (!isIp(key)) inconsistent('ct needs an IP packet');
  if ((be32(key, K_CT_STATE) & CS_INV) !== 0 && (action.flags & COMMIT) !== 0) {
    inconsistent('ct(commit) of invalid packets');
  }
  const protocol = key[K_NW_PROTO];
  if (action.alg === PORT_FTP && protocol !== IPPROTO_TCP) inconsistent('alg=ftp needs TCP');
  if (action.alg === PORT_TFTP && protocol !== IPPROTO_UDP) inconsistent('alg=tftp needs UDP');
  if (action.alg !== 0 && action.alg !== PORT_FTP && action.alg !== PORT_TFTP) {
    throw new OfError('OFPBAC_BAD_ARGUMENT', `alg ${action.alg} is not supported`);
  }
}

export function checkNat(action: Action & { type: 'nat' }, key: Uint8Array): void {
  const type = be16(key, K_ETH_TYPE);
  const bytes = action.addressMin?.length;
  const fits =
    bytes === undefined ? isIp(key) : type === (bytes === 4 ? ETH_TYPE_IP : ETH_TYPE_IPV6);
  if (!fits) inconsistent('nat does not fit the Ethernet type of the match');
}

/** resubmit with "ct": there must be a connection whose original tuple can be looked up. */
export function checkResubmitCt(key: Uint8Array, mask: Uint8Array): void {
  if (!prereqOk('ct', key, mask)) inconsistent('resubmit(ct) needs a match on ct_state');
}
