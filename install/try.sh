#!/bin/bash
# Builds modalsh and shows it at work against modalsh-loopback, which plays Modal on 127.0.0.1.
#
# usage: try.sh                    the show; leaves nothing behind but the build
#        try.sh --up DIR [OPTION]  start it, write DIR/env (to be sourced), and leave it running
#        try.sh --down DIR         end what --up started: no process and no sandbox is left
#   --share DIR           a folder of this host that sandboxes see at the same path (and the commands' working tree)
#   --config-extra FILE   YAML with blocks terminal: and modalsh: whose keys replace those of the configuration
#   --loopback-args ARGS  further options of modalsh-loopback, separated by spaces
#   --no-build            use the programs in the build folder as they are, install nothing
#   --help
# The build folder is $MODALSH_BUILD_DIR, else build/ in the source tree.
set -eu

# shellcheck source=install/common.sh
. "$(dirname "$0")/common.sh"

READY_WAIT_S=60
STOP_WAIT_S=30
SOCKET_LEN_MAX=107

action=show
dir=
share=
config_extra=
loopback_args=
build_wanted=true

while [ $# -gt 0 ]; do
	case $1 in
	--up | --down) action=${1#--}; dir=${2:?$1 needs a folder}; shift 2 ;;
	--share) share=$(cd "${2:?--share needs a folder}" && pwd -P); shift 2 ;;
	--config-extra) config_extra=${2:?--config-extra needs a file}; shift 2 ;;
	--loopback-args) loopback_args=${2:?--loopback-args needs options}; shift 2 ;;
	--no-build) build_wanted=false; shift ;;
	-h | --help) usage_print; exit 0 ;;
	*) die "unknown argument $1 (see --help)" ;;
	esac
done
[ -z "$config_extra" ] || [ -r "$config_extra" ] || die "cannot read $config_extra"
options="share=$share config-extra=$config_extra loopback-args=$loopback_args"

# ---- starting one program ----

# Text as one word for a shell that sources it.
quoted() {
	printf "'%s'" "${1//\'/\'\\\'\'}"
}

random_hex() {
	od -An -v -N"$1" -tx1 /dev/urandom | tr -d ' \n'
}

log_shown_die() {
	{
		printf '%s: %s; the end of %s:\n' "${0##*/}" "$1" "$2"
		tail -n "$LOG_TAIL_LINES" "$2"
	} >&2
	exit 1
}

# Starts a program in a session of its own and waits until it says on descriptor 3 that it is ready; it closes that
# descriptor when it ends, so that nothing is waited for that cannot come.
start_ready() {
	local name=$1 ready pid
	shift
	exec {ready}< <(exec setsid "$build_dir/$name" "$@" --ready-fd 3 3>&1 >"$dir/$name.log" 2>&1 </dev/null)
	pid=$!
	echo "$pid $(process_start "$pid")" >"$dir/$name.pid"
	read -r -t "$READY_WAIT_S" -u "$ready" _ || log_shown_die "$name did not become ready" "$dir/$name.log"
	exec {ready}<&-
}

# ---- up ----

config_base() {
	cat <<-END
		terminal:
		  backend: modal
		  cwd: "${share:-/workspace}"
		  modal_image: "debian:12"
		  container_persistent: false
		modalsh:
		  server_url: "$(sed -n 's/^https_url=//p' "$dir/where")"
		  ca_file: "$dir/ca.pem"
		  socket: "$dir/broker.sock"
		  guest: "$build_dir/modalsh-guest"
		  app: modalsh-try
		  session: try
	END
}

