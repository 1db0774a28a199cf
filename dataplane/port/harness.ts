// Entry of the module that the tests of this directory compile (test/net/ports.ts): ports without tables and actions.

import { setNow, setWorker } from '../worker.ts';
import { sumPacket } from './checksum.ts';
import { copyBytes } from './copy.ts';
import { heldBegin, prepareSleep, rxBurst, rxDone, txBurst, wake } from './index.ts';

export {
  copyBytes,
  heldBegin,
  prepareSleep,
  rxBurst,
  rxDone,
  setNow,
  setWorker,
  sumPacket,
  txBurst,
  wake,
};
