// BFD and CFM of one port: sends what is due, hands over what comes in, and says whether the port may carry traffic.
//
// Messages go out through translation as any packet of the switch itself does, so a tunnel port encapsulates them and a
// patch port hands them to its peer's bridge.

import {
  FRAG_LATER,
  K_ETH_DST,
  K_ETH_SRC,
  K_ETH_TYPE,
  K_NW_DST,
  K_NW_FRAG,
  K_NW_PROTO,
  K_NW_TTL,
  K_TP_DST,
  K_TUN_FLAGS,
  K_TUN_ID,
  TUN_OAM,
} from '../../../contract/key.ts';
import { BfdSession } from '../../protocol/bfd.ts';
import type { BfdConfig } from '../../protocol/bfdConfig.ts';
import { BFD_PORT, bfdFrame } from '../../protocol/bfdMessage.ts';
import { type CfmConfig, CfmPoint, ETH_TYPE_CFM } from '../../protocol/cfm.ts';
import { hex2 } from '../../wire/openflow/address.ts';
import { type Match, OFPP_NONE } from '../../wire/openflow/types.ts';
import { parseMac } from '../../wire/rtnetlink.ts';
import type { SwitchBridge } from '../bridge.ts';
import { be16, ETH_TYPE_IP, exact, IPPROTO_UDP, isZero, newRecord, putBe16 } from '../flow.ts';
import { type ProtocolPort, SLOW_BFD, SLOW_CFM } from '../protocolPort.ts';
import type { BridgePort } from '../types.ts';

const BFD_ETH_DST = Uint8Array.of(0x00, 0x23, 0x20, 0, 0, 1);
const BFD_SRC_IP = Uint8Array.of(169, 254, 1, 1);
const BFD_DST_IP = Uint8Array.of(169, 254, 1, 0);
/** A device without an address of its own. */
const NO_MAC = new Uint8Array(6);

export interface MonitorModules {
  bridge: SwitchBridge;
  port: BridgePort;
  /** Discriminator and UDP source port of a new BFD session. */
  newSession: () => { discriminator: number; udpSrc: number };
  random: () => number;
  /** Something that the database or a controller sees is different. */
  onChange: () => void;
  log: { bfd: MonitorLog; cfm: MonitorLog };
}

export interface MonitorLog {
  info(text: string): void;
  warn(text: string): void;
}

export class PortMonitor implements ProtocolPort {
  bfd: BfdSession | undefined;
  cfm: CfmPoint | undefined;
  readonly #modules: MonitorModules;
  #udpSrc = 0;
  #timer: NodeJS.Timeout | undefined;
  #soon: NodeJS.Immediate | undefined;
  #closed = false;

  constructor(modules: MonitorModules) {
    this.#modules = modules;
  }

  get name(): string {
    return this.#modules.port.name;
  }

  /** New settings; undefined: off. */
  configure(bfd: BfdConfig | undefined, cfm: CfmConfig | undefined): void {
    const { newSession, random, log, port } = this.#modules;
    const nowMs = this.#nowMs();
    const rxPackets = (): number => port.netdev.statistics().rx_packets ?? 0;
    if (bfd === undefined) this.bfd = undefined;
    else {
      if (this.bfd === undefined) {
        const { discriminator, udpSrc } = newSession();
        this.#udpSrc = udpSrc;
        this.bfd = new BfdSession({
          name: port.name,
          discriminator,
          random,
          rxPackets,
          log: (level, text) => log.bfd[level](text),
        });
      }
      this.bfd.step({ type: 'configure', config: bfd }, nowMs);
    }
    if (cfm === undefined) this.cfm = undefined;
    else {
      this.cfm ??= new CfmPoint({
        name: port.name,
        random,
        rxPackets,
        log: (level, text) => log.cfm[level](text),
      });
      this.cfm.step({ type: 'configure', config: cfm }, nowMs);
    }
    this.#arm();
    this.#tell();
  }

