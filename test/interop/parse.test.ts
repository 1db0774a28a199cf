// The oracle of the parser against Open vSwitch itself: `ovs-ofctl parse-pcap` prints the flow of every packet of a
// capture. (The data plane is held to the oracle by test/property/parse.test.ts.)

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import * as k from '../../contract/key.ts';
import { anyFrame } from '../oracle/frames.ts';
import { parseFrame } from '../oracle/parse.ts';

const FRAMES = 6000;

/** A capture in the classic format, little-endian, link type Ethernet. */
function pcap(frames: readonly Uint8Array[]): Buffer {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b2c3d4, 0);
  header.writeUInt16LE(2, 4);
  header.writeUInt16LE(4, 6);
  header.writeUInt32LE(65535, 16);
  header.writeUInt32LE(1, 20);
  const records = frames.flatMap((frame) => {
    const record = Buffer.alloc(16);
    record.writeUInt32LE(frame.length, 8);
    record.writeUInt32LE(frame.length, 12);
    return [record, Buffer.from(frame)];
  });
  return Buffer.concat([header, ...records]);
}

/** Ethernet type and protocol that a word like "tcp6" stands for. */
const WORDS: Record<string, [number, number?]> = {
  ip: [0x0800],
  ipv6: [0x86dd],
  tcp: [0x0800, 6],
  tcp6: [0x86dd, 6],
  udp: [0x0800, 17],
  udp6: [0x86dd, 17],
  sctp: [0x0800, 132],
  sctp6: [0x86dd, 132],
  icmp: [0x0800, 1],
  icmp6: [0x86dd, 58],
  igmp: [0x0800, 2],
  arp: [0x0806],
  rarp: [0x8035],
  mpls: [0x8847],
  mplsm: [0x8848],
};
const FRAG: Record<string, number> = { no: 0, first: k.FRAG_ANY, later: k.FRAG_ANY | k.FRAG_LATER };
const TCP_FLAGS = ['fin', 'syn', 'rst', 'psh', 'ack', 'urg', 'ece', 'cwr', 'ns'];

/** What our key says about a field, as a number or as text in Open vSwitch's form. */
function ours(key: Uint8Array, name: string): string | number | undefined {
  const view = new DataView(key.buffer);
  const mac = (at: number): string => Buffer.from(key.subarray(at, at + 6)).toString('hex');
  const ip4 = (at: number): string => [...key.subarray(at, at + 4)].join('.');
  const hex16 = (at: number): string => Buffer.from(key.subarray(at, at + 16)).toString('hex');
  const tag = (n: number): number => view.getUint16(n === 0 ? k.K_VLAN0_TCI : k.K_VLAN1_TCI);
  const label = (n: number): number => view.getUint32(k.K_MPLS_LSE + 4 * n);
  const table: Record<string, () => string | number> = {
    dl_src: () => mac(k.K_ETH_SRC),
    dl_dst: () => mac(k.K_ETH_DST),
    dl_type: () => view.getUint16(k.K_ETH_TYPE),
    vlan_tci: () => tag(0),
    vlan_tci1: () => tag(1),
    dl_vlan: () => tag(0) & 0xfff,
    dl_vlan_pcp: () => tag(0) >> 13,
    dl_vlan1: () => tag(1) & 0xfff,
    dl_vlan_pcp1: () => tag(1) >> 13,
    nw_src: () => ip4(k.K_NW_SRC),
    nw_dst: () => ip4(k.K_NW_DST),
    arp_spa: () => ip4(k.K_NW_SRC),
    arp_tpa: () => ip4(k.K_NW_DST),
    arp_op: () => key[k.K_NW_PROTO]!,
    arp_sha: () => mac(k.K_ARP_SHA),
    arp_tha: () => mac(k.K_ARP_THA),
    ipv6_src: () => hex16(k.K_IPV6_SRC),
    ipv6_dst: () => hex16(k.K_IPV6_DST),
    ipv6_label: () => view.getUint32(k.K_IPV6_LABEL),
    nw_proto: () => key[k.K_NW_PROTO]!,
    nw_tos: () => key[k.K_NW_TOS]! & 0xfc,
    nw_ecn: () => key[k.K_NW_TOS]! & 3,
    nw_ttl: () => key[k.K_NW_TTL]!,
    nw_frag: () => key[k.K_NW_FRAG]!,
    tp_src: () => view.getUint16(k.K_TP_SRC),
    tp_dst: () => view.getUint16(k.K_TP_DST),
    icmp_type: () => view.getUint16(k.K_TP_SRC),
    icmp_code: () => view.getUint16(k.K_TP_DST),
    tcp_flags: () => view.getUint16(k.K_TCP_FLAGS),
    nd_target: () => hex16(k.K_ND_TARGET),
    nd_sll: () => mac(k.K_ARP_SHA),
    nd_tll: () => mac(k.K_ARP_THA),
    nd_reserved: () => view.getUint32(k.K_ND_RESERVED),
    nd_options_type: () => key[k.K_ND_OPTIONS_TYPE]!,
    mpls_label: () => label(0) >>> 12,
    mpls_tc: () => (label(0) >> 9) & 7,
    mpls_bos: () => (label(0) >> 8) & 1,
    mpls_ttl: () => label(0) & 0xff,
    mpls_lse1: () => label(1),
    mpls_lse2: () => label(2),
  };
  return table[name]?.();
}

