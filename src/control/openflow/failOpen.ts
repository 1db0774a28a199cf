// fail_mode=standalone with controllers configured: when none has been reachable for three probe intervals, the switch
// forgets the controllers' flows and behaves like a learning switch, until a controller has taken over again. (One
// interval of silence, one for the answer to the probe, one to reconnect.)

import { FLOW_SIZE } from '../../../contract/key.ts';
import type { FlowTables } from '../../switch/flowMods.ts';
import type { Rule } from '../../switch/types.ts';
import type { MessageType } from '../../wire/openflow/messages.ts';
import { type Action, type Match, OFPP_NORMAL } from '../../wire/openflow/types.ts';
import type { Log } from './vconn.ts';

const CHECK_INTERVAL_MS = 1000;
/** Above everything that a controller can add. */
export const FAIL_OPEN_PRIORITY = 0xf0f0f0;
const REMIND_AFTER_MS = 60_000;

export const CATCH_ALL: Match = {
  key: new Uint8Array(FLOW_SIZE),
  mask: new Uint8Array(FLOW_SIZE),
};
export const NORMAL_ACTIONS: readonly Action[] = [{ type: 'output', port: OFPP_NORMAL, maxLen: 0 }];

export interface FailOpenHooks {
  /** How long all controllers have been gone; 0 when one is there. */
  failureDurationMs: () => number;
  /** Longest of the controllers' probe intervals. */
  maxProbeMs: () => number;
}

export class FailOpen {
  readonly #tables: FlowTables;
  readonly #hooks: FailOpenHooks;
  readonly #log: Log;
  readonly #timer: NodeJS.Timeout;
  #rule: Rule | undefined;
  #remindedMs = 0;

  constructor(tables: FlowTables, hooks: FailOpenHooks, log: Log) {
    this.#tables = tables;
    this.#hooks = hooks;
    this.#log = log;
    this.#timer = setInterval(() => this.run(), CHECK_INTERVAL_MS);
    this.#timer.unref();
  }

  get active(): boolean {
    return this.#rule !== undefined;
  }

  /** Enters fail-open if it is time. Called every second. */
  run(): void {
    const durationMs = this.#hooks.failureDurationMs();
    if (durationMs === 0 || durationMs < 3 * this.#hooks.maxProbeMs()) return;
    const seconds = Math.floor(durationMs / 1000);
    if (!this.active) {
      this.#log.warn(
        "Could not connect to controller (or switch failed controller's post-connection " +
          `admission control policy) for ${seconds} seconds, failing open`,
      );
      this.#remindedMs = durationMs;
      this.#tables.flush();
      this.#rule = this.#tables.addOwn({
        match: CATCH_ALL,
        priority: FAIL_OPEN_PRIORITY,
        actions: NORMAL_ACTIONS,
      });
    } else if (durationMs > this.#remindedMs + REMIND_AFTER_MS) {
      this.#remindedMs = durationMs;
      this.#log.info(
        `Still in fail-open mode after ${seconds} seconds disconnected from controller`,
      );
    }
  }

  /** A controller is there and has accepted us. */
  recover(): void {
    if (this.#rule === undefined) return;
    this.#log.warn('No longer in fail-open mode');
    const rule = this.#rule;
    this.#rule = undefined;
    this.#tables.remove([rule], 'delete');
  }

  /** Somebody else flushed all flows: ours is needed still. */
  flushed(): void {
    if (this.#rule === undefined) return;
    this.#rule = this.#tables.addOwn({
      match: CATCH_ALL,
      priority: FAIL_OPEN_PRIORITY,
      actions: NORMAL_ACTIONS,
    });
  }

  close(): void {
    clearInterval(this.#timer);
    this.recover();
  }
}

/** Messages that a controller sends to any switch, before it has made up its mind. */
const LOOKING_AROUND: ReadonlySet<MessageType> = new Set<MessageType>([
  'hello',
  'error',
  'echo_request',
  'echo_reply',
  'features_request',
  'get_config_request',
  'set_config',
  'queue_desc_request',
  'get_async_request',
  'group_stats_request',
  'group_desc_request',
  'group_features_request',
  'table_features_request',
  'table_desc_request',
]);

/** Does a controller that sends this do more than look around: has it accepted the switch? */
export function isAcceptance(type: MessageType): boolean {
  return !LOOKING_AROUND.has(type);
}
