#!/bin/sh
# Run in a Debian: puts the programs that the list names, with the libraries that they load and nothing else, under a root.
# collect.sh LIST ROOT
set -eu
list=$1 root=$2
export DEBIAN_FRONTEND=noninteractive
entries=$(grep -v '^#' "$list")
packages=$(echo "$entries" | awk '{ print $2 }' | sort -u)
apt-get update -q
# shellcheck disable=SC2086 # a list
apt-get install -q -y --no-install-recommends $packages

# A merged /usr, as Debian has it, so that programs and loader are found under both names.
for folder in bin sbin lib lib64; do
  mkdir -p "$root/usr/$folder"
  ln -s "usr/$folder" "$root/$folder"
done
mkdir -p "$root/etc" "$root/tmp" "$root/var" "$root/usr/share/rds-csi"
ln -s /run "$root/var/run"
chmod 1777 "$root/tmp"

put() { # a file, under its own name in the merged /usr
  file=$(readlink -f "$(dirname "$1")")/$(basename "$1")
  [ -e "$root$file" ] || { mkdir -p "$root$(dirname "$file")" && cp -L "$file" "$root$file"; }
}
for program in $(echo "$entries" | awk '{ print $1 }'); do
  path=$(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin command -v "$program")
  put "$path"
  ldd "$path" | awk '/=> \//{ print $3 } /^\t\/lib/{ print $1 }' | while read -r library; do put "$library"; done
done
# What Deno, and what deno compile makes, load.
for library in libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libgcc_s.so.1 libresolv.so.2 libnss_dns.so.2 libnss_files.so.2; do
  found=$(ldconfig -p | awk -v name="$library" '$1 == name { print $NF; exit }')
  put "$found"
done
put "$(ldd /bin/true | awk '/^\t\/lib/{ print $1 }')"
cp /etc/mke2fs.conf "$root/etc/mke2fs.conf"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
printf 'root:x:0:0::/:\nnonroot:x:65532:65532::/:\n' >"$root/etc/passwd"
printf 'root:x:0:\nnonroot:x:65532:\n' >"$root/etc/group"

# Whose files these are, for the bill of materials and for licences.
find "$root/usr" -type f | while read -r file; do
  dpkg -S "${file#"$root"}" "${file#"$root/usr"}" 2>/dev/null || true
done | sed 's/:.*//' | sort -u | while read -r package; do
  dpkg-query -W -f '${Package}\t${Version}\t${Architecture}\n' "$package"
  mkdir -p "$root/usr/share/doc/$package"
  cp "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
done >"$root/usr/share/rds-csi/packages"
