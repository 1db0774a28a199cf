// The OpenFlow codec on hand-made bytes: layouts, error codes, VLAN and port semantics of the versions, text.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { F_IN_PORT, F_REGS, FLOW_SIZE, K_TP_SRC, K_VLAN0_TCI } from '../../contract/key.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { formatActions } from '../../src/wire/openflow/actionText.ts';
import {
  coverField,
  getField,
  getSubfield,
  matchField,
  setField,
  setSubfield,
} from '../../src/wire/openflow/fieldAccess.ts';
import { FIELDS, fieldByName, findField, oxmIdFor } from '../../src/wire/openflow/fields.ts';
import { formatSubfield, parseSubfield, TextError } from '../../src/wire/openflow/fieldText.ts';
import { flowMod } from '../../src/wire/openflow/flowMod.ts';
import { parseExactFlow, parseMatch } from '../../src/wire/openflow/matchParse.ts';
import { formatMatch } from '../../src/wire/openflow/matchText.ts';
import { decode, encode } from '../../src/wire/openflow/message.ts';
import { get16, get32 } from '../../src/wire/openflow/prereq.ts';
import { MessageSplitter } from '../../src/wire/openflow/stream.ts';
import type { FlowStatsEntry, OfVersion } from '../../src/wire/openflow/types.ts';

const hex = (text: string): Uint8Array =>
  Uint8Array.from(Buffer.from(text.replace(/\s/g, ''), 'hex'));

/** A message with this body; the header is added. */
function message(version: OfVersion, type: number, body: string): Uint8Array {
  const bytes = hex(body);
  const out = new Uint8Array(8 + bytes.length);
  out.set([version, type, 0, out.length, 0, 0, 0, 9]);
  out[2] = out.length >> 8;
  out.set(bytes, 8);
  return out;
}

/** OFPT_FLOW_MOD of OpenFlow 1.3 with these OXM entries and instructions. */
function flowMod13(oxm: string, instructions = ''): Uint8Array {
  const entries = hex(oxm);
  const length = 4 + entries.length;
  const pad = '00'.repeat(-length & 7);
  const head = `${'00'.repeat(16)} 00 00 0000 0000 8000 ffffffff ffffffff ffffffff 0000 0000`;
  const match = `0001 ${length.toString(16).padStart(4, '0')} ${oxm} ${pad}`;
  return message(4, 14, `${head} ${match} ${instructions}`);
}

function refuses(bytes: Uint8Array, code: string): void {
  assert.throws(() => decode(bytes), { code }, code);
}

function decodedFlow(bytes: Uint8Array) {
  const { message: m } = decode(bytes);
  assert.ok(m.type === 'flow_mod');
  return m.flowMod;
}

test('every field lies in the flow record, and every TLV number names one field', () => {
  const seen = new Set<string>();
  for (const f of FIELDS) {
    assert.ok(f.offset + Math.min(f.size, 124) <= FLOW_SIZE, f.name);
    assert.ok(f.bits <= f.valueBits || f.name === 'arp_op' || f.name === 'ct_state', f.name);
    for (const id of f.oxm) {
      const key = `${id.oxmClass}:${id.number}:${id.experimenter}`;
      assert.ok(!seen.has(key), `${f.name} ${key}`);
      seen.add(key);
      assert.equal(findField(id.name), f);
    }
  }
  assert.equal(fieldByName('dl_src').name, 'eth_src');
  assert.equal(oxmIdFor(fieldByName('tcp_flags'), 4)?.name, 'ONFOXM_ET_TCP_FLAGS');
  assert.equal(oxmIdFor(fieldByName('reg3'), 6)?.name, 'NXM_NX_REG3');
});

test('fields that share a place are read and written at their own width', () => {
  const flow = new Uint8Array(FLOW_SIZE);
  setField(flow, fieldByName('xxreg1'), 0x0102030405060708090a0b0c0d0e0f10n);
  assert.equal(getField(flow, fieldByName('reg4')), 0x01020304n);
  assert.equal(getField(flow, fieldByName('xreg3')), 0x090a0b0c0d0e0f10n);
  assert.equal(flow[F_REGS + 16], 1);
  setField(flow, fieldByName('dl_vlan'), 100n);
  setField(flow, fieldByName('vlan_pcp'), 5n);
  assert.equal(getField(flow, fieldByName('vlan_tci')), 0xb064n);
  assert.equal(getField(flow, fieldByName('vlan_vid')), 0x1064n);
  setField(flow, fieldByName('nw_ecn'), 3n);
  setField(flow, fieldByName('ip_dscp'), 10n);
  assert.equal(getField(flow, fieldByName('nw_tos')), 0x2bn);
  setField(flow, fieldByName('in_port'), 0xfffen);
  assert.equal(get32(flow, F_IN_PORT), 0xfffffffe);
  setField(flow, fieldByName('mpls_tc'), 5n);
  setField(flow, fieldByName('mpls_label'), 77n);
  assert.equal(getField(flow, fieldByName('mpls_tc')), 5n);
  setSubfield(flow, { field: 'metadata', offset: 60, bits: 4 }, 9n);
  assert.equal(getSubfield(flow, { field: 'metadata', offset: 59, bits: 5 }), 18n);
});