/** A value of Open vSwitch's text in the form that ours() gives. */
function theirs(name: string, value: string): string | number {
  if (/^(dl_src|dl_dst|arp_sha|arp_tha|nd_sll|nd_tll)$/.test(name))
    return value.replaceAll(':', '');
  if (/^(nw_src|nw_dst|arp_spa|arp_tpa)$/.test(name)) return value;
  if (name === 'nw_frag') return FRAG[value]!;
  if (/^(ipv6_src|ipv6_dst|nd_target)$/.test(name)) return ipv6Hex(value);
  if (name === 'tcp_flags' && value !== '0' && !/^(0x[0-9a-f]+|\d+)$/.test(value)) {
    return value.split('|').reduce((sum, flag) => {
      // Reserved bits have no name: [200] is 0x200.
      const unnamed = /^\[([0-9a-f]+)\]$/.exec(flag);
      return sum | (unnamed === null ? 1 << TCP_FLAGS.indexOf(flag) : parseInt(unnamed[1]!, 16));
    }, 0);
  }
  return Number(value);
}

function ipv6Hex(text: string): string {
  const dotted = /^(.*:)(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(text);
  if (dotted !== null) {
    const [a, b, c, d] = dotted.slice(2).map(Number) as [number, number, number, number];
    return ipv6Hex(`${dotted[1]}${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`);
  }
  const [left = '', right] = text.split('::');
  const words = (part: string): string[] => (part === '' ? [] : part.split(':'));
  const head = words(left);
  const tail = words(right ?? '');
  const zeros = right === undefined ? [] : Array<string>(8 - head.length - tail.length).fill('0');
  return [...head, ...zeros, ...tail].map((word) => word.padStart(4, '0')).join('');
}

/** Every field that the text has must be what our key says. (The text has no TPIDs.) */
function compare(key: Uint8Array, line: string): void {
  const words = line.split(',');
  const [type, proto] = WORDS[words[0]!] ?? [];
  if (type !== undefined) assert.equal(ours(key, 'dl_type'), type);
  if (proto !== undefined) assert.equal(key[k.K_NW_PROTO], proto);
  for (const word of words) {
    const [name, ...rest] = word.split('=') as [string, ...string[]];
    if (WORDS[name] !== undefined || name === 'in_port') continue;
    const value = ours(key, name);
    assert.notEqual(value, undefined, `unknown field ${name}`);
    assert.equal(value, theirs(name, rest.join('=')), name);
  }
}

test('the flow of any frame is that of ovs-ofctl parse-pcap', (t) => {
  const frames = fc.sample(anyFrame, FRAMES);
  const directory = mkdtempSync(path.join(tmpdir(), 'xvio-parse-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const file = path.join(directory, 'frames.pcap');
  writeFileSync(file, pcap(frames));
  const output = execFileSync('ovs-ofctl', ['parse-pcap', file], {
    encoding: 'utf8',
    timeout: 30_000,
    maxBuffer: 1 << 28,
  });
  const lines = output.trimEnd().split('\n');
  assert.equal(lines.length, frames.length);
  const kinds = new Set<string>();
  lines.forEach((line, i) => {
    const frame = frames[i]!;
    const { key } = parseFrame(frame, 0, 2, Number.POSITIVE_INFINITY);
    kinds.add(line.split(',')[0]!);
    try {
      compare(key, line);
    } catch (error) {
      const hex = Buffer.from(frame).toString('hex');
      throw new Error(`${(error as Error).message}\n${line}\n${hex}`);
    }
  });
  for (const word of ['tcp', 'udp6', 'sctp', 'icmp6', 'arp', 'rarp', 'mpls', 'ip', 'ipv6']) {
    assert.ok(kinds.has(word), `no frame was ${word}`);
  }
});
