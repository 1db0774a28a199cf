// A host without a virtual switch of its own: a bridge of the kernel, and QEMU with a tap device on it and no vhost at
// all. What a guest migrates to when a fleet is half converted.

import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

let sequence = 0;

export class BridgeHost implements AsyncDisposable {
  readonly dir: string = mkdtempSync(join(tmpdir(), 'xv-bridge-'));
  readonly namespace: string = `xv${process.pid}-${++sequence}b`;

  constructor() {
    execFileSync('ip', ['netns', 'add', this.namespace]);
    this.#ip('link', 'set', 'lo', 'up');
    this.#ip('link', 'add', 'br0', 'type', 'bridge', 'forward_delay', '0', 'mcast_snooping', '0');
    this.#ip('link', 'set', 'br0', 'up');
  }

  #ip(...words: string[]): string {
    return execFileSync('ip', ['-n', this.namespace, ...words], { encoding: 'utf8' });
  }

  path(name: string): string {
    return join(this.dir, name);
  }

  /** Puts a device of the namespace on the bridge. */
  addPort(device: string): void {
    this.#ip('link', 'set', device, 'master', 'br0', 'up');
  }

  /** Makes a tap device for a QEMU of this namespace, on the bridge; a former one of this name goes. */
  addTap(name: string): void {
    spawnSync('ip', ['-n', this.namespace, 'link', 'delete', name], { stdio: 'ignore' });
    this.#ip('tuntap', 'add', 'dev', name, 'mode', 'tap', 'vnet_hdr');
    this.addPort(name);
  }

  /** True while somebody holds the device open. */
  linkUp(device: string): boolean {
    return this.#ip('link', 'show', device).includes('LOWER_UP');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    spawnSync('ip', ['netns', 'delete', this.namespace]);
    rmSync(this.dir, { recursive: true, force: true });
  }
}
