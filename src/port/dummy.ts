// Interface types "dummy", "dummy-internal" and "dummy-pmd" (ovs-vswitchd --enable-dummy): devices without a kernel,
// for tests. Open vSwitch's own test suite is written against them, so names, addresses and numbers are theirs.
//
// A dummy's wire is a socket pair. The data plane has one end, as it has the descriptor of a tap, so frames take the
// very way that real ones take; the other end is here:
//
//   netdev-dummy/receive, stream ──> socket ──> receive queue ─ data plane ─ transmit queue ──> socket ──> pcap, stream

import { closeSync, fstatSync, openSync, writeSync } from 'node:fs';
import { FRAME_MAX, FRAME_TAP } from '../../contract/frame.ts';
import { PORT_UP } from '../../contract/port.ts';
import { closeFd, ioctl, readFd, writeFd } from '../sys/fd.ts';
import { NativeBuffer } from '../sys/ffi.ts';
import { type Watcher, watchFd } from '../sys/poll.ts';
import { TAP_VNET_SIZE } from '../sys/tun.ts';
import { packetPair } from '../sys/unix.ts';
import { DummyStream } from './dummyStream.ts';
import { addFrameQueues, type FrameQueues } from './frameQueues.ts';
import type { Netdev, NetdevConfig, NetdevContext, NetdevStatus } from './types.ts';

export const DUMMY_TYPES: readonly string[] = ['dummy', 'dummy-internal', 'dummy-pmd'];

const MTU_DEFAULT = 1500;
const MTU_MIN = 68;
const MTU_MAX = 65535;
const ETH_HEADER_LEN = 14;
const SIOCOUTQ = 0x5411;

/** Frames in both directions, since the device was opened. */
export interface DummyCounters {
  rxPackets: number;
  rxBytes: number;
  txPackets: number;
  txBytes: number;
}

/** Appends to a capture file (pcap, microseconds, Ethernet); writes the file header if the file is empty. */
function appendPcap(fd: number, frame: Uint8Array): void {
  const record = Buffer.alloc(16 + frame.length);
  const nowMs = Date.now();
  record.writeUInt32LE(Math.floor(nowMs / 1000), 0);
  record.writeUInt32LE((nowMs % 1000) * 1000, 4);
  record.writeUInt32LE(frame.length, 8);
  record.writeUInt32LE(frame.length, 12);
  record.set(frame, 16);
  writeSync(fd, record);
}

const PCAP_HEADER = Buffer.from('d4c3b2a1020004000000000000000000ffff000001000000', 'hex');

function openPcap(path: string): number {
  const fd = openSync(path, 'a+');
  if (fstatSync(fd).size === 0) writeSync(fd, PCAP_HEADER);
  return fd;
}

export interface DummyOptions {
  config: NetdevConfig;
  context: NetdevContext;
  mac: string;
  /** Datapath port number to take if it is free. */
  wantedPort: number | undefined;
  /** The device is closed. */
  onClose: (device: DummyDevice) => void;
}

export class DummyDevice implements Netdev {
  readonly name: string;
  readonly type: string;
  readonly port: number;
  readonly queueIds: readonly number[] = [0];
  readonly counters: DummyCounters = { rxPackets: 0, rxBytes: 0, txPackets: 0, txBytes: 0 };
  onChange: (() => void) | undefined;
  /** IPv4 address for which the device answers ARP requests. */
  address: { bytes: Uint8Array; prefix: number } | undefined;
  /** IPv6 address. */
  address6: { bytes: Uint8Array; prefix: number } | undefined;
  readonly #context: NetdevContext;
  readonly #onClose: (device: DummyDevice) => void;
  /** The data plane's end and ours. */
  readonly #inside: number;
  readonly #outside: number;
  readonly #queues: FrameQueues;
  readonly #watcher: Watcher;
  readonly #buffer = new NativeBuffer(TAP_VNET_SIZE + FRAME_MAX);
  readonly #stream: DummyStream;
  readonly #unread = new NativeBuffer(4);
  #waiting: Uint8Array[] = [];
  #pcaps: { key: string; rx: number; tx: number } = { key: '', rx: -1, tx: -1 };
  #mac: string;
  #mtu = MTU_DEFAULT;
  #up = true;
  #ifindex = -1;
  #rxQueues = 1;

