// unixctl commands about the switch (ovs-vswitchd(8)): one table, registered by the composition root.

import { TUNNEL_KINDS, tunnelArguments } from '../port/tunnelConfig.ts';
import type { SwitchBridge } from './bridge.ts';
import { CommandFailure, type SwitchCommand } from './commandTypes.ts';
import { ctCommandTable } from './ctCommands.ts';
import type { Datapath, DatapathBridge } from './datapath.ts';
import { checkDatapath, dpctlOptions, isOurDatapath } from './dpctl.ts';
import { dpctlDelFlow, dpctlDumpFlows, dpctlGetFlow, dumpFlows } from './dpctlFlows.ts';
import { dpctlAddFlow, dpctlFlowFile, dpctlModFlow, dpctlParseActions } from './dpctlPut.ts';
import { setFeatures, showFeatures } from './dpFeatures.ts';
import { ufidText } from './flowLog.ts';
import { STATIC_AGE } from './macLearning.ts';
import { mdbCommands } from './multicast/commands.ts';
import { macText } from './odpFields.ts';
import { showPerformance, showRxqs, showWorkers } from './pmdText.ts';
import { parseMac } from './textAddress.ts';
import { trace } from './trace.ts';
import { parseTraceArguments, TraceError } from './traceArguments.ts';
import { parsePacketOutArguments } from './tracePacketOut.ts';
import { portText } from './translate/output.ts';
import { tunnelOf } from './tunnel/ports.ts';
import type { BridgePort, Bundle } from './types.ts';
import { formatAddress } from './underlay/address.ts';

function bridgeNamed(datapath: Datapath, name: string | undefined): SwitchBridge {
  const bridge = name === undefined ? undefined : datapath.bridges.get(name);
  if (bridge === undefined) throw new CommandFailure('no such bridge');
  return bridge as SwitchBridge;
}

function portOfBundle(bundle: Bundle): string {
  const port = bundle.ports[0];
  return port === undefined ? '?' : portText(port.ofport);
}

// ---- fdb

function fdbShow(bridge: SwitchBridge): string {
  let text = ' port  VLAN  MAC                Age\n';
  for (const entry of bridge.macs) {
    const age = bridge.macs.ageSeconds(entry);
    text +=
      `${portOfBundle(entry.bundle).padStart(5)}  ${String(entry.vlan).padStart(4)}  ` +
      `${macText(entry.mac)}  ${age === STATIC_AGE ? 'static' : String(age).padStart(3)}\n`;
  }
  return text;
}

function fdbStats(bridge: SwitchBridge): string {
  const { macs } = bridge;
  return (
    `Statistics for bridge "${bridge.name}":\n` +
    `  Current/maximum MAC entries in the table: ${macs.size}/${macs.maxEntries}\n` +
    `  Current static MAC entries in the table : ${macs.staticCount}\n` +
    `  Total number of learned MAC entries     : ${macs.totalLearned}\n` +
    `  Total number of expired MAC entries     : ${macs.totalExpired}\n` +
    `  Total number of evicted MAC entries     : ${macs.totalEvicted}\n` +
    `  Total number of port moved MAC entries  : ${macs.totalMoved}\n`
  );
}

function fdbAdd(datapath: Datapath, args: readonly string[]): string {
  const bridge = bridgeNamed(datapath, args[0]);
  const vlan = Number.parseInt(args[2]!, 10) || 0;
  const mac = parseMac(args[3]!);
  if (mac === undefined) throw new CommandFailure('bad MAC address');
  const port = bridge.portByName(args[1]!);
  if (port === undefined) {
    throw new CommandFailure('software error, odp port is present but no ofp port');
  }
  const old = bridge.macs.lookup(mac, 0, vlan);
  let text = '';
  if (old !== undefined && (old.bundle !== port.bundle || !old.isStatic)) {
    const kind = old.isStatic ? 'static' : 'dynamic';
    text = `Overriding already existing ${kind} entry on ${portOfBundle(old.bundle)}\n`;
  }
  if (!bridge.macs.addStatic(mac, vlan, port.bundle)) {
    throw new CommandFailure('could not add static mac entry\n');
  }
  return text;
}

