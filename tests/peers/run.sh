#!/bin/bash
# Runs Modal's own SDKs against modalsh-loopback and counts what holds.
#
# usage: run.sh [--loopback PATH] [--loopback-args ARGS] [--build-dir DIR] [--only LABEL] [--install-only]
#   --loopback PATH   the server (default: modalsh-loopback in the build folder, the current folder or PATH)
#   --loopback-args ARGS   further arguments for it, separated by blanks
#   --build-dir DIR   where the SDKs are installed, and kept for the next run
#                     (default: $MODALSH_BUILD_DIR, else a folder of this user under ${TMPDIR:-/tmp})
#   --only LABEL      one of python-v1, python-v2, node-v1, node-v2
#   --install-only    install what the labels need and print the folder that holds it
# Needs python3 with venv, node 20 or newer, npm, and the package registries for the first run.
set -eu

NODE_SDK_VERSION=0.11.1
PYTHON_SDK_VERSION=1.5.4
NODE_MAJOR_MIN=20
START_WAIT_S=15
LABEL_WAIT_S=900

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build_dir=${MODALSH_BUILD_DIR:-}
loopback=
loopback_args=()
only=
install_only=false

die() {
	echo "run.sh: $*" >&2
	exit 1
}

while [ $# -gt 0 ]; do
	case $1 in
	--loopback) loopback=${2:?--loopback needs a path}; shift 2 ;;
	--loopback-args) read -ra loopback_args <<<"${2?--loopback-args needs arguments}"; shift 2 ;;
	--build-dir) build_dir=${2:?--build-dir needs a folder}; shift 2 ;;
	--only) only=${2:?--only needs a label}; shift 2 ;;
	--install-only) install_only=true; shift ;;
	-h | --help) sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
	*) die "unknown argument $1" ;;
	esac
done
case $only in
'' | python-v1 | python-v2 | node-v1 | node-v2) ;;
*) die "no such label: $only" ;;
esac

# A folder under /tmp has a name that others can guess, so it must be ours.
folder_own() {
	(umask 077 && mkdir -p "$1")
	[ -O "$1" ] || die "$1 belongs to another user"
}

loopback_find() {
	local candidate
	for candidate in "${MODALSH_BUILD_DIR:-.}/modalsh-loopback" ./modalsh-loopback "$(command -v modalsh-loopback || true)"; do
		if [ -n "$candidate" ] && [ -x "$candidate" ]; then
			echo "$candidate"
			return
		fi
	done
	die "no modalsh-loopback found: build it, or give --loopback PATH"
}

python_sdk_install() {
	local have
	have=$("$sdk_dir/venv/bin/python" -c 'import importlib.metadata as m; print(m.version("modal"))' 2>/dev/null || true)
	[ "$have" != "$PYTHON_SDK_VERSION" ] || return 0
	echo "# installing the Python SDK $PYTHON_SDK_VERSION"
	python3 -m venv --clear "$sdk_dir/venv"
	"$sdk_dir/venv/bin/pip" install --quiet --disable-pip-version-check "modal==$PYTHON_SDK_VERSION"
}

node_sdk_install() {
	local have major
	major=$(node -p 'process.versions.node.split(".")[0]')
	[ "$major" -ge "$NODE_MAJOR_MIN" ] || die "the JavaScript SDK needs node $NODE_MAJOR_MIN or newer; here is $major"
	have=$(node -p 'require(process.argv[1]).version' "$sdk_dir/node/node_modules/modal/package.json" 2>/dev/null || true)
	[ "$have" != "$NODE_SDK_VERSION" ] || return 0
	echo "# installing the JavaScript SDK $NODE_SDK_VERSION"
	rm -rf "$sdk_dir/node"
	mkdir "$sdk_dir/node"
	echo '{ "private": true }' >"$sdk_dir/node/package.json"
	(cd "$sdk_dir/node" && npm install --silent --no-audit --no-fund --ignore-scripts "modal@$NODE_SDK_VERSION")
}

