// Nicira extension actions to the wire. Counterpart of nxActionDecode.ts.

import { actionField, encodeActions } from './actionEncode.ts';
import type { Writer } from './buffer.ts';
import { writeEncapProps } from './encapProps.ts';
import { port11To10 } from './fieldAccess.ts';
import type { Field } from './fields.ts';
import { encodeLearn, isLearn2 } from './learnCodec.ts';
import type { CodecContext } from './oxm.ts';
import { hasNxmHeader, writeOxmHeader } from './oxm.ts';
import { putProp } from './prop.ts';
import { encodeOfsNbits } from './subfield.ts';
import type { Action, Subfield } from './types.ts';

/** A Nicira action: header, vendor, subtype, payload, padding. */
export function putNx(w: Writer, subtype: number, fill: (w: Writer) => void): void {
  const start = w.length;
  w.u16(0xffff).u16(0).u32(0x2320).u16(subtype);
  fill(w);
  w.pad8(start).patchLength(start + 2, start);
}

export function regLoad(w: Writer, f: Field, dst: Subfield, value: bigint): void {
  putNx(w, 7, () => {
    w.u16(encodeOfsNbits(dst));
    writeOxmHeader(w, f, 0, false);
    w.u64(value);
  });
}

/** Pads to `size` bytes behind the subtype. */
function fixed(w: Writer, start: number, size: number): void {
  w.zeros(size - (w.length - start));
}

/** Actions that all versions send in Nicira's form. Others are silently nothing. */
export function encodeNxAction(w: Writer, a: Action, ctx: CodecContext): void {
  switch (a.type) {
    case 'resubmit':
      if (a.table === 0xff && !a.withCt) putNx(w, 1, () => w.u16(port11To10(a.inPort)).zeros(4));
      else putNx(w, a.withCt ? 44 : 14, () => w.u16(port11To10(a.inPort)).u8(a.table).zeros(3));
      return;
    case 'pop_queue':
      putNx(w, 5, () => undefined);
      return;
    case 'note':
      putNx(w, 8, () => w.put(a.data));
      return;
    case 'debug_recirc':
    case 'debug_slow':
      putNx(w, a.type === 'debug_recirc' ? 255 : 254, () => undefined);
      return;
    case 'exit':
      putNx(w, 17, () => undefined);
      return;
    case 'fin_timeout':
      putNx(w, 19, () => w.u16(a.idleTimeout).u16(a.hardTimeout));
      return;
    case 'controller':
      encodeController(w, a);
      return;
    case 'output_reg':
      encodeOutputReg(w, a, ctx);
      return;
    case 'output_trunc':
      putNx(w, 39, () => w.u16(port11To10(a.port)).u32(a.maxLen));
      return;
    case 'stack_push':
    case 'stack_pop':
      putNx(w, a.type === 'stack_push' ? 27 : 28, () => {
        w.u16(a.subfield.offset);
        const start = w.length;
        writeOxmHeader(w, actionField(a.subfield.field, ctx), 0, false);
        w.u16(a.subfield.bits);
        fixed(w, start, 12);
      });
      return;
    case 'multipath':
      putNx(w, 10, () => {
        w.u16(a.fields).u16(a.basis).zeros(2).u16(a.algorithm).u16(a.maxLink).u32(a.arg).zeros(2);
        w.u16(encodeOfsNbits(a.dst));
        writeOxmHeader(w, actionField(a.dst.field, ctx), 0, false);
      });
      return;
    case 'bundle':
      encodeBundle(w, a, ctx);
      return;
    case 'learn':
      putNx(w, isLearn2(a) ? 45 : 16, () => encodeLearn(w, a));
      return;
    case 'conjunction':
      putNx(w, 34, () => w.u8(a.clause).u8(a.nClauses).u32(a.id));
      return;
    case 'ct':
      encodeCt(w, a, ctx);
      return;
    case 'nat':
      encodeNat(w, a);
      return;
    case 'ct_clear':
      putNx(w, 43, () => undefined);
      return;
    case 'clone':
      putNx(w, 42, () => encodeActions(w.zeros(6), a.actions, ctx));
      return;
    case 'sample':
      encodeSample(w, a);
      return;
    case 'check_pkt_larger':
      putNx(w, 49, () => {
        w.u16(a.pktLen).u16(a.dst.offset);
        const start = w.length;
        writeOxmHeader(w, actionField(a.dst.field, ctx), 0, false);
        fixed(w, start, 10);
      });
      return;
    case 'encap':
      putNx(w, 46, () => writeEncapProps(w.u16(0).u32(a.packetType), a.properties ?? []));
      return;
    case 'decap':
      putNx(w, 47, () => w.zeros(2).u32(a.packetType));
      return;
    case 'dec_nsh_ttl':
      putNx(w, 48, () => undefined);
      return;
    case 'delete_field':
      putNx(w, 50, () => {
        const start = w.length;
        writeOxmHeader(w, actionField(a.field, ctx), 0, false);
        fixed(w, start, 14);
      });
      return;
  }
}

