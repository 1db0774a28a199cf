// Bridge.netflow (table NetFlow of ovs-vswitchd.conf.db(5)) becomes an exporter with its collectors.

import type { Log } from '../control/openflow/vconn.ts';
import type { SwitchBridge } from '../switch/bridge.ts';
import { NetflowExporter } from '../switch/netflow.ts';
import { Collectors } from './collectors.ts';
import type { NetflowIntent } from './intent.ts';

const RUN_MS = 1000;
/** Interfaces that fit the 9 bits that an engine id leaves of a number. */
const ENGINE_ID_MAX = 0x7f;
const PORTS_MAX = 508;

export class BridgeNetflow {
  readonly #bridge: SwitchBridge;
  readonly #log: Log;
  #settings = '';
  #exporter: NetflowExporter | undefined;
  #collectors: Collectors | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(bridge: SwitchBridge, log: Log) {
    this.#bridge = bridge;
    this.#log = log;
  }

  apply(intent: NetflowIntent | undefined): void {
    const settings = intent === undefined ? '' : JSON.stringify(intent);
    if (settings === this.#settings) return;
    this.#settings = settings;
    if (intent === undefined) {
      clearInterval(this.#timer);
      this.#exporter?.close();
      this.#exporter = undefined;
      this.#collectors?.close();
      this.#collectors = undefined;
      this.#bridge.setNetflow(undefined);
      return;
    }
    const { name } = this.#bridge;
    const warn = (text: string): void => this.#log.warn(text);
    if (intent.addIdToInterface && intent.engineId > ENGINE_ID_MAX) {
      warn(
        `bridge ${name}: NetFlow port mangling may conflict with another vswitch, choose an engine id less than 128`,
      );
    }
    if (intent.addIdToInterface && this.#bridge.ports.size > PORTS_MAX) {
      warn(
        `bridge ${name}: NetFlow port mangling will conflict with another port when more than ${PORTS_MAX} ports are used`,
      );
    }
    this.#collectors?.close();
    this.#collectors = new Collectors(intent.targets, undefined, warn);
    if (this.#exporter !== undefined) {
      this.#exporter.configure(intent);
      return;
    }
    const exporter = new NetflowExporter(intent, {
      send: (datagram) => this.#collectors?.send(datagram),
      nowMs: () => this.#bridge.nowMs(),
      wallMs: () => Date.now(),
      warn,
    });
    this.#exporter = exporter;
    this.#timer = setInterval(() => exporter.run(), RUN_MS);
    this.#timer.unref();
    this.#bridge.setNetflow(exporter);
  }
}
