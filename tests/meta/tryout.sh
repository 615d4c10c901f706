#!/bin/bash
# install/try.sh keeps its own promises: up and down as often as one likes, nothing left behind whatever happened in between, and an
# error that says what is wrong.
set -eu

# shellcheck source=tests/meta/setup.sh
. "$(dirname "$0")/setup.sh"

up=$work/up

# Processes of this set-up: their command lines name its folder.
processes() {
	local file
	for file in /proc/[0-9]*/cmdline; do
		{ tr '\0' ' ' <"$file" | grep -q -F -e "$up/" && echo "$file"; } 2>/dev/null || true
	done
}

# holds WHAT COMMAND...
holds() {
	local what=$1
	shift
	if "$@" >"$work/said" 2>&1; then ok "$what"; else not_ok "$what" "$(cat "$work/said")"; fi
}

nothing_is_left() {
	[ -z "$(processes)" ] && [ ! -e "$up/env" ] && [ ! -e "$up/broker.sock" ] && [ ! -e "$up/state" ]
}

# fails WHAT PART-OF-WHAT-IT-SAYS OPTION...
fails() {
	local what=$1 part=$2
	shift 2
	if "$try" --up "$up" --no-build "$@" >"$work/said" 2>&1; then
		not_ok "$what: it fails" "it does not"
	elif grep -q -F -e "$part" "$work/said"; then
		ok "$what: it says so"
	else
		not_ok "$what: it says so" "$(cat "$work/said")"
	fi
	holds "$what: nothing is left" nothing_is_left
}

served() {
	# shellcheck source=/dev/null
	[ "$(. "$up/env" && sh -c 'echo served')" = served ]
}

broker_kill() {
	kill -KILL "$(cut -d ' ' -f 1 "$up/modalsh-broker.pid")"
}

holds "down without up" "$try" --down "$up"
holds "up" "$try" --up "$up" --no-build
holds "it serves" served
cp "$up/modalsh-broker.pid" "$work/before"
holds "up again" "$try" --up "$up" --no-build
holds "up again leaves it as it is" cmp "$work/before" "$up/modalsh-broker.pid"
holds "it still serves" served
holds "its processes can be seen" [ -n "$(processes)" ]
broker_kill
holds "up after the broker has died" "$try" --up "$up" --no-build
holds "it serves again" served
printf 'terminal:\n  cwd: /srv/extra\nmodalsh:\n  log_level: debug\n  allow_users:\n    - "65534"\n' >"$work/extra.yaml"
holds "up with other options" "$try" --up "$up" --no-build --config-extra "$work/extra.yaml"
holds "keys of --config-extra replace and add" "$build_dir/modalsh-broker" --config "$up/config.yaml" --check
holds "each key is there once" [ "$(grep -c -e '^  cwd: ' -e '^  log_level: debug$' -e '^    - "65534"$' "$up/config.yaml")" -eq 3 ]
holds "down" "$try" --down "$up"
holds "nothing is left" nothing_is_left
holds "down again" "$try" --down "$up"

mkdir "$work/share"
holds "up with a shared folder" "$try" --up "$up" --no-build --share "$work/share" --loopback-args "--strict-order --unary-stdin-only"
# shellcheck source=/dev/null
(cd "$work/share" && . "$up/env" && sh -c 'pwd >file')
holds "a file of the sandbox is here" grep -qx "$work/share" "$work/share/file"
broker_kill
holds "down after the broker was killed" "$try" --down "$up"
holds "nothing is left of that" nothing_is_left

fails "a server that does not start" "modalsh-loopback did not become ready" --loopback-args "--no-such-option"
printf 'modalsh:\n  no_such_key: 1\n' >"$work/extra.yaml"
fails "a configuration that is wrong" "no_such_key: unknown key" --config-extra "$work/extra.yaml"
holds "the log says nothing of the token" [ -z "$(grep -rl 'as-try' "$up" || true)" ]
verdicts_end
