// --user: running as somebody else, with just the capabilities that a switch needs (capabilities(7), capset(2)).
//
//   cap_user_header { u32 version = 3; i32 pid = 0 }   cap_user_data[2] { u32 effective, permitted, inheritable }
//
// Capabilities belong to threads: this has to happen before the workers start, which inherit them.

import { readFileSync } from 'node:fs';
import { c, check, NativeBuffer } from './ffi.ts';

const SYS_CAPSET = process.arch === 'arm64' ? 91n : 126n;
const CAPABILITY_VERSION_3 = 0x20080522;
const PR_SET_KEEPCAPS = 8;

const CAP_NET_ADMIN = 12;
const CAP_NET_RAW = 13;
const CAP_IPC_LOCK = 14;
const CAP_SYS_NICE = 23;
const CAP_BPF = 39;

/** Numbers of a `user[:group]` argument, by name or number. Throws Error with a text. */
export function lookupUser(spec: string): { uid: number; gid: number; name: string } {
  const [name = '', group] = spec.split(':');
  const rows = (file: string): string[][] =>
    readFileSync(file, 'utf8')
      .split('\n')
      .map((line) => line.split(':'));
  const user = rows('/etc/passwd').find((row) => row[0] === name || row[2] === name);
  if (!user) throw new Error(`user ${name} not found`);
  let gid = Number(user[3]);
  if (group !== undefined && group !== '') {
    const entry = rows('/etc/group').find((row) => row[0] === group || row[2] === group);
    if (!entry) throw new Error(`group ${group} not found`);
    gid = Number(entry[2]);
  }
  return { uid: Number(user[2]), gid, name: user[0]! };
}

/** Becomes the user, keeping the capabilities for devices, packets and locked memory. Throws SysError. */
export function becomeUser(user: { uid: number; gid: number; name: string }): void {
  if (user.uid === process.getuid!()) return;
  check(c.prctl(PR_SET_KEEPCAPS, 1n, 0n, 0n, 0n), 'prctl PR_SET_KEEPCAPS');
  process.setgroups!([user.gid]);
  process.setgid!(user.gid);
  process.setuid!(user.uid);
  let mask = 0n;
  for (const cap of [CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK, CAP_SYS_NICE, CAP_BPF]) {
    mask |= 1n << BigInt(cap);
  }
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
}
