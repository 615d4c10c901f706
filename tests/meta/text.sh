#!/bin/bash
# What no file of the tree may say: paths of one machine, things that are left to do, and feature macros that the makefile sets.
# usage: text.sh [TREE]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cd "${1:-$here/../..}"

bad=0
forbid() {
	local what=$1 pattern=$2
	shift 2
	if find "$@" -type f ! -name '*.pyc' ! -path tests/meta/text.sh ! -path tests/meta/selftest.sh -exec grep -nHE "$pattern" {} +; then
		echo "^ $what"
		bad=1
	fi
}

places=()
for place in shim proto install tests .ci README.md Makefile.am configure.ac autogen.sh; do
	[ ! -e "$place" ] || places+=("$place")
done
[ ${#places[@]} -gt 0 ] || { echo "no file found"; exit 1; }
forbid "left to do" '\<(TODO|FIXME|XXX|HACK)\>' "${places[@]}"
forbid "a path of one machine" '(^|[^A-Za-z0-9_/.-])/(work|home/[a-z]+|Users)/[A-Za-z]' "${places[@]}"
forbid "a conflict that was not resolved" '^(<<<<<<<|>>>>>>>) ' "${places[@]}"
[ ! -d shim ] || forbid "_GNU_SOURCE is the makefile's" '^#define _GNU_SOURCE' shim proto
[ "$bad" -eq 0 ] && echo "nothing found"
exit "$bad"
