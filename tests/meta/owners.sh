#!/bin/bash
# Each foreign interface stands only where owners.txt allows it; functions that nobody should call stand nowhere.
# usage: owners.sh [TREE]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cd "${1:-$here/../..}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
find shim proto install tests -name '*.[ch]' ! -name '*.pb-c.[ch]' | LC_ALL=C sort >"$work/files"
[ -s "$work/files" ] || { echo "no source file found"; exit 1; }
xargs perl "$here/code.pl" <"$work/files" >"$work/code"
xargs grep -HnE '^[[:space:]]*#[[:space:]]*include' <"$work/files" >"$work/includes"

is_allowed() {
	local glob
	for glob in $2; do
		# shellcheck disable=SC2053 # a glob it is
		[[ $1 != $glob ]] || return 0
	done
	return 1
}

matches() {
	case $1 in
	include) grep -E "include[[:space:]]*[<\"]($2)[>\"]" "$work/includes" ;;
	call) grep -E "(^|[^A-Za-z0-9_.>])($2)[[:space:]]*\(" "$work/code" ;;
	word) grep -E "(^|[^A-Za-z0-9_])($2)([^A-Za-z0-9_]|$)" "$work/code" ;;
	*) echo "owners.txt: no such kind: $1" ;;
	esac
}

set -f
bad=0
while read -r kind name places; do
	case $kind in '' | '#'*) continue ;; esac
	while IFS= read -r line; do
		is_allowed "${line%%:*}" "$places" || {
			echo "$line: not here, only in $places"
			bad=$((bad + 1))
		}
	done < <(matches "$kind" "$name" || true)
done <"$here/owners.txt"
echo "$(wc -l <"$work/files") files, $bad wrong"
[ "$bad" -eq 0 ]
