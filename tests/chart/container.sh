#!/bin/sh
# Runs a program as a container of a pod that is not root: container.sh IMAGE SCRATCH USER [SOURCE:TARGET:ro|rw …] -- PROGRAM [ARG …]
# The image's tree is the root, read-only; SOURCEs are mounted in it. Started in a mount namespace of its own.
set -eu
image=$1 scratch=$2 user=$3
shift 3
mount --make-rprivate /
mount -t tmpfs none "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
root=$scratch/root
mount -t overlay overlay -o "lowerdir=$image,upperdir=$scratch/upper,workdir=$scratch/work" "$root"
mkdir -p "$root/proc" "$root/dev"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
while [ "$1" != -- ]; do
  source=${1%%:*} target=${1#*:} mode=${1##*:}
  target=${target%:*}
  # A link in the image is taken as the image means it, not as this machine does.
  case $target in /var/run/*) [ -L "$root/var/run" ] && target=/run${target#/var/run} ;; esac
  if [ -d "$source" ]; then mkdir -p "$root$target"; else mkdir -p "$(dirname "$root$target")" && touch "$root$target"; fi
  mount --bind "$source" "$root$target"
  [ "$mode" = rw ] || mount -o remount,bind,ro "$root$target"
  shift
done
shift
mount -o remount,ro "$root"
exec setpriv --no-new-privs chroot --userspec="$user:$user" --groups="$user" "$root" "$@"
