// When connections end: the timeout of a connection's state under its policy (contract/ct.ts, CT_POLICIES).

import {
  CN_EXPIRES,
  CN_FLAGS,
  CN_POLICY,
  CNF_TIMEOUT_MASK,
  CNF_TIMEOUT_SHIFT,
  CT_POLICIES,
  CT_POLICY_SIZE,
} from '../../contract/ct.ts';

/** What a packet did to its connection. */
export const UPDATE_INVALID = 0; // does not belong to it
export const UPDATE_VALID = 1; // established
export const UPDATE_VALID_NEW = 2; // only seen in one direction so far
export const UPDATE_NEW = 3; // begins a new one with the same tuple

/** The engine's clock in ms, modulo 2^32, for the burst in hand. */
export let now: u32 = 0;

/** More than this would be in the past. */
const LONGEST_S: u32 = 2000000;

export function setClock(ms: f64): void {
  now = <u32>(<u64>ms);
}

/** The connection ends CT_TM_* `kind` from now. */
export function setTimeoutKind(conn: u32, kind: u32): void {
  const policy: u32 = load<u8>(conn, CN_POLICY);
  const seconds = load<u32>(CT_POLICIES + policy * CT_POLICY_SIZE + (kind << 2));
  store<u32>(conn, now + min<u32>(seconds, LONGEST_S) * 1000, CN_EXPIRES);
  const flags = load<u32>(conn, CN_FLAGS) & ~CNF_TIMEOUT_MASK;
  store<u32>(conn, flags | (kind << CNF_TIMEOUT_SHIFT), CN_FLAGS);
}
