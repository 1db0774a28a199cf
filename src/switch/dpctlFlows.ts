// Megaflows in text: dpctl/dump-flows, get-flow, del-flow of ovs-appctl (ovs-dpctl(8)); dpctlPut.ts makes some.

import { CommandFailure } from './commandTypes.ts';
import type { Datapath, DatapathBridge } from './datapath.ts';
import { checkDatapath, dpctlOptions } from './dpctl.ts';
import { ufidText } from './flowLog.ts';
import { type Megaflow, meets } from './megaflow.ts';
import { parseOdpFlow } from './odpParse.ts';
import { formatOdpActions, formatOdpFlow, formatOdpStats, type OdpNames } from './odpText.ts';

interface DumpOptions {
  verbose: boolean;
  names: boolean;
  bridge?: DatapathBridge;
}

function odpNames(datapath: Datapath, names: boolean): OdpNames {
  return {
    packetIn: (id) => datapath.packetIns.get(id),
    portName: (port) => (names ? datapath.portName(port) : String(datapath.tunnels.shown(port))),
  };
}

export function dumpFlows(
  datapath: Datapath,
  options: DumpOptions,
  prefix: (id: number) => string,
): string {
  const names = odpNames(datapath, options.names);
  let text = '';
  for (const flow of datapath.megaflows) {
    const owner = datapath.ownerOf(flow.key);
    if (options.bridge !== undefined && owner !== options.bridge) continue;
    const start = options.verbose ? prefix(flow.id) : '';
    text += `${start}${flowText(datapath, flow, options.verbose, names)}\n`;
  }
  return text;
}

function flowText(datapath: Datapath, flow: Megaflow, verbose: boolean, names: OdpNames): string {
  const { engine } = datapath;
  const stats = formatOdpStats(engine.flowStats(flow.id), engine.nowMs());
  const actions = formatOdpActions(flow.program, flow.key, names);
  return `${formatOdpFlow(flow.key, flow.mask, verbose, names)}, ${stats}, actions:${actions}`;
}

/** The megaflow with the name at the start of `text` ("ufid:…"); undefined if there is no such name. */
export function flowNamed(
  datapath: Datapath,
  text: string,
  doing: string,
): { flow: Megaflow; rest: string } | undefined {
  const found = /^\s*(ufid:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})[\s,]*/i.exec(text);
  if (found === null) return undefined;
  for (const flow of datapath.megaflows) {
    if (ufidText(flow.id) !== found[1]!.toLowerCase()) continue;
    return { flow, rest: text.slice(found[0].length) };
  }
  throw new CommandFailure(`ovs-vswitchd: ${doing} flow (No such file or directory)`);
}

/** dpctl/get-flow: the megaflow of a name, as dpctl/dump-flows shows it. */
export function dpctlGetFlow(datapath: Datapath, args: readonly string[]): string {
  const { verbose, names, rest } = dpctlOptions(args);
  checkDatapath(rest.length > 1 ? rest[0] : undefined);
  const named = flowNamed(datapath, rest.at(-1) ?? '', 'getting');
  if (named === undefined) {
    throw new CommandFailure('ovs-vswitchd: parsing flow ufid (Invalid argument)');
  }
  return `${flowText(datapath, named.flow, verbose, odpNames(datapath, names))}\n`;
}

/** dpctl/del-flow: by name, or by the fields of a packet that meets it; the next such packet makes it anew. */
export async function dpctlDelFlow(datapath: Datapath, args: readonly string[]): Promise<string> {
  const { statistics, rest } = dpctlOptions(args);
  checkDatapath(rest.length > 1 ? rest[0] : undefined);
  const text = rest.at(-1) ?? '';
  let flow = flowNamed(datapath, text, 'deleting')?.flow;
  if (flow === undefined) {
    let key: Uint8Array;
    try {
      key = parseOdpFlow(text, portsByName(datapath));
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      throw new CommandFailure(`ovs-vswitchd: ${error.message} (Invalid argument)`);
    }
    const words = new Int32Array(key.buffer, key.byteOffset, key.length / 4);
    flow = flowMetBy(datapath, words);
  }
  if (flow === undefined) {
    throw new CommandFailure(
      'ovs-vswitchd: deleting flow (No such file or directory)\n' +
        'Perhaps you need to specify a UFID?',
    );
  }
  const { tcpFlags } = datapath.engine.flowStats(flow.id);
  await datapath.deleteMegaflow(flow);
  await datapath.engine.quiesce();
  const { packets, bytes, usedMs } = flow;
  const last = { packets, bytes, usedMs, tcpFlags };
  return statistics ? `${formatOdpStats(last, datapath.engine.nowMs())}\n` : '';
}

/** Numbers of datapath ports. */
export function portsByName(datapath: Datapath): (name: string) => number | undefined {
  const ports = new Map([...datapath.ports].map(([number, { port }]) => [port.name, number]));
  return (name) => ports.get(name);
}

/** A megaflow that a packet with this key (host words) meets. */
export function flowMetBy(datapath: Datapath, keyWords: Int32Array): Megaflow | undefined {
  for (const flow of datapath.megaflows) if (meets(flow, keyWords)) return flow;
  return undefined;
}

export function dpctlDumpFlows(datapath: Datapath, args: readonly string[]): string {
  const { verbose, names, rest } = dpctlOptions(args);
  const unknown = rest.filter((arg) => !/^(filter|type|pmd)=/.test(arg));
  checkDatapath(unknown[0]);
  const text = dumpFlows(datapath, { verbose, names }, (id) => `${ufidText(id)}, `);
  return text === '' ? '' : `flow-dump from the main thread:\n${text}`;
}
