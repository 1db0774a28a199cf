// The kernel's routes and addresses over rtnetlink: all of them at once, and word of every change (rtnetlink(7)).
//
// Who wants to follow them reads everything again after a change: one route may hide behind another of the same prefix,
// and addresses, links and routes change together, so single notifications say too little.

import { decodeMessages, NLMSG_DONE, NLMSG_ERROR } from '../wire/rtnetlink.ts';
import {
  decodeAddress,
  decodeRoute,
  encodeDumpRequest,
  type KernelAddress,
  type KernelRoute,
  RTM_GETADDR,
  RTM_GETROUTE,
  RTM_NEWADDR,
  RTM_NEWROUTE,
} from '../wire/rtnetlinkRoute.ts';
import { closeFd, readFd } from './fd.ts';
import { c, check, ENOBUFS, NativeBuffer, SysError } from './ffi.ts';
import { openNetlink, RouteSocket } from './netlink.ts';
import { type Watcher, watchFd } from './poll.ts';

const RECEIVE_BYTES = 65536;
const RTMGRP_LINK = 1;
const RTMGRP_IPV4_IFADDR = 0x10;
const RTMGRP_IPV4_ROUTE = 0x40;
const RTMGRP_IPV6_IFADDR = 0x100;
const RTMGRP_IPV6_ROUTE = 0x400;
const GROUPS =
  RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE;
/** The table changed while it was read. */
const NLM_F_DUMP_INTR = 0x10;
const ATTEMPTS = 4;

export interface KernelNetwork {
  /** Device names by index. */
  names: Map<number, string>;
  addresses: KernelAddress[];
  routes: KernelRoute[];
}

/** Routes and addresses of the network namespace in which it was made. */
export class RouteMonitor implements Disposable {
  readonly #links = new RouteSocket();
  readonly #requests: number;
  readonly #events: number;
  readonly #watcher: Watcher;
  readonly #buffer = new NativeBuffer(RECEIVE_BYTES);
  readonly #onChange: () => void;
  #sequence = 0;
  #closed = false;

  constructor(onChange: () => void) {
    this.#onChange = onChange;
    this.#requests = openNetlink(0);
    this.#events = openNetlink(GROUPS);
    this.#watcher = watchFd(this.#events, { read: true }, ({ error }) => {
      this.#drain();
      // After an overflow libuv stops to watch the socket.
      if (error !== 0 && !this.#closed) this.#watcher.want({ read: true });
    });
    this.#watcher.unref();
  }

  /** Everything as it is now. */
  read(): KernelNetwork {
    const names = new Map(this.#links.links().map(({ index, name }) => [index, name]));
    const addresses = this.#dump(RTM_GETADDR, RTM_NEWADDR, decodeAddress);
    return { names, addresses, routes: this.#dump(RTM_GETROUTE, RTM_NEWROUTE, decodeRoute) };
  }

  #dump<T>(get: number, type: number, decode: (payload: Uint8Array) => T | undefined): T[] {
    for (let attempt = 1; ; attempt++) {
      const rows: T[] = [];
      if (this.#dumpOnce(get, type, decode, rows) || attempt === ATTEMPTS) return rows;
    }
  }

  /** False: changed meanwhile, read again. */
  #dumpOnce<T>(
    get: number,
    type: number,
    decode: (payload: Uint8Array) => T | undefined,
    rows: T[],
  ): boolean {
    const sequence = ++this.#sequence;
    const request = encodeDumpRequest(get, sequence);
    this.#buffer.bytes.set(request);
    const { address } = this.#buffer;
    check(c.sendto(this.#requests, address, BigInt(request.length), 0, 0n, 0), 'netlink');
    let whole = true;
    for (;;) {
      const length = readFd(this.#requests, this.#buffer);
      if (length < 0) throw new Error('netlink: no answer from the kernel');
      for (const message of decodeMessages(this.#buffer.bytes.subarray(0, length))) {
        if (message.sequence !== sequence) continue;
        if (message.type === NLMSG_ERROR) throw new SysError('netlink', message.error);
        if ((message.flags & NLM_F_DUMP_INTR) !== 0) whole = false;
        if (message.type === NLMSG_DONE) return whole;
        if (message.type !== type) continue;
        const row = decode(message.payload);
        if (row !== undefined) rows.push(row);
      }
    }
  }

  #drain(): void {
    while (!this.#closed) {
      try {
        if (readFd(this.#events, this.#buffer) < 0) break;
      } catch (thrown) {
        // An overflow says "something changed", as every message does.
        if (!(thrown instanceof SysError) || thrown.errno !== ENOBUFS) throw thrown;
      }
    }
    if (!this.#closed) this.#onChange();
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watcher[Symbol.dispose]();
    closeFd(this.#events);
    closeFd(this.#requests);
    this.#links[Symbol.dispose]();
  }
}
