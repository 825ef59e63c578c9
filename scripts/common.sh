# SPDX-License-Identifier: BSD-3-Clause
# shellcheck shell=bash
# Sourced by the scripts beside it: where the tree is, and how they speak. All
# they say goes to stderr, so that stdout belongs to the program they start.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
export root

say()
{
	printf '%s\n' "$*" >&2
}

die()
{
	say "$(basename "$0"): $*"
	exit 1
}
