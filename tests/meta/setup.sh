# shellcheck shell=bash disable=SC2034 # what is set here is used there
# A set-up of modalsh for the checks that need one to run, and the counting of their verdicts.  The caller has `set -eu`.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
try=$here/../../install/try.sh
build_dir=${MODALSH_BUILD_DIR:?the folder of the built programs}
READY_WAIT_S=60
COMMAND_WAIT_S=60

passed=0
failed=0
brokers=()
work=$(mktemp -d)
trap setup_end EXIT
trap 'exit 130' INT TERM

setup_end() {
	local status=$? pid
	for pid in "${brokers[@]}"; do
		kill -KILL "$pid" 2>/dev/null || true
	done
	"$try" --down "$work/up" >/dev/null || status=1
	rm -rf "$work"
	exit "$status"
}

try_options=()

# The set-up, whose environment this shell then has.
setup_begin() {
	"$try" --up "$work/up" --no-build "${try_options[@]}" >/dev/null
	# shellcheck source=/dev/null
	. "$work/up/env"
}

# Starts a broker of our own as broker_start NAME CONFIGURATION; its socket is as the configuration says, its number in `broker`.
broker_start() {
	local ready
	exec {ready}< <(exec "$build_dir/modalsh-broker" --config "$2" --foreground --ready-fd 3 3>&1 >"$work/$1.log" 2>&1 </dev/null)
	broker=$!
	brokers+=("$broker")
	if ! read -r -t "$READY_WAIT_S" -u "$ready" _; then
		cat "$work/$1.log"
		return 1
	fi
	exec {ready}<&-
}

# The set-up's configuration with other values: config_with FILE KEY VALUE [KEY VALUE]...
config_with() {
	local file=$1
	cp "$work/up/config.yaml" "$file.next"
	shift
	while [ $# -gt 0 ]; do
		awk -v key="$1" -v value="$2" '
			$1 == key ":" { if (value != "") print "  " key ": " value; done = 1; next }
			{ print }
			END { if (!done && value != "") print "  " key ": " value }' "$file.next" >"$file"
		mv "$file" "$file.next"
		shift 2
	done
	mv "$file.next" "$file"
}

ok() {
	passed=$((passed + 1))
	echo "ok - $1"
}

not_ok() {
	failed=$((failed + 1))
	printf 'not ok - %s\n' "$1"
	[ $# -lt 2 ] || printf '%s\n' "$2" | sed 's/^/# /'
}

# Whether something becomes true within so many tenths of a second: soon TENTHS COMMAND...
soon() {
	local left=$1
	shift
	until "$@"; do
		[ "$left" -gt 0 ] || return 1
		left=$((left - 1))
		sleep 0.1
	done
}

verdicts_end() {
	echo "$passed passed, $failed failed"
	[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}
