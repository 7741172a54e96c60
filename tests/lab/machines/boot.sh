# What a machine does once it has its root: `settings` beside this file says who it is. Run by busybox, whose one program
# without libraries starts many times faster under emulation than the host's.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
. "${0%/*}/settings"
B=$busybox
$B mount --make-rshared /
$B mount -t tmpfs run /run
$B mkdir -p /dev/pts /dev/shm /var/lib/kubelet /host/proc /host/sys /host/dev /host/config /host/etc/nvme /etc/nvme /lib/modules
[ -e "/lib/modules/$release" ] || $B ln -s "$modules" "/lib/modules/$release"
(
  # shellcheck disable=SC2086 # a list
  modprobe -a configfs $load
  $B mount -t configfs config /sys/kernel/config
  # Deno gives /proc, /sys and /dev only to a program with every permission: the driver gets them elsewhere.
  for tree in proc sys dev; do $B mount --rbind /$tree /host/$tree; done
  $B mount --bind /sys/kernel/config /host/config
  $B touch /run/booted
) &
$B mount -t devpts devpts /dev/pts
$B mount -t tmpfs shm /dev/shm
$B mount -t cgroup2 cgroup /sys/fs/cgroup
$B mount -t tmpfs kubelet /var/lib/kubelet
$B hostname "$name"
$B ip link set lo up
$B ip addr add 10.0.2.15/24 dev eth0 && $B ip link set eth0 up && $B ip route add default via 10.0.2.2
[ -z "$address" ] || { $B ip addr add "$address/24" dev eth1 && $B ip link set eth1 up; }
echo "nqn.2014-08.org.nvmexpress:uuid:$uuid" >/etc/nvme/hostnqn
echo "$uuid" >/etc/nvme/hostid
$B mount --bind /etc/nvme /host/etc/nvme
echo 7 >/proc/sys/kernel/printk
cd /
export DENO_DIR="$denoDir" DENO_NO_UPDATE_CHECK=1 NO_COLOR=1
# The first process stays a shell, which buries the children that others leave behind.
while :; do
  "$deno" run -A --quiet --config="$project/deno.json" "$project/tests/lab/machines/agent.ts" "$agentPort" "$tunnelPort" </dev/null
  echo "the agent ended with $?"
  $B sleep 1
done
