// A switch of two vhost-user ports and two megaflows, without a control plane: what tests of the ports need. And traffic
// of our guests, which works with the whole switch just as well.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ACT_END, ACT_OUTPUT } from '../../contract/action.ts';
import { K_IN_PORT, KEY_SIZE } from '../../contract/key.ts';
import { DROP_NAMES } from '../../contract/names.ts';
import { createEngine } from '../../src/engine/engine.ts';
import type { Engine, Upcall } from '../../src/engine/types.ts';
import * as L from '../../src/guest/driver/layout.ts';
import type { Guest } from '../../src/guest/guest.ts';
import type { Traffic } from '../../src/guest/thread.ts';
import type { Netdev, NetdevConfig, NetdevContext } from '../../src/port/types.ts';
import { openVhostUser, openVhostUserClient } from '../../src/port/vhostuser/port.ts';

export interface TestSwitch extends AsyncDisposable {
  readonly engine: Engine;
  /** For sockets; removed at the end. */
  readonly directory: string;
  readonly context: NetdevContext;
  readonly log: string[];
  /** Upcalls seen, as copies of the frames. */
  readonly upcalls: { inPort: number; frame: Uint8Array }[];
  /** Listens at directory/name. */
  addServer(name: string, config?: Partial<NetdevConfig>): Promise<Netdev>;
  /** Connects to directory/name.sock. */
  addClient(name: string, config?: Partial<NetdevConfig>): Promise<Netdev>;
  /** All packets of one port go out of another. */
  forward(from: Netdev, to: Netdev): void;
  /** Drops of a port by name, only those that happened. */
  drops(port: Netdev): Record<string, number>;
}

const ALL_ONES = 0xffffffff;

export function createTestSwitch(): TestSwitch {
  const directory = mkdtempSync(join(tmpdir(), 'xvio-switch-'));
  const log: string[] = [];
  const ports: Netdev[] = [];
  const upcalls: TestSwitch['upcalls'] = [];
  const say = (text: string) => log.push(text);
  const engine = createEngine({
    onUpcall: (upcall: Upcall) => {
      upcalls.push({ inPort: upcall.inPort, frame: upcall.data.slice() });
    },
    onBrokenQueue: (port, queue, reason) => {
      ports.find((p) => p.port === port)?.brokenQueue?.(queue, reason);
    },
  });
  const context: NetdevContext = {
    engine,
    vhostSockDir: directory,
    log: { info: say, warn: say, err: say, dbg: say },
  };
  const base = { options: {}, otherConfig: {} };
  const add = async (port: Promise<Netdev>): Promise<Netdev> => {
    ports.push(await port);
    return port;
  };
  return {
    engine,
    directory,
    context,
    log,
    upcalls,
    addServer: (name, config = {}) =>
      add(openVhostUser({ ...base, name, type: 'dpdkvhostuser', ...config }, context)),
    addClient: (name, config = {}) =>
      add(
        openVhostUserClient(
          {
            ...base,
            name,
            type: 'dpdkvhostuserclient',
            ...config,
            options: { 'vhost-server-path': join(directory, `${name}.sock`), ...config.options },
          },
          context,
        ),
      ),
    forward: (from, to) => {
      const key = new Uint8Array(KEY_SIZE);
      const mask = new Uint8Array(KEY_SIZE);
      new DataView(key.buffer).setUint32(K_IN_PORT, from.port);
      new DataView(mask.buffer).setUint32(K_IN_PORT, ALL_ONES);
      const program = Uint32Array.of(ACT_OUTPUT | (2 << 16), to.port, ACT_END | (1 << 16));
      if (engine.putFlow(key, mask, program) < 0) throw new Error('flow table full');
    },
    drops: (port) => {
      const counted: Record<string, number> = {};
      engine.portCounters(port.port).drops.forEach((count, reason) => {
        if (count > 0) counted[DROP_NAMES[reason] ?? String(reason)] = count;
      });
      return counted;
    },
    [Symbol.asyncDispose]: async () => {
      for (const port of ports) await port.close();
      await engine.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

export async function until(
  condition: () => boolean,
  what: string | (() => string),
  timeoutMs = 30_000,
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!condition()) {
    if (performance.now() > deadline) {
      throw new Error(`timeout: ${typeof what === 'string' ? what : what()}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** The guest's driver has come up: from now on there is where to put frames. */
export function hasBuffers(guest: Guest): Promise<void> {
  const posted = () => guest.view.getUint32(guest.ringRecord(0) + L.GR_NEXT, true);
  return until(() => posted() > 0, 'receive buffers');
}

export const mac = (host: number): string => `02:00:00:00:00:0${host}`;

/** Frames of one guest for another, numbered from 1. */
export const trafficOf = (from: number, to: number): Traffic => ({
  send: true,
  sourceMac: mac(from),
  destinationMac: mac(to),
  sourceIp: `10.0.0.${from}`,
  destinationIp: `10.0.0.${to}`,
});
