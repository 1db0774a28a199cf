// What --enable-dummy adds (ovs-vswitchd(8) does not document it, Open vSwitch's test suite relies on it): the dummy
// devices of this daemon, which interface types become dummies, and how to wait until the switch has come to rest.

import { setImmediate as nextTurn } from 'node:timers/promises';
import type { DataPlaneEngine } from '../engine/engine.ts';
import { DUMMY_TYPES, DummyDevice } from '../port/dummy.ts';
import type { NetdevOpener } from '../port/types.ts';
import type { Datapath } from '../switch/datapath.ts';

/** Which types besides those of the dummies themselves: none, system, or all but patch. */
export type DummyLevel = 'none' | 'system' | 'override';

/** Addresses are given out in this order. */
const FIRST_MAC = 0xaa550000;
const SETTLE_ROUNDS = 100;

export class Dummies {
  readonly level: DummyLevel;
  readonly devices = new Map<string, DummyDevice>();
  #nextMac = FIRST_MAC + 1; // the first one is that of the datapath's own device

  constructor(level: DummyLevel) {
    this.level = level;
  }

  /** Interface types that are served as dummies. */
  serves(type: string): boolean {
    if (DUMMY_TYPES.includes(type)) return true;
    if (this.level === 'override') return ['system', 'internal', 'tap'].includes(type);
    return this.level === 'system' && type === 'system';
  }

  /** Type of a bridge's own interface, and of other internal ones of a bridge with this datapath type. */
  internalType(datapathType: string): string {
    const dummy =
      datapathType === 'dummy' ||
      this.level === 'override' ||
      (this.level === 'system' && (datapathType === '' || datapathType === 'system'));
    return dummy ? 'dummy-internal' : 'internal';
  }

  readonly open: NetdevOpener = (config, context) => {
    const n = this.#nextMac++;
    const bytes = [0xaa, 0x55, n >>> 24, (n >>> 16) & 0xff, (n >>> 8) & 0xff, n & 0xff];
    const device = new DummyDevice({
      config,
      context,
      mac: bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(':'),
      wantedPort: wantedPort(config.name),
      onClose: () => {
        if (this.devices.get(config.name) === device) this.devices.delete(config.name);
      },
    });
    this.devices.set(config.name, device);
    return Promise.resolve(device);
  };

  /** Resolves when every packet that has come in has gone out again, been dropped, or is with a controller. */
  async settle(engine: DataPlaneEngine, datapath: Datapath): Promise<void> {
    for (let round = 0; round < SETTLE_ROUNDS; round++) {
      const before = this.#activity(datapath);
      let waiting = false;
      for (const device of this.devices.values()) if (!device.push()) waiting = true;
      // Sleeping workers count as up to date: they are woken by the descriptor, which takes a moment.
      while ([...this.devices.values()].some((device) => device.unread > 0)) await nextTurn();
      // Once for what a worker has begun, once more for what it had just fetched.
      await engine.quiesce();
      await engine.quiesce();
      await nextTurn();
      await nextTurn();
      for (const device of this.devices.values()) device.drain();
      const busy = waiting || engine.upcallsWaiting || datapath.upcalls.busy;
      if (!busy && this.#activity(datapath) === before) return;
    }
  }

  #activity(datapath: Datapath): number {
    let sum = datapath.handler.upcallCount;
    for (const { counters } of this.devices.values())
      sum += counters.rxPackets + counters.txPackets;
    return sum;
  }
}

/** A name with a number asks for that datapath port; bridges' numbers start at 100. */
function wantedPort(name: string): number | undefined {
  const digits = /\d+/.exec(name)?.[0];
  if (digits === undefined) return undefined;
  const port = Number(digits) + (name.startsWith('br') ? 100 : 0);
  return port > 0 ? port : undefined;
}
