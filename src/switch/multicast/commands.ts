// The unixctl commands mdb/*.

import { formatIpv4, formatIpv6 } from '../../wire/openflow/address.ts';
import { CommandFailure, type SwitchCommand } from '../commandTypes.ts';
import type { DatapathBridge } from '../datapath.ts';
import type { Bundle } from '../types.ts';
import type { McastSnooping } from './snooping.ts';

const OFPP_LOCAL = 0xfffe;

function portOf({ ports: [port] }: Bundle): string {
  const number = port === undefined ? 0 : port.ofport & 0xffff;
  return number === OFPP_LOCAL ? 'LOCAL' : String(number);
}

function groupText(address: Uint8Array): string {
  const isMapped = address.subarray(0, 10).every((byte) => byte === 0) && address[10] === 0xff;
  return isMapped ? formatIpv4(address.subarray(12)) : formatIpv6(address);
}

function show(snooping: McastSnooping): string {
  let text = ' port  VLAN  GROUP                Age\n';
  const place = (bundle: Bundle, vlan: number): string =>
    `${portOf(bundle).padStart(5)}  ${String(vlan).padStart(4)}  `;
  for (const { vlan, address, members } of snooping.groups) {
    for (const [bundle, expiresMs] of members) {
      const age = String(snooping.ageSeconds(expiresMs)).padStart(3);
      text += `${place(bundle, vlan)}${groupText(address)}         ${age}\n`;
    }
  }
  for (const router of snooping.routers) {
    const age = String(snooping.routerAgeSeconds(router)).padStart(3);
    text += `${place(router.bundle, router.vlan)}querier             ${age}\n`;
  }
  return text;
}

export function mdbCommands(bridges: () => ReadonlyMap<string, DatapathBridge>): SwitchCommand[] {
  const snoopingOf = (name: string): McastSnooping => {
    const bridge = bridges().get(name);
    if (bridge === undefined) throw new CommandFailure('no such bridge');
    const { snooping } = bridge;
    if (snooping === undefined) throw new CommandFailure('multicast snooping is disabled');
    return snooping;
  };
  return [
    {
      name: 'mdb/show',
      usage: 'bridge',
      minArgs: 1,
      maxArgs: 1,
      run: ([name]) => show(snoopingOf(name!)),
    },
    {
      name: 'mdb/flush',
      usage: '[bridge]',
      minArgs: 0,
      maxArgs: 1,
      run: ([name]) => {
        if (name !== undefined) snoopingOf(name).flush();
        else for (const { snooping } of bridges().values()) snooping?.flush();
        return 'table successfully flushed';
      },
    },
  ];
}
