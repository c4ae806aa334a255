#!/bin/sh
# Runs the C test programs named as arguments. A skip (77) says why; with CIEL_NO_SKIP=1 it is a failure.
failed=0
for program in "$@"; do
	"$program"
	code=$?
	name=$(basename "$program")
	case $code in
	0) echo "ok      $name" ;;
	77) echo "skipped $name"; [ "${CIEL_NO_SKIP:-}" = 1 ] && failed=1 ;;
	*) echo "FAILED  $name (exit $code)"; failed=1 ;;
	esac
done
exit $failed
