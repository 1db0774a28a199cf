// Entry of the module that the tests of this directory compile (test/net/ports.ts): ports without tables and actions.

import { setClock, setWorker, tick } from '../worker.ts';
import { sumPacket } from './checksum.ts';
import { copyBytes } from './copy.ts';
import { heldBegin, prepareSleep, rxBurst, rxDone, txBurst, wake } from './index.ts';
import { deepen } from './receive.ts';

export {
  copyBytes,
  deepen,
  heldBegin,
  prepareSleep,
  rxBurst,
  rxDone,
  setWorker,
  sumPacket,
  txBurst,
  wake,
};

export function setNow(ms: f64): void {
  setClock(ms * 1e6, 0);
  tick(0);
}
