#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Stands in for the penstock program in the launcher's tests: $FAKE_MODE says how it behaves.
echo "args: $*"
while [ $# -gt 0 ]; do
	case $1 in
	--name) name=$2 ;;
	--ready-fd) fd=$2 ;;
	--topology) topology=$2 ;;
	esac
	shift
done
[ -r "$topology" ] || { echo "no topology" >&2; exit 9; }
[ -d /sys/class/net ] && echo "interfaces:" /sys/class/net/*
case $FAKE_MODE:$name in
die:s1) echo "cannot open the model" >&2; exit 3 ;;
hang:s1) echo "still loading" ;;
close:s1) eval "exec $fd>&-" ;;
wrong:s1) eval "echo HELLO >&$fd" ;;
stubborn:*) trap '' TERM; eval "echo READY >&$fd" ;;
*) eval "echo READY >&$fd" ;;
esac
exec sleep 600
