// The text of stp/show, which prints what the protocol knows as Open vSwitch does.

import { idMacText } from './bpdu.ts';
import type { StpPort, StpRole, StpTimes } from './stpPort.ts';

export interface StpStatus {
  name: string;
  bridgeId: bigint;
  designatedRoot: bigint;
  rootPathCost: number;
  /** undefined: the bridge is the root itself. */
  rootPort: StpPort | undefined;
  /** As management wishes, and as the root says. */
  bridgeTimes: StpTimes;
  times: StpTimes;
  /** That take part. */
  ports: readonly { port: StpPort; role: StpRole }[];
}

export function stpText(status: StpStatus): string {
  const { name, bridgeId, designatedRoot, rootPathCost, rootPort } = status;
  let text = `---- ${name} ----\nRoot ID:\n${details(designatedRoot, status.bridgeTimes)}`;
  text +=
    rootPort === undefined
      ? '  This bridge is the root\n'
      : `  root-port       ${rootPort.settings.name}\n  root-path-cost  ${rootPathCost}\n`;
  text += `\nBridge ID:\n${details(bridgeId, status.times)}\n`;
  text += '  Interface  Role       State      Cost  Pri.Nbr \n';
  text += '  ---------- ---------- ---------- ----- -------\n';
  const byNumber = status.ports.toSorted((a, b) => a.port.settings.number - b.port.settings.number);
  for (const { port, role } of byNumber) {
    const { name: interfaceName, pathCost, priority, number } = port.settings;
    text += `  ${cell(interfaceName)}${cell(role)}${cell(port.state)}`;
    text += `${String(pathCost).padEnd(6)}${priority & 0xff}.${number}\n`;
  }
  return `${text}\n`;
}

function details(id: bigint, times: StpTimes): string {
  return (
    `  stp-priority  ${id >> 48n}\n` +
    `  stp-system-id   ${idMacText(id)}\n` +
    `  stp-hello-time  ${seconds(times.helloTimeMs)}\n` +
    `  stp-max-age     ${seconds(times.maxAgeMs)}\n` +
    `  stp-fwd-delay   ${seconds(times.forwardDelayMs)}\n`
  );
}

function seconds(durationMs: number): string {
  return `${Math.floor(durationMs / 1000)}s`;
}

function cell(value: string): string {
  return value.slice(0, 10).padEnd(11);
}
