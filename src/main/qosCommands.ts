// qos/show and qos/show-types: what limits an interface, in the words of ovs-vswitchd(8).

import { type Command, CommandError } from '../control/appctl/server.ts';
import type { InterfaceUnit } from './ports.ts';
import { qosTypes } from './qos.ts';
import type { BridgeUnit } from './reconcile.ts';

const lines = (config: Readonly<Record<string, string>>, indent = ''): string =>
  Object.entries(config)
    .map(([key, value]) => `${indent}${key}: ${value}\n`)
    .join('');

export function qosCommands(bridges: () => Iterable<BridgeUnit>): Command[] {
  const find = (name: string): { owner: BridgeUnit; unit: InterfaceUnit } => {
    for (const owner of bridges()) {
      const unit = owner.ports.units.get(name);
      if (unit !== undefined) return { owner, unit };
    }
    throw new CommandError('no such interface');
  };
  return [
    {
      name: 'qos/show-types',
      usage: 'interface',
      minArgs: 1,
      maxArgs: 1,
      run: ([name]) => {
        const { unit } = find(name!);
        if (unit.port === undefined || unit.port.dpPort < 0) {
          return `No QoS types supported for interface: ${name}\n`;
        }
        return qosTypes(unit.type)
          .map((type) => `QoS type: ${type}\n`)
          .join('');
      },
    },
    {
      name: 'qos/show',
      usage: 'interface',
      minArgs: 1,
      maxArgs: 1,
      run: ([name]) => {
        const { owner, unit } = find(name!);
        const report = unit.port && owner.ports.qos.report(unit.port);
        if (report === undefined) return `QoS not configured on ${name}\n`;
        let text = `QoS: ${name} ${report.type}\n${lines(report.config)}`;
        for (const { id, config, counters } of report.queues) {
          text += `\n${id === 0 ? 'Default' : `Queue ${id}`}:\n${lines(config, '  ')}`;
          if (counters === undefined) {
            text += `  Failed to get statistics for queue ${id}: Operation not supported`;
            continue;
          }
          text += `  tx_packets: ${counters.txPackets}\n  tx_bytes: ${counters.txBytes}\n`;
          text += `  tx_errors: ${counters.txErrors}\n`;
        }
        return text;
      },
    },
  ];
}