function fdbDel(datapath: Datapath, args: readonly string[]): string {
  const bridge = bridgeNamed(datapath, args[0]);
  const mac = parseMac(args[2]!);
  if (mac === undefined) throw new CommandFailure('bad MAC address');
  if (!bridge.macs.removeStatic(mac, Number.parseInt(args[1]!, 10) || 0)) {
    throw new CommandFailure('could not find static mac entry\n');
  }
  return '';
}

function allOrOne(datapath: Datapath, name: string | undefined): SwitchBridge[] {
  if (name !== undefined) return [bridgeNamed(datapath, name)];
  return [...datapath.bridges.values()] as SwitchBridge[];
}

// ---- datapath

/** Lookups that found a megaflow, that found none, and what was lost. */
export function lookups(datapath: Datapath): {
  hit: number;
  missed: number;
  lost: number;
  cacheHits: number;
  flowHits: number;
  probes: number;
} {
  const total = { hit: 0, missed: 0, lost: 0, cacheHits: 0, flowHits: 0, probes: 0 };
  for (const worker of datapath.engine.workerStats()) {
    total.cacheHits += worker.cacheHits;
    total.flowHits += worker.flowHits;
    total.hit += worker.simpleHits + worker.cacheHits + worker.flowHits;
    total.missed += worker.misses;
    total.lost += worker.lost;
    total.probes += worker.flowProbes;
  }
  return total;
}

function sortedByName<T extends { name: string }>(list: Iterable<T>): T[] {
  return [...list].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
}

/** Range of the UDP source ports of tunnels. */
function egressPortRange(datapath: Datapath, args: readonly string[]): string {
  const { tunnels } = datapath;
  if (args.length < 2) {
    return `Tunnel UDP source port range: ${tunnels.sourcePortMin}-${tunnels.sourcePortMax}\n`;
  }
  const [a, b] = args.map((text) => Number.parseInt(text, 10) || 0) as [number, number];
  if (a <= 0 || a > 0xffff) return 'Invalid min.';
  if (b <= 0 || b > 0xffff) return 'Invalid max.';
  tunnels.sourcePortMin = Math.min(a, b);
  tunnels.sourcePortMax = Math.max(a, b);
  for (const bridge of datapath.bridges.values()) datapath.revalidator.changed(bridge);
  return 'OK';
}

/** "(type: key=value, …)" as devices describe themselves. */
function deviceText(port: BridgePort): string {
  // Internal ports are taps to a userspace datapath.
  const types: Readonly<Record<string, string>> = { '': 'system', internal: 'tap' };
  const type = types[port.netdev.type] ?? port.netdev.type;
  const tunnel = tunnelOf(port);
  const config: [string, string][] =
    tunnel !== undefined
      ? tunnelArguments(tunnel.tunnel)
      : port.peer === undefined
        ? []
        : [['peer', port.peer]];
  const text = config.map(([key, value]) => ` ${key}=${value}`).join(',');
  return text === '' ? `(${type})` : `(${type}:${text})`;
}

function dpifShow(datapath: Datapath): string {
  const { hit, missed } = lookups(datapath);
  let text = `${datapath.name}: hit:${hit} missed:${missed}\n`;
  for (const bridge of sortedByName(datapath.bridges.values())) {
    text += `  ${bridge.name}:\n`;
    for (const port of sortedByName(bridge.ports.values())) {
      const dpPort = port.dpPort < 0 ? 'none' : String(datapath.tunnels.shown(port.dpPort));
      const ofport = port.ofport >= 0xff00 ? port.ofport & 0xffff : port.ofport;
      text += `    ${port.name} ${ofport}/${dpPort}: ${deviceText(port)}\n`;
    }
  }
  return text;
}

