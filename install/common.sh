# shellcheck shell=bash disable=SC2034 # what is set here is used there
# What try.sh, test.sh and .ci/run share: Debian packages, the build, and how failures are shown.
# Sets `top` (the source tree) and `build_dir`; the caller has `set -eu`.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build_dir=${MODALSH_BUILD_DIR:-$top/build}
LOG_TAIL_LINES=40
STEP_TAIL_LINES=100

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# The comment at the top of the calling script is its manual.
usage_print() {
	sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p}' "$0"
}

# Runs a command whose output matters only when it fails: quietly WHAT LOG COMMAND...
quietly() {
	local what=$1 log=$2 status=0
	shift 2
	"$@" >"$log" 2>&1 </dev/null || status=$?
	[ "$status" -ne 0 ] || return 0
	printf '%s: %s failed (exit %s); the end of %s:\n' "${0##*/}" "$what" "$status" "$log" >&2
	tail -n "$LOG_TAIL_LINES" "$log" >&2
	return "$status"
}

# ---- packages: Debian 12's names; `name=program` is also satisfied by a program of that name ----
BUILD_PACKAGES=(
	gcc libc6-dev linux-libc-dev make=make autoconf automake pkg-config=pkg-config musl-tools
	libcurl4-openssl-dev protobuf-c-compiler libprotobuf-c-dev libcjson-dev libyaml-dev libev-dev libseccomp-dev
	libnghttp2-dev libssl-dev check bubblewrap=bwrap python3
)
TEST_PACKAGES=(binutils git=git perl=perl procps python3-pexpect strace=strace tmux=tmux)
CI_PACKAGES=(clang=clang clang-format=clang-format shellcheck=shellcheck valgrind=valgrind libc6-dbg xz-utils=xz python3-venv nodejs=node npm=npm)

package_is_there() {
	local name=${1%%=*} program=${1#*=}
	if [ "$program" != "$1" ] && command -v "$program" >/dev/null; then
		return 0
	fi
	[ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ]
}

# Installs those of the given packages that are missing.
packages_install() {
	local package missing=() as_root=() log
	for package in "$@"; do
		package_is_there "$package" || missing+=("${package%%=*}")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	command -v apt-get >/dev/null ||
		die "this is not Debian; install what provides these packages, and set MODALSH_NO_INSTALL=1: ${missing[*]}"
	if [ "$(id -u)" -ne 0 ]; then
		command -v sudo >/dev/null || die "run this as root, or install: ${missing[*]}"
		as_root=(sudo)
	fi
	echo "installing ${missing[*]}"
	log=$(mktemp)
	quietly "apt-get update" "$log" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q update
	quietly "apt-get install" "$log" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
		apt-get -q -y --no-install-recommends install "${missing[@]}"
	rm -f "$log"
}

packages_want() {
	[ "${MODALSH_NO_INSTALL:-0}" = 1 ] || packages_install "$@"
}

# ---- the build ----

build_locked() {
	if [ ! -x "$top/configure" ] || [ "$top/configure.ac" -nt "$top/configure" ] ||
		[ "$top/Makefile.am" -nt "$top/Makefile.in" ]; then
		quietly autogen.sh "$build_dir/build.log" "$top/autogen.sh"
	fi
	cd "$build_dir" || return
	if [ ! -e Makefile ] || [ "$top/configure" -nt config.status ]; then
		quietly configure "$build_dir/build.log" "$top/configure" "${configure_args[@]}"
	fi
	quietly make "$build_dir/build.log" make -j"$(nproc)"
}

configure_args=()

# Builds out of the tree, in $build_dir.  Two builds of one tree wait for each other.
build() {
	mkdir -p "$build_dir"
	build_dir=$(cd "$build_dir" && pwd)
	export MODALSH_BUILD_DIR=$build_dir
	(
		exec 9<"$top/configure.ac"
		flock 9
		build_locked
	)
}

# Some tests give a socket to another user, or compare with what the sandbox's root sees: both take root.
as_root() {
	local status=0
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
		return
	fi
	sudo env "MODALSH_BUILD_DIR=$build_dir" "MODALSH_MUST_WORK=${MODALSH_MUST_WORK:-0}" MODALSH_NO_INSTALL=1 "$@" || status=$?
	sudo chown -R "$(id -u):$(id -g)" "$build_dir"
	return "$status"
}

# `make check`, and what its tests said when one of them failed.
check_run() {
	local status=0
	make -C "$build_dir" -j"$(nproc)" check TESTS=
	as_root make -C "$build_dir" -j"$(nproc)" check || status=$?
	[ "$status" -eq 0 ] || sed -n '/^FAIL/,$p' "$build_dir/test-suite.log"
	return "$status"
}

# ---- processes: a number alone may belong to another one by now, so a process is "PID START-TIME" ----

# Start time of a process that has not ended, in ticks since boot; nothing when there is none.
process_start() {
	local stat
	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
	stat=${stat##*) }
	case $stat in
	[ZX]*) ;;
	*) echo "$stat" | cut -d ' ' -f 20 ;;
	esac
}

