// What the codecs of single messages have in common. A codec turns the body of a message (behind the header, and behind
// the multipart header) into a Message and back; message.ts finds the right one and does the framing.

import type { ActionLists } from './actionLists.ts';
import type { Reader, Writer } from './buffer.ts';
import type { Message, MessageType } from './messages.ts';
import type { CodecContext } from './oxm.ts';

/**
 * How a message is numbered: standard type, Nicira or ONF experimenter type, and the same for multipart requests and
 * replies.
 */
export type Kind =
  | 'of'
  | 'nx'
  | 'onf'
  | 'request'
  | 'reply'
  | 'nx_request'
  | 'nx_reply'
  | 'onf_request'
  | 'onf_reply';

export interface BodyContext extends CodecContext {
  kind: Kind;
  /** Type of the message, of the multipart, or of the experimenter message. */
  number: number;
  /** Upper byte of the command of OpenFlow 1.0 flow-mods is the table. */
  tableId: boolean;
  xid: number;
  /** Matches of flow-mods are packed (packedMatch.ts). */
  packed?: boolean;
  /** Where equal lists of actions are found to be one. */
  actionLists?: ActionLists | undefined;
  /** OFPMPF_MORE is set. */
  more: boolean;
  /** Message inside of a bundle. */
  nested(r: Reader): Message;
  encodeNested(w: Writer, xid: number, message: Message): void;
  /** Bytes that the body of one message has at most. */
  room: number;
  /** An entry of a list did not fit and was left out. */
  skipped?: (() => void) | undefined;
  /** Encoders of lists call it behind every entry: replies are split there. */
  mark(): void;
}

export type MessageOf<T extends MessageType> = Extract<Message, { type: T }>;

export interface BodyCodec<T extends MessageType> {
  decode(r: Reader, ctx: BodyContext): MessageOf<T>;
  encode(w: Writer, m: MessageOf<T>, ctx: BodyContext): void;
}

export type Codecs = { [T in MessageType]?: BodyCodec<T> };

/** Codec of a message without a body. */
export function empty<T extends MessageType>(message: MessageOf<T>): BodyCodec<T> {
  return { decode: () => message, encode: () => undefined };
}

/** Milliseconds as seconds and nanoseconds. */
export function putDuration(w: Writer, durationMs: number): void {
  if (durationMs < 0) {
    w.u32(0xffffffff).u32(0xffffffff); // nobody knows
    return;
  }
  w.u32(Math.floor(durationMs / 1000)).u32(Math.floor(durationMs % 1000) * 1_000_000);
}

export function readDuration(r: Reader): number {
  return r.u32() * 1000 + Math.floor(r.u32() / 1_000_000);
}

/** Counters that nobody counts are all ones on the wire, and negative here. */
export function putCounter(w: Writer, value: number): void {
  w.u64(value < 0 || Number.isNaN(value) ? 0xffffffffffffffffn : BigInt(Math.floor(value)));
}

export function readCounter(r: Reader): number {
  const value = r.u64();
  return value === 0xffffffffffffffffn ? -1 : Number(value);
}

/** Entries until the end of the body. */
export function readList<T>(r: Reader, read: (r: Reader) => T): T[] {
  const list: T[] = [];
  while (r.left > 0) list.push(read(r));
  return list;
}
