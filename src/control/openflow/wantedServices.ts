// Which targets a bridge serves: those of its Controller rows that are allowed, and the one that every bridge has.

import type { ControllerConfig } from './service.ts';
import type { Log } from './vconn.ts';

/** ovs-ofctl may stay silent while its user reads. */
const MGMT_PROBE_MS = 60_000;

/** By target. The first of several equal targets counts; those that are not allowed are logged. */
export function wantedServices(
  controllers: readonly ControllerConfig[],
  { runDir, bridge }: { runDir: string; bridge: string },
  log: Log,
): Map<string, ControllerConfig> {
  const wanted = new Map<string, ControllerConfig>();
  const mgmt = `punix:${runDir}/${bridge}.mgmt`;
  wanted.set(mgmt, { target: mgmt, type: 'service', inactivityProbeMs: MGMT_PROBE_MS });
  for (const controller of controllers) {
    const problem = forbidden(controller.target, runDir, bridge);
    if (problem !== undefined) log.err(`bridge ${bridge}: ${problem}`);
    else if (!wanted.has(controller.target)) wanted.set(controller.target, controller);
  }
  return wanted;
}

/** Who may write the database must not thereby reach every socket and file of the host. */
function forbidden(target: string, runDir: string, bridge: string): string | undefined {
  const slashes = (text: string) => text.replace(/\/+/g, '/');
  if (target.startsWith('unix:')) {
    if (!target.includes('/') || slashes(target).startsWith(slashes(`unix:${runDir}/`))) {
      return undefined;
    }
    return (
      `Not connecting to socket controller "${target}" due to possibility for remote exploit.  ` +
      `Instead, specify socket in permitted directory "unix:${runDir}/" or connect to ` +
      `"unix:${runDir}/${bridge}.mgmt" (which is always available without special configuration).`
    );
  }
  if (target.startsWith('punix:')) {
    const allowed = slashes(`punix:${runDir}/${bridge}.`);
    const path = slashes(target);
    if (path.startsWith(allowed) && !path.slice(allowed.length).includes('/')) return undefined;
    return (
      `Not adding Unix domain socket controller "${target}" due to possibility of overwriting ` +
      `local files. Instead, specify path in permitted format "punix:${runDir}/${bridge}.*" or ` +
      `connect to "unix:${runDir}/${bridge}.mgmt" (which is always available without special ` +
      'configuration).'
    );
  }
  return undefined;
}
