#!/bin/bash
# The broker as an operator starts it: without --foreground it returns when its socket is there, and goes on by itself.
set -eu

# shellcheck source=tests/meta/setup.sh
. "$(dirname "$0")/setup.sh"
setup_begin
socket=$work/background.sock
config_with "$work/background.yaml" socket "$socket" session background start_early false

if "$build_dir/modalsh-broker" --config "$work/background.yaml" >"$work/log" 2>&1 </dev/null; then
	ok "it returns with 0"
else
	not_ok "it returns with 0" "$(cat "$work/log")"
fi
if [ -S "$socket" ]; then ok "its socket is there"; else not_ok "its socket is there"; fi

export MODALSH_SOCKET=$socket
status=0
out=$(timeout "$COMMAND_WAIT_S" "$work/up/bin/sh" -c 'echo ran; exit 3' 2>"$work/err" </dev/null) || status=$?
if [ "$out:$status" = ran:3 ]; then ok "a command runs"; else not_ok "a command runs" "$out:$status $(cat "$work/err" "$work/log")"; fi

pid=$("$build_dir/modalshctl" status --json | sed -n 's/.*"pid":[[:space:]]*\([0-9]*\).*/\1/p')
brokers+=("$pid")
session=$(ps -o sid= -p "$pid" | tr -d ' ')
if [ "$session" = "$pid" ] || [ "$session" != "$(ps -o sid= -p $$ | tr -d ' ')" ]; then
	ok "it is in a session of its own"
else
	not_ok "it is in a session of its own" "session $session"
fi
if [ "$(readlink "/proc/$pid/cwd")" = / ]; then ok "it holds no folder"; else not_ok "it holds no folder"; fi

if "$build_dir/modalshctl" stop >"$work/stop" 2>&1; then ok "modalshctl stops it"; else not_ok "modalshctl stops it" "$(cat "$work/stop")"; fi
if [ -e "$socket" ]; then not_ok "its socket is gone"; else ok "its socket is gone"; fi
verdicts_end
