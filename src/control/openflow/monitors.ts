// Flow monitors (1.4 §7.3.5.17, before that NXST_FLOW_MONITOR): a connection that hears of every change to the flows
// that it asked for. What it changed itself is told in short, by the xid of its flow-mod.
//
// A monitor that does not read is paused: it is told so, misses additions and modifications (but no removals of rules
// that it knows), and when it has read everything gets what it missed and is told to go on.

import type { FlowEvent } from '../../switch/flowMods.ts';
import { outputsToGroup, outputsToPort } from '../../switch/flowModsActions.ts';
import { ALL_TABLES, isHidden, tablesOf } from '../../switch/flowModsRules.ts';
import { N_TABLES } from '../../switch/tableNumbers.ts';
import type { Rule } from '../../switch/types.ts';
import type {
  FlowMonitorRequest,
  FlowUpdate,
  FlowUpdateFlow,
} from '../../wire/openflow/messages.ts';
import { type Action, type Match, OFPP_NONE, OfError } from '../../wire/openflow/types.ts';
import type { OfSwitch } from './context.ts';
import type { Ofconn, Request } from './ofconn.ts';

const OFPG_ANY = 0xffffffff;
/** Unread bytes after which a monitor is paused. */
const PAUSE_BYTES = 128 * 1024;

/** Numbers the changes of rules, to know what a paused monitor has missed. */
export class ChangeLog {
  seqno = 1;
  readonly added = new WeakMap<Rule, number>();
  readonly modified = new WeakMap<Rule, number>();

  note(events: readonly FlowEvent[]): void {
    for (const { event, rule } of events) {
      if (event === 'removed') continue;
      this.modified.set(rule, this.seqno);
      if (event === 'added') this.added.set(rule, this.seqno);
      this.seqno++;
    }
  }
}

/** The monitors of one connection. */
export class FlowMonitors {
  readonly #switch: OfSwitch;
  readonly #conn: Ofconn;
  readonly #log: ChangeLog;
  readonly #monitors = new Map<number, FlowMonitorRequest>();
  /** Value of the change log when the connection was paused, 0 = it is not. */
  #pausedAt = 0;

  constructor(ofSwitch: OfSwitch, conn: Ofconn, log: ChangeLog) {
    this.#switch = ofSwitch;
    this.#conn = conn;
    this.#log = log;
  }

  /** Whether there is any. */
  get active(): boolean {
    return this.#monitors.size > 0;
  }

  close(): void {
    this.#monitors.clear();
  }