function encodeController(w: Writer, a: Action & { type: 'controller' }): void {
  if (a.userdata === undefined && !a.pause && a.meterId === undefined) {
    putNx(w, 20, () => w.u16(a.maxLen).u16(a.controllerId).u8(a.reason).zeros(1));
    return;
  }
  putNx(w, 37, () => {
    w.zeros(6);
    if (a.maxLen !== 0xffff) putProp(w, 0, () => w.u16(a.maxLen));
    if (a.controllerId !== 0) putProp(w, 1, () => w.u16(a.controllerId));
    if (a.reason !== 1) putProp(w, 2, () => w.u8(a.reason));
    if (a.userdata !== undefined) putProp(w, 3, () => w.put(a.userdata!));
    if (a.pause) putProp(w, 4, () => undefined);
    if (a.meterId !== undefined) putProp(w, 5, () => w.u32(a.meterId!));
  });
}

function encodeOutputReg(w: Writer, a: Action & { type: 'output_reg' }, ctx: CodecContext): void {
  const f = actionField(a.source.field, ctx);
  if (hasNxmHeader(f)) {
    putNx(w, 15, () => {
      w.u16(encodeOfsNbits(a.source));
      writeOxmHeader(w, f, 0, false);
      w.u16(a.maxLen).zeros(6);
    });
    return;
  }
  putNx(w, 32, () => {
    w.u16(encodeOfsNbits(a.source)).u16(a.maxLen);
    const start = w.length;
    writeOxmHeader(w, f, 0, false);
    fixed(w, start, 10);
  });
}

function encodeBundle(w: Writer, a: Action & { type: 'bundle' }, ctx: CodecContext): void {
  putNx(w, a.dst === undefined ? 12 : 13, () => {
    w.u16(a.algorithm).u16(a.fields).u16(a.basis).u32(0x00000002).u16(a.members.length);
    if (a.dst === undefined) {
      w.zeros(6);
    } else {
      w.u16(encodeOfsNbits(a.dst));
      writeOxmHeader(w, actionField(a.dst.field, ctx), 0, false);
    }
    w.zeros(4);
    for (const m of a.members) w.u16(port11To10(m));
  });
}

function encodeCt(w: Writer, a: Action & { type: 'ct' }, ctx: CodecContext): void {
  putNx(w, 35, () => {
    w.u16(a.flags);
    if (typeof a.zone === 'number') {
      w.u32(0).u16(a.zone);
    } else {
      writeOxmHeader(w, actionField(a.zone.field, ctx), 0, false);
      w.u16(encodeOfsNbits(a.zone));
    }
    w.u8(a.table).zeros(3).u16(a.alg);
    encodeActions(w, a.actions, ctx);
  });
}

function encodeNat(w: Writer, a: Action & { type: 'nat' }): void {
  putNx(w, 36, () => {
    const v6 = a.addressMin?.length === 16;
    let present = 0;
    if (a.addressMin !== undefined) present |= v6 ? 4 : 1;
    if (a.addressMax !== undefined) present |= v6 ? 8 : 2;
    if (a.portMin !== 0) present |= 16;
    if (a.portMax !== 0) present |= 32;
    w.zeros(2).u16(a.flags).u16(present);
    if (a.addressMin !== undefined) w.put(a.addressMin);
    if (a.addressMax !== undefined) w.put(a.addressMax);
    if (a.portMin !== 0) w.u16(a.portMin);
    if (a.portMax !== 0) w.u16(a.portMax);
  });
}

function encodeSample(w: Writer, a: Action & { type: 'sample' }): void {
  const subtype = a.direction !== 0 ? 41 : a.samplingPort !== 0xffffffff ? 38 : 29;
  putNx(w, subtype, () => {
    w.u16(a.probability).u32(a.collectorSetId).u32(a.obsDomainId).u32(a.obsPointId);
    if (subtype !== 29) w.u16(port11To10(a.samplingPort)).u8(a.direction).zeros(5);
  });
}