test('matching an ICMP type covers the whole place of the port', () => {
  const match = { key: new Uint8Array(FLOW_SIZE), mask: new Uint8Array(FLOW_SIZE) };
  matchField(match, fieldByName('icmp_type'), 8n);
  assert.equal(get16(match.mask, K_TP_SRC), 0xffff);
  assert.equal(get16(match.key, K_TP_SRC), 8);
  const wildcards = new Uint8Array(FLOW_SIZE);
  coverField(wildcards, fieldByName('dl_vlan_pcp'));
  assert.equal(get16(wildcards, K_VLAN0_TCI), 0xf000);
});

test('OXM lists get the error that Open vSwitch gives', () => {
  const ipv4 = '80000a02 0800';
  assert.equal(formatMatch(decodedFlow(flowMod13(ipv4)).match), 'ip');
  refuses(flowMod13('80001c08 00000001 00000001'), 'OFPBMC_BAD_FIELD'); // TCP port of 8 bytes
  refuses(flowMod13('8000fe01 00'), 'OFPBMC_BAD_FIELD');
  refuses(flowMod13('80001a02 0050'), 'OFPBMC_BAD_PREREQ'); // tcp_src without tcp
  refuses(flowMod13(`${ipv4} ${ipv4}`), 'OFPBMC_DUP_FIELD');
  refuses(flowMod13('80000b04 0800 ff00'), 'OFPBMC_BAD_MASK'); // eth_type/mask
  refuses(flowMod13('80000704 0000 ffff'), 'OFPBMC_BAD_FIELD'); // eth_dst of 2 bytes
  refuses(flowMod13(`${ipv4} 80001708 0a000001 ff000000`), 'OFPBMC_BAD_WILDCARDS');
  refuses(flowMod13(`${ipv4} 80001001 40`), 'OFPBMC_BAD_VALUE'); // dscp 64
  refuses(flowMod13('80000a04 0800'), 'OFPBMC_BAD_LEN');
  refuses(flowMod13('80000004 0000ff01'), 'OFPBMC_BAD_VALUE'); // in_port between the ranges
  refuses(flowMod13('80000a02 080000'), 'OFPBMC_BAD_LEN');
});

test('actions and instructions get the error that Open vSwitch gives', () => {
  const apply = (action: string): Uint8Array => {
    const length = 8 + action.replace(/\s/g, '').length / 2;
    return flowMod13('', `0004 ${length.toString(16).padStart(4, '0')} 00000000 ${action}`);
  };
  const output = '0000 0010 00000002 0000 000000000000';
  assert.equal(formatActions(decodedFlow(apply(output)).actions), 'output:2');
  refuses(apply('0000 0010 ffffffff 0000 000000000000'), 'OFPBAC_BAD_OUT_PORT');
  refuses(apply('0000 0010 0000ff05 0000 000000000000'), 'OFPBAC_BAD_OUT_PORT');
  refuses(apply('0000 0018 00000002 0000 000000000000 0000000000000000'), 'OFPBAC_BAD_LEN');
  refuses(apply('0000 0000 00000002'), 'OFPBAC_BAD_LEN');
  refuses(apply('0063 0008 00000000'), 'OFPBAC_BAD_TYPE');
  refuses(apply('ffff 0010 00000001 0000 000000000000'), 'OFPBAC_BAD_VENDOR');
  refuses(apply('ffff 0010 00002320 0099 000000000000'), 'OFPBAC_BAD_VENDOR_TYPE');
  refuses(apply('0011 0008 0800 0000'), 'OFPBAC_BAD_ARGUMENT'); // push_vlan of IPv4
  refuses(apply('0019 0010 80000a02 0800 000000000000'), 'OFPBAC_BAD_SET_ARGUMENT'); // read-only
  refuses(apply('0019 0010 8000fe02 0800 000000000000'), 'OFPBAC_BAD_SET_TYPE');
  refuses(apply('0019 0010 80000602 0800 000000000000'), 'OFPBAC_BAD_SET_LEN');
  refuses(apply('ffff 0018 00002320 0007 0fff 00010004 0000000000000001'), 'OFPBAC_BAD_SET_LEN');
  refuses(flowMod13('', '0007 0008 00000000'), 'OFPBIC_UNKNOWN_INST');
  refuses(flowMod13('', 'ffff 0008 00000000'), 'OFPBIC_BAD_EXPERIMENTER');
  refuses(flowMod13('', '0001 0010 00000000 0000000000000000'), 'OFPBIC_BAD_LEN');
  refuses(flowMod13('', '0001 0008 05000000 0001 0008 05000000'), 'OFPBIC_DUP_INST');
});