  /** May the port carry traffic, as far as its monitors know? */
  get alive(): boolean {
    if (this.bfd === undefined && this.cfm === undefined) return true;
    if (this.bfd?.forwarding(this.#nowMs())) return true;
    const status = this.cfm?.status();
    return status !== undefined && status.fault === 0 && status.remoteOpUp !== false;
  }

  /** The operator's word: bfd/set-forwarding, cfm/set-fault. */
  override(protocol: 'bfd' | 'cfm', value: boolean | undefined): void {
    const nowMs = this.#nowMs();
    if (protocol === 'bfd') this.bfd?.step({ type: 'override', forwarding: value }, nowMs);
    else this.cfm?.step({ type: 'override', fault: value }, nowMs);
    this.#tell();
  }

  bfdStatus(): Record<string, string> {
    return this.bfd?.status(this.#nowMs()) ?? {};
  }

  showBfd(): string {
    return this.bfd?.details(this.#nowMs()) ?? '';
  }

  showCfm(): string {
    return this.cfm?.show(this.#nowMs()) ?? '';
  }

  // ---- ProtocolPort

  claims(flow: Uint8Array, mask: Uint8Array): number {
    if (this.cfm !== undefined && this.#isCfm(this.cfm, flow, mask)) return SLOW_CFM;
    const config = this.bfd?.config;
    return config !== undefined && this.#isBfd(config, flow, mask) ? SLOW_BFD : 0;
  }

  #isCfm(cfm: CfmPoint, flow: Uint8Array, mask: Uint8Array): boolean {
    if (be16(flow, K_ETH_TYPE) !== ETH_TYPE_CFM) return false;
    exact(mask, K_ETH_DST, 6);
    if (!cfm.destination.every((byte, i) => flow[K_ETH_DST + i] === byte)) return false;
    return cfm.config?.checkTunnelKey ? this.#hasNoKey(flow, mask) : true;
  }

  #isBfd(config: BfdConfig, flow: Uint8Array, mask: Uint8Array): boolean {
    const { remoteDstMac, srcIp } = config;
    if (remoteDstMac !== undefined) {
      exact(mask, K_ETH_DST, 6);
      if (!remoteDstMac.every((byte, i) => flow[K_ETH_DST + i] === byte)) return false;
    }
    if (be16(flow, K_ETH_TYPE) !== ETH_TYPE_IP) return false;
    mask[K_NW_PROTO] = 0xff;
    if (flow[K_NW_PROTO] !== IPPROTO_UDP || (flow[K_NW_FRAG]! & FRAG_LATER) !== 0) return false;
    exact(mask, K_TP_DST, 2);
    if (be16(flow, K_TP_DST) !== BFD_PORT) return false;
    if (srcIp !== undefined && !srcIp.every((byte, i) => byte === BFD_SRC_IP[i])) {
      exact(mask, K_NW_DST, 4);
      if (!srcIp.every((byte, i) => flow[K_NW_DST + i] === byte)) return false;
    }
    return config.checkTunnelKey ? this.#hasNoKey(flow, mask) : true;
  }

  #hasNoKey(flow: Uint8Array, mask: Uint8Array): boolean {
    exact(mask, K_TUN_ID, 8);
    return isZero(flow, K_TUN_ID, 8);
  }

  receive(reason: number, flow: Uint8Array, packet: Uint8Array): void {
    const nowMs = this.#nowMs();
    const l3 = payloadOffset(packet);
    if (reason === SLOW_CFM) {
      const source = hex2(flow.subarray(K_ETH_SRC, K_ETH_SRC + 6));
      this.cfm?.step({ type: 'message', payload: packet.subarray(l3), source }, nowMs);
    } else if (reason === SLOW_BFD && this.bfd !== undefined) {
      const payload = udpPayload(packet, l3);
      if (payload === undefined) return;
      this.bfd.step({ type: 'message', payload, ttl: flow[K_NW_TTL]! }, nowMs);
    }
    this.#arm();
    this.#tell();
  }

  accountRx(): void {
    if (this.bfd?.config?.forwardingIfRx !== true) return;
    this.bfd.step({ type: 'traffic' }, this.#nowMs());
    this.#tell();
  }

  // ---- time

  #nowMs(): number {
    return this.#modules.bridge.nowMs();
  }

  #arm(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const wakeMs = Math.min(this.bfd?.wakeMs() ?? Infinity, this.cfm?.wakeMs() ?? Infinity);
    if (this.#closed || wakeMs === Infinity) return;
    const delayMs = wakeMs - this.#nowMs();
    if (delayMs <= 0) {
      // Not within the translation that a packet has come in by.
      this.#soon ??= setImmediate(() => {
        this.#soon = undefined;
        this.#run();
      });
      return;
    }
    this.#timer = setTimeout(() => this.#run(), Math.ceil(delayMs));
    this.#timer.unref();
  }

  #run(): void {
    if (this.#closed) return;
    const { port } = this.#modules;
    const nowMs = this.#nowMs();
    const mac = parseMac(port.netdev.status().mac ?? '') ?? NO_MAC;
    if (this.cfm?.shouldSend(nowMs)) {
      const frame = this.cfm.step({ type: 'transmit', source: mac }, nowMs);
      if (frame !== undefined) this.#send(frame);
    }
    if (this.bfd?.shouldSend(nowMs)) {
      const message = this.bfd.step({ type: 'transmit' }, nowMs);
      const frame = message && this.#bfdFrame(this.bfd, mac, message);
      if (frame !== undefined) this.#send(frame, this.bfd.config?.oam);
    }
    this.cfm?.step({ type: 'tick' }, nowMs);
    this.bfd?.step({ type: 'tick' }, nowMs);
    this.#arm();
    this.#tell();
  }

  #bfdFrame(bfd: BfdSession, mac: Uint8Array, message: Uint8Array): Uint8Array {
    const config = bfd.config!;
    return bfdFrame(
      {
        ethSrc: config.localSrcMac ?? mac,
        ethDst: config.localDstMac ?? BFD_ETH_DST,
        ipSrc: config.srcIp ?? BFD_SRC_IP,
        ipDst: config.dstIp ?? BFD_DST_IP,
        udpSrc: this.#udpSrc,
      },
      message,
    );
  }

