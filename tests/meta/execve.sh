#!/bin/bash
# Whatever modalsh is used for, one program is started on this host: modalsh itself.  strace counts.
set -eu

# shellcheck source=tests/meta/setup.sh
. "$(dirname "$0")/setup.sh"
setup_begin

# one WHAT CODE COMMAND...: runs it under strace, with the set-up's environment.
starts_count() {
	status=0
	timeout "$COMMAND_WAIT_S" strace -f -o "$work/trace" -e trace=execve,execveat,fork,vfork,clone,clone3 "$@" \
		>"$work/out" 2>&1 </dev/null || status=$?
	starts=$(grep -c '(' "$work/trace") || true
}

one() {
	local what=$1 code=$2
	shift 2
	starts_count "$@"
	if [ "$status" -ne "$code" ]; then
		not_ok "$what: exit code $status instead of $code" "$(cat "$work/out")"
	elif [ "$starts" -eq 1 ] && grep -q ' execve(' "$work/trace"; then
		ok "$what: one execve"
	else
		not_ok "$what: one execve" "$(cat "$work/trace")"
	fi
}

names=$work/up/bin
ln -s modalsh "$names/uname"
ln -s modalsh "$names/no-such-tool"

starts_count /bin/sh -c '/bin/true; /bin/true; :'
if [ "$starts" -gt 3 ]; then ok "the counting sees what a local shell starts"; else not_ok "the counting sees what a local shell starts"; fi

one "sh -c" 0 "$names/sh" -c true
one "bash -c" 0 "$names/bash" -c 'true && true'
one "a pipeline and a background job in the command" 0 "$names/sh" -c 'echo a | cat | wc -c; sleep 0.1 & wait'
one "exec" 0 "$names/exec" uname -n
one "a tool's name" 0 "$names/uname" -n
one "the configured shell" 0 "$names/modalsh" -c 'exit 0'
one "an exit code" 9 "$names/sh" -c 'exit 9'
one "a tool that is not there" 127 "$names/no-such-tool"
one "an option of its own" 0 "$names/modalsh" --modalsh-version
MODALSH_SOCKET=$work/nothing one "no broker" 125 "$names/sh" -c true
one "a refusal" 125 "$names/modalsh" --modalsh-no-such-option
verdicts_end
