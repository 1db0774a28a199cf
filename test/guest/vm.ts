// A QEMU guest with a vhost-user network card, driven over its serial console. Software emulation (TCG): for function,
// not for speed. QEMU 7.2 crashes with vhost-user and MSI-X under TCG, hence vectors=0.

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
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
  readonly #command: readonly string[];
  readonly #consolePath: string;
  #process!: ChildProcess;
  #console!: Socket;
  #errors = '';
  #text = '';
  #sequence = 0;
  #exited = false;

  private constructor(name: string, command: readonly string[], consolePath: string) {
    this.name = name;
    this.#command = command;
    this.#consolePath = consolePath;
  }

  async #launch(): Promise<void> {
    rmSync(this.#consolePath, { force: true });
    const [program, ...words] = this.#command;
    const child = spawn(program!, words, { stdio: ['ignore', 'ignore', 'pipe'] });
    this.#process = child;
    this.#exited = false;
    child.once('exit', () => {
      if (this.#process === child) this.#exited = true;
    });
    child.stderr!.on('data', (chunk: Buffer) => {
      this.#errors += chunk.toString('latin1');
      process.stderr.write(chunk);
    });
    for (let i = 0; !existsSync(this.#consolePath); i++) {
      if (child.exitCode !== null || i > 200) throw new Error(`QEMU ${this.name} did not start`);
      await sleep(50);
    }
    const console = connect(this.#consolePath);
    this.#console = console;
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
    const vm = new Vm(o.name, command, consolePath);
    await vm.#launch();
    return vm;
  }

  /** What QEMU has said on stderr. */
  get errors(): string {
    return this.#errors;
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
    try {
      await this.#wait(/GUEST ready/, 0.75 * timeoutMs);
    } catch (error) {
      await this.#launchAgain(error as Error);
      await this.#wait(/GUEST ready/, 0.75 * timeoutMs);
    }
    await this.run('true');
  }

  /**
   * An emulated guest that goes round in circles before it has said a word (seen once in some hundred starts) is started again:
   * that is the emulator's. One whose QEMU waits, perhaps for an answer of the switch, is what tests are for.
   */
  async #launchAgain(error: Error): Promise<void> {
    if (this.#exited || this.#text !== '') throw error;
    const before = this.#cpuTicks();
    await sleep(1000);
    const share = (this.#cpuTicks() - before) / 100;
    if (share < 0.2) throw new Error(`${error.message}; QEMU uses ${share} of a processor`);
    process.stderr.write(`${this.name}: silent, ${share} of a processor: QEMU is started again\n`);
    await this.stop();
    await this.#launch();
  }

  /** Processor time of QEMU so far, in hundredths of a second (proc(5)). */
  #cpuTicks(): number {
    const stat = readFileSync(`/proc/${this.#process.pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return Number(fields[11]) + Number(fields[12]);
  }

  /** After a reset: resolves when the guest has booted again. */
  async booted(timeoutMs = 120000): Promise<void> {
    this.#text = '';
    await this.#wait(/GUEST ready/, timeoutMs);
    await this.run('true');
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
