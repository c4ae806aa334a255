#!/bin/sh
# mmdebstrap's hook, $1 is the new root: unpacks the kernel that $KERNEL_PACKAGE points to, instead of installing it,
# which would bring initramfs-tools and build an initrd that nothing boots.
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
package=$(apt-cache depends --important "$KERNEL_PACKAGE" | sed -n 's/^ *Depends: *\(linux-image-[^ ]*\)$/\1/p' | head -n 1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
chmod 777 . # apt downloads as a user of its own
apt-get -q download "$package"
dpkg-deb --fsys-tarfile ./*.deb | tar -x --keep-directory-symlink -C "$1"
mkdir -p "$1/usr/share"
dpkg-deb --show --showformat '${Package} ${Version}\n' ./*.deb >"$1/usr/share/kernel-package"