test('broken frames are refused', () => {
  refuses(hex('0400000700000000'), 'OFPBRC_BAD_LEN');
  refuses(hex('0405000c00000000'), 'OFPBRC_BAD_LEN');
  refuses(message(4, 5, '00'), 'OFPBRC_BAD_LEN');
  refuses(message(4, 99, ''), 'OFPBRC_BAD_TYPE');
  refuses(message(4, 18, '00630000 00000000'), 'OFPBRC_BAD_STAT');
  refuses(message(4, 4, '00000001 00000001'), 'OFPBRC_BAD_VENDOR');
  refuses(message(4, 4, '00002320 00000063'), 'OFPBRC_BAD_SUBTYPE');
  refuses(hex('0705000800000000'), 'OFPBRC_BAD_VERSION');
  // A hello of a version to come is understood.
  assert.deepEqual(decode(hex('0900000800000000')).message, { type: 'hello' });
});

test('flow-mods are refused for what their version does not have', () => {
  const bytes = encode(4, 1, {
    type: 'flow_mod',
    nxt: false,
    flowMod: flowMod({ match: parseMatch('') }),
  })[0]!;
  const flags = bytes.slice();
  flags[45] = 0x40;
  refuses(flags, 'OFPFMFC_BAD_FLAGS');
  const command = bytes.slice();
  command[25] = 7;
  refuses(command, 'OFPFMFC_BAD_COMMAND');
  const table = bytes.slice();
  table[24] = 0xff;
  refuses(table, 'OFPFMFC_BAD_TABLE_ID');
  const emergency = encode(1, 1, {
    type: 'flow_mod',
    nxt: false,
    flowMod: flowMod({ match: parseMatch('in_port=1'), idleTimeout: 5 }),
  })[0]!;
  emergency[71] = 4;
  refuses(emergency, 'OFPFMFC_BAD_EMERG_TIMEOUT');
});

test('OpenFlow 1.0: a match that contradicts itself is normalised, an exact one has the highest priority', () => {
  const bytes = encode(1, 1, {
    type: 'flow_mod',
    nxt: false,
    flowMod: flowMod({ match: parseMatch('arp,in_port=1'), priority: 5 }),
  })[0]!;
  const view = new DataView(bytes.buffer);
  // tp_dst too is matched now, which ARP does not have.
  view.setUint32(8, view.getUint32(8) & ~(1 << 7));
  const flow = decodedFlow(bytes);
  assert.equal(formatMatch(flow.match), 'arp,in_port=1');
  assert.equal(flow.priority, 5);
  view.setUint32(8, 0);
  assert.equal(decodedFlow(bytes).priority, 0xffff);
});

test('OpenFlow 1.0: the table is in the command when the controller asked for that', () => {
  const m = flowMod({ match: parseMatch('in_port=1'), table: 9, command: 'modify' });
  const bytes = encode(1, 1, { type: 'flow_mod', nxt: true, flowMod: m }, { tableId: true })[0]!;
  const { message: back } = decode(bytes, { tableId: true });
  assert.ok(back.type === 'flow_mod');
  assert.deepEqual([back.flowMod.table, back.flowMod.command], [9, 'modify']);
  refuses(bytes, 'OFPFMFC_BAD_COMMAND');
});

