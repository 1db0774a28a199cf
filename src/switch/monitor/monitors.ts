// The ports' monitors of all bridges (Open vSwitch calls the module ofproto-dpif-monitor), and their unixctl commands bfd/* and cfm/*.

import { CommandFailure, type SwitchCommand } from '../commandTypes.ts';
import { type MonitorModules, PortMonitor } from './portMonitor.ts';

const UDP_SRC_FIRST = 49152;
const UDP_SRC_COUNT = 16384;

export class Monitors {
  readonly #monitors = new Set<PortMonitor>();
  readonly #log: MonitorModules['log'];
  readonly #random: () => number;
  #sessions = 0;

  constructor(log: MonitorModules['log'], random: () => number = Math.random) {
    this.#log = log;
    this.#random = random;
  }

  add(modules: Pick<MonitorModules, 'bridge' | 'port' | 'onChange'>): PortMonitor {
    const monitor = new PortMonitor({
      ...modules,
      log: this.#log,
      random: this.#random,
      newSession: () => this.#newSession(),
    });
    this.#monitors.add(monitor);
    return monitor;
  }

  remove(monitor: PortMonitor): void {
    monitor.close();
    this.#monitors.delete(monitor);
  }

  #newSession(): { discriminator: number; udpSrc: number } {
    // RFC 5880 §6.8.1: unique, not 0, and better not to be guessed.
    const discriminator = 1 + Math.floor(this.#random() * 0xffffffff);
    const udpSrc = UDP_SRC_FIRST + (this.#sessions++ % UDP_SRC_COUNT);
    return { discriminator, udpSrc };
  }

  *#with(protocol: 'bfd' | 'cfm'): Generator<PortMonitor> {
    for (const monitor of this.#monitors) if (monitor[protocol] !== undefined) yield monitor;
  }

  #find(protocol: 'bfd' | 'cfm', name: string, error: string): PortMonitor {
    for (const monitor of this.#with(protocol)) if (monitor.name === name) return monitor;
    throw new CommandFailure(error);
  }

  #override(protocol: 'bfd' | 'cfm', args: readonly string[]): string {
    const word = args.at(-1)!.toLowerCase();
    if (!['true', 'false', 'normal'].includes(word)) {
      throw new CommandFailure('unknown fault string');
    }
    const value = word === 'normal' ? undefined : word === 'true';
    const error = `no such ${protocol.toUpperCase()} object`;
    const some = args.length > 1 ? [this.#find(protocol, args[0]!, error)] : this.#with(protocol);
    for (const monitor of some) monitor.override(protocol, value);
    return 'OK';
  }

  commands(): SwitchCommand[] {
    const command = (
      name: string,
      usage: string,
      maxArgs: number,
      run: SwitchCommand['run'],
      minArgs = maxArgs - 1,
    ): SwitchCommand => ({ name, usage, minArgs, maxArgs, run });
    const words = '[interface] normal|false|true';
    return [
      command('bfd/show', '[interface]', 1, ([name]) => {
        if (name !== undefined) return this.#find('bfd', name, 'no such bfd object').showBfd();
        return [...this.#with('bfd')].map((m) => `---- ${m.name} ----\n${m.showBfd()}`).join('');
      }),
      command('bfd/set-forwarding', words, 2, (args) => this.#override('bfd', args)),
      command('cfm/show', '[interface]', 1, ([name]) => {
        if (name !== undefined) return this.#find('cfm', name, 'no such CFM object').showCfm();
        return [...this.#with('cfm')].map((m) => m.showCfm()).join('');
      }),
      command('cfm/set-fault', words, 2, (args) => this.#override('cfm', args)),
    ];
  }
}
