// What a bridge tells of its traffic: IPFIX, sFlow, NetFlow. Samples of the data plane go to the exporter that wants them.

import type { NetdevContext } from '../port/types.ts';
import type { SwitchBridge } from '../switch/bridge.ts';
import type { BridgeIntent } from './intent.ts';
import { BridgeIpfix } from './ipfix.ts';
import { BridgeNetflow } from './netflow.ts';
import type { PortProtocols } from './portProtocols.ts';
import { BridgeSflow } from './sflow.ts';

/** Of all bridges together. */
export interface SharedExports {
  /** Exporters of IPFIX made so far. */
  ipfixExporters: number;
  /** The agent of sFlow that tells the counters of the whole switch. */
  globalCounters: object | undefined;
}

type Wanted = Pick<BridgeIntent, 'collectorSets' | 'ipfix' | 'sflow' | 'netflow'>;

export class BridgeExporters {
  readonly #bridge: SwitchBridge;
  readonly #ipfix: BridgeIpfix;
  readonly #sflow: BridgeSflow;
  readonly #netflow: BridgeNetflow;

  constructor(
    bridge: SwitchBridge,
    protocols: PortProtocols,
    log: NetdevContext['log'],
    shared: SharedExports,
  ) {
    this.#bridge = bridge;
    this.#ipfix = new BridgeIpfix(bridge, log, () => ++shared.ipfixExporters);
    this.#sflow = new BridgeSflow(bridge, protocols, log, shared);
    this.#netflow = new BridgeNetflow(bridge, log);
    bridge.onSample = (sample, upcall) => {
      if (sample.kind === 'flow') this.#ipfix.flowSample(sample, upcall);
      else if (sample.kind === 'bridge') this.#ipfix.bridgeSample(sample, upcall);
      else this.#sflow.sample(sample, upcall);
    };
  }

  apply(wanted: Wanted): void {
    const ipfix = this.#ipfix.apply(wanted.ipfix, wanted.collectorSets);
    const sflow = this.#sflow.apply(wanted.sflow);
    const none = ipfix === undefined && sflow === undefined;
    this.#bridge.setSampling(none ? undefined : { flows: false, ...ipfix, sflow });
    this.#netflow.apply(wanted.netflow);
  }

  close(): void {
    this.apply({ collectorSets: [], ipfix: undefined, sflow: undefined, netflow: undefined });
  }
}
