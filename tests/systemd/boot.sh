#!/bin/bash
# boot.sh FOLDER CGROUP PROGRAMS
#
# Boots this machine's own systemd as PID 1 of namespaces of its own, on an overlay of / whose upper layer is a tmpfs: nothing
# is fetched, and nothing of the machine changes. Ends with its PID 1. Needs root, systemd, cgroup v2 and overlayfs.
#
#   FOLDER    an empty folder, where the tmpfs is mounted (in the new namespace only)
#   CGROUP    a fresh, empty group of cgroup v2: the guest's root group
#   PROGRAMS  a folder whose ringriftd, ringriftctl and rr-bad are the guest's, in /usr/local/bin
set -euo pipefail
folder=$1 cgroup=$2 programs=$3
echo $$ >"$cgroup/cgroup.procs"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=ringrift TERM=dumb folder="$folder" programs="$programs" \
    unshare --pid --fork --kill-child --mount --uts --ipc --cgroup --net bash -euc '
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$folder"
mkdir "$folder"/{upper,work,root}
root=$folder/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$root"

for program in ringriftd ringriftctl rr-bad; do
    rm -f "$root/usr/local/bin/$program"
    touch "$root/usr/local/bin/$program"
    mount --bind "$programs/$program" "$root/usr/local/bin/$program"
    mount -o remount,bind,ro "$root/usr/local/bin/$program"
done

mount -t proc proc "$root/proc"
# Read-only: systemd-sysctl of the guest would change the machine.
for knob in sys sysrq-trigger; do
    [ -e "$root/proc/$knob" ] || continue
    mount --bind "$root/proc/$knob" "$root/proc/$knob"
    mount -o remount,bind,ro "$root/proc/$knob"
done
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"

mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    IFS=: read -r name major minor <<<"$node"
    mknod -m 666 "$root/dev/$name" c "$major" "$minor"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs tmpfs "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
# A console of its own: bound to the inode of the machine, its mode would change there too.
touch "$root/dev/console"
mknod -m 600 "$root/dev/.console" c 1 3
mount --bind "$root/dev/.console" "$root/dev/console"

ip link set lo up 2>/dev/null || true
# Nothing that this machine starts is started there, and nothing of an installed ringriftd is seen.
rm -rf "$root"/etc/systemd/system/*.wants "$root/etc/fstab" "$root/etc/ringrift" "$root/var/lib/ringrift" "$root/var/log/ringrift" \
    "$root"/etc/systemd/system/ringriftd.service*
: >"$root/etc/fstab"
systemd-id128 new >"$root/etc/machine-id"
hostname ringrift-guest
cat >"$root/etc/systemd/system/ringrift-guest.target" <<END
[Unit]
Description=What a guest needs
Requires=basic.target
After=basic.target
AllowIsolate=yes
END

mkdir -p "$root/mnt/old"
cd "$root"
pivot_root . mnt/old
umount -l /mnt/old
exec /lib/systemd/systemd --system --unit=ringrift-guest.target </dev/null >/dev/null 2>&1
'
