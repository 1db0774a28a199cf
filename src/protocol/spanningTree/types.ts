// What the two spanning tree protocols have in common for those who run them.

export interface TreeEvents<P> {
  /** A BPDU (without frame) is to be sent. */
  send: (port: P, bpdu: Uint8Array) => void;
  /** Addresses learned on the port (undefined: on all) may be wrong. */
  flush: (port: P | undefined) => void;
  info: (text: string) => void;
  warn: (text: string) => void;
}

export interface TreePortStatus {
  portId: number;
  state: string;
  role: string;
  designatedBridge: bigint;
  designatedPort: number;
  designatedCost: number;
  txCount: number;
  rxCount: number;
  errorCount: number;
}
