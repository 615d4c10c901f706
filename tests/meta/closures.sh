#!/bin/bash
# What the built programs are linked with, against closures.txt.
# usage: closures.sh [BUILD-FOLDER]        default: $MODALSH_BUILD_DIR
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cd "${1:-${MODALSH_BUILD_DIR:?the folder of the built programs}}"
SANITIZER_LIBRARIES='libasan libubsan libgcc_s libm'

bad=0
wrong() {
	echo "$*"
	bad=$((bad + 1))
}

while read -r program wanted; do
	case $program in '' | '#'*) continue ;; esac
	[ -x "$program" ] || { wrong "$program: was not built"; continue; }
	dynamic=$(readelf -d "$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\.so.*\]/\1/p' | xargs)
	if readelf -sW "$program" | grep -q '__asan_init'; then
		wanted="$wanted libc $SANITIZER_LIBRARIES"
	elif [ "$wanted" = static ]; then
		! readelf -lW "$program" | grep -q ' INTERP ' || wrong "$program: has an interpreter"
		! readelf -lW "$program" | grep -q ' DYNAMIC ' || wrong "$program: has a dynamic section"
	fi
	for library in $dynamic; do
		case " $wanted " in
		*" $library "*) ;;
		*) wrong "$program: is linked with $library" ;;
		esac
	done
	echo "$program: ${dynamic:-no library}"
done <"$here/closures.txt"
[ "$bad" -eq 0 ]
