// Debian packages that the tests' real peers come from. As root they are installed; otherwise the missing ones are
// named and the run fails: a missing peer is a failure, not a skip.

import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, rmSync, writeFileSync } from 'node:fs';

/** Package → a file that it brings. */
export const PEERS: Readonly<Record<string, string>> = {
  'openvswitch-switch': '/usr/lib/openvswitch-switch/ovs-vswitchd',
  'openvswitch-common': '/usr/bin/ovs-ofctl',
  'openvswitch-source': '/usr/src/openvswitch/openvswitch.tar.gz',
  'qemu-system-x86': '/usr/bin/qemu-system-x86_64',
  'busybox-static': '/bin/busybox',
  'dpdk-dev': '/usr/bin/dpdk-testpmd',
  iperf3: '/usr/bin/iperf3',
  iproute2: '/usr/sbin/ip',
  'iputils-ping': '/usr/bin/ping',
  ethtool: '/usr/sbin/ethtool',
  tcpdump: '/usr/bin/tcpdump',
  tshark: '/usr/bin/tshark',
  'openvswitch-switch-dpdk': '/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk',
  'linux-perf': '/usr/bin/perf',
  'netcat-openbsd': '/usr/bin/nc.openbsd',
  'net-tools': '/usr/bin/netstat',
  wget: '/usr/bin/wget',
  curl: '/usr/bin/curl',
  lftp: '/usr/bin/lftp',
  'python3-pyftpdlib': '/usr/lib/python3/dist-packages/pyftpdlib/__init__.py',
  python3: '/usr/bin/python3',
  socat: '/usr/bin/socat',
  traceroute: '/usr/bin/traceroute.db',
  cpio: '/usr/bin/cpio',
  openssl: '/usr/bin/openssl',
  kmod: '/usr/bin/kmod',
  'ovn-central': '/usr/bin/ovn-northd',
  'ovn-common': '/usr/bin/ovn-nbctl',
  'ovn-host': '/usr/bin/ovn-controller',
  'iputils-arping': '/usr/bin/arping',
  frr: '/usr/lib/frr/bfdd',
  'isc-dhcp-client': '/usr/sbin/dhclient',
  systemd: '/usr/bin/systemd-analyze',
};

/** Those of `packages`, of all by default, that are not installed. */
export function missingPackages(packages: readonly string[] = Object.keys(PEERS)): string[] {
  return Object.entries(PEERS)
    .filter(([name]) => packages.includes(name))
    .filter(([, file]) => !existsSync(file) && !existsSync(file.replace('/usr/', '/')))
    .map(([name]) => name);
}

const POLICY = '/usr/sbin/policy-rc.d';

/** Installs packages without starting their services. Throws if apt-get fails. */
function install(packages: readonly string[]): void {
  const ours = !existsSync(POLICY);
  if (ours) writeFileSync(POLICY, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
  try {
    const options = {
      stdio: 'inherit',
      env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
    } as const;
    execFileSync('apt-get', ['update', '-q'], options);
    execFileSync(
      'apt-get',
      ['install', '-y', '-q', '--no-install-recommends', ...packages],
      options,
    );
  } finally {
    if (ours) rmSync(POLICY);
  }
}

/** Returns the packages that are still missing. */
export function ensurePackages(): string[] {
  const missing = missingPackages();
  if (missing.length === 0) return [];
  if (process.getuid?.() !== 0) return missing;
  if (spawnSync('apt-get', ['--version']).status !== 0) return missing;
  install(missing);
  return missingPackages();
}
