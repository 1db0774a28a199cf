// encap and decap as messages and texts, and what datapath flows show of them: labels of MPLS, tunnels that a port would make.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ACT_ADD_MPLS, ACT_END, ACT_SET_TUNNEL } from '../../contract/action.ts';
import {
  K_CT_IPV6_SRC,
  K_ETH_TYPE,
  K_MPLS_COUNT,
  K_MPLS_LSE,
  K_NW_PROTO,
  K_TUN_DST,
  K_TUN_FLAGS,
  K_TUN_ID,
  K_TUN_OPTS_LEN,
  K_TUN_TTL,
  KEY_SIZE,
  TUN_DF,
  TUN_KEY,
} from '../../contract/key.ts';
import { composeFrame, countingPayload } from '../../src/switch/composeFrame.ts';
import { newRecord, putBe16, putBe32 } from '../../src/switch/flow.ts';
import { formatOdpActions } from '../../src/switch/odpText.ts';
import { mplsKeyParts, parseMpls } from '../../src/switch/odpTunnel.ts';
import { decodeActions } from '../../src/wire/openflow/actionDecode.ts';
import { encodeActions } from '../../src/wire/openflow/actionEncode.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { formatActions } from '../../src/wire/openflow/actionText.ts';
import { Reader, Writer } from '../../src/wire/openflow/buffer.ts';

const TEXTS = [
  'encap(ethernet)',
  'encap(mpls)',
  'encap(mpls_mc)',
  'encap(nsh)',
  'encap(nsh(md_type=1))',
  'encap(nsh(md_type=2,tlv(0x1000,10,0x12345678),tlv(0x2000,20,0xfedcba9876543210)))',
  'dec_nsh_ttl',
  'decap()',
  'decap(packet_type(ns=0,type=0))',
  'decap(packet_type(ns=1,type=0x8847))',
];

function encoded(text: string, version: number): Uint8Array {
  const w = new Writer();
  encodeActions(w, parseActions(text), { version });
  return w.finish();
}

const decoded = (bytes: Uint8Array, version: number): string =>
  formatActions(decodeActions(new Reader(bytes, 'OFPBRC_BAD_LEN'), { version }));

test('encap and decap come back from messages and texts', () => {
  for (const text of TEXTS) {
    assert.equal(formatActions(parseActions(text)), text);
    assert.equal(decoded(encoded(text, 4), 4), text);
  }
  // NXAST_ENCAP 46, no header size, packet type (1,0x8847).
  assert.equal(encoded('encap(mpls)', 4).toHex(), 'ffff001000002320002e000000018847');
});

test('messages that encapsulate in what nobody knows are refused', () => {
  const refused = (hex: string, version = 4): string => {
    try {
      return decoded(Uint8Array.fromHex(hex), version);
    } catch (error) {
      return (error as { code: string }).code;
    }
  };
  const mpls = 'ffff001000002320002e000000018847';
  assert.equal(refused(mpls), 'encap(mpls)');
  assert.equal(refused(mpls, 1), 'OFPBAC_BAD_VENDOR_TYPE');
  assert.equal(refused('ffff001000002320002e000000010800'), 'NXBAC_BAD_HEADER_TYPE');
  const property = '0005010800000000';
  assert.equal(refused(`ffff001800002320002e000000018847${property}`), 'NXBAC_UNKNOWN_ED_PROP');
  assert.equal(refused(`ffff001800002320002f00000000fffe${property}`), 'NXBAC_UNKNOWN_ED_PROP');
  assert.throws(() => parseActions('encap(gre)'), { message: 'Encap hdr not supported: gre' });
});

test('label stacks are written entry by entry, and read again', () => {
  const key = new Uint8Array(KEY_SIZE);
  const mask = new Uint8Array(KEY_SIZE);
  putBe16(key, K_MPLS_COUNT, 2);
  putBe32(key, K_MPLS_LSE, (20 << 12) | 32);
  putBe32(key, K_MPLS_LSE + 4, (21 << 12) | (3 << 9) | 0x100 | 64);
  assert.deepEqual(mplsKeyParts(key, mask, false), []);
  putBe32(mask, K_MPLS_LSE, 0x100);
  assert.deepEqual(mplsKeyParts(key, mask, false), [
    'mpls(label=20/0x0,tc=0/0,ttl=32/0x0,bos=0/1,label=21/0x0,tc=3/0,ttl=64/0x0,bos=1/0)',
  ]);
  mask.fill(0xff);
  const [text] = mplsKeyParts(key, mask, false);
  assert.equal(text, 'mpls(label=20,tc=0,ttl=32,bos=0,label=21,tc=3,ttl=64,bos=1)');
  const again = new Uint8Array(KEY_SIZE);
  parseMpls(again, text!.slice(5, -1).split(','));
  assert.deepEqual(again, key);
  assert.throws(() => parseMpls(again, ['label=1048576']), SyntaxError);
});

test('actions of tunnels and labels as datapath flows show them', () => {
  const fields = new Uint8Array(KEY_SIZE);
  fields[K_TUN_ID + 7] = 5;
  putBe32(fields, K_TUN_DST, 0x01010101);
  fields[K_TUN_TTL] = 64;
  putBe16(fields, K_TUN_FLAGS, TUN_DF | TUN_KEY);
  fields[K_TUN_OPTS_LEN] = 8;
  const option = Uint8Array.of(0xff, 0xff, 1, 1, 0, 0, 0, 10);
  const bytes = Uint8Array.of(...fields.subarray(K_TUN_ID, K_CT_IPV6_SRC), ...option);
  const words = new Uint32Array(bytes.buffer);
  const program = Uint32Array.of(
    ACT_SET_TUNNEL | ((2 + words.length) << 16),
    6081,
    ...words,
    ACT_ADD_MPLS | (3 << 16),
    (2 << 12) | 0x140,
    0x8847,
    ACT_END | (1 << 16),
  );
  assert.equal(
    formatOdpActions(program, new Uint8Array(KEY_SIZE)),
    'set(tunnel(tun_id=0x5,dst=1.1.1.1,ttl=64,tp_dst=6081,geneve({class=0xffff,type=0x1,len=4,0xa}),' +
      'flags(df|key))),add_mpls(label=2,tc=0,ttl=64,bos=1,eth_type=0x8847)',
  );
});

test('generated frames end where Open vSwitch ends them', () => {
  const length = (type: number, protocol = 0): number => {
    const flow = newRecord();
    putBe16(flow, K_ETH_TYPE, type);
    flow[K_NW_PROTO] = protocol;
    return composeFrame(flow, countingPayload(64)).length;
  };
  assert.equal(length(0x0800, 6), 14 + 20 + 20 + 64);
  assert.equal(length(0x0800, 17), 14 + 20 + 8 + 64);
  assert.equal(length(0x0800, 1), 14 + 20 + 8 + 64);
  assert.equal(length(0x0800, 132), 14 + 20 + 12);
  assert.equal(length(0x0800, 16), 14 + 20);
  assert.equal(length(0x86dd, 58), 14 + 40 + 8);
  assert.equal(length(0x8847), 14 + 12);
});