  constructor({ config, context, mac, wantedPort, onClose }: DummyOptions) {
    this.name = config.name;
    this.type = config.type;
    this.#context = context;
    this.#onClose = onClose;
    this.#mac = mac;
    const { engine } = context;
    this.port = engine.addPort(wantedPort);
    [this.#inside, this.#outside] = packetPair();
    try {
      this.#queues = addFrameQueues(engine, this.port, this.#inside, FRAME_TAP);
    } catch (thrown) {
      closeFd(this.#inside);
      closeFd(this.#outside);
      void engine.removePort(this.port);
      throw thrown;
    }
    this.#watcher = watchFd(this.#outside, { read: true }, () => this.drain());
    this.#stream = new DummyStream((frame) => this.receive(frame));
    this.#apply(config);
  }

  #apply(config: NetdevConfig): void {
    const { options, mac, mtuRequest } = config;
    if (mac !== undefined) this.#mac = mac;
    if (mtuRequest !== undefined && mtuRequest >= MTU_MIN && mtuRequest <= MTU_MAX) {
      this.#mtu = mtuRequest;
    }
    const ifindex = Number.parseInt(options.ifindex ?? '', 10);
    this.#ifindex = Number.isNaN(ifindex) ? -1 : ifindex;
    const queues = Number.parseInt(options.n_rxq ?? '', 10);
    this.#rxQueues = this.type === 'dummy-pmd' && queues > 0 ? queues : 1;
    this.#openPcaps(options.pcap ?? options.rxq_pcap, options.pcap ?? options.tx_pcap);
    this.#stream.configure(options);
    this.#tellEngine();
  }

  #openPcaps(rx: string | undefined, tx: string | undefined): void {
    const key = JSON.stringify([rx, tx]);
    if (key === this.#pcaps.key) return;
    this.#closePcaps();
    const open = (path: string): number => {
      try {
        return openPcap(path);
      } catch (error) {
        this.#context.log.warn(
          `${path}: failed to open pcap file for appending (${(error as Error).message})`,
        );
        return -1;
      }
    };
    const rxFd = rx === undefined ? -1 : open(rx);
    const txFd = tx === undefined ? -1 : tx === rx ? rxFd : open(tx);
    this.#pcaps = { key, rx: rxFd, tx: txFd };
  }

  #closePcaps(): void {
    for (const fd of new Set([this.#pcaps.rx, this.#pcaps.tx])) if (fd >= 0) closeSync(fd);
    this.#pcaps = { key: '', rx: -1, tx: -1 };
  }

  #tellEngine(): void {
    this.#context.engine.setPort(this.port, {
      flags: this.#up ? PORT_UP : 0,
      mtu: this.#mtu,
      offloads: 0,
      usableTxQueues: 1,
    });
  }

  /** Receive queues that netdev-dummy/receive may name. */
  get rxQueues(): number {
    return this.#rxQueues;
  }

  get mac(): string {
    return this.#mac;
  }

  /** State of the stream to another dummy device, as netdev-dummy/conn-state shows it. */
  get connection(): 'unknown' | 'connected' | 'disconnected' {
    return this.#stream.state;
  }

