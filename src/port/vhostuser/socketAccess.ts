// Who may connect to the sockets of dpdkvhostuser ports: other_config:vhost-sock-owner and vhost-sock-perm.
//
//   vhost-sock-owner  "USER", "USER:GROUP" or ":GROUP", by name or number; default: who xvio runs as
//   vhost-sock-perm   the mode in octal ("0660"); default: as the umask leaves it
//
// QEMU under libvirt runs as libvirt-qemu:kvm (Debian) or qemu:qemu: ":kvm" with "0660" lets it in. Without CAP_CHOWN
// (--user) the owner stays, and the group may be one of the user's own.

import { chmodSync, chownSync } from 'node:fs';
import { lookupGroup, lookupUser } from '../../sys/user.ts';

export interface SocketAccess {
  readonly owner?: string | undefined;
  readonly perm?: string | undefined;
}

/** Applies what is asked for to a socket file. What cannot be done is returned as texts for the log; the socket stays. */
export function applySocketAccess(path: string, access: SocketAccess): string[] {
  const complaints: string[] = [];
  const attempt = (key: string, value: string, change: () => void): void => {
    try {
      change();
    } catch (error) {
      complaints.push(`other_config:${key}=${value}: ${path}: ${(error as Error).message}`);
    }
  };
  const { owner, perm } = access;
  // The mode first: whoever gives the file away may not change it any more.
  if (perm !== undefined) {
    attempt('vhost-sock-perm', perm, () => {
      if (!/^0?[0-7]{3}$/.test(perm)) throw new Error('not an octal mode of three digits');
      chmodSync(path, Number.parseInt(perm, 8));
    });
  }
  if (owner !== undefined) {
    attempt('vhost-sock-owner', owner, () => {
      const [user = '', group = ''] = owner.split(':');
      const uid = user === '' ? -1 : lookupUser(user).uid;
      chownSync(path, uid, group === '' ? -1 : lookupGroup(group));
    });
  }
  return complaints;
}
