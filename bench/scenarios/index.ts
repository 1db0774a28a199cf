// All scenarios, in the order of a full run.

import type { Scenario } from '../types.ts';
import { port } from './port.ts';

export const SCENARIOS: readonly Scenario[] = [port];
