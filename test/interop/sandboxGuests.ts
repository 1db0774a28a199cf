// Guests at a switch in a box (sandbox.ts), and frames for them that can be told apart.

import { Guest } from '../../src/guest/guest.ts';
import type { Sandbox } from './sandbox.ts';

/** Adds a port for each name to the bridge, and a guest at it that is the server of its socket; resolves when all are connected. */
export async function plugGuests(
  box: Sandbox,
  bridge: string,
  names: readonly string[],
): Promise<Guest[]> {
  const guests = names.map((name) => {
    const path = box.path(`${name}.sock`);
    box.vsctl(
      ...['add-port', bridge, name, '--', 'set', 'interface', name, 'type=dpdkvhostuserclient'],
      `options:vhost-server-path=${path}`,
    );
    const guest = new Guest({ path, mode: 'server' });
    guest.open();
    return guest;
  });
  await Promise.all(guests.map((guest) => guest.connected()));
  return guests;
}

/** A broadcast of 60 bytes with a number behind its type, which is that of experiments. */
export function numberedFrame(number: number): Uint8Array {
  const bytes = new Uint8Array(60);
  bytes.fill(0xff, 0, 6);
  bytes.set([2, 0, 0, 0, 0, 1], 6);
  const view = new DataView(bytes.buffer);
  view.setUint16(12, 0x88b5);
  view.setUint32(14, number);
  return bytes;
}
