#!/bin/bash
# Measures modalsh beside a local process, ssh with a master connection, and Modal's Python SDK in a warm process.
#
# usage: run.sh [--build-dir DIR] [--quick] [--stalled] [--only SECTIONS] [--columns COLUMNS] [--json FILE]
#   --build-dir DIR   where modalsh, modalsh-broker, modalsh-guest and modalsh-loopback were built
#                     (default: $MODALSH_BUILD_DIR, else the current folder)
#   --quick           smaller sizes: under a minute; leaves out the stalled readers and the instruction counts
#   --stalled         the stalled readers also with --quick
#   --only            of latency,stdout,stdin,parallel,memory,stalled,instructions
#   --columns         of local,modalsh,ssh,sdk
#   --json FILE       also writes the rows as JSON ("-": to stdout, instead of the table)
# Numbers never make it fail; wrong bytes and wrong exit statuses do.
# Needs cc, python3 with venv, openssh-server and, for the instruction counts, valgrind.
set -eu

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build_dir=${MODALSH_BUILD_DIR:-.}
passed_on=()
columns=local,modalsh,ssh,sdk

while [ $# -gt 0 ]; do
	case $1 in
	--build-dir) build_dir=${2:?--build-dir needs a folder}; shift 2 ;;
	--columns) columns=${2:?--columns needs names}; shift 2 ;;
	-h | --help) sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
	*) passed_on+=("$1"); shift ;;
	esac
done

tool_dir=$(mktemp -d)
trap 'rm -rf "$tool_dir"' EXIT
"${CC:-cc}" -std=gnu11 -O2 -Wall -Wextra -o "$tool_dir/spawn_bench" "$here/spawn_bench.c"
"${CC:-cc}" -std=gnu11 -O2 -Wall -Wextra -D_GNU_SOURCE -o "$tool_dir/fault_proxy" "$here/../fault/fault_proxy.c"
"${CC:-cc}" -std=gnu11 -O2 -Wall -Wextra -shared -fPIC -o "$tool_dir/no_seccomp.so" "$here/no_seccomp.c"
sdk_dir=$tool_dir
case ,$columns, in
*,sdk,*) sdk_dir=$("$here/../peers/run.sh" --install-only --only python-v2) ;;
esac
python3 "$here/bench.py" --build-dir "$build_dir" --tool-dir "$tool_dir" --sdk-dir "$sdk_dir" --columns "$columns" \
	"${passed_on[@]}"