  /** All of the requests or none. Answers with the flows that there are, if that was asked for. */
  request(request: Request, requests: readonly FlowMonitorRequest[]): void {
    const created: FlowMonitorRequest[] = [];
    try {
      for (const monitor of requests) {
        if (monitor.table !== ALL_TABLES && monitor.table >= N_TABLES) {
          throw new OfError('OFPBRC_BAD_TABLE_ID');
        }
        const exists = this.#monitors.has(monitor.id);
        if (monitor.command === 'add') {
          if (exists) throw new OfError('OFPMOFC_MONITOR_EXISTS');
        } else if (!exists) {
          throw new OfError('OFPMOFC_UNKNOWN_MONITOR');
        }
        if (monitor.command === 'delete') {
          this.#monitors.delete(monitor.id);
          continue;
        }
        this.#monitors.set(monitor.id, monitor);
        created.push(monitor);
      }
    } catch (error) {
      for (const monitor of created) this.#monitors.delete(monitor.id);
      throw error;
    }
    const updates = this.#collect(
      created.filter((monitor) => monitor.flags.initial),
      () => 'initial',
    );
    this.#conn.reply({ type: 'flow_monitor_reply', updates }, request);
  }

  cancel(id: number): void {
    if (!this.#monitors.delete(id)) throw new OfError('OFPMOFC_UNKNOWN_MONITOR');
  }

  /** Sends what the events mean for this connection. */
  report(events: readonly FlowEvent[]): void {
    if (this.#monitors.size === 0) return;
    const updates: FlowUpdate[] = [];
    let abbreviated = false;
    for (const event of events) {
      const { rule, requester } = event;
      if (isHidden(rule)) continue;
      if (this.#pausedAt !== 0) {
        // Only removals of rules that the monitor has heard of.
        if (event.event !== 'removed') continue;
        if ((this.#log.added.get(rule) ?? 0) > this.#pausedAt) continue;
      }
      const interest = this.#interest(event);
      if (interest === undefined) continue;
      if (requester?.connection === this.#conn && !interest.own && this.#pausedAt === 0) {
        if (!abbreviated) updates.push({ event: 'abbrev', xid: requester.xid });
        abbreviated = true;
        continue;
      }
      const flow = flowOf(rule, interest.actions);
      updates.push(
        event.event === 'removed'
          ? { event: 'removed', flow, reason: event.reason }
          : { event: event.event, flow },
      );
    }
    if (updates.length > 0) this.#send(updates);
  }

  /** Undefined: no monitor of this connection wants to hear of it. */
  #interest(event: FlowEvent): { own: boolean; actions: boolean } | undefined {
    let interest: { own: boolean; actions: boolean } | undefined;
    const oldActions = event.event === 'removed' ? undefined : event.oldActions;
    for (const monitor of this.#monitors.values()) {
      const { flags } = monitor;
      const wanted =
        event.event === 'added'
          ? flags.add
          : event.event === 'modified'
            ? flags.modify
            : flags.delete;
      if (!wanted || !concerns(monitor, event.rule, oldActions)) continue;
      interest ??= { own: false, actions: false };
      // Open vSwitch takes ONLY_OWN of OpenFlow 1.4 for the older OWN: own changes are told in full.
      interest.own ||= flags.own || monitor.onlyOwn;
      interest.actions ||= flags.actions;
    }
    return interest;
  }

  #send(updates: FlowUpdate[]): void {
    this.#conn.sendUpdate({ type: 'flow_monitor_reply', updates }, () => this.#drained());
    if (this.#pausedAt === 0 && this.#conn.rconn.outputBytes > PAUSE_BYTES) {
      this.#pausedAt = this.#log.seqno++;
      this.#conn.send({ type: 'flow_monitor_paused' }, () => this.#drained());
    }
  }

  #drained(): void {
    if (this.#pausedAt === 0 || this.#conn.closed || this.#conn.rconn.outputBytes > 0) return;
    const since = this.#pausedAt;
    this.#pausedAt = 0;
    const updates = this.#collect([...this.#monitors.values()], (rule, flags) => {
      if ((this.#log.added.get(rule) ?? 0) > since) {
        return flags.add ? 'added' : flags.modify ? 'modified' : undefined;
      }
      if ((this.#log.modified.get(rule) ?? 0) > since) return flags.modify ? 'modified' : undefined;
      return undefined;
    });
    if (updates.length > 0) {
      this.#conn.sendUpdate({ type: 'flow_monitor_reply', updates });
    }
    this.#conn.send({ type: 'flow_monitor_resumed' });
  }

  /** Rules that some of the monitors concern, each once. */
  #collect(
    monitors: readonly FlowMonitorRequest[],
    kind: (
      rule: Rule,
      flags: FlowMonitorRequest['flags'],
    ) => 'initial' | 'added' | 'modified' | undefined,
  ): FlowUpdate[] {
    const found = new Map<Rule, { event: 'initial' | 'added' | 'modified'; actions: boolean }>();
    for (const monitor of monitors) {
      for (const table of tablesOf(this.#switch.bridge, monitor.table)) {
        for (const rule of table.findLoose(monitor.match)) {
          if (isHidden(rule) || !outputsTo(monitor, rule.actions)) continue;
          const event = kind(rule, monitor.flags);
          if (event === undefined) continue;
          const actions = monitor.flags.actions || (found.get(rule)?.actions ?? false);
          found.set(rule, { event, actions });
        }
      }
    }
    return [...found].map(([rule, { event, actions }]) => ({ event, flow: flowOf(rule, actions) }));
  }
}

function concerns(
  monitor: FlowMonitorRequest,
  rule: Rule,
  oldActions: readonly Action[] | undefined,
): boolean {
  if (monitor.table !== ALL_TABLES && monitor.table !== rule.table) return false;
  if (!isLooseMatch(rule.match, monitor.match)) return false;
  const { outPort, outGroup } = monitor;
  // A port counts that the flow has left, too; a group does not.
  const port =
    outPort === OFPP_NONE ||
    outputsToPort(rule.actions, outPort) ||
    (oldActions !== undefined && outputsToPort(oldActions, outPort));
  return port && (outGroup === OFPG_ANY || outputsToGroup(rule.actions, outGroup));
}

function outputsTo({ outPort, outGroup }: FlowMonitorRequest, actions: readonly Action[]): boolean {
  return (
    (outPort === OFPP_NONE || outputsToPort(actions, outPort)) &&
    (outGroup === OFPG_ANY || outputsToGroup(actions, outGroup))
  );
}

/** True if `match` is at least as specific as `criteria`: OpenFlow's loose matching. */
export function isLooseMatch(match: Match, criteria: Match): boolean {
  // A packed match makes its key anew each time.
  const { key, mask } = match;
  const wanted = criteria.key;
  for (let i = 0; i < criteria.mask.length; i++) {
    const bits = criteria.mask[i];
    if (bits === 0) continue;
    if ((mask[i] & bits) !== bits || (key[i] & bits) !== wanted[i]) return false;
  }
  return true;
}

function flowOf(rule: Rule, withActions: boolean): FlowUpdateFlow {
  const { table, priority, idleTimeout, hardTimeout, cookie, match, actions } = rule;
  return {
    table,
    priority,
    idleTimeout,
    hardTimeout,
    cookie,
    match,
    ...(withActions ? { actions } : {}),
  } as FlowUpdateFlow;
}
