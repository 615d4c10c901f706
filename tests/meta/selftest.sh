#!/bin/bash
# Each check of this folder finds what it is there for: it passes a good sample and fails a bad one, naming it.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

# A tree in which every check holds.
sample_make() {
	rm -rf "$work/tree"
	mkdir -p "$work/tree/shim/base" "$work/tree/shim/broker" "$work/tree/shim/guest" "$work/tree/proto" \
		"$work/tree/install" "$work/tree/tests"
	cd "$work/tree"
	printf '#include "shim/base/buf.h"\n/* strcpy( is a word here */ const char *text = "system(";\n' >shim/base/buf.c
	: >shim/base/buf.h
	printf '#include <curl/curl.h>\n#include "shim/base/buf.h"\n' >shim/broker/http.c
	printf '#include "shim/base/buf.h"\nvoid f(void) { execve(path, argv, env); }\n' >shim/guest/spawn.c
	cd "$work"
}

verdict() {
	if [ "$1" = ok ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
	echo "$1 - $2"
}

# good CHECK ARGUMENT
good() {
	if "$here/$1" "$2" >"$work/out" 2>&1; then
		verdict ok "$1 passes what is right"
	else
		verdict 'not ok' "$1 passes what is right: $(cat "$work/out")"
	fi
}

# bad CHECK ARGUMENT PART-OF-ITS-OUTPUT WHAT
bad() {
	if ! "$here/$1" "$2" >"$work/out" 2>&1 && grep -q -F -e "$3" "$work/out"; then
		verdict ok "$1 finds $4"
	else
		verdict 'not ok' "$1 finds $4: $(cat "$work/out")"
	fi
}

# spoilt CHECK FILE LINE PART-OF-ITS-OUTPUT WHAT: the good tree with one more line in one file.
spoilt() {
	sample_make
	printf '%s\n' "$3" >>"$work/tree/$2"
	bad "$1" "$work/tree" "$4" "$5"
}

for check in layering.sh owners.sh text.sh; do
	sample_make
	good "$check" "$work/tree"
	mkdir -p "$work/empty"
	bad "$check" "$work/empty" "" "an empty tree"
done
spoilt layering.sh shim/base/buf.c '#include "shim/broker/http.h"' 'shim/base/buf.c: may not include' "an include that goes upwards"
spoilt layering.sh proto/job.c '#include "shim/client.h"' 'proto/job.c: may not include' "an include of the shim by proto"
spoilt layering.sh shim/base/buf.c '#include "buf.h"' 'may not include buf.h' "an include that is not from the root"
spoilt owners.sh shim/broker/lane.c '#include <curl/curl.h>' 'shim/broker/lane.c:1' "curl in a second file"
spoilt owners.sh shim/base/buf.c 'int g(void) { return system(command); }' 'shim/base/buf.c:3' "a call of system()"
spoilt owners.sh shim/broker/http.c 'int g(void) { return execvp (path, argv); }' 'shim/broker/http.c' "an exec in the broker"
spoilt owners.sh shim/shim.c 'int g(void) { return (int)syscall(SYS_execve, path, argv); }' 'shim/shim.c' "a raw exec in the shim"
spoilt owners.sh proto/job.c 'void g(void) { strcpy(to, from); }' 'proto/job.c' "strcpy()"
spoilt owners.sh proto/job.c 'void g(void) { sendmsg(fd, &message, 0); }' 'proto/job.c' "a second place that passes descriptors"
spoilt text.sh shim/base/buf.c '/* TO''DO */' 'shim/base/buf.c:3' "what is left to do"
spoilt text.sh install/up.sh 'cd /wo''rk/tree' 'install/up.sh:1' "a path of one machine"
spoilt text.sh shim/base/buf.h '#define _GNU_''SOURCE' 'shim/base/buf.h:1' "a feature macro"

mkdir "$work/programs"
for program in modalsh modalsh-guest modalshctl modalsh-broker modalsh-loopback; do
	cp "${MODALSH_BUILD_DIR:?the folder of the built programs}/$program" "$work/programs/"
done
good closures.sh "$work/programs"
cp "$MODALSH_BUILD_DIR/modalsh-broker" "$work/programs/modalsh"
bad closures.sh "$work/programs" "modalsh: is linked with libcurl" "a shim with a library"
cp "$MODALSH_BUILD_DIR/modalsh-loopback" "$work/programs/modalsh-broker"
bad closures.sh "$work/programs" "modalsh-broker: is linked with libnghttp2" "a library that is not the broker's"
rm "$work/programs/modalshctl"
bad closures.sh "$work/programs" "modalshctl: was not built" "a program that is missing"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
