// Questions about lists of actions that flow-mods, statistics and flow monitors ask: does it output to a port or a
// group, are two lists the same. Instructions such as write_actions hold lists of their own: they count too.

import { type Action, OFPP_CONTROLLER } from '../wire/openflow/types.ts';

/** True if some action outputs to exactly this port number (out_port of a request). */
export function outputsToPort(actions: readonly Action[], port: number): boolean {
  return some(actions, (action) => {
    switch (action.type) {
      case 'output':
      case 'output_trunc':
      case 'enqueue':
        return action.port === port;
      case 'controller':
        return port === OFPP_CONTROLLER;
      default:
        return false;
    }
  });
}

/** True if some action names this group (out_group of a request). */
export function outputsToGroup(actions: readonly Action[], group: number): boolean {
  return some(actions, (action) => action.type === 'group' && action.group === group);
}

/** The groups that the actions name, with repetitions. */
export function groupsOf(actions: readonly Action[]): number[] {
  const groups: number[] = [];
  some(actions, (action) => {
    if (action.type === 'group') groups.push(action.group);
    return false;
  });
  return groups;
}

/** The meters that packets of the flow pass, with repetitions. */
export function metersOf(actions: readonly Action[]): number[] {
  const meters: number[] = [];
  some(actions, (action) => {
    if (action.type === 'meter') meters.push(action.meterId);
    return false;
  });
  return meters;
}

/** What flows that say delete_learned have learned: all with this cookie in this table. */
export interface LearnedCookie {
  table: number;
  cookie: bigint;
}

const DELETE_LEARNED = 2;
const NONE: readonly LearnedCookie[] = [];

export function learnedCookies(actions: readonly Action[]): readonly LearnedCookie[] {
  if (actions.length === 0) return NONE;
  const cookies: LearnedCookie[] = [];
  some(actions, (action) => {
    if (action.type === 'learn' && (action.flags & DELETE_LEARNED) !== 0) cookies.push(action);
    return false;
  });
  return cookies;
}

export function cookieKey({ table, cookie }: LearnedCookie): string {
  return `${table}/${cookie}`;
}

/** True if some action reads or writes the field of this name. */
export function mentionsField(value: unknown, field: string): boolean {
  if (value === field) return true;
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return false;
  return Object.values(value).some((member) => mentionsField(member, field));
}

/** Structural equality, without building strings: rules of a loose modify are compared one by one. */
export function actionsEqual(a: readonly Action[], b: readonly Action[]): boolean {
  return a === b || valuesEqual(a, b);
}

function some(actions: readonly Action[], test: (action: Action) => boolean): boolean {
  for (const action of actions) {
    if (test(action)) return true;
    const nested = (action as { actions?: unknown }).actions;
    if (Array.isArray(nested) && some(nested as Action[], test)) return true;
  }
  return false;
}

function valuesEqual(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a) || a instanceof Uint8Array) {
    const other = b as ArrayLike<unknown>;
    if (a.constructor !== b.constructor || a.length !== other.length) return false;
    for (let i = 0; i < a.length; i++) {
      if (!valuesEqual(a[i], other[i])) return false;
    }
    return true;
  }
  const keys = Object.keys(a);
  if (keys.length !== Object.keys(b).length) return false;
  for (const key of keys) {
    if (!valuesEqual((a as Record<string, unknown>)[key], (b as Record<string, unknown>)[key])) {
      return false;
    }
  }
  return true;
}
