// Programs too long for a megaflow: the megaflow says "ask the control plane", which runs the program in pieces.
//
// Each piece repeats the header changes up to its first output (they are the packet's state there) and then does a
// part of the outputs, so the pieces together do what the whole program would do.

import {
  ACT_CHECK_PKT_LEN,
  ACT_CLONE,
  ACT_DROP,
  ACT_END,
  ACT_OUTPUT,
  ACT_RECIRC,
  ACT_SAMPLE,
  ACT_TRUNC,
  ACT_USERSPACE,
  ACTIONS_MAX_WORDS,
  UPCALL_SLOW,
} from '../../contract/action.ts';
import { DROP_RESUBMIT_LIMIT } from '../../contract/drop.ts';
import { SLOW_ACTION } from './protocolPort.ts';

const END = ACT_END | (1 << 16);

/** Program of a megaflow whose packets the control plane handles one by one; `reasons`: SLOW_*. */
export function slowPathProgram(reasons = SLOW_ACTION): Uint32Array {
  return Uint32Array.of(ACT_USERSPACE | (4 << 16), UPCALL_SLOW, reasons, 0xffff, END);
}

/** Actions that hand packets on, or copies of them. */
const HANDING: ReadonlySet<number> = new Set([
  ACT_OUTPUT,
  ACT_USERSPACE,
  ACT_TRUNC,
  ACT_RECIRC,
  ACT_CLONE,
  ACT_SAMPLE,
  ACT_CHECK_PKT_LEN,
]);

/** The parts of a program, each short enough. If the header changes alone are too long: a drop. */
export function splitProgram(program: Uint32Array, maxWords = ACTIONS_MAX_WORDS): Uint32Array[] {
  return program.length <= maxWords ? [program] : cut(program, maxWords);
}

function cut(program: Uint32Array, maxWords: number): Uint32Array[] {
  const pieces: Uint32Array[] = [];
  let state: number[] = [];
  let piece: number[] = [];
  let outputs = false;
  const finish = (): void => {
    if (outputs) pieces.push(Uint32Array.of(...piece, END));
    piece = [...state];
    outputs = false;
  };
  for (let at = 0; (program[at]! & 0xffff) !== ACT_END; at += program[at]! >>> 16) {
    const op = program[at]! & 0xffff;
    let length = program[at]! >>> 16;
    const hands = HANDING.has(op);
    // A truncation belongs to the output behind it.
    if (op === ACT_TRUNC) length += program[at + length]! >>> 16;
    if (piece.length + length + 1 > maxWords) finish();
    const words = program.subarray(at, at + length);
    piece.push(...words);
    if (hands) outputs = true;
    else state = [...state, ...words];
    if (op === ACT_TRUNC) at += length - (program[at]! >>> 16);
    if (piece.length + 1 > maxWords || state.length + 8 > maxWords) {
      return [Uint32Array.of(ACT_DROP | (2 << 16), DROP_RESUBMIT_LIMIT, END)];
    }
  }
  finish();
  return pieces;
}
