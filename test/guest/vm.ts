// A QEMU guest with a vhost-user network card, driven over its serial console. Software emulation (TCG): for function,
// not for speed. QEMU 7.2 crashes with vhost-user and MSI-X under TCG, hence vectors=0.

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { guestImage } from './image.ts';

export interface VmOptions {
  name: string;
  /** Directory for sockets. */
  dir: string;
  /** vhost-user socket. */
  socket: string;
  /** Instead of the socket: a tap device, and QEMU's own virtio back-end. */
  tap?: { name: string; namespace: string };
  /** server: QEMU listens (type dpdkvhostuserclient); client: QEMU connects (dpdkvhostuser). */
  mode?: 'server' | 'client';
  mac: string;
  ip?: string;
  ip6?: string;
  queues?: number;
  memoryMiB?: number;
  cpus?: number;
  /** Further properties of virtio-net-pci: 'packed=on,host_mtu=9000'. */
  device?: string;
  /** Further arguments of QEMU. */
  extra?: readonly string[];
}

export interface CommandResult {
  output: string;
  status: number;
}

export class Vm implements AsyncDisposable {
  readonly name: string;
  readonly #process: ChildProcess;
  readonly #console: Socket;
  readonly #errors: () => string;
  #text = '';
  #sequence = 0;
  #exited = false;

  private constructor(name: string, child: ChildProcess, console: Socket, errors: () => string) {
    this.name = name;
    this.#errors = errors;
    this.#process = child;
    this.#console = console;
    child.once('exit', () => {
      this.#exited = true;
    });
    console.on('data', (chunk: Buffer) => {
      this.#text += chunk.toString('latin1').replaceAll('\r', '');
    });
    console.on('error', () => {});
  }

  static async start(o: VmOptions): Promise<Vm> {
    const image = guestImage();
    const queues = o.queues ?? 1;
    const memory = o.memoryMiB ?? 192;
    const consolePath = join(o.dir, `${o.name}.console`);
    rmSync(consolePath, { force: true });
    const chardev =
      o.mode === 'client'
        ? `socket,id=ch0,path=${o.socket},reconnect=1`
        : `socket,id=ch0,path=${o.socket},server=on,wait=off`;
    const device = [
      'virtio-net-pci,netdev=net0,vectors=0,rx_queue_size=1024,tx_queue_size=1024',
      `mac=${o.mac},mq=${queues > 1 ? 'on' : 'off'}`,
      ...(o.device ? [o.device] : []),
    ].join(',');
    // An emulated guest that gets little of a busy machine fails the kernel's check of its timer, and panics.
    const append = ['console=ttyS0 quiet panic=-1 no_timer_check'];
    if (o.ip) append.push(`ip=${o.ip}`);
    if (o.ip6) append.push(`ip6=${o.ip6}`);
    const args = [
      ['-name', o.name, '-M', 'q35', '-accel', 'tcg,thread=multi', '-cpu', 'max'],
      ['-smp', String(o.cpus ?? 1), '-m', String(memory)],
      [
        '-object',
        `memory-backend-memfd,id=mem0,size=${memory}M,share=on`,
        '-numa',
        'node,memdev=mem0',
      ],
      ['-nodefaults', '-display', 'none', '-no-reboot'],
      o.tap
        ? ['-netdev', `tap,id=net0,ifname=${o.tap.name},script=no,downscript=no,vhost=off`]
        : [
            ...['-chardev', chardev],
            ...['-netdev', `vhost-user,id=net0,chardev=ch0,vhostforce=on,queues=${queues}`],
          ],
      ['-device', device],
      [
        '-chardev',
        `socket,id=con,path=${consolePath},server=on,wait=off`,
        '-serial',
        'chardev:con',
      ],
      ['-kernel', image.kernel, '-initrd', image.initrd, '-append', append.join(' ')],
      [...(o.extra ?? [])],
    ].flat();
    const command = [
      ...(o.tap ? ['ip', 'netns', 'exec', o.tap.namespace] : []),
      'qemu-system-x86_64',
      ...args,
    ];
    const child = spawn(command[0]!, command.slice(1), { stdio: ['ignore', 'ignore', 'pipe'] });
    let errors = '';
    child.stderr!.on('data', (chunk: Buffer) => {
      errors += chunk.toString('latin1');
      process.stderr.write(chunk);
    });
    for (let i = 0; !existsSync(consolePath); i++) {
      if (child.exitCode !== null || i > 200) throw new Error(`QEMU ${o.name} did not start`);
      await sleep(50);
    }
    const console = connect(consolePath);
    return new Vm(o.name, child, console, () => errors);
  }

  /** What QEMU has said on stderr. */
  get errors(): string {
    return this.#errors();
  }

  get running(): boolean {
    return !this.#exited;
  }

  /** Everything that the console has printed since the last command began. */
  get consoleText(): string {
    return this.#text;
  }

  async #wait(pattern: RegExp, timeoutMs: number): Promise<RegExpExecArray> {
    const end = Date.now() + timeoutMs;
    for (;;) {
      const match = pattern.exec(this.#text);
      if (match) return match;
      if (this.#exited)
        throw new Error(`${this.name}: QEMU ended; console: ${this.#text.slice(-2000)}`);
      if (Date.now() > end) {
        throw new Error(
          `${this.name}: no ${pattern} in ${timeoutMs} ms; console: ${this.#text.slice(-2000)}`,
        );
      }
      await sleep(20);
    }
  }

  /** Resolves when the guest has booted and configured eth0. */
  async ready(timeoutMs = 120000): Promise<void> {
    await this.#wait(/GUEST ready/, timeoutMs);
    await this.run('true');
  }

  /** After a reset: resolves when the guest has booted again. */
  async booted(timeoutMs = 120000): Promise<void> {
    this.#text = '';
    await this.ready(timeoutMs);
  }

  /** Runs a shell command in the guest; one at a time. */
  async run(command: string, timeoutMs = 60000): Promise<CommandResult> {
    const id = ++this.#sequence;
    this.#text = '';
    // The quotes keep the markers out of an echo of the typed line.
    this.#console.write(`echo @@""B${id}; ${command}\necho @@""E${id}:$?\n`);
    const end = await this.#wait(new RegExp(`@@E${id}:(\\d+)\n`), timeoutMs);
    const begin = this.#text.indexOf(`@@B${id}\n`);
    const output = this.#text.slice(begin + `@@B${id}\n`.length, end.index);
    return { output, status: Number(end[1]) };
  }

  /** Like run, but a status other than 0 throws. */
  async must(command: string, timeoutMs?: number): Promise<string> {
    const { output, status } = await this.run(command, timeoutMs);
    if (status !== 0) throw new Error(`${this.name}: ${command}: status ${status}\n${output}`);
    return output;
  }

  async stop(): Promise<void> {
    this.#console.destroy();
    if (this.#exited) return;
    const gone = new Promise((resolve) => this.#process.once('exit', resolve));
    this.#process.kill('SIGKILL');
    await gone;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}
