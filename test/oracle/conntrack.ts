// Connection tracking, slowly and obviously: a list of connections, searched from the start; frames parsed again for
// each action, translated by rewriting bytes and summing checksums from scratch. What it says goes with Open vSwitch's
// userspace conntrack. The choice of an address and port for NAT is not the model's: it is asked for it (`choose`).

import {
  CS_DNAT,
  CS_EST,
  CS_INV,
  CS_NEW,
  CS_REL,
  CS_RPL,
  CS_SNAT,
  CS_TRK,
} from '../../contract/ct.ts';
import { TcpModel } from './conntrackTcp.ts';
import { type Inner, type ModelTuple, readTuple, reverse, rewrite, sameTuple } from './ctFrames.ts';
import type { CtSpec, Tracked } from './ctRig.ts';
import { hex } from './ctRig.ts';

export interface ModelConnection {
  zone: number;
  orig: ModelTuple;
  reply: ModelTuple;
  side: 'src' | 'dst' | undefined;
  mark: number;
  label: bigint;
  /** UDP and others: 0 first, 1 multiple, 2 both; ICMP: 0 first, 1 reply. */
  state: number;
  tcp: TcpModel | undefined;
  expiresMs: number;
  policy: number;
}

interface Fields {
  state: number;
  zone: number;
  mark: number;
  label: bigint;
  original: string;
  known: { connection: ModelConnection; reply: boolean; related: boolean } | undefined;
}

const NATTED = CS_SNAT | CS_DNAT;
const NOTHING = '00000000 00000000 0 0 0';

export const DEFAULT_SECONDS: readonly number[] = [30, 30, 86400, 900, 45, 30, 60, 60, 30, 60, 30];

export class ConntrackModel {
  connections: ModelConnection[] = [];
  nowMs = 0;
  liberal = false;
  limit = Number.POSITIVE_INFINITY;
  zoneLimits = new Map<number, number>();
  policies = new Map<number, readonly number[]>();
  /** The tuple of the replies to a new connection, or undefined: nothing is free. */
  choose: (orig: ModelTuple, spec: CtSpec) => ModelTuple | undefined = () => undefined;

  live(): ModelConnection[] {
    this.connections = this.connections.filter(({ expiresMs }) => expiresMs > this.nowMs);
    return this.connections;
  }

  find(
    tuple: ModelTuple,
    zone: number,
  ): { connection: ModelConnection; reply: boolean } | undefined {
    const here = this.live().filter((c) => c.zone === zone);
    const original = here.find((c) => sameTuple(c.orig, tuple));
    if (original) return { connection: original, reply: false };
    const replied = here.find((c) => sameTuple(c.reply, tuple));
    return replied && { connection: replied, reply: true };
  }

  /** Runs the actions on a frame. */
  run(frame: Uint8Array, specs: readonly CtSpec[], trusted = false): Tracked {
    let bytes: Uint8Array = frame.slice();
    const none: Fields = {
      state: 0,
      zone: 0,
      mark: 0,
      label: 0n,
      original: NOTHING,
      known: undefined,
    };
    let fields = none;
    for (const spec of specs) {
      if (spec.clear) {
        fields = none;
        continue;
      }
      const next = { ...fields };
      bytes = this.one(bytes, spec, next, trusted);
      fields = next;
    }
    const { state, zone, mark, label, original } = fields;
    return {
      frame: bytes,
      state,
      zone,
      mark,
      label: label.toString(16).padStart(32, '0'),
      original,
    };
  }

  private one(frame: Uint8Array, spec: CtSpec, f: Fields, trusted: boolean): Uint8Array {
    const zone = spec.zone ?? 0;
    const { known } = f;
    if (
      known &&
      known.connection.zone === zone &&
      !spec.force &&
      !(known.related && spec.nat) &&
      this.live().includes(known.connection)
    ) {
      let out = frame;
      if (spec.nat) {
        out = this.translate(frame, known.connection, known.reply, undefined, f);
        f.known = undefined;
      }
      setMarkAndLabel(f, known.connection, spec);
      return out;
    }
    const read = readTuple(frame, trusted);
    if (read === undefined) {
      Object.assign(f, {
        state: CS_INV | CS_TRK,
        zone,
        mark: 0,
        label: 0n,
        original: NOTHING,
        known: undefined,
      });
      return frame;
    }
    return this.process(frame, spec, f, read.tuple, read.inner);
  }

