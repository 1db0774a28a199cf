// Network devices of the kernel over rtnetlink: look at them, change them, hear of changes (rtnetlink(7)).
//
// The kernel answers a request while it is being sent, so requests are plain synchronous functions. Changes arrive on a
// second socket that is a member of the link group; if it overflows, everything is read again.

import {
  decodeMessages,
  encodeLinkRequest,
  type Link,
  type LinkRequest,
  type NetlinkMessage,
  NLM_F_ACK,
  NLM_F_DUMP,
  NLMSG_DONE,
  NLMSG_ERROR,
  RTM_DELLINK,
  RTM_GETLINK,
  RTM_NEWLINK,
  RTM_SETLINK,
} from '../wire/rtnetlink.ts';
import { closeFd, readFd } from './fd.ts';
import { c, check, ENOBUFS, ENODEV, NativeBuffer, SysError } from './ffi.ts';
import { type Watcher, watchFd } from './poll.ts';

const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_NONBLOCK = 0x800;
const SOCK_CLOEXEC = 0x80000;
const NETLINK_ROUTE = 0;
const RTMGRP_LINK = 1;
const RECEIVE_BYTES = 65536;
const ERANGE = 34;

export function openNetlink(groups: number): number {
  const fd = check(
    c.socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE),
    'socket',
  );
  const address = new NativeBuffer(12); // struct sockaddr_nl: u16 family, u16 pad, u32 port id, u32 groups
  address.view.setUint16(0, AF_NETLINK, true);
  address.view.setUint32(8, groups, true);
  try {
    check(c.bind(fd, address.address, 12), 'bind');
  } catch (thrown) {
    closeFd(fd);
    throw thrown;
  }
  return fd;
}

/** Requests about the devices of the network namespace in which it was made. */
export class RouteSocket implements Disposable {
  private fd = openNetlink(0);
  private sequence = 0;
  private readonly buffer = new NativeBuffer(RECEIVE_BYTES);

  /** Device by name or index; undefined if there is none. */
  getLink(which: string | number): Link | undefined {
    const by = typeof which === 'string' ? { name: which } : { index: which };
    try {
      return this.request({ type: RTM_GETLINK, flags: 0, ...by }).find((m) => m.link)?.link;
    } catch (thrown) {
      // a name that no device can have (too long) is a device that does not exist
      if (thrown instanceof SysError && (thrown.errno === ENODEV || thrown.errno === ERANGE)) {
        return undefined;
      }
      throw thrown;
    }
  }

  /** All devices. */
  links(): Link[] {
    const messages = this.request({ type: RTM_GETLINK, flags: NLM_F_DUMP });
    return messages.flatMap((message) => (message.link ? [message.link] : []));
  }

  /** Changes a device. Throws SysError: EPERM, ENODEV, EINVAL, EBUSY … as the kernel says. */
  setLink(
    index: number,
    change: Pick<LinkRequest, 'set' | 'change' | 'mtu' | 'mac' | 'xdp'>,
  ): void {
    this.request({ type: RTM_SETLINK, flags: NLM_F_ACK, index, ...change });
  }

  private request(request: Omit<LinkRequest, 'sequence'>): NetlinkMessage[] {
    const sequence = ++this.sequence;
    const bytes = encodeLinkRequest({ ...request, sequence });
    this.buffer.bytes.set(bytes);
    const sent = c.sendto(this.fd, this.buffer.address, BigInt(bytes.length), 0, 0n, 0);
    check(sent, 'netlink');
    const dump = (request.flags & NLM_F_DUMP) === NLM_F_DUMP;
    const answer: NetlinkMessage[] = [];
    for (;;) {
      const length = readFd(this.fd, this.buffer);
      if (length < 0) throw new Error('netlink: no answer from the kernel');
      for (const message of decodeMessages(this.buffer.bytes.subarray(0, length))) {
        if (message.sequence !== sequence) continue;
        if (message.type === NLMSG_ERROR) {
          if (message.error !== 0) throw new SysError('netlink', message.error);
          return answer;
        }
        if (message.type === NLMSG_DONE) return answer;
        answer.push(message);
        if (!dump) return answer;
      }
    }
  }

