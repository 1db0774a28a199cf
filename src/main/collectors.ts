// Collectors of IPFIX, sFlow and NetFlow: "ADDRESS[:PORT]", and one socket to each, to which the same datagrams go.

import { createSocket, type Socket } from 'node:dgram';
import { isIP } from 'node:net';

export interface CollectorAddress {
  host: string;
  port: number;
}

/** IPv6 addresses are in brackets. `defaultPort` undefined: there has to be one. */
export function parseCollector(
  target: string,
  defaultPort: number | undefined,
): CollectorAddress | undefined {
  const match = /^(?:\[([^\]]+)\]|([^:[\]]+))(?::(\d{1,5}))?$/.exec(target);
  if (!match) return undefined;
  const host = (match[1] ?? match[2])!;
  const port = match[3] === undefined ? defaultPort : Number(match[3]);
  if (port === undefined || port === 0 || port > 65535) return undefined;
  return isIP(host) === (match[1] === undefined ? 4 : 6) ? { host, port } : undefined;
}

export class Collectors {
  readonly #to: (CollectorAddress & { socket: Socket })[] = [];
  notSent = 0;

  constructor(
    targets: readonly string[],
    defaultPort: number | undefined,
    warn: (text: string) => void,
  ) {
    for (const target of targets) {
      const address = parseCollector(target, defaultPort);
      if (address === undefined) {
        warn(`couldn't open connection to collector ${target} (Invalid argument)`);
        continue;
      }
      const socket = createSocket(isIP(address.host) === 6 ? 'udp6' : 'udp4');
      socket.unref();
      socket.on('error', () => {});
      this.#to.push({ socket, ...address });
    }
  }

  get size(): number {
    return this.#to.length;
  }

  /** Gives the number of datagrams on their way. */
  send(datagram: Uint8Array): number {
    for (const { socket, host, port } of this.#to) {
      socket.send(datagram, port, host, (error) => {
        if (error) this.notSent++;
      });
    }
    return this.#to.length;
  }

  /** What is on its way still goes. */
  close(): void {
    for (const { socket } of this.#to) setTimeout(() => socket.close(), 100).unref();
  }
}
