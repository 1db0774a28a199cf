// Datagrams whose fragments wait (contract/ctFragments.ts), as dpctl/ipf-get-status -m shows them. Read without the lock:
// a datagram that goes on meanwhile may be shown, or not.

import { TU_DST, TU_META, TU_PORTS, TU_SRC } from '../../contract/ct.ts';
import {
  DATAGRAM_SIZE,
  DATAGRAMS,
  DATAGRAMS_MAX,
  DG_COUNT,
  DG_END,
  DG_FIRST,
  DG_TUPLE,
  FG_USED_DATAGRAMS,
  FRAGMENTS_BASE,
  SL_KEY,
  SL_NEXT,
  SL_OFFSET,
} from '../../contract/ctFragments.ts';
import { K_RECIRC_ID } from '../../contract/key.ts';
import type { CtDatagram } from './conntrackTypes.ts';
import type { EngineMemory } from './memory.ts';

export function* waitingDatagrams(mem: EngineMemory): Generator<CtDatagram> {
  const used = Math.min(mem.load(FRAGMENTS_BASE + FG_USED_DATAGRAMS), DATAGRAMS_MAX);
  for (let n = 0; n < used; n++) {
    const at = DATAGRAMS + n * DATAGRAM_SIZE;
    const first = mem.load(at + DG_FIRST);
    if (first === 0) continue;
    const fragments = mem.get(at + DG_COUNT);
    const record = new DataView(mem.u8.slice(at, at + DATAGRAM_SIZE).buffer, DG_TUPLE);
    const meta = record.getUint32(TU_META, true);
    const v6 = meta >>> 24 === 6;
    const address = (offset: number): Uint8Array =>
      new Uint8Array(record.buffer, DG_TUPLE + offset, v6 ? 16 : 4).slice();
    const key = mem.u8.slice(first + SL_KEY, first + SL_KEY + K_RECIRC_ID + 4);
    yield {
      src: address(TU_SRC),
      dst: address(TU_DST),
      recircId: new DataView(key.buffer).getUint32(K_RECIRC_ID),
      id: v6 ? record.getUint32(TU_PORTS) : record.getUint16(TU_PORTS),
      zone: meta & 0xffff,
      proto: (meta >>> 16) & 0xff,
      fragments,
      hasFirst: hasFirst(mem, first, fragments),
      hasLast: mem.get(at + DG_END) !== 0,
    };
  }
}

/** Follows at most as many links as there were fragments: the list may change under our feet. */
function hasFirst(mem: EngineMemory, first: number, fragments: number): boolean {
  let slot = first;
  for (let i = 0; i < fragments && slot !== 0; i++) {
    if (mem.get(slot + SL_OFFSET) === 0) return true;
    slot = mem.load(slot + SL_NEXT);
  }
  return false;
}
