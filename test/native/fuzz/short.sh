#!/bin/sh
# short.sh PROGRAMS SEEDS: the fuzzers' deterministic run, a part of `make check`. Long ones: npm run fuzz.
set -eu
programs=$1
seeds=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$programs/seeds" "$work/corpus" "$seeds"/*.kdump
number=1
for seed in "$seeds"/*.kdump; do
	"$programs/memory" "$seed" 2000 $number
	number=$((number + 1))
done
# target and number of inputs
while read -r target runs; do
	mkdir "$work/$target"
	if ! "$programs/$target" -runs="$runs" -seed=1 -max_len=131072 -timeout=20 -rss_limit_mb=2048 -artifact_prefix="$work/" \
		"$work/$target" "$work/corpus/$target" >"$work/log" 2>&1; then
		cat "$work/log"
		kept=$(mktemp -d /tmp/ciel-fuzz-XXXXXX)
		find "$work" -maxdepth 1 -name '*-*' -exec cp {} "$kept/" \;
		echo "FAILED  fuzz $target; the input is in $kept"
		exit 1
	fi
	echo "ok      fuzz $target, $runs inputs"
done <<LIST
dump 3000
btf 4000
kallsyms 6000
vmcoreinfo 20000
walk 50000
LIST
