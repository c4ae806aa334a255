#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# What must not compile: each file of refuse/ names, in its second line, what the compiler or the pass must say of it.
# usage: refuse.sh LLView.so directory-with-view-runtime.h clang opt
set -u
plugin=$1 include=$2 clang=$3 opt=$4
here=$(dirname "$0")
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
failed=0 count=0
for file in "$here"/refuse/*.c; do
	count=$((count + 1))
	expected=$(sed -n '2s|^// expect: ||p' "$file")
	# shellcheck disable=SC2086 # VIEW_FLAGS holds several words
	if "$clang" $VIEW_FLAGS -I"$include" -c "$file" -o "$out/view.bc" 2>"$out/said" &&
		"$opt" -load-pass-plugin "$plugin" -passes="$LLVIEW_PASSES" "$out/view.bc" -o "$out/lowered.bc" 2>"$out/said"; then
		echo "FAIL $file: it compiles; expected: $expected"
		failed=1
	elif [ -z "$expected" ] || ! grep -qF "$expected" "$out/said"; then
		echo "FAIL $file: expected: $expected"
		sed 's/^/    /' "$out/said"
		failed=1
	elif grep -q 'LLVM ERROR\|PLEASE submit a bug report' "$out/said" || ! grep -q 'refuse/[a-z-]*\.c:[0-9]*\|error: ' "$out/said"; then
		echo "FAIL $file: refused, but not in a readable way"
		sed 's/^/    /' "$out/said"
		failed=1
	fi
done
[ "$failed" = 0 ] && echo "ok: $count files refused, each for its reason"
exit "$failed"
