#!/bin/bash
# What cannot be run in the sandbox is refused: exit code 125, one line on stderr that says whether the command was not run or
# its result is unknown, nothing on stdout, and nothing run on this host.
set -eu

# shellcheck source=tests/meta/setup.sh
. "$(dirname "$0")/setup.sh"
setup_begin
SHORT_LEASE_S=3
NOBODY=65534

canary=$work/canary
sh=$work/up/bin/sh

# What is wrong with the run whose code, out and err are in $work; nothing when it is a refusal with this promise.
refusal_faults() {
	[ "$1" -eq 125 ] || echo "exit code $1 instead of 125"
	[ ! -s "$work/out" ] || echo "stdout is not empty: $(head -c 300 "$work/out")"
	[ "$(wc -l <"$work/err")" -eq 1 ] || echo "stderr is not one line: $(head -c 600 "$work/err")"
	grep -q '^modalsh: ' "$work/err" || echo "stderr does not start with 'modalsh: ': $(head -c 300 "$work/err")"
	grep -q -F "$2" "$work/err" || echo "stderr does not say '$2': $(head -c 300 "$work/err")"
	[ ! -e "$canary" ] || echo "it ran on this host"
}

verdict_of() {
	local faults
	faults=$(refusal_faults "$2" "$3")
	if [ -z "$faults" ]; then ok "$1: $(cut -c 10- "$work/err")"; else not_ok "$1" "$faults"; fi
}

# refused WHAT SOCKET: a command by way of this socket is refused, and was not run.
refused() {
	local status=0
	rm -f "$canary"
	MODALSH_SOCKET=$2 timeout "$COMMAND_WAIT_S" "$sh" -c "echo ran; : >$canary" >"$work/out" 2>"$work/err" </dev/null || status=$?
	verdict_of "$1" "$status" "was not run"
}

serves() {
	[ "$(MODALSH_SOCKET=$1 timeout "$COMMAND_WAIT_S" "$sh" -c 'echo served' 2>&1)" = served ]
}

holds() {
	local what=$1
	shift
	if "$@"; then ok "$what"; else not_ok "$what"; fi
}

# A command that stays: its shim's number is in `shim`, its processes have MARK in their command line.
stay_begin() {
	rm -f "$work/out" "$work/err" "$canary"
	MODALSH_SOCKET=$1 "$sh" -c "sleep $2; : >$canary" >"$work/out" 2>"$work/err" </dev/null &
	shim=$!
	soon 100 is_running "sleep $2" || not_ok "a command that stays" "$(cat "$work/err")"
}

stay_end() {
	status=0
	wait "$shim" 2>/dev/null || status=$?
}

# A process of the sandbox, as this host sees it; the shim does not count, it has the words among others.
is_running() {
	local pid
	for pid in /proc/[0-9]*; do
		[ "$(tr '\0' ' ' <"$pid/cmdline" 2>/dev/null)" != "$1 " ] || return 0
	done 2>/dev/null
	return 1
}

is_over() {
	! is_running "$1"
}

# ---- the refusal itself can be told from anything else ----
printf 'modalsh: x; the command was not run\n' >"$work/err"
: >"$work/out"
holds "a refusal is recognised" [ -z "$(refusal_faults 125 'was not run')" ]
: >"$canary"
holds "a command that ran here is noticed" [ -n "$(refusal_faults 125 'was not run')" ]
rm "$canary"
echo x >"$work/out"
holds "output is noticed" [ -n "$(refusal_faults 125 'was not run')" ]
: >"$work/out"
holds "another exit code is noticed" [ -n "$(refusal_faults 1 'was not run')" ]
holds "another promise is noticed" [ -n "$(refusal_faults 125 'result is unknown')" ]
holds "the set-up serves" serves "$work/up/broker.sock"

# ---- no broker that may be trusted ----
refused "no broker" "$work/nothing.sock"
refused "a socket path that is relative" "nothing.sock"
: >"$work/file.sock"
refused "a socket that is a file" "$work/file.sock"

