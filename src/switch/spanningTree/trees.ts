// The spanning trees of all bridges, and their unixctl commands stp/* and rstp/*.

import { CommandFailure, type SwitchCommand } from '../commandTypes.ts';
import { TreeHost, type TreeLog, type TreeModules } from './treeHost.ts';

export class Trees {
  readonly #hosts = new Set<TreeHost>();
  readonly #log: TreeLog;

  constructor(log: TreeLog) {
    this.#log = log;
  }

  add(modules: Omit<TreeModules, 'log'>): TreeHost {
    const host = new TreeHost({ ...modules, log: this.#log });
    this.#hosts.add(host);
    return host;
  }

  remove(host: TreeHost): void {
    host.close();
    this.#hosts.delete(host);
  }

  #hostsOf(protocol: 'stp' | 'rstp', name: string | undefined): TreeHost[] {
    const hosts = [...this.#hosts].filter((host) => host[protocol] !== undefined);
    const found = hosts.filter((host) => name === undefined || host.name === name);
    if (name !== undefined && found.length === 0) {
      throw new CommandFailure(protocol === 'stp' ? 'no such stp object' : 'No such RSTP object');
    }
    return found;
  }

  commands(): SwitchCommand[] {
    return (['stp', 'rstp'] as const).flatMap((protocol) => [
      {
        name: `${protocol}/show`,
        usage: '[bridge]',
        minArgs: 0,
        maxArgs: 1,
        run: ([name]) =>
          this.#hostsOf(protocol, name)
            .map((host) => host[protocol]!.show())
            .join(''),
      },
      {
        name: `${protocol}/tcn`,
        usage: '[bridge]',
        minArgs: 0,
        maxArgs: 1,
        run: ([name]) => {
          for (const host of this.#hostsOf(protocol, name)) host.detectTopologyChange();
          return 'OK';
        },
      },
    ]);
  }
}
