// Packets through ct actions of the real data plane, and what comes out: the frame and the fields that tables would see.

import {
  ACT_CT,
  ACT_CT_WORDS,
  ACT_END,
  ACT_USERSPACE,
  CT_ALG_FTP,
  CT_ALG_TFTP,
  CT_CLEAR,
  CT_COMMIT,
  CT_FORCE,
  CT_HAS_LABEL,
  CT_HAS_MARK,
  CT_NAT,
  CT_NAT_DST,
  CT_NAT_PERSISTENT,
  CT_NAT_RANDOM,
  CT_NAT_SRC,
  CT_NAT_V6,
  UPCALL_CONTROLLER,
} from '../../contract/action.ts';
import {
  K_CT_IPV6_DST,
  K_CT_IPV6_SRC,
  K_CT_LABEL,
  K_CT_MARK,
  K_CT_NW_DST,
  K_CT_NW_PROTO,
  K_CT_NW_SRC,
  K_CT_STATE,
  K_CT_TP_DST,
  K_CT_TP_SRC,
  K_CT_ZONE,
} from '../../contract/key.ts';
import { be16, be32, bytes } from './frames.ts';
import { Rig, type WireFrame } from './rig.ts';

export interface NatSpec {
  /** Absent: translate packets of translated connections only. */
  side?: 'src' | 'dst';
  /** Addresses of 4 or 16 bytes; absent: keep. */
  low?: readonly number[];
  high?: readonly number[];
  ports?: readonly [number, number];
  random?: boolean;
  persistent?: boolean;
}

export interface CtSpec {
  clear?: boolean;
  commit?: boolean;
  force?: boolean;
  zone?: number;
  policy?: number;
  /** Value and mask. */
  mark?: readonly [number, number];
  /** Value and mask of 16 bytes each. */
  label?: readonly [readonly number[], readonly number[]];
  nat?: NatSpec;
  alg?: 'ftp' | 'tftp';
}

/** What tables see of a tracked packet. */
export interface Tracked {
  frame: Uint8Array;
  state: number;
  zone: number;
  mark: number;
  label: string;
  /** Original tuple: source, destination, protocol, ports. */
  original: string;
}

function word(bytesOfWord: readonly number[]): number {
  const [a = 0, b = 0, c = 0, d = 0] = bytesOfWord;
  return (a | (b << 8) | (c << 16) | (d << 24)) >>> 0;
}

function address(octets: readonly number[] = []): number[] {
  return [0, 4, 8, 12].map((i) => word(octets.slice(i, i + 4)));
}

/** The words of an ACT_CT. */
export function ctAction(spec: CtSpec): number[] {
  const { nat } = spec;
  let flags = 0;
  if (spec.clear) flags |= CT_CLEAR;
  if (spec.commit) flags |= CT_COMMIT;
  if (spec.force) flags |= CT_COMMIT | CT_FORCE;
  if (spec.mark) flags |= CT_HAS_MARK;
  if (spec.label) flags |= CT_HAS_LABEL;
  if (spec.alg === 'ftp') flags |= CT_ALG_FTP;
  if (spec.alg === 'tftp') flags |= CT_ALG_TFTP;
  if (nat) flags |= CT_NAT;
  if (nat?.side === 'src') flags |= CT_NAT_SRC;
  if (nat?.side === 'dst') flags |= CT_NAT_DST;
  if (nat?.random) flags |= CT_NAT_RANDOM;
  if (nat?.persistent) flags |= CT_NAT_PERSISTENT;
  if (nat?.low?.length === 16) flags |= CT_NAT_V6;
  const [low, high] = nat?.ports ?? [0, 0];
  const swap = (value: number): number => word(be32(value));
  return [
    ACT_CT | (ACT_CT_WORDS << 16),
    flags,
    spec.zone ?? 0,
    spec.policy ?? 0,
    swap(spec.mark?.[0] ?? 0),
    swap(spec.mark?.[1] ?? 0),
    ...address(spec.label?.[0]),
    ...address(spec.label?.[1]),
    ...address(nat?.low),
    ...address(nat?.high ?? nat?.low),
    (low | (high << 16)) >>> 0,
  ];
}

export class CtRig {
  readonly rig: Rig;
  readonly input: number;

  static async create(debug = true): Promise<CtRig> {
    return new CtRig(await Rig.create({ debug }));
  }

  private constructor(rig: Rig) {
    this.rig = rig;
    this.input = rig.addPort();
  }

  /**
   * Sends frames, as one burst, through the actions, one after the other without recirculation between them. `before`:
   * words of other actions, which come first.
   */
  run(
    frames: readonly (Uint8Array | WireFrame)[],
    specs: readonly CtSpec[],
    before: readonly number[] = [],
  ): Tracked[] {
    const { key, mask } = Rig.matchPort(this.input);
    const program = [
      ...before,
      ...specs.flatMap(ctAction),
      ACT_USERSPACE | (4 << 16),
      UPCALL_CONTROLLER,
      0,
      0xffff,
      ACT_END | (1 << 16),
    ];
    this.rig.flows.put(key, mask, Uint32Array.from(program));
    for (const frame of frames) this.rig.send(this.input, frame);
    this.rig.poll();
    return this.rig.upcalls().map((upcall) => tracked(upcall.key, upcall.data));
  }

  track(frame: Uint8Array | WireFrame, ...specs: CtSpec[]): Tracked {
    return this.run([frame], specs)[0]!;
  }

  /** Lets time pass; nothing is swept unless a packet or sweep() comes. */
  advance(ms: number): void {
    this.rig.nowNs += ms * 1e6;
  }
}

export function hex(data: Uint8Array | readonly number[]): string {
  return Buffer.from(data).toString('hex');
}

function tracked(key: Uint8Array, frame: Uint8Array): Tracked {
  const view = new DataView(key.buffer, key.byteOffset, key.length);
  const part = (at: number, length: number): string => hex(key.subarray(at, at + length));
  const v6 = !/^0*$/.test(part(K_CT_IPV6_SRC, 32));
  return {
    frame,
    state: view.getUint32(K_CT_STATE),
    zone: view.getUint16(K_CT_ZONE),
    mark: view.getUint32(K_CT_MARK),
    label: part(K_CT_LABEL, 16),
    original: [
      v6 ? part(K_CT_IPV6_SRC, 16) : part(K_CT_NW_SRC, 4),
      v6 ? part(K_CT_IPV6_DST, 16) : part(K_CT_NW_DST, 4),
      key[K_CT_NW_PROTO],
      view.getUint16(K_CT_TP_SRC),
      view.getUint16(K_CT_TP_DST),
    ].join(' '),
  };
}

export const FIN = 1;
export const SYN = 2;
export const RST = 4;
export const PSH = 8;
export const ACK = 16;

export interface TcpFields {
  src: number;
  dst: number;
  flags: number;
  seq?: number;
  ack?: number;
  window?: number;
  /** Padded to four bytes by the caller. */
  options?: readonly number[];
  /** Zeros, or what it says. */
  payload?: number | Uint8Array;
}

/** A TCP segment without checksum, which ipv4() and ipv6() fill in. */
export function segment(fields: TcpFields): Uint8Array {
  const { src, dst, flags, seq = 0, ack = 0, window = 1000, options = [], payload = 0 } = fields;
  return bytes(
    be16(src),
    be16(dst),
    be32(seq),
    be32(ack),
    (5 + options.length / 4) << 4,
    flags,
    be16(window),
    [0, 0, 0, 0],
    options,
    typeof payload === 'number' ? new Uint8Array(payload) : payload,
  );
}
