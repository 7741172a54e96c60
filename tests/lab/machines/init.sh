#!/bin/sh
# The first program of a machine: gets to the host's root, with a layer of the machine's own over it, and goes on there.
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t devtmpfs dev /dev
for module in $($B cat /modules/list); do $B insmod "/modules/$module"; done
$B mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,ro,cache=loose hostroot /host || exec $B sh
$B mount -t tmpfs upper /upper
$B mkdir /upper/upper /upper/work
$B mount -t overlay -o lowerdir=/host,upperdir=/upper/upper,workdir=/upper/work root /root
machine=$($B sed 's/.*machine=\([^ ]*\).*/\1/' /proc/cmdline)
for tree in proc sys dev; do $B mount --move /$tree /root/$tree; done
. "/root$machine/settings"
exec $B switch_root /root "$busybox" sh "$machine/boot.sh"