function dpctlShow(datapath: Datapath, statistics: boolean): string {
  const { hit, missed, lost, probes, cacheHits } = lookups(datapath);
  const packets = hit + missed;
  const perPacket = (packets === 0 ? 0 : probes / packets).toFixed(2);
  const rate = (packets === 0 ? 0 : (cacheHits / packets) * 100).toFixed(2);
  let text =
    `${datapath.name}:\n  lookups: hit:${hit} missed:${missed} lost:${lost}\n` +
    `  flows: ${datapath.megaflows.size}\n` +
    `  masks: hit:${probes} total:${datapath.engine.maskCount()} hit/pkt:${perPacket}\n` +
    `  cache: hit:${cacheHits} hit-rate:${rate}%\n`;
  const ports = [...datapath.ports].map(([number, { port }]) => {
    const type = port.netdev.type;
    const kind = type === '' || type === 'system' ? '' : ` ${deviceText(port)}`;
    return { number, name: port.name, kind, statistics: statisticsText(port) };
  });
  for (const { device, port, type, udpPort } of datapath.tunnels.listeners) {
    // The datapath's device is an interface like any other: what is not the default of its type is told.
    const dstPort = udpPort === (TUNNEL_KINDS[type]!.udpPort ?? 0) ? '' : `dst_port=${udpPort}, `;
    ports.push({
      number: datapath.tunnels.shown(port),
      name: device,
      kind: ` (${type}: ${dstPort}packet_type=ptap)`,
      statistics: '',
    });
  }
  for (const port of ports.sort((a, b) => a.number - b.number)) {
    text += `  port ${port.number}: ${port.name}${port.kind}\n`;
    if (statistics) text += port.statistics;
  }
  return text;
}

