// Patch port: one end of a link to another bridge. It has no queues and costs nothing per packet: translation goes on
// in the peer's bridge. Statistics are those of the megaflows that pass through (src/switch/revalidate.ts adds them).

import { randomBytes } from 'node:crypto';
import {
  type Netdev,
  type NetdevConfig,
  NetdevError,
  type NetdevOpener,
  type NetdevStatus,
} from './types.ts';

export interface PatchCounters {
  rxPackets: number;
  rxBytes: number;
  txPackets: number;
  txBytes: number;
}

export class PatchPort implements Netdev {
  readonly name: string;
  readonly type = 'patch';
  readonly port = -1;
  readonly counters: PatchCounters = { rxPackets: 0, rxBytes: 0, txPackets: 0, txBytes: 0 };
  onChange: (() => void) | undefined;
  peer: string;
  #adminUp = true;
  readonly #mac: string;

  constructor(config: NetdevConfig) {
    this.name = config.name;
    this.peer = peerOf(config);
    const mac = randomBytes(6);
    mac[0] = (mac[0]! & 0xfc) | 0x02; // local, unicast
    this.#mac = config.mac ?? mac.toString('hex').replace(/(..)(?=.)/g, '$1:');
  }

  status(): NetdevStatus {
    return {
      adminUp: this.#adminUp,
      linkUp: true,
      linkResets: 0,
      mac: this.#mac,
      ifindex: 0,
      status: {},
    };
  }

  statistics(): Record<string, number> {
    const { rxPackets, rxBytes, txPackets, txBytes } = this.counters;
    return { rx_bytes: rxBytes, rx_packets: rxPackets, tx_bytes: txBytes, tx_packets: txPackets };
  }

  reconfigure(config: NetdevConfig): boolean {
    this.peer = peerOf(config);
    return true;
  }

  setAdminUp(up: boolean): void {
    this.#adminUp = up;
    this.onChange?.();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

function peerOf({ name, options }: NetdevConfig): string {
  const peer = options.peer;
  if (peer === undefined || peer === '') {
    throw new NetdevError(`${name}: patch type requires valid 'peer' argument`);
  }
  if (peer === name) throw new NetdevError(`${name}: patch peer must not be self`);
  return peer;
}

/** Opens a patch port; options:peer names the interface at the other end. */
export const openPatch: NetdevOpener = (config) => Promise.resolve(new PatchPort(config));