  private process(
    frame: Uint8Array,
    spec: CtSpec,
    f: Fields,
    packetTuple: ModelTuple,
    inner: Inner | undefined,
  ): Uint8Array {
    const zone = spec.zone ?? 0;
    if (f.zone !== zone) f.state = 0;
    let tuple = packetTuple;
    let out = frame;
    let found: { connection: ModelConnection; reply: boolean } | undefined;
    if (f.state & NATTED) {
      found = this.find(reverse(tuple), zone);
      if (found) {
        found.reply = !found.reply;
        tuple = found.reply ? found.connection.reply : found.connection.orig;
      }
    } else {
      found = this.find(tuple, zone);
    }
    if (found?.reply && spec.force) {
      this.end(found.connection);
      found = undefined;
    }
    let create = found === undefined && inner === undefined;
    if (found) {
      const { connection, reply } = found;
      if (inner) f.state |= CS_REL | (reply ? CS_RPL : 0);
      else {
        const result = this.update(connection, frame, reply);
        if (result === 'valid') f.state = (f.state & ~CS_NEW) | CS_EST | (reply ? CS_RPL : 0);
        else if (result === 'first') f.state |= CS_NEW;
        else if (result === 'invalid') f.state = CS_INV;
        else {
          this.end(connection);
          found = undefined;
          create = true;
        }
      }
      if (found && spec.nat) out = this.translate(frame, connection, reply, inner, f);
    } else if (inner) {
      f.state = CS_INV;
    }
    if (create) {
      const commits = spec.commit || spec.force;
      if (!mayBegin(frame, tuple)) f.state = CS_INV;
      else if (commits && this.find(tuple, zone)) {
        // Behind the one that has just ended stands another one with the same tuple of replies.
        Object.assign(f, { state: 0, zone });
        return this.process(frame, spec, f, tuple, inner);
      } else {
        f.state = CS_NEW;
        const connection = commits ? this.commit(frame, tuple, spec, zone) : undefined;
        if (connection) {
          found = { connection, reply: false };
          if (connection.side) out = this.translate(frame, connection, false, undefined, f);
        }
      }
    }
    f.state |= CS_TRK;
    f.zone = zone;
    f.mark = 0;
    f.label = 0n;
    const shown = found?.connection.orig ?? tuple;
    const icmp = shown.icmp;
    f.original = `${shown.src} ${shown.dst} ${shown.proto} ${icmp ? shown.dp >> 8 : shown.sp} ${icmp ? shown.dp & 0xff : shown.dp}`;
    f.known = undefined;
    if (found) {
      setMarkAndLabel(f, found.connection, spec);
      if (!spec.nat) f.known = { ...found, related: inner !== undefined };
    }
    return out;
  }

  private end(connection: ModelConnection): void {
    this.connections = this.connections.filter((c) => c !== connection);
  }

  private translate(
    frame: Uint8Array,
    c: ModelConnection,
    reply: boolean,
    inner: Inner | undefined,
    f: Fields,
  ): Uint8Array {
    if (!c.side || (f.state & NATTED) !== 0) return frame;
    const side = (c.side === 'src') !== reply ? 'src' : 'dst';
    f.state |= side === 'src' ? CS_SNAT : CS_DNAT;
    return rewrite(frame, reverse(reply ? c.orig : c.reply), side, inner);
  }

  private expire(c: ModelConnection, kind: number): void {
    c.expiresMs = this.nowMs + (this.policies.get(c.policy) ?? DEFAULT_SECONDS)[kind]! * 1000;
  }

  private update(
    c: ModelConnection,
    frame: Uint8Array,
    reply: boolean,
  ): 'valid' | 'first' | 'invalid' | 'again' {
    if (c.tcp) {
      const { result, timeout } = c.tcp.update(frame, reply, this.liberal);
      if (timeout !== undefined) this.expire(c, timeout);
      return result;
    }
    if (c.orig.proto === 1 || c.orig.proto === 58) {
      if (reply) c.state = 1;
      this.expire(c, 9 + c.state);
      return c.state === 0 ? 'first' : 'valid';
    }
    c.state = reply ? 2 : Math.max(c.state, 1);
    this.expire(c, 6 + c.state);
    return c.state === 2 ? 'valid' : 'first';
  }

  private commit(
    frame: Uint8Array,
    orig: ModelTuple,
    spec: CtSpec,
    zone: number,
  ): ModelConnection | undefined {
    const all = this.live();
    const zoneLimit = this.zoneLimits.get(zone);
    if (zoneLimit !== undefined && all.filter((c) => c.zone === zone).length >= zoneLimit) {
      return undefined;
    }
    if (all.length >= this.limit) return undefined;
    const side = spec.nat?.side;
    const reply = side ? this.choose(orig, spec) : reverse(orig);
    if (!reply) return undefined;
    const c: ModelConnection = {
      zone,
      orig,
      reply,
      side,
      mark: 0,
      label: 0n,
      state: 0,
      tcp: orig.proto === 6 ? new TcpModel(frame) : undefined,
      expiresMs: 0,
      policy: spec.policy ?? 0,
    };
    this.expire(c, orig.proto === 6 ? 0 : orig.proto === 1 || orig.proto === 58 ? 9 : 6);
    this.connections.push(c);
    return c;
  }
}

function setMarkAndLabel(f: Fields, c: ModelConnection, spec: CtSpec): void {
  const big = (octets: readonly number[]): bigint => BigInt(`0x${hex(octets)}`);
  if (spec.mark) c.mark = ((c.mark & ~spec.mark[1]) | (spec.mark[0] & spec.mark[1])) >>> 0;
  if (spec.label) {
    const [value, mask] = spec.label.map(big) as [bigint, bigint];
    c.label = (c.label & ~mask) | (value & mask);
  }
  f.mark = c.mark;
  f.label = c.label;
}

function mayBegin(frame: Uint8Array, tuple: ModelTuple): boolean {
  if (tuple.proto === 6) return TcpModel.mayBegin(frame);
  if (tuple.icmp) return (tuple.v6 ? [128] : [8, 13, 15]).includes(tuple.dp >> 8);
  return true;
}
