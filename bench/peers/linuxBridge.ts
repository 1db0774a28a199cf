// A Linux bridge between the same network namespaces: what a host without any switch software does.

import { execFileSync, spawnSync } from 'node:child_process';

export interface LinuxBridge extends Disposable {
  /** Adds a device of the caller's namespace to the bridge. */
  add(device: string): void;
}

export function createLinuxBridge(name: string, namespace: string): LinuxBridge {
  const ip = (...args: string[]) => execFileSync('ip', ['-n', namespace, ...args]);
  ip('link', 'add', name, 'type', 'bridge');
  ip('link', 'set', name, 'up');
  return {
    add(device) {
      ip('link', 'set', device, 'master', name);
      ip('link', 'set', device, 'up');
    },
    [Symbol.dispose]() {
      spawnSync('ip', ['-n', namespace, 'link', 'delete', name]);
    },
  };
}

/** A kernel without bridges cannot take part. */
export function linuxBridgeMissing(): string | undefined {
  const name = `xvb${process.pid % 10000}`;
  if (spawnSync('ip', ['link', 'add', name, 'type', 'bridge']).status !== 0) {
    return 'the kernel has no bridges (module bridge)';
  }
  spawnSync('ip', ['link', 'delete', name]);
  return undefined;
}
