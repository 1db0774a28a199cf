// A tiny Linux guest for tests: Debian's cloud kernel (downloaded and unpacked, not installed) and an initramfs of
// busybox, iperf3 and ethtool. Built once per machine into a cache directory.

import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

export interface GuestImage {
  kernel: string;
  initrd: string;
}

const MODULES = [
  'net/core/failover',
  'drivers/net/net_failover',
  'drivers/virtio/virtio_ring',
  'drivers/virtio/virtio',
  'drivers/virtio/virtio_pci_legacy_dev',
  'drivers/virtio/virtio_pci_modern_dev',
  'drivers/virtio/virtio_pci',
  'drivers/net/virtio_net',
  'net/llc/llc',
  'net/802/stp',
  'net/802/garp',
  'net/802/mrp',
  'net/8021q/8021q',
];

const INIT = `#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t sysfs none /sys
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
for m in ${MODULES.map((m) => m.split('/').at(-1)).join(' ')}; do
  [ -f /lib/mod/$m.ko ] && insmod /lib/mod/$m.ko
done
for a in $(cat /proc/cmdline); do case $a in ip=*) IP=\${a#ip=};; ip6=*) IP6=\${a#ip6=};; esac; done
ip link set lo up
if [ -d /sys/class/net/eth0 ]; then
  echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
  ip link set eth0 up
  [ -n "$IP" ] && ip addr add $IP dev eth0
  [ -n "$IP6" ] && ip addr add $IP6 dev eth0
fi
stty -echo 2>/dev/null
echo "GUEST ""ready"
while true; do setsid cttyhack sh 2>/dev/null || sh; done
`;

function sharedLibraries(program: string): string[] {
  const text = execFileSync('ldd', [program], { encoding: 'utf8' });
  return [...text.matchAll(/(\/[^ ]+)/g)].map((m) => m[1]!);
}

/** Builds the guest if it is not there yet; needs busybox-static, cpio, iperf3, ethtool and Debian's package lists. */
export function guestImage(cache = join(tmpdir(), 'xvio-guest-image-2')): GuestImage {
  const image = { kernel: join(cache, 'vmlinuz'), initrd: join(cache, 'initrd.gz') };
  if (existsSync(image.initrd)) return image;
  const work = `${cache}.${process.pid}`;
  const root = join(work, 'root');
  for (const d of ['bin', 'lib/mod', 'lib64', 'etc', 'proc', 'sys', 'dev', 'tmp']) {
    mkdirSync(join(root, d), { recursive: true });
  }
  const depends = execFileSync('apt-cache', ['depends', 'linux-image-cloud-amd64'], {
    encoding: 'utf8',
  });
  const kernelPackage = /Depends: (linux-image-6\S+)/.exec(depends)?.[1];
  if (!kernelPackage) throw new Error('no cloud kernel in the package lists: run apt-get update');
  execFileSync('apt-get', ['download', '-q', kernelPackage], { cwd: work, stdio: 'ignore' });
  const deb = readdirSync(work).find((f) => f.endsWith('.deb'))!;
  execFileSync('dpkg', ['-x', join(work, deb), join(work, 'k')]);
  const modules = join(work, 'k/lib/modules');
  const version = readdirSync(modules)[0]!;
  copyFileSync(join(work, 'k/boot', `vmlinuz-${version}`), join(work, 'vmlinuz'));
  for (const m of MODULES) {
    const file = join(modules, version, 'kernel', `${m}.ko`);
    if (existsSync(file)) copyFileSync(file, join(root, 'lib/mod', `${m.split('/').at(-1)}.ko`));
  }
  copyFileSync('/bin/busybox', join(root, 'bin/busybox'));
  for (const program of ['/usr/bin/iperf3', '/usr/sbin/ethtool']) {
    copyFileSync(program, join(root, 'bin', program.split('/').at(-1)!));
    for (const library of sharedLibraries(program)) {
      mkdirSync(join(root, dirname(library)), { recursive: true });
      copyFileSync(library, join(root, library));
    }
  }
  writeFileSync(join(root, 'init'), INIT);
  chmodSync(join(root, 'init'), 0o755);
  execFileSync('sh', ['-c', 'find . | cpio -o -H newc --quiet | gzip -1 > ../initrd.gz'], {
    cwd: root,
  });
  rmSync(root, { recursive: true });
  rmSync(join(work, 'k'), { recursive: true });
  rmSync(join(work, deb));
  try {
    renameSync(work, cache);
  } catch {
    rmSync(work, { recursive: true }); // another test built it meanwhile
  }
  return image;
}
