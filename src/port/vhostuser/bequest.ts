// The state of a connection as it goes from one daemon to the next (src/main/handover): JSON and file descriptors.
//
// The front-end notices nothing: its socket, its memory, its doorbells are the same open files in the new process, and the
// rings go on where they stopped. Descriptors are places in a list, since their numbers differ from process to process;
// 64-bit numbers are hexadecimal text.

import { sameRegion } from './regions.ts';
import {
  type BackendOptions,
  type BackendState,
  type DirtyLog,
  type FdInfo,
  initialState,
  type Region,
  type Ring,
} from './state.ts';

/** A connection that has stopped between two messages, with its rings stopped, too. */
export interface StoppedConnection {
  fd: number;
  state: BackendState;
}

export interface SavedConnection {
  /** JSON. Numbers of descriptors are places in `fds`. */
  json: string;
  fds: number[];
}

const FD_FIELDS = new Set(['fd', 'kick', 'call', 'err', 'channel', 'socket']);

/** Keeps the descriptors of both in order; they still belong to the caller. */
export function saveConnection({ fd, state }: StoppedConnection): SavedConnection {
  const fds: number[] = [];
  const { options, ...rest } = state;
  const json = JSON.stringify(
    { ...rest, features: state.features ?? null, offered: options.features, socket: fd },
    (name, value: unknown) => {
      if (typeof value === 'bigint') return `0x${value.toString(16)}`;
      if (!FD_FIELDS.has(name) || typeof value !== 'number' || value < 0) return value;
      const at = fds.indexOf(value);
      return at >= 0 ? at : fds.push(value) - 1;
    },
  );
  return { json, fds };
}

type Saved<T> = {
  [K in keyof T]: T[K] extends bigint ? string : T[K] extends FdInfo ? Saved<FdInfo> : T[K];
};

/**
 * Puts a saved connection together again. undefined if it does not fit the port any more: other features are offered
 * now. The caller owns the descriptors either way.
 */
export function restoreConnection(
  saved: SavedConnection,
  options: BackendOptions,
): StoppedConnection | undefined {
  const { fds } = saved;
  const fdOf = (place: number): number => (place < 0 ? -1 : fds[place]!);
  const from = JSON.parse(saved.json) as Record<string, unknown>;
  if (BigInt(from.offered as string) !== options.features) return undefined;
  const file = (info: Saved<FdInfo>): FdInfo => ({
    ...info,
    fd: fdOf(info.fd),
    size: BigInt(info.size),
  });
  const region = (one: Saved<Region>): Region => ({
    guestAddress: BigInt(one.guestAddress),
    size: BigInt(one.size),
    userAddress: BigInt(one.userAddress),
    mmapOffset: BigInt(one.mmapOffset),
    file: file(one.file as Saved<FdInfo>),
  });
  const regions = (from.regions as Saved<Region>[]).map(region);
  const rings = (from.rings as Saved<Ring>[]).map((ring): Ring => {
    const a = ring.addresses as Saved<NonNullable<Ring['addresses']>> | undefined;
    return {
      ...(ring as unknown as Ring),
      addresses: a && {
        logged: a.logged,
        desc: BigInt(a.desc),
        avail: BigInt(a.avail),
        used: BigInt(a.used),
        logAddress: BigInt(a.logAddress),
      },
      kick: fdOf(ring.kick),
      call: fdOf(ring.call),
      err: fdOf(ring.err),
    };
  });
  if (rings.length !== options.maxPairs * 2) return undefined;
  const mapped = <T extends DirtyLog>(value: unknown): T | undefined => {
    if (value === undefined) return undefined;
    const one = value as Saved<T>;
    return {
      ...(one as unknown as T),
      file: file(one.file as Saved<FdInfo>),
      size: BigInt(one.size as string),
      offset: BigInt(one.offset as string),
    };
  };
  return {
    fd: fdOf(from.socket as number),
    state: {
      ...initialState(options),
      features: from.features === null ? undefined : BigInt(from.features as string),
      protocolFeatures: BigInt(from.protocolFeatures as string),
      status: from.status as number | undefined,
      regions,
      // The same objects as in the table: they are told apart by identity.
      repeated: (from.repeated as Saved<Region>[]).map((one) => {
        const again = region(one);
        return regions.find((known) => sameRegion(known, again)) ?? again;
      }),
      rings,
      log: mapped(from.log),
      inflight: mapped(from.inflight),
      channel: fdOf(from.channel as number),
      mtu: from.mtu as number,
    },
  };
}
