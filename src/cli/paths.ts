// Directories of Open vSwitch and the environment variables that move them.

export interface Paths {
  rundir: string;
  logdir: string;
  dbdir: string;
  sysconfdir: string;
  pkgdatadir: string;
}

export function pathsFrom(env: Readonly<Record<string, string | undefined>>): Paths {
  const sysconfdir = env.OVS_SYSCONFDIR ?? '/etc';
  return {
    rundir: env.OVS_RUNDIR ?? '/var/run/openvswitch',
    logdir: env.OVS_LOGDIR ?? '/var/log/openvswitch',
    dbdir: env.OVS_DBDIR ?? `${sysconfdir}/openvswitch`,
    sysconfdir,
    pkgdatadir: env.OVS_PKGDATADIR ?? '/usr/share/openvswitch',
  };
}

/** A file name given by the user: absolute, or relative to `dir`. */
export function inDir(dir: string, name: string): string {
  return name.startsWith('/') ? name : `${dir}/${name}`;
}
