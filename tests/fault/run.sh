#!/bin/bash
# Breaks what modalsh relies on while commands run: the network, streams, tokens, and every process (fault.py); then looks for
# what was wrong with the broker once (regressions.py).
#
# usage: run.sh [--quick] [--build-dir DIR] [--seed N] [--only NAME,…] [--jobs N] [--list] [--keep]
#   --quick           fewer cuts, fewer kills: under two minutes
#   --build-dir DIR   where the programs were built (default: $MODALSH_BUILD_DIR, else the current folder)
#   --seed N          of everything that is random (default: a new one, printed)
#   --only NAMES      only the checks whose names begin so
#   --jobs N          so many checks at the same time (default 6)
#   --list            names of the checks
#   --keep            leave the logs, and say where they are
# Prints `ok NAME` or `not ok NAME: why`, figures as `# …`, and at the end `N passed, N failed`.
# Needs cc and /usr/bin/python3.
set -eu

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build_dir=${MODALSH_BUILD_DIR:-.}
passed_on=()

while [ $# -gt 0 ]; do
	case $1 in
	--build-dir) build_dir=${2:?--build-dir needs a folder}; shift 2 ;;
	-h | --help) sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
	*) passed_on+=("$1"); shift ;;
	esac
done

tool_dir=$(mktemp -d)
trap 'rm -rf "$tool_dir"' EXIT
"${CC:-cc}" -std=gnu11 -O2 -Wall -Wextra -D_GNU_SOURCE -o "$tool_dir/fault_proxy" "$here/fault_proxy.c"
for program in fault.py regressions.py; do
	/usr/bin/python3 -B "$here/$program" --build-dir "$build_dir" --tool-dir "$tool_dir" "${passed_on[@]}" || [ $? -eq 1 ]
done | awk -v programs=2 '
	/^[0-9]+ passed, [0-9]+ failed$/ { ended++; passed += $1; failed += $3; next }
	{ print; fflush(); listed = listed || /^[a-z_0-9]+$/ }
	END {
		if (listed && !ended)
			exit
		printf "%d passed, %d failed\n", passed, failed
		exit ended < programs || passed == 0 || failed > 0
	}'