process_is_alive() {
	[ -n "${2:-}" ] && [ "$(process_start "$1")" = "$2" ]
}

# Processes below this one, at any depth, as lines "PID START-TIME".
process_descendants() {
	local pid
	ps -e -o pid=,ppid= | awk -v root="$1" '
		{ parent[$1] = $2 }
		END {
			for (pid in parent) {
				above = pid
				for (depth = 0; depth < 200 && above != root && above in parent; depth++)
					above = parent[above]
				if (above == root && pid != root)
					print pid
			}
		}' | while read -r pid; do
		echo "$pid $(process_start "$pid")"
	done
}

# ---- steps: each is run to its end, timed and counted; one that fails does not stop the others ----

passed=0
failed=0

# Adds what a step's log counts: in its last line, else in the summary of `make check`, else in the last line that counts; without
# any, the step is one check.
log_count() {
	local log=$1 status=$2 line step_passed step_failed
	line=$(awk '
		function is_count(line) { return line ~ /^([0-9]+ passed, [0-9]+ failed$|same [0-9]+, different [0-9]+, )/ }
		is_count($0) { counts = $0 }
		/^# PASS: / { pass += $3 }
		/^# (FAIL|XPASS|ERROR): / { fail += $3 }
		{ last = $0 }
		END { print (pass + fail > 0 && !is_count(last) ? pass + 0 " " fail + 0 : counts) }' "$log")
	read -r step_passed step_failed < <(grep -oE '[0-9]+' <<<"$line" | head -n 2 | xargs) || true
	if [ "$status" -ne 0 ] && [ "${step_failed:-0}" -eq 0 ]; then
		step_failed=$((${step_failed:-0} + 1))
	elif [ "$((${step_passed:-0} + ${step_failed:-0}))" -eq 0 ]; then
		step_passed=1
	fi
	passed=$((passed + ${step_passed:-0}))
	failed=$((failed + ${step_failed:-0}))
	counted="${step_passed:-0} passed, ${step_failed:-0} failed"
}

# step NAME COMMAND...: its output is kept in a file, and its end shown when the step fails.  Sets step_ok and returns 0, and
# must not be part of a condition: that would make `set -e` void inside of it.
step() {
	local name=$1 status log=$build_dir/step-${1//[^A-Za-z0-9]/-}.log began_s=$SECONDS
	shift
	printf '== %s ... ' "$name"
	set +e
	(
		set -e
		"$@"
	) >"$log" 2>&1 </dev/null
	status=$?
	set -e
	log_count "$log" "$status"
	printf '%s (%s s)\n' "$counted" "$((SECONDS - began_s))"
	if [ "$status" -ne 0 ] || [ "${counted##*, }" != "0 failed" ]; then
		printf -- '-- exit code %s; the end of %s:\n' "$status" "$log"
		grep -v -e '^known gap ' -e '^same  ' -e '^ok ' -e '^PASS: ' "$log" | tail -n "$STEP_TAIL_LINES" || true
		step_ok=false
	else
		step_ok=true
	fi
}

# The closing line; the script's exit status.
steps_end() {
	echo "$passed passed, $failed failed"
	[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}
