// 64 000 flows over 1 000 overlapping wildcard rules (bench/rules.ts).

import type { Scenario } from '../types.ts';
import { forwarding, WITH_RELAY } from './forwarding.ts';

export const rules: Scenario = {
  name: 'rules',
  title: '1 000 overlapping 5-tuple rules',
  run: (options) =>
    forwarding(
      'rules',
      'rules',
      [
        { label: '64 B, 1 000 flows', flows: 1000, spread: 'address' },
        { label: '64 B, 64 000 flows', flows: 64_000, spread: 'address' },
      ],
      options,
      WITH_RELAY,
    ),
};