function humanSize(bytes: number): string {
  const units = ['KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = -1;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return unit < 0 ? '' : ` (${value.toFixed(1)} ${units[unit]})`;
}

function statisticsText(port: BridgePort): string {
  const stats = port.netdev.statistics();
  const get = (name: string): string => String(stats[name] ?? 0);
  return (
    `    RX packets:${get('rx_packets')} errors:${get('rx_errors')} dropped:${get('rx_dropped')} ` +
    `overruns:${get('rx_over_err')} frame:${get('rx_frame_err')}\n` +
    `    TX packets:${get('tx_packets')} errors:${get('tx_errors')} dropped:${get('tx_dropped')} ` +
    `aborted:0 carrier:0\n` +
    `    collisions:${get('collisions')}\n` +
    `    RX bytes:${get('rx_bytes')}${humanSize(stats.rx_bytes ?? 0)}  ` +
    `TX bytes:${get('tx_bytes')}${humanSize(stats.tx_bytes ?? 0)}\n`
  );
}

function dpifDumpFlows(datapath: Datapath, args: readonly string[]): string {
  const bridge = bridgeNamed(datapath, args.at(-1));
  const options = args.slice(0, -1);
  const verbose = options.includes('-m');
  const names = options.includes('--names') || (verbose && !options.includes('--no-names'));
  return dumpFlows(datapath, { verbose, names, bridge }, (id) => `${ufidText(id)} `);
}

function upcallShow(datapath: Datapath): string {
  const { revalidator, megaflows } = datapath;
  const { averageFlows, maxFlows, flowLimit, dumpDurationMs } = revalidator;
  return (
    `${datapath.name}:\n` +
    `  flows         : (current ${megaflows.size}) (avg ${averageFlows}) ` +
    `(max ${maxFlows}) (limit ${flowLimit})\n` +
    `  dump duration : ${dumpDurationMs}ms\n` +
    `  ufid enabled : true\n\n` +
    `  1: (keys ${megaflows.size})\n`
  );
}

function ofprotoTrace(
  datapath: Datapath,
  args: readonly string[],
  parse: typeof parseTraceArguments,
): string {
  try {
    return trace(datapath, parse(datapath, args));
  } catch (error) {
    if (error instanceof TraceError) throw new CommandFailure(error.message);
    throw error;
  }
}

const MANY = Number.MAX_SAFE_INTEGER;

/** The commands of a datapath. Handlers throw CommandFailure with the text that ovs-appctl shows. */
export function switchCommandTable(datapath: Datapath): SwitchCommand[] {
  const command = (
    name: string,
    usage: string,
    minArgs: number,
    maxArgs: number,
    run: SwitchCommand['run'],
  ): SwitchCommand => ({ name, usage, minArgs, maxArgs, run });
  const bridges = (): DatapathBridge[] => [...datapath.bridges.values()];
  return [
    ...ctCommandTable(
      () => datapath.engine.conntrack,
      (zone, match) => datapath.flushConnections(zone, match),
    ),
    command('fdb/show', 'bridge', 1, 1, ([name]) => fdbShow(bridgeNamed(datapath, name))),
    command('fdb/stats-show', 'bridge', 1, 1, ([name]) => fdbStats(bridgeNamed(datapath, name))),
    command('fdb/stats-clear', '[bridge]', 0, 1, ([name]) => {
      for (const bridge of allOrOne(datapath, name)) bridge.macs.clearStats();
      return 'statistics successfully cleared';
    }),
    command('fdb/flush', '[bridge]', 0, 1, ([name]) => {
      for (const bridge of allOrOne(datapath, name)) bridge.macs.flush();
      return 'table successfully flushed';
    }),
    command('fdb/add', 'bridge port vlan mac', 4, 4, (args) => fdbAdd(datapath, args)),
    command('fdb/del', 'bridge vlan mac', 3, 3, (args) => fdbDel(datapath, args)),
    ...mdbCommands(() => datapath.bridges),
    command('ofproto/list', '', 0, 0, () =>
      bridges()
        .map((bridge) => `${bridge.name}\n`)
        .join(''),
    ),
    command(
      'ofproto/trace',
      '{[dp_name] odp_flow | bridge br_flow} [OPTIONS...] [-generate|packet]',
      1,
      MANY,
      (args) => ofprotoTrace(datapath, args, parseTraceArguments),
    ),
    command(
      'ofproto/trace-packet-out',
      '[-consistent] {[dp_name] odp_flow | bridge br_flow} [OPTIONS...] [-generate|packet] actions',
      2,
      MANY,
      (args) => ofprotoTrace(datapath, args, parsePacketOutArguments),
    ),
    command('ofproto/list-tunnels', '', 0, 0, () => datapath.tunnels.showTunnels(formatAddress)),
    command('tnl/ports/show', '-v', 0, 1, ([option]) =>
      option?.toLowerCase() === '-v'
        ? datapath.tunnels.showTermination(formatAddress)
        : datapath.tunnels.showListeners(),
    ),
    command('tnl/egress_port_range', 'min max', 0, 2, (args) => egressPortRange(datapath, args)),
    command('dpif/dump-dps', '', 0, 0, () =>
      [...datapath.bridges.keys()]
        .sort()
        .map((name) => `${datapath.name.split('@')[0]}@${name}\n`)
        .join(''),
    ),
    command('dpif/show', '', 0, 0, () => dpifShow(datapath)),
    command('dpif/show-dp-features', 'bridge', 1, 1, ([name]) => {
      bridgeNamed(datapath, name);
      return showFeatures();
    }),
    command('dpif/set-dp-features', 'bridge', 1, 3, ([bridge, name, value]) => {
      bridgeNamed(datapath, bridge);
      return setFeatures(datapath, name, value);
    }),
    command('dpif/dump-flows', '[-m] [--names | --no-names] bridge', 1, MANY, (args) =>
      dpifDumpFlows(datapath, args),
    ),
    command('dpctl/show', '[-s] [dp...]', 0, MANY, (args) => {
      const { statistics, rest } = dpctlOptions(args);
      checkDatapath(rest[0]);
      return dpctlShow(datapath, statistics);
    }),
    command('dpctl/dump-dps', '', 0, 0, () => `${datapath.name}\n`),
    command(
      'dpctl/dump-flows',
      '[-m] [--names] [dp] [filter=..] [type=..] [pmd=..]',
      0,
      6,
      (args) => dpctlDumpFlows(datapath, args),
    ),
    command('dpctl/add-flow', '[dp] flow actions', 2, 6, (args) => dpctlAddFlow(datapath, args)),
    command('dpctl/mod-flow', '[dp] flow actions', 2, 6, (args) => dpctlModFlow(datapath, args)),
    command('dpctl/add-flows', '[dp] file', 1, 6, (args) => dpctlFlowFile(datapath, args, 'add')),
    command('dpctl/mod-flows', '[dp] file', 1, 6, (args) =>
      dpctlFlowFile(datapath, args, 'modify'),
    ),
    command('dpctl/parse-actions', 'actions', 1, MANY, dpctlParseActions),
    command('dpctl/get-flow', '[dp] ufid', 1, 6, (args) => dpctlGetFlow(datapath, args)),
    command('dpctl/del-flow', '[dp] flow', 1, 6, (args) => dpctlDelFlow(datapath, args)),
    command('dpctl/del-flows', '[dp] [file]', 0, 2, async (args) => {
      if (args.length > 1 || !isOurDatapath(args[0])) {
        return dpctlFlowFile(datapath, args, 'delete');
      }
      await datapath.purge();
      return '';
    }),
    ...(['disable', 'enable'] as const).map((word) =>
      command(`upcall/${word}-megaflows`, '', 0, 0, async () => {
        datapath.handler.megaflowsEnabled = word === 'enable';
        await datapath.purge();
        return `megaflows ${word}d`;
      }),
    ),
    // Ours are always dumped by number, and whole.
    command('upcall/disable-ufid', '', 0, 0, () => 'Datapath dumping tersely using UFID disabled'),
    command(
      'upcall/enable-ufid',
      '',
      0,
      0,
      () => 'Datapath dumping tersely using UFID enabled for supported datapaths',
    ),
    command('upcall/show', '', 0, 0, () => upcallShow(datapath)),
    command('upcall/set-flow-limit', 'flow-limit-number', 1, 1, ([text]) => {
      const limit = Number.parseInt(text!, 10) || 0;
      datapath.revalidator.setFlowLimit(limit);
      return `set flow_limit to ${limit}\n`;
    }),
    command('revalidator/pause', '', 0, 0, () => {
      datapath.revalidator.pause(true);
      return '';
    }),
    command('revalidator/resume', '', 0, 0, () => {
      datapath.revalidator.pause(false);
      return '';
    }),
    command('revalidator/wait', '', 0, 0, async () => {
      await datapath.revalidator.wait();
      return '';
    }),
    command('revalidator/purge', '', 0, 0, async () => {
      await datapath.purge();
      return '';
    }),
    command('dpif-netdev/pmd-rxq-show', '[-pmd core] [-secs secs] [dp]', 0, 5, (args) =>
      showRxqs(datapath, args),
    ),
    command('dpif-netdev/pmd-stats-show', '[-pmd core] [dp]', 0, 3, (args) =>
      showWorkers(datapath, args),
    ),
    command(
      'dpif-netdev/pmd-perf-show',
      '[-nh] [-it iter-history-len] [-ms ms-history-len] [-pmd core] [dp]',
      0,
      8,
      (args) => showPerformance(datapath, args, new Date()),
    ),
    command('dpif-netdev/pmd-stats-clear', '[-pmd core] [dp]', 0, 3, () => {
      datapath.engine.clearWorkerStats();
      return '';
    }),
  ];
}
