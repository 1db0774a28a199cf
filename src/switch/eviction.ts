// Which rule goes when a table is full (ovs-vswitchd.conf.db(5), Flow_Table: overflow_policy, groups). Fields of
// "groups" divide the rules: the largest division loses one, so that whoever adds many flows pays for them himself.

import { getSubfield } from '../wire/openflow/fieldAccess.ts';
import { findField } from '../wire/openflow/fields.ts';
import { parseSubfield, TextError } from '../wire/openflow/fieldText.ts';
import { prereqOk } from '../wire/openflow/prereq.ts';
import type { Subfield } from '../wire/openflow/types.ts';
import { evictsBefore } from './flowModsRules.ts';
import type { Rule } from './types.ts';

/** The fields that Flow_Table.groups names; those that do not exist count for nothing. */
export function evictionFields(groups: readonly string[]): Subfield[] {
  return groups.flatMap((text) => {
    try {
      return [parseSubfield(text)];
    } catch (error) {
      if (error instanceof TextError) return [];
      throw error;
    }
  });
}

function divisionOf(rule: Rule, fields: readonly Subfield[]): string {
  const { key, mask } = rule.match;
  return fields
    .map((subfield) => {
      const field = findField(subfield.field)!;
      return prereqOk(field.prereq, key, mask) ? getSubfield(key, subfield, field) : '';
    })
    .join('/');
}

/** Of rules that can expire: the least important, then the one that expires first, of the largest division. */
export function victimOf(rules: Iterable<Rule>, fields: readonly Subfield[]): Rule | undefined {
  const divisions = new Map<string, { size: number; first: Rule }>();
  for (const rule of rules) {
    const name = divisionOf(rule, fields);
    const division = divisions.get(name);
    if (division === undefined) divisions.set(name, { size: 1, first: rule });
    else {
      division.size++;
      if (evictsBefore(rule, division.first)) division.first = rule;
    }
  }
  let largest: { size: number; first: Rule } | undefined;
  for (const division of divisions.values()) {
    if (largest === undefined || division.size > largest.size) largest = division;
  }
  return largest?.first;
}