  /** A frame comes in from the wire. */
  receive(frame: Uint8Array): void {
    if (this.#pcaps.rx >= 0) appendPcap(this.#pcaps.rx, frame);
    this.counters.rxPackets++;
    this.counters.rxBytes += frame.length;
    this.#waiting.push(frame);
    this.push();
  }

  /** Gives the data plane what waits, as far as its socket has room. False: some still waits. */
  push(): boolean {
    while (this.#waiting.length > 0) {
      const frame = this.#waiting[0]!;
      const { bytes } = this.#buffer;
      bytes.fill(0, 0, TAP_VNET_SIZE);
      bytes.set(frame, TAP_VNET_SIZE);
      if (writeFd(this.#outside, this.#buffer, TAP_VNET_SIZE + frame.length) < 0) return false;
      this.#waiting.shift();
    }
    return true;
  }

  /** Bytes that the data plane has not fetched yet. */
  get unread(): number {
    ioctl(this.#outside, SIOCOUTQ, this.#unread, 'SIOCOUTQ');
    return this.#unread.view.getInt32(0, true);
  }

  /** Takes what the data plane has sent. */
  drain(): void {
    for (;;) {
      const length = readFd(this.#outside, this.#buffer);
      if (length <= TAP_VNET_SIZE) break;
      this.#sent(this.#buffer.bytes.slice(TAP_VNET_SIZE, length));
    }
  }

  #sent(frame: Uint8Array): void {
    if (frame.length < ETH_HEADER_LEN) return;
    this.counters.txPackets++;
    this.counters.txBytes += frame.length;
    if (this.#pcaps.tx >= 0) appendPcap(this.#pcaps.tx, frame);
    this.#stream.send(frame);
    const reply = this.#arpReply(frame);
    if (reply !== undefined) this.receive(reply);
  }

  /** Answer to an ARP request for the device's address (RFC 826). */
  #arpReply(frame: Uint8Array): Uint8Array | undefined {
    const address = this.address?.bytes;
    const request = [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1];
    if (address === undefined || frame.length < 42) return undefined;
    if (!request.every((byte, i) => frame[12 + i] === byte)) return undefined;
    if (!address.every((byte, i) => frame[38 + i] === byte)) return undefined;
    const own = this.#mac.split(':').map((byte) => Number.parseInt(byte, 16));
    const sender = frame.subarray(22, 32);
    const asker = frame.subarray(22, 28);
    return Uint8Array.of(
      ...asker,
      ...own,
      8,
      6,
      0,
      1,
      8,
      0,
      6,
      4,
      0,
      2,
      ...own,
      ...address,
      ...sender,
    );
  }

  status(): NetdevStatus {
    return {
      adminUp: this.#up,
      linkUp: this.#up,
      linkResets: 0,
      mac: this.#mac,
      mtu: this.#mtu,
      ifindex: this.#ifindex,
      status: {},
    };
  }

  statistics(): Record<string, number> {
    const { rxPackets, rxBytes, txPackets, txBytes } = this.counters;
    const queues: Record<string, number> = {};
    for (let i = 0; i < this.#rxQueues; i++) {
      queues[`rx_q${i}_bytes`] = i === 0 ? rxBytes : 0;
      queues[`rx_q${i}_packets`] = i === 0 ? rxPackets : 0;
    }
    return {
      rx_packets: rxPackets,
      rx_bytes: rxBytes,
      tx_packets: txPackets,
      tx_bytes: txBytes,
      rx_custom_packets_1: rxPackets,
      rx_custom_packets_2: rxPackets,
      ...queues,
      tx_q0_bytes: txBytes,
      tx_q0_packets: txPackets,
    };
  }

  reconfigure(config: NetdevConfig): boolean {
    this.#apply(config);
    return true;
  }

  setAdminUp(up: boolean): void {
    if (up === this.#up) return;
    this.#up = up;
    this.#tellEngine();
    // As with kernel devices, whoever asked for the change hears of it later.
    setImmediate(() => this.onChange?.());
  }

  async close(): Promise<void> {
    this.#onClose(this);
    this.#stream.close();
    await this.#queues.close();
    this.drain();
    this.#watcher[Symbol.dispose]();
    closeFd(this.#inside);
    closeFd(this.#outside);
    this.#closePcaps();
    await this.#context.engine.removePort(this.port);
  }
}
