// --user: running as somebody else, with just the capabilities that a switch needs (capabilities(7), capset(2)).
//
//   cap_user_header { u32 version = 3; i32 pid = 0 }   cap_user_data[2] { u32 effective, permitted, inheritable }
//
// Capabilities belong to threads: this has to happen before the workers start, which inherit them. What is kept, and why:
//
//   NET_ADMIN  taps and internal ports, addresses and flags of devices, offloads, XDP programs and queues
//   NET_RAW    packet sockets of system ports, AF_XDP sockets
//   IPC_LOCK   --mlockall, and locked pages of AF_XDP rings
//   BPF        the XDP program and its map
//
// The bounding set is cut down to the same four, and no program started from here gains anything (PR_SET_NO_NEW_PRIVS).

import { readFileSync } from 'node:fs';
import { c, check, NativeBuffer } from './ffi.ts';

const SYS_CAPSET = process.arch === 'arm64' ? 91n : 126n;
const CAPABILITY_VERSION_3 = 0x20080522;
const PR_SET_DUMPABLE = 4;
const PR_SET_KEEPCAPS = 8;
const PR_CAPBSET_DROP = 24;
const PR_SET_NO_NEW_PRIVS = 38;

const CAP_NET_ADMIN = 12;
const CAP_NET_RAW = 13;
const CAP_IPC_LOCK = 14;
const CAP_BPF = 39;
const KEPT = [CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK, CAP_BPF];
const CAP_MAX = 63;

export interface User {
  uid: number;
  gid: number;
  name: string;
  /** All groups of the user, with `gid`. */
  groups: number[];
}

function rows(file: string): string[][] {
  return readFileSync(file, 'utf8')
    .split('\n')
    .map((line) => line.split(':'));
}

/** Numbers of a `user[:group]` argument, by name or number. Throws Error with a text. */
export function lookupUser(spec: string): User {
  const [name = '', group] = spec.split(':');
  const user = rows('/etc/passwd').find((row) => row[0] === name || row[2] === name);
  if (!user) throw new Error(`user ${name} not found`);
  let gid = Number(user[3]);
  if (group !== undefined && group !== '') {
    gid = lookupGroup(group);
  }
  const groups = new Set([gid]);
  for (const [, , number, members = ''] of rows('/etc/group')) {
    if (members.split(',').includes(user[0]!)) groups.add(Number(number));
  }
  return { uid: Number(user[2]), gid, name: user[0]!, groups: [...groups] };
}

/** Number of a group, by name or number. Throws Error with a text. */
export function lookupGroup(name: string): number {
  const entry = rows('/etc/group').find((row) => row[0] === name || row[2] === name);
  if (!entry) throw new Error(`group ${name} not found`);
  return Number(entry[2]);
}

/** Becomes the user, keeping the capabilities for devices, packets and locked memory. Throws SysError. */
export function becomeUser(user: User): void {
  if (user.uid === process.getuid!()) return;
  for (let cap = 0; cap <= CAP_MAX; cap++) {
    // Fails for numbers that this kernel does not know, and without CAP_SETPCAP: then the set is small already.
    if (!KEPT.includes(cap)) c.prctl(PR_CAPBSET_DROP, BigInt(cap), 0n, 0n, 0n);
  }
  check(c.prctl(PR_SET_KEEPCAPS, 1n, 0n, 0n, 0n), 'prctl PR_SET_KEEPCAPS');
  // All groups of the user: sockets may be given to any of them (other_config:vhost-sock-owner).
  process.setgroups!(user.groups);
  process.setgid!(user.gid);
  process.setuid!(user.uid);
  let mask = 0n;
  for (const cap of KEPT) mask |= 1n << BigInt(cap);
  const header = new NativeBuffer(8);
  header.view.setUint32(0, CAPABILITY_VERSION_3, true);
  const data = new NativeBuffer(24);
  for (const half of [0, 1]) {
    const bits = Number((mask >> BigInt(half * 32)) & 0xffffffffn);
    data.view.setUint32(half * 12, bits, true);
    data.view.setUint32(half * 12 + 4, bits, true);
  }
  const result = c.syscall(SYS_CAPSET, header.address, data.address, 0n, 0n, 0n, 0n);
  check(Number(result), 'capset');
  check(c.prctl(PR_SET_NO_NEW_PRIVS, 1n, 0n, 0n, 0n), 'prctl PR_SET_NO_NEW_PRIVS');
  // A change of user hides /proc/self from ourselves: engine/lostMemory.ts looks there at the workers' stacks.
  check(c.prctl(PR_SET_DUMPABLE, 1n, 0n, 0n, 0n), 'prctl PR_SET_DUMPABLE');
}