  /** `oam`: a tunnel marks the packet as one that concerns itself. */
  #send(frame: Uint8Array, oam = false): void {
    const { bridge, port } = this.#modules;
    const action = { type: 'output', port: port.ofport, maxLen: 0 } as const;
    let match: Match | undefined;
    if (oam) {
      match = { key: newRecord(), mask: newRecord() };
      putBe16(match.key, K_TUN_FLAGS, TUN_OAM);
      putBe16(match.mask, K_TUN_FLAGS, TUN_OAM);
    }
    bridge.packetOut(OFPP_NONE, match, [action], frame);
  }

  #tell(): void {
    if (!this.bfd?.changed && !this.cfm?.changed) return;
    if (this.bfd) this.bfd.changed = false;
    if (this.cfm) this.cfm.changed = false;
    this.#modules.onChange();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    clearImmediate(this.#soon);
    this.bfd = undefined;
    this.cfm = undefined;
  }
}

/** Behind Ethernet and VLAN headers. */
export function payloadOffset(packet: Uint8Array): number {
  let at = 12;
  while (at + 4 <= packet.length) {
    const type = be16(packet, at);
    if (type !== 0x8100 && type !== 0x88a8) break;
    at += 4;
  }
  return at + 2;
}

/** Payload of a UDP packet over IPv4, without Ethernet's padding. */
function udpPayload(packet: Uint8Array, l3: number): Uint8Array | undefined {
  const udp = l3 + 4 * (packet[l3]! & 15);
  if (udp + 8 > packet.length) return undefined;
  const end = udp + be16(packet, udp + 4);
  return packet.subarray(udp + 8, Math.max(udp + 8, Math.min(end, packet.length)));
}
