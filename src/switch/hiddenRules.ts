// The switch's own rules, which no controller sees: those that translation falls back to, in table 254 (bridge/dump-flows shows them).
// Registers tell them apart there.

import { F_REGS, FLOW_SIZE, K_RECIRC_ID } from '../../contract/key.ts';
import type { Action, Match } from '../wire/openflow/types.ts';
import { putBe32 } from './flow.ts';
import { HIDDEN_TABLE } from './tableNumbers.ts';
import type { Rule } from './types.ts';

const IMPLICIT_MISS = 7;

export function hiddenRule(actions: readonly Action[], reg: number): Rule {
  const match: Match = { key: new Uint8Array(FLOW_SIZE), mask: new Uint8Array(FLOW_SIZE) };
  putBe32(match.key, F_REGS, reg);
  match.mask.fill(0xff, F_REGS, F_REGS + 4);
  return {
    table: HIDDEN_TABLE,
    priority: 0,
    match,
    cookie: 0n,
    actions,
    idleTimeout: 0,
    hardTimeout: 0,
    importance: 0,
    flags: {
      sendFlowRem: false,
      checkOverlap: false,
      resetCounts: false,
      noPktCounts: false,
      noBytCounts: false,
    },
    createdMs: 0,
    modifiedMs: 0,
    usedMs: 0,
    packets: 0,
    bytes: 0,
    hidden: true,
    removed: false,
  };
}

/** What has not been recirculated finds nothing else in that table. */
export function onceRule(): Rule {
  const rule = hiddenRule([], 0);
  rule.match.mask.fill(0);
  rule.match.mask.fill(0xff, K_RECIRC_ID, K_RECIRC_ID + 4);
  return { ...rule, priority: 2 };
}

/** For packets that match nothing where controllers want them. */
export function missRule(): Rule {
  return hiddenRule(
    [{ type: 'controller', maxLen: 0xffff, controllerId: 0, reason: IMPLICIT_MISS }],
    1,
  );
}
