# A host of its own for systemd: run by systemd.test.ts as `sh systemdHost.sh CHECKOUT FOLDER outside`, in a mount namespace.
# systemd becomes process 1 of new namespaces, with a control group below ours, and knows only the units that are made here:
# ovsdb-server, and xvio's as it is packaged.
set -e
checkout=$1 folder=$2
if [ "$3" != inside ]; then
  mount --make-rprivate /
  mount -t cgroup2 cgroup2 "$folder"
  group=$folder/xvio-systemd-$$
  mkdir "$group"
  # What systemd leaves behind in the tree of control groups, which namespaces do not take with them.
  trap 'echo $$ > "$folder/cgroup.procs"; find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null' EXIT
  echo $$ > "$group/cgroup.procs"
  timeout -s KILL 280 unshare --pid --mount --net --cgroup --uts --ipc --fork --kill-child sh "$0" "$checkout" "$folder" inside || true
  exit 0
fi
# From there it can be reached, even if it is in one of the places below.
cd "$checkout"
mount -t proc proc /proc
# systemd sets limits of the whole kernel when it starts.
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
for place in /run /opt /var/log; do mount -t tmpfs tmpfs $place; done
umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /opt/xvio /run/units /run/openvswitch /var/log/openvswitch /etc/openvswitch
mount --no-canonicalize --bind . /opt/xvio
cd /
cp /opt/xvio/packaging/systemd/xvio-vswitchd.service /run/units
for target in sysinit basic shutdown; do
  printf '[Unit]\nDefaultDependencies=no\n' > /run/units/$target.target
done
cat > /run/units/ovsdb-server.service <<'UNIT'
[Service]
ExecStartPre=/usr/bin/ovsdb-tool create /run/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema
ExecStart=/usr/sbin/ovsdb-server --remote=punix:/run/openvswitch/db.sock /run/openvswitch/conf.db
ExecStartPost=/bin/sh -c 'until ovs-vsctl --timeout=5 --no-wait init; do sleep .1; done'
UNIT
printf '[Unit]\nRequires=xvio-vswitchd.service\n' > /run/units/xvio.target
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=xvio SYSTEMD_UNIT_PATH=/run/units \
  /lib/systemd/systemd --system --unit=xvio.target