  [Symbol.dispose](): void {
    closeFd(this.fd);
    this.fd = -1;
  }
}

/** Called with the device, or with undefined when no device has the name any more. */
export type LinkListener = (link: Link | undefined) => void;

/** Tells of devices that come, change and go, by name. */
export class LinkMonitor implements Disposable {
  readonly route = new RouteSocket();
  private readonly fd = openNetlink(RTMGRP_LINK);
  private readonly watcher: Watcher;
  private readonly buffer = new NativeBuffer(RECEIVE_BYTES);
  private readonly listeners = new Map<string, Set<LinkListener>>();
  private readonly names = new Map<number, string>();
  private readonly anyListeners = new Set<() => void>();
  private closed = false;

  constructor() {
    for (const link of this.route.links()) this.names.set(link.index, link.name);
    this.watcher = watchFd(this.fd, { read: true }, ({ error }) => {
      this.read();
      // An overflow is an error state of the socket, at which libuv stops to watch. It is over once it has been read.
      if (error !== 0 && !this.closed) this.watcher.want({ read: true });
    });
    this.watcher.unref(); // to hear of devices is no reason to live on
  }

  /** Calls `listener` at each change of the device called `name`, until disposed. */
  watch(name: string, listener: LinkListener): Disposable {
    let set = this.listeners.get(name);
    if (set === undefined) {
      set = new Set();
      this.listeners.set(name, set);
    }
    set.add(listener);
    return {
      [Symbol.dispose]: () => {
        set.delete(listener);
        if (set.size === 0 && this.listeners.get(name) === set) this.listeners.delete(name);
      },
    };
  }

  /** Calls `listener` when a device has appeared, vanished or been renamed: what could not be opened may open now. */
  watchNames(listener: () => void): Disposable {
    this.anyListeners.add(listener);
    return { [Symbol.dispose]: () => this.anyListeners.delete(listener) };
  }

  private read(): void {
    let namesChanged = false;
    // The kernel tells of an overflow first and hands out what was there before it afterwards: that is old news.
    let lost = false;
    while (!this.closed) {
      // a listener may have closed us
      let length: number;
      try {
        length = readFd(this.fd, this.buffer);
      } catch (thrown) {
        if (!(thrown instanceof SysError) || thrown.errno !== ENOBUFS) throw thrown;
        lost = true;
        continue;
      }
      if (length < 0) {
        if (!lost) break;
        lost = false;
        namesChanged = true;
        this.readAgain();
        continue;
      }
      if (lost) continue;
      for (const { type, link } of decodeMessages(this.buffer.bytes.subarray(0, length))) {
        if (link === undefined) continue;
        const before = this.names.get(link.index);
        if (type === RTM_DELLINK) {
          this.names.delete(link.index);
          namesChanged = true;
          this.tell(before ?? link.name, undefined);
        } else if (type === RTM_NEWLINK) {
          this.names.set(link.index, link.name);
          if (before !== link.name) namesChanged = true;
          if (before !== undefined && before !== link.name) this.tell(before, undefined);
          this.tell(link.name, link);
        }
      }
    }
    if (namesChanged) for (const listener of [...this.anyListeners]) listener();
  }

  /** Messages were lost: look at every device that somebody watches. */
  private readAgain(): void {
    this.names.clear();
    for (const link of this.route.links()) this.names.set(link.index, link.name);
    for (const name of [...this.listeners.keys()]) this.tell(name, this.route.getLink(name));
  }

  private tell(name: string, link: Link | undefined): void {
    for (const listener of [...(this.listeners.get(name) ?? [])]) listener(link);
  }

  [Symbol.dispose](): void {
    if (this.closed) return;
    this.closed = true;
    this.watcher[Symbol.dispose]();
    closeFd(this.fd);
    this.route[Symbol.dispose]();
  }
}