test('errors have the numbers of their version', () => {
  const numbers = (version: OfVersion, code: string): string => {
    const bytes = encode(version, 1, { type: 'error', code, data: new Uint8Array(0) })[0]!;
    assert.equal(
      (decode(bytes).message as { code: string }).code,
      code === 'OFPBRC_IS_SECONDARY' && version < 3 ? 'OFPBRC_EPERM' : code,
    );
    return Buffer.from(bytes.subarray(8)).toString('hex');
  };
  assert.equal(numbers(4, 'OFPBMC_BAD_PREREQ'), '00040009');
  assert.equal(numbers(1, 'OFPBMC_BAD_PREREQ'), 'b0c20000000023200001' + '0104');
  assert.equal(numbers(1, 'OFPFMFC_OVERLAP'), '00030001');
  assert.equal(numbers(6, 'OFPFMFC_OVERLAP'), '00050003');
  assert.equal(numbers(4, 'NXBRC_MUST_BE_ZERO'), 'ffff000400002320');
  assert.equal(numbers(4, 'OFPBFC_BAD_ID'), 'ffff08fe4f4e4600');
  assert.equal(numbers(5, 'OFPBFC_BAD_ID'), '00110002');
  assert.equal(numbers(1, 'OFPBRC_IS_SECONDARY'), '00010005');
});

test('long replies are split between entries, all but the last with MORE', () => {
  const entry: FlowStatsEntry = {
    table: 0,
    match: parseMatch('tcp,nw_src=10.0.0.1'),
    priority: 1,
    cookie: 0n,
    durationMs: 0,
    idleTimeout: 0,
    hardTimeout: 0,
    idleAge: -1,
    hardAge: -1,
    importance: 0,
    flags: flowMod({ match: parseMatch('') }).flags,
    packets: 0n,
    bytes: 0n,
    actions: parseActions('output:1'),
  };
  const entries = Array.from({ length: 2000 }, (_, i) => ({ ...entry, priority: i }));
  for (const version of [1, 4, 6] as const) {
    const parts = encode(version, 5, { type: 'flow_stats_reply', nxt: version === 1, entries });
    assert.ok(parts.length > 2);
    const back = parts.map((p) => decode(p).message);
    const priorities = back.flatMap((m) =>
      m.type === 'flow_stats_reply' ? m.entries.map((e) => e.priority) : [],
    );
    assert.deepEqual(
      priorities,
      entries.map((e) => e.priority),
    );
    assert.deepEqual(
      back.map((m) => m.type === 'flow_stats_reply' && m.more === true),
      parts.map((_, i) => i < parts.length - 1),
    );
  }
});

test('a bundle holds messages of its own version and xid', () => {
  const inner = { type: 'port_mod', portMod: portMod() } as const;
  const add = { type: 'bundle_add', bundleId: 1, flags: 0, xid: 7, message: inner } as const;
  assert.deepEqual(decode(encode(5, 7, add)[0]!).message, add);
  refuses(encode(5, 8, add)[0]!, 'OFPBFC_MSG_BAD_XID');
  refuses(encode(5, 7, { ...add, message: { type: 'barrier_request' } })[0]!, 'OFPBFC_MSG_UNSUP');
  const version = encode(5, 7, add)[0]!;
  version[16] = 4;
  refuses(version, 'OFPBFC_BAD_VERSION');
});

function portMod() {
  return { port: 1, hwAddr: hex('020000000001'), config: 1, mask: 1, advertise: 0 };
}

test('tunnel metadata is what the TLV table says', () => {
  const tlvs = [{ optionClass: 0x102, optionType: 0x80, optionLen: 4, index: 3 }];
  const bytes = flowMod13('00015604 deadbeef');
  refuses(bytes, 'NXFMFC_INVALID_TLV_FIELD');
  const { message: m } = decode(bytes, { tlvs });
  assert.ok(m.type === 'flow_mod');
  assert.equal(formatMatch(m.flowMod.match, { tlvs }), 'tun_metadata3=0xdeadbeef');
});

test('a stream without a sensible length cannot go on', () => {
  const splitter = new MessageSplitter();
  splitter.push(hex('04000003'));
  assert.equal(splitter.next(), undefined);
  splitter.push(hex('00000000'));
  assert.throws(() => splitter.next(), { code: 'OFPBRC_BAD_LEN' });
});