if [ "$(id -u)" -eq 0 ]; then
	mkdir -m 0755 "$work/other"
	chmod 0711 "$work"
	chown "$NOBODY" "$work/other"
	exec {ready}< <(exec setpriv --reuid "$NOBODY" --clear-groups /usr/bin/python3 -c '
import socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print(flush=True)
while True:
    peer, _ = server.accept()
    print(len(peer.recv(1)), file=sys.stderr, flush=True)' "$work/other/sock" 2>"$work/other.log" </dev/null)
	brokers+=($!)
	read -r -t "$READY_WAIT_S" -u "$ready" _
	exec {ready}<&-
	refused "a broker that is somebody else's" "$work/other/sock"
	holds "somebody else's broker was not sent a byte" soon 20 grep -qx 0 "$work/other.log"
else
	not_ok "a broker that is somebody else's: run this as root"
fi

# ---- a configuration that is wrong ----
# refuses_config WHAT PART-OF-THE-LINE KEY VALUE...
refuses_config() {
	local what=$1 part=$2 status=0
	shift 2
	config_with "$work/bad.yaml" socket "$work/bad.sock" "$@"
	timeout "$COMMAND_WAIT_S" "$build_dir/modalsh-broker" --config "$work/bad.yaml" --foreground >"$work/out" 2>"$work/err" || status=$?
	if [ "$status" -eq 78 ] && [ ! -s "$work/out" ] && [ "$(wc -l <"$work/err")" -eq 1 ] && grep -q -F -e "$part" "$work/err"; then
		ok "$what: $(cat "$work/err")"
	else
		not_ok "$what: the broker does not start" "exit code $status: $(cat "$work/out" "$work/err")"
	fi
	refused "$what: a command" "$work/bad.sock"
}
refuses_config "an unknown key" "contianer_cpu" contianer_cpu 1
refuses_config "another backend" "backend" backend local
refuses_config "no image" "modal_image" modal_image ''
refuses_config "a value out of range" "lease" lease 1s

# ---- a server that cannot be used ----
token_bad() {
	MODAL_TOKEN_SECRET=as-wrong broker_start token "$work/token.yaml"
}
config_with "$work/token.yaml" socket "$work/token.sock" session token
token_bad
refused "a token that the server does not take" "$work/token.sock"
config_with "$work/unreachable.yaml" socket "$work/unreachable.sock" session unreachable server_url '"https://127.0.0.1:1"'
broker_start unreachable "$work/unreachable.yaml"
refused "a server that cannot be reached" "$work/unreachable.sock"
config_with "$work/tls.yaml" socket "$work/tls.sock" session tls ca_file ''
broker_start tls "$work/tls.yaml"
refused "a server whose certificate is not trusted" "$work/tls.sock"

# ---- what ends while a command runs ----
config_with "$work/own.yaml" socket "$work/own.sock" session own lease "${SHORT_LEASE_S}s"
broker_start own "$work/own.yaml"
sandbox=$("$build_dir/modalshctl" --socket "$work/own.sock" status --json | grep -o 'sb-[A-Za-z0-9]*' | head -n 1)
stay_begin "$work/own.sock" 1001
kill -KILL "$(pgrep -f "^bwrap .*sandboxes/$sandbox/" | head -n 1)"
stay_end
verdict_of "a sandbox that vanishes while a command runs" "$status" "its result is unknown"
holds "the next command has a new sandbox" serves "$work/own.sock"

stay_begin "$work/own.sock" 1002
kill -KILL "$shim"
stay_end
holds "killing the shim ends the command within 2 s" soon 20 is_over "sleep 1002"

for garbage in '\0\0\0\0' '\377\377\377\377' '\005\0\0\0\001\0\0\0\0' '\005\0\0\0\002\0\0\0\0' 'GET / HTTP/1.1\r\n\r\n'; do
	printf '%b' "$garbage" | timeout 10 /usr/bin/python3 -c '
import socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
peer.sendall(sys.stdin.buffer.read())
peer.shutdown(socket.SHUT_WR)
while peer.recv(4096):
    pass' "$work/own.sock" || not_ok "garbage ends its connection: $garbage"
done
holds "a broker that was sent garbage serves" serves "$work/own.sock"

stay_begin "$work/own.sock" 1003
kill -KILL "$broker"
stay_end
verdict_of "a broker that dies while a command runs" "$status" "its result is unknown"
refused "a dead broker whose socket is left" "$work/own.sock"
holds "a dead broker's commands end with the lease" soon $(((SHORT_LEASE_S + 4) * 10)) is_over "sleep 1003"
holds "nothing of them ran here" [ ! -e "$canary" ]
verdicts_end