server_start() {
	local waited_ds=0
	MODAL_TOKEN_ID=ak-peers$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
	MODAL_TOKEN_SECRET=as-peers$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
	export MODAL_TOKEN_ID MODAL_TOKEN_SECRET
	"$loopback" --listen 127.0.0.1:0 --port-file "$work/port" --ca-file "$work/ca.pem" --state-dir "$work/state" \
		"${loopback_args[@]}" >"$work/loopback.log" 2>&1 &
	server_pid=$!
	until [ -s "$work/port" ]; do
		kill -0 "$server_pid" 2>/dev/null || die "the loopback did not start: $(tail -5 "$work/loopback.log")"
		[ "$waited_ds" -lt $((START_WAIT_S * 10)) ] || die "the loopback did not write its port within $START_WAIT_S s"
		sleep 0.1
		waited_ds=$((waited_ds + 1))
	done
	MODAL_SERVER_URL=http://127.0.0.1:$(cat "$work/port")
	export MODAL_SERVER_URL
}

clean_up() {
	if [ -n "${server_pid:-}" ]; then
		kill -TERM "$server_pid" 2>/dev/null || true
		wait "$server_pid" 2>/dev/null || true
	fi
	rm -rf "$work"
}

passed=0
failed=0

report() {
	if [ "$1" = ok ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
	echo "$1 $((passed + failed)) - $2"
}

# One SDK with one kind of sandbox.  A script that breaks off, or does not end, is a failed check.
label_run() {
	local label=$1 sandbox_v2=$2 line checks=0 announced=none code=none
	shift 2
	[ -z "$only" ] || [ "$only" = "$label" ] || return 0
	while IFS= read -r line; do
		case $line in
		'ok - '*) report ok "${line#ok - }"; checks=$((checks + 1)) ;;
		'not ok - '*) report 'not ok' "${line#not ok - }"; checks=$((checks + 1)) ;;
		'end - '*) announced=${line#end - } ;;
		'code - '*) code=${line#code - } ;;
		*) printf '%s\n' "$line" ;;
		esac
	done < <(
		status=0
		MODAL_SANDBOX_V2=$sandbox_v2 timeout -k 5 "$LABEL_WAIT_S" "$@" "$label" 2>"$work/$label.log" || status=$?
		echo "code - $status"
	)
	if [ "$announced" = "$checks checks" ] && [ "$checks" -gt 0 ] && { [ "$code" = 0 ] || [ "$code" = 1 ]; }; then
		report ok "$label: the script ran to its end"
	else
		report 'not ok' "$label: the script ran to its end"
		echo "# code $code, $checks checks seen, announced: $announced"
		tail -20 "$work/$label.log" | sed 's/^/# /'
	fi
}

[ -n "$build_dir" ] || build_dir=${TMPDIR:-/tmp}/modalsh-build-$(id -u)
folder_own "$build_dir"
sdk_dir=$(cd "$build_dir" && pwd)/sdk
folder_own "$sdk_dir"
case $only in node-*) ;; *) python_sdk_install >&2 ;; esac
case $only in python-*) ;; *) node_sdk_install >&2 ;; esac
if $install_only; then
	echo "$sdk_dir"
	exit 0
fi
[ -n "$loopback" ] || loopback=$(loopback_find)
[ -x "$loopback" ] || die "$loopback cannot be executed"

work=$(mktemp -d)
trap clean_up EXIT
trap 'exit 130' INT TERM
: >"$work/modal.toml"
export MODAL_CONFIG_PATH=$work/modal.toml MODALSH_PEERS_NODE=$sdk_dir/node PYTHONDONTWRITEBYTECODE=1
unset MODAL_PROFILE MODAL_ENVIRONMENT MODAL_IMAGE_BUILDER_VERSION HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy
server_start

label_run python-v1 0 "$sdk_dir/venv/bin/python" "$here/peer.py"
label_run python-v2 1 "$sdk_dir/venv/bin/python" "$here/peer.py"
label_run node-v1 0 node "$here/peer.mjs"
label_run node-v2 1 node "$here/peer.mjs"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