test('matches as text', () => {
  const same = [
    'priority=5,tcp,reg3=0x1/0xf,metadata=0x10,in_port=LOCAL,dl_vlan=9,dl_vlan_pcp=2,dl_src=02:00:00:00:00:01,nw_src=10.0.0.0/8,tp_dst=80',
    'ct_state=-new+est,ct_zone=5,ct_mark=0x7,udp6,ipv6_src=fe80::/10,tp_src=0x10/0xf0',
    'icmp6,icmp_type=135,icmp_code=0,nd_target=2001:db8::1,nd_sll=02:00:00:00:00:02',
    'arp,arp_spa=1.2.3.4,arp_op=1,arp_sha=02:00:00:00:00:01',
    'ip,nw_tos=32,nw_ttl=64,nw_frag=not_later',
    'vlan_tci=0x0000',
    'mpls,mpls_label=7,mpls_bos=1',
    'tun_id=0x5/0xff,tun_src=1.2.3.0/24,tun_flags=+oam',
    'dl_type=0x88cc',
  ];
  for (const text of same) {
    const [, priority, rest] = /^(?:priority=(\d+),)?(.*)$/.exec(text)!;
    const match = parseMatch(rest!);
    const shown = formatMatch(match, priority === undefined ? {} : { priority: Number(priority) });
    assert.equal(shown, text);
  }
  assert.equal(formatMatch(parseMatch('dl_vlan=0xffff')), 'vlan_tci=0x0000');
  assert.equal(formatMatch(parseMatch('reg0[4..7]=5')), 'reg0=0x50/0xf0');
});

test('flows of a packet', () => {
  const flow = parseExactFlow('in_port=1,tcp,nw_src=1.2.3.4,tp_dst=80');
  assert.equal(getField(flow, fieldByName('tcp_dst')), 80n);
  const error = (text: string, message: string): void =>
    assert.throws(
      () => parseExactFlow(text),
      (e: Error) => e instanceof TextError && e.message === message,
    );
  error('bogus=1', 'bogus=1: unknown field bogus');
  error('nw_src=1.2.3.4', 'nw_src=1.2.3.4: prerequisites not met for setting nw_src');
  error('udp,tp_dst=1', 'udp,tp_dst=1: prerequisites not met for setting tp_dst');
  error('tcp,udp', 'tcp,udp: Ethernet type set multiple times');
  error(
    'ip,nw_src=1.2.3.0/24',
    'ip,nw_src=1.2.3.0/24: bad value for nw_src (1.2.3.0/24: wildcards not allowed here)',
  );
  error('reg0=1,reg0=2', 'reg0=1,reg0=2: field reg0 set multiple times');
});

test('actions as text, there and back', () => {
  const same = [
    'drop',
    'output:1,CONTROLLER:65535,NORMAL,IN_PORT,LOCAL,FLOOD,ALL',
    'mod_dl_src:02:00:00:00:00:01,mod_nw_tos:32,mod_tp_dst:80,mod_vlan_vid:7,strip_vlan',
    'set_field:10.0.0.1->ip_dst,set_field:0x5/0xf->reg3,set_field:4196->vlan_vid',
    'load:0x7->NXM_NX_REG1[4..9],move:NXM_NX_REG0[]->NXM_NX_REG2[],output:NXM_NX_REG1[0..15]',
    'push_vlan:0x8100,pop_vlan,dec_ttl,dec_ttl(1,2),enqueue:3:4,set_queue:9,pop_queue',
    'resubmit:3,resubmit(,7),resubmit(4,7),note:01.02.03.04.05.06,exit',
    'output(port=3,max_len=64),controller(reason=invalid_ttl,max_len=9,id=2,userdata=01.02,pause)',
    'meter:3,clear_actions,write_actions(output:2),write_metadata:0x5/0xf,goto_table:9',
    'clone(output:1,ct_clear),push:NXM_NX_REG0[],pop:NXM_NX_REG1[3],group:4',
  ];
  for (const text of same) assert.equal(formatActions(parseActions(text)), text);
  assert.throws(() => parseActions('fly:1'), { message: 'unknown action fly' });
  assert.throws(() => parseActions('output:nowhere'), {
    message: 'nowhere: output to unknown port',
  });
});

test('subfields as text', () => {
  for (const text of ['NXM_NX_REG0[]', 'NXM_NX_REG0[3]', 'OXM_OF_METADATA[4..19]'])
    assert.equal(formatSubfield(parseSubfield(text)), text);
  assert.throws(() => parseSubfield('reg0[32]'), {
    message: 'reg0[32]: starting bit 32 is not valid because field is only 32 bits wide',
  });
});

test('a message in a message in a message is refused, however many there are', () => {
  for (const [type, head] of [
    [32, 8], // requestforward
    [34, 16], // bundle_add
  ] as const) {
    const bytes = new Uint8Array(65528);
    const view = new DataView(bytes.buffer);
    for (let at = 0; at + head <= bytes.length; at += head) {
      bytes.set([6, type], at);
      view.setUint16(at + 2, bytes.length - at);
    }
    assert.throws(() => decode(bytes), { code: 'OFPBFC_MSG_UNSUP' });
  }
});