# The configuration with the keys of --config-extra in the place of its own.
config_print() {
	config_base | awk -v extra="${config_extra:-/dev/null}" '
		function key(line) { sub(/:.*/, "", line); gsub(/[ \t]/, "", line); return line }
		function flush() { if (block != "") printf "%s", added[block]; delete added[block] }
		BEGIN {
			while ((getline line < extra) > 0) {
				if (line ~ /^[a-z]+:/) { block = key(line); continue }
				if (line ~ /^[ \t]*(#.*)?$/) continue
				added[block] = added[block] line "\n"
				if (line ~ /^  [a-z]/) replaced[block, key(line)] = 1
			}
			block = ""
		}
		/^[a-z]+:/ { flush(); block = key($0); print; next }
		!((block, key($0)) in replaced)
		END {
			flush()
			for (rest in added) printf "%s:\n%s", rest, added[rest]
		}'
}

env_print() {
	local name
	for name in MODALSH_SOCKET MODALSH_TRY_DIR MODALSH_TRY_SHARE MODALSH_TRY_CA_FILE MODAL_SERVER_URL MODAL_CONFIG_PATH \
		MODAL_TOKEN_ID MODAL_TOKEN_SECRET; do
		printf 'export %s=%s\n' "$name" "$(quoted "${!name}")"
	done
	# shellcheck disable=SC2016 # PATH is that of the shell which sources it
	printf 'export PATH=%s:"$PATH"\n' "$(quoted "$dir/bin")"
}

names_make() {
	local name
	mkdir -p "$dir/bin"
	for name in modalsh sh bash exec; do
		ln -sfn "$build_dir/modalsh" "$dir/bin/$name"
	done
}

# What others say about Modal, proxies and configuration on this machine is no part of the try-out.
env_clean() {
	unset "${!MODAL_@}" "${!MODALSH_TRY_@}" "${!TERMINAL_@}" MODALSH_SOCKET MODALSH_BROKER_UID NOTIFY_SOCKET
	unset http_proxy https_proxy all_proxy HTTPS_PROXY HTTP_PROXY ALL_PROXY
}

is_up() {
	local name pid start
	for name in modalsh-loopback modalsh-broker; do
		[ -r "$dir/$name.pid" ] && read -r pid start <"$dir/$name.pid" && process_is_alive "$pid" "$start" || return 1
	done
}

loopback_start() {
	local args port
	read -r -a args <<<"$loopback_args"
	[ -z "$share" ] || args+=(--share "$share")
	rm -f "$dir/port" "$dir/ca.pem"
	start_ready modalsh-loopback --listen 127.0.0.1:0 --port-file "$dir/port" --ca-file "$dir/ca.pem" \
		--state-dir "$dir/state" "${args[@]}"
	port=$(cat "$dir/port")
	MODAL_SERVER_URL=http://127.0.0.1:$port
	printf 'https_url=https://127.0.0.1:%s\n' "$port" >"$dir/where"
}

# The whole path, once.
first_command() {
	local status=0
	(cd "${share:-/}" && exec "$dir/bin/sh" -c 'exit 42') >"$dir/first.log" 2>&1 </dev/null || status=$?
	[ "$status" -eq 42 ] || {
		cat "$dir/first.log" >&2
		log_shown_die "the first command ended with $status instead of 42" "$dir/modalsh-broker.log"
	}
}

up() {
	umask 077
	mkdir -p "$dir"
	dir=$(cd "$dir" && pwd -P)
	[ -O "$dir" ] || die "$dir belongs to another user"
	[ "$(printf %s "$dir/broker.sock" | wc -c)" -le "$SOCKET_LEN_MAX" ] || die "the path $dir is too long for a socket"
	if is_up && [ "$(cat "$dir/options" 2>/dev/null)" = "$options" ]; then
		echo "already up: . $dir/env"
		return
	fi
	down
	env_clean
	export MODALSH_SOCKET=$dir/broker.sock MODALSH_TRY_DIR=$dir MODALSH_TRY_SHARE=$share MODALSH_TRY_CA_FILE=$dir/ca.pem
	export MODAL_TOKEN_ID MODAL_TOKEN_SECRET MODAL_SERVER_URL MODAL_CONFIG_PATH=$dir/modal.toml
	: >"$dir/modal.toml"
	MODAL_TOKEN_ID=ak-try$(random_hex 10)
	MODAL_TOKEN_SECRET=as-try$(random_hex 16)
	trap 'status=$?; [ "$status" -eq 0 ] || down >/dev/null 2>&1 || true; exit "$status"' EXIT
	names_make
	loopback_start
	config_print >"$dir/config.yaml"
	start_ready modalsh-broker --config "$dir/config.yaml" --foreground
	env_print >"$dir/env"
	first_command
	printf '%s' "$options" >"$dir/options"
	trap - EXIT
	echo "up: . $dir/env"
}

# ---- down ----

# Ends one program: what it is told to do by TERM, and by KILL when it does not; that is a failure.
end_one() {
	local name=$1 pid start waited_ds=0
	[ -r "$dir/$name.pid" ] && read -r pid start <"$dir/$name.pid" || return 0
	if process_is_alive "$pid" "$start"; then
		kill -TERM "$pid"
		while process_is_alive "$pid" "$start"; do
			if [ "$waited_ds" -ge $((STOP_WAIT_S * 10)) ]; then
				kill -KILL "$pid"
				echo "$name did not end within $STOP_WAIT_S s and was killed; see $dir/$name.log" >&2
				return 1
			fi
			sleep 0.1
			waited_ds=$((waited_ds + 1))
		done
	fi
	rm -f "$dir/$name.pid"
}

# Lines "PID START-TIME" of everything that belongs to the set-up.
processes_of() {
	local name pid start
	for name in modalsh-broker modalsh-loopback; do
		if [ -r "$dir/$name.pid" ] && read -r pid start <"$dir/$name.pid" && process_is_alive "$pid" "$start"; then
			echo "$pid $start"
			process_descendants "$pid"
		fi
	done
}

# Processes below the loopback server whose command line names the broker's sandbox.
sandbox_is_left() {
	local pid start
	[ -n "$1" ] && [ -r "$dir/modalsh-loopback.pid" ] && read -r pid start <"$dir/modalsh-loopback.pid" || return 1
	process_is_alive "$pid" "$start" || return 1
	while read -r pid _; do
		{ tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -q -F -e "$1" && return 0
	done < <(process_descendants "$pid")
	return 1
}

# Up to two seconds for what has been killed to be gone.
is_gone_soon() {
	local tries=20
	while "$@"; do
		[ "$tries" -gt 0 ] || return 1
		tries=$((tries - 1))
		sleep 0.1
	done
}

down() {
	local failed=0 before sandbox pid start
	[ -d "$dir" ] || return 0
	dir=$(cd "$dir" && pwd -P)
	before=$(processes_of)
	sandbox=$(timeout 10 "$build_dir/modalshctl" --socket "$dir/broker.sock" status --json 2>/dev/null |
		grep -o 'sb-[A-Za-z0-9]*' | head -n 1) || true
	end_one modalsh-broker || failed=1
	is_gone_soon sandbox_is_left "$sandbox" || {
		echo "the broker ended and left its sandbox $sandbox" >&2
		failed=1
	}
	end_one modalsh-loopback || failed=1
	while read -r pid start; do
		[ -z "$pid" ] || is_gone_soon process_is_alive "$pid" "$start" || {
			echo "process $pid is left: $(tr '\0' ' ' <"/proc/$pid/cmdline")" >&2
			failed=1
		}
	done <<<"$before"
	if grep -A "$LOG_TAIL_LINES" -s 'Sanitizer\|runtime error' "$dir/modalsh-broker.log" "$dir/modalsh-loopback.log" >&2; then
		failed=1
	fi
	(
		cd "$dir" || exit
		rm -rf env options where port ca.pem broker.sock bin state first.log modal.toml modalsh-broker.pid modalsh-loopback.pid
	)
	return "$failed"
}

# ---- the show ----

shown=0

# Runs a command of a real shell's command line, shows it, and holds it to its promise:
# show WHAT EXPECTED-CODE PATTERN COMMAND, where PATTERN is a glob for all of its output.
show() {
	local what=$1 code=$2 pattern=$3 command=$4 status=0 output
	output=$(/bin/bash -c "$command" 2>&1 </dev/null) || status=$?
	printf '\n# %s\n$ %s\n' "$what" "$command"
	[ -z "$output" ] || printf '%s\n' "$output"
	printf '[exit code %s]\n' "$status"
	[ "$status" -eq "$code" ] || die "promised was exit code $code"
	# shellcheck disable=SC2053 # a glob it is
	[[ $output == $pattern ]] || die "that is not what was promised: $pattern"
	shown=$((shown + 1))
}

real_modal_print() {
	cat <<-END

		The same with real Modal, in three lines (the token is yours; \`modal token new\` makes one):

		  export MODAL_TOKEN_ID=ak-... MODAL_TOKEN_SECRET=as-...
		  printf 'terminal: {backend: modal, cwd: /workspace, modal_image: "python:3.11-slim"}\nmodalsh: {socket: /tmp/modalsh.sock, guest: $build_dir/modalsh-guest}\n' >modalsh.yaml && $build_dir/modalsh-broker --config modalsh.yaml
		  mkdir -p names && ln -sfn $build_dir/modalsh names/sh && MODALSH_SOCKET=/tmp/modalsh.sock names/sh -c 'hostname'
	END
}

show_end() {
	local status=$?
	down || status=1
	rm -rf "$dir"
	exit "$status"
}

show_all() {
	local host canary
	dir=$(mktemp -d)
	trap show_end EXIT
	trap 'exit 130' INT TERM
	(up) >/dev/null
	# shellcheck source=/dev/null
	. "$dir/env"
	host=$(uname -n)
	canary=$dir/canary
	show "This host." 0 "$host" "uname -n"
	show "A shell command runs in the sandbox." 0 "[!/]*" "sh -c 'uname -n'"
	[ "$(sh -c 'uname -n')" != "$host" ] || die "the sandbox has the name of this host"
	show "A pipe between this host and the sandbox, both ways." 0 "3" "printf 'b\na\nc\n' | sh -c 'sort' | wc -l"
	show "An exit code." 7 "" "sh -c 'exit 7'"
	show "A death by a signal: the caller sees a process that died of SIGTERM, which a shell shows as 128 + 15." 143 \
		"*Terminated*" "sh -c 'kill -TERM \$\$'; exit \$?"
	show "A program without a shell, as whoever looks up \`exec\` on the PATH starts it." 0 "[!/]*" "env exec uname -n"
	show "Python's subprocess, with the shim as its shell." 0 "*returncode=3*" "/usr/bin/python3 -c '
import subprocess
done = subprocess.run(\"uname -n; exit 3\", shell=True, executable=\"$dir/bin/sh\", stdout=subprocess.PIPE, text=True)
print(\"stdout=%r returncode=%d\" % (done.stdout, done.returncode))'"
	end_one modalsh-broker
	show "The broker is stopped: the command is refused, and not run here instead." 125 \
		"modalsh: *was not run*" "sh -c 'touch $canary'"
	[ ! -e "$canary" ] || die "a refused command ran on this host"
	real_modal_print
}

# ---- ----

if [ "$action" != down ] && $build_wanted; then
	packages_want "${BUILD_PACKAGES[@]}" "procps=ps"
	build
fi
case $action in
show) show_all ;;
up) up ;;
down)
	down
	echo "down: nothing of $dir is left"
	;;
esac
