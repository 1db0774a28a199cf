// What a paused packet needs to go on: the property NXPINT_CONTINUATION of NXT_PACKET_IN2 and NXT_RESUME. A controller
// gives it back as it was; ovs-ofctl prints it, so it is written as Open vSwitch does: 4 bytes of padding, then properties
//
//   0x8000 bridge (16 bytes)       0x8003 connection tracking has seen it   0x8006 actions to run
//   0x8001 a stack value, top first  0x8004 table of the actions behind it   0x8007 action set
//   0x8002 mirrors (u32)             0x8005 cookie of the actions behind it  0x8008 datapath port (u32)
//
// Actions come with the table and cookie of their rule, which packet-ins of theirs will name ("unroll_xlate"). Whoever
// resumes checks them: nothing here is to be believed.

import { decodeActions } from './actionDecode.ts';
import { encodeActions } from './actionEncode.ts';
import type { Reader, Writer } from './buffer.ts';
import type { CodecContext } from './oxm.ts';
import { putProp, readProps } from './prop.ts';
import type { Action, Continuation } from './types.ts';
import { OfError } from './types.ts';

const BRIDGE = 0x8000;
const STACK = 0x8001;
const MIRRORS = 0x8002;
const CONNTRACKED = 0x8003;
const TABLE_ID = 0x8004;
const COOKIE = 0x8005;
const ACTIONS = 0x8006;
const ACTION_SET = 0x8007;
const ODP_PORT = 0x8008;

const UUID_BYTES = 16;
/** The widest field has so many. */
const STACK_VALUE_MAX_BYTES = 128;

/** Reads a property's value of exactly `bytes` bytes. */
function exactly<T>(body: Reader, bytes: number, value: T): T {
  if (body.left !== bytes) throw new OfError('OFPBPC_BAD_LEN');
  return value;
}

function readActions(body: Reader, ctx: CodecContext): Action[] {
  body.skip(4);
  return decodeActions(body, ctx);
}

/** Reads the property's payload. `loose`: properties that nobody knows are no error. */
export function decodeContinuation(r: Reader, ctx: CodecContext, loose: boolean): Continuation {
  const c: Continuation = {
    bridge: new Uint8Array(UUID_BYTES),
    stack: [],
    mirrors: 0,
    conntracked: false,
    actions: [],
    actionSet: [],
    odpPort: 0,
  };
  let table = 0;
  let cookie = 0n;
  r.skip(4);
  for (const { type, body } of readProps(r)) {
    switch (type) {
      case BRIDGE:
        exactly(body, UUID_BYTES, 0);
        c.bridge = body.rest();
        break;
      case STACK:
        if (body.left > STACK_VALUE_MAX_BYTES) throw new OfError('OFPBPC_BAD_LEN');
        c.stack.push(body.rest());
        break;
      case MIRRORS:
        exactly(body, 4, 0);
        c.mirrors = body.u32();
        break;
      case CONNTRACKED:
        c.conntracked = true;
        break;
      case TABLE_ID:
        table = body.u8();
        break;
      case COOKIE:
        exactly(body, 12, 0);
        body.skip(4);
        cookie = body.u64();
        break;
      case ACTIONS:
        c.actions.push({ type: 'unroll_xlate', table, cookie }, ...readActions(body, ctx));
        break;
      case ACTION_SET:
        c.actionSet.push(...readActions(body, ctx));
        break;
      case ODP_PORT:
        exactly(body, 4, 0);
        c.odpPort = body.u32();
        break;
      default:
        if (!loose) throw new OfError('OFPBPC_BAD_TYPE');
    }
  }
  return c;
}

function putActions(w: Writer, type: number, actions: readonly Action[], ctx: CodecContext): void {
  if (actions.length > 0) putProp(w, type, () => encodeActions(w.zeros(4), actions, ctx));
}

/** One property of actions behind each "unroll_xlate". */
function putUnrolled(w: Writer, actions: readonly Action[], ctx: CodecContext): void {
  let table = 0;
  let cookie = 0n;
  let group: Action[] = [];
  for (const action of actions) {
    if (action.type !== 'unroll_xlate') {
      group.push(action);
      continue;
    }
    putActions(w, ACTIONS, group, ctx);
    group = [];
    if (action.table !== table) putProp(w, TABLE_ID, () => w.u8(action.table));
    if (action.cookie !== cookie) putProp(w, COOKIE, () => w.zeros(4).u64(action.cookie));
    table = action.table;
    cookie = action.cookie;
  }
  putActions(w, ACTIONS, group, ctx);
}

/** Writes the property's payload. */
export function encodeContinuation(w: Writer, c: Continuation, ctx: CodecContext): void {
  w.zeros(4);
  if (c.bridge.some((byte) => byte !== 0)) putProp(w, BRIDGE, () => w.put(c.bridge));
  for (const value of c.stack) putProp(w, STACK, () => w.put(value));
  if (c.mirrors !== 0) putProp(w, MIRRORS, () => w.u32(c.mirrors));
  if (c.conntracked) putProp(w, CONNTRACKED, () => undefined);
  putUnrolled(w, c.actions, ctx);
  putActions(w, ACTION_SET, c.actionSet, ctx);
  if (c.odpPort !== 0) putProp(w, ODP_PORT, () => w.u32(c.odpPort));
}
