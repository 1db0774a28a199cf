// All scenarios, in the order of a full run.

import type { Scenario } from '../types.ts';
import { aclVxlan } from './aclVxlan.ts';
import { cpu } from './cpu.ts';
import { explosion } from './explosion.ts';
import { firewall } from './firewall.ts';
import { flowmod } from './flowmod.ts';
import { idle } from './idle.ts';
import { l2 } from './l2.ts';
import { latency } from './latency.ts';
import { memory } from './memory.ts';
import { pauses } from './pauses.ts';
import { port } from './port.ts';
import { ports } from './ports.ts';
import { relay } from './relay.ts';
import { rfc2544 } from './rfc2544.ts';
import { rules } from './rules.ts';
import { imix, size1500, size9000 } from './sizes.ts';
import { stages } from './stages.ts';
import { tcp } from './tcp.ts';
import { testpmd } from './testpmd.ts';
import { upcall } from './upcall.ts';
import { workers } from './workers.ts';

export const SCENARIOS: readonly Scenario[] = [
  relay,
  testpmd,
  port,
  l2,
  rules,
  aclVxlan,
  firewall,
  stages,
  imix,
  size1500,
  size9000,
  tcp,
  rfc2544,
  cpu,
  latency,
  pauses,
  idle,
  upcall,
  flowmod,
  explosion,
  ports,
  workers,
  memory,
];
