// Properties: type, length, payload, padded to 8 bytes (OpenFlow 1.4.1 §7.1.2). The length leaves out the padding.
//
//     0      2      4                  8                  12
//    +------+------+---------…--------+------------------+
//    | type | len  | payload          |  experimenter:   |
//    +------+------+---------…--------+  id, then type   |

import type { Reader, Writer } from './buffer.ts';
import { OfError } from './types.ts';

export interface Prop {
  /** 0xffff: an experimenter property, `experimenter` and `expType` say which. */
  type: number;
  experimenter: number;
  expType: number;
  body: Reader;
}

/** Reads properties to the end of `r`; lazily, so that an error in the payload of one comes before one in the next. */
export function* readProps(r: Reader): Generator<Prop> {
  while (r.left > 0) {
    if (r.left < 4) throw new OfError('OFPBPC_BAD_LEN');
    const start = r.offset;
    const type = r.u16();
    const length = r.u16();
    if (length < 4) throw new OfError('OFPBPC_BAD_LEN');
    const padded = Math.min((length + 7) & ~7, r.end - start);
    if (length > r.end - start || padded !== ((length + 7) & ~7))
      throw new OfError('OFPBPC_BAD_LEN');
    const body = r.sub(length - 4, 'OFPBPC_BAD_LEN');
    r.offset = start + padded;
    let experimenter = 0;
    let expType = 0;
    if (type === 0xffff) {
      experimenter = body.u32();
      expType = body.u32();
    }
    yield { type, experimenter, expType, body };
  }
}

/** Writes one property; `fill` writes the payload. */
export function putProp(w: Writer, type: number, fill: (w: Writer) => void): void {
  const start = w.length;
  w.u16(type).u16(0);
  fill(w);
  w.patchLength(start + 2, start).pad8(start);
}

/** An experimenter property. */
export function putExpProp(
  w: Writer,
  experimenter: number,
  expType: number,
  fill: (w: Writer) => void,
): void {
  putProp(w, 0xffff, () => {
    w.u32(experimenter).u32(expType);
    fill(w);
  });
}
