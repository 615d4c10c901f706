#!/bin/bash
# The include graph of the tree against layers.txt: no include goes upwards, and each is written from the root.
# usage: layering.sh [TREE]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cd "${1:-$here/../..}"

find shim proto install tests -name '*.[ch]' ! -name '*.pb-c.[ch]' -exec grep -HoE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"[^"]*"' {} + |
	awk -v layers="$here/layers.txt" '
		function folder(path) { return path ~ /\// ? substr(path, 1, match(path, /\/[^\/]*$/) - 1) : "." }
		BEGIN {
			while ((getline line < layers) > 0) {
				count = split(line, word, /[ \t]+/)
				if (line ~ /^#/ || count < 2) continue
				known[word[1]] = 1
				for (i = 2; i <= count; i++) may[word[1], word[i]] = 1
			}
		}
		{
			from = $0; sub(/:.*/, "", from)
			to = $0; sub(/"$/, "", to); sub(/.*"/, "", to)
			seen++
			if (!(folder(from) in known)) {
				print from ": its folder is not in layers.txt"; bad++
			} else if (!((folder(from), to) in may) && !((folder(from), folder(to)) in may)) {
				print from ": may not include " to; bad++
			}
		}
		END {
			if (seen == 0) { print "no include found"; bad++ }
			printf "%d includes, %d wrong\n", seen, bad
			exit bad > 0
		}'
