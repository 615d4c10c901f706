#!/bin/bash
# The token is nowhere but in the broker's memory: not in an argv, the environment of a remote command, a log, an error text, a
# status, a file of the sandbox or a core file.  In each of these places a planted word is found, so that the search is known to work.
set -eu

# shellcheck source=tests/meta/setup.sh
. "$(dirname "$0")/setup.sh"

PLANTED=planted-$(od -An -N6 -tx1 /dev/urandom | tr -d ' \n')
evidence=$work/evidence
mkdir "$evidence"
cat >"$work/extra.yaml" <<END
terminal:
  env_passthrough: ["PLANTED_*"]
modalsh:
  log_level: debug
  session: $PLANTED
END
try_options=(--config-extra "$work/extra.yaml")
setup_begin
printf '%s\n%s\n%s\n%s\n' "$MODAL_TOKEN_ID" "$MODAL_TOKEN_SECRET" "$(printf %s "$MODAL_TOKEN_ID" | base64 -w 0)" \
	"$(printf %s "$MODAL_TOKEN_SECRET" | base64 -w 0)" >"$work/token"
printf '%s\n' "$PLANTED" >"$work/planted"

# clean PLACE: neither half of the token is in the evidence of that place, and the planted word is.
clean() {
	local found
	found=$(grep -rlaF -f "$work/token" "$evidence/$1" || true)
	if [ -n "$found" ]; then
		not_ok "$1: the token is not there" "it is, in $(xargs -n 1 basename <<<"$found" | xargs)"
	elif ! grep -rqaF -f "$work/planted" "$evidence/$1"; then
		not_ok "$1: the search finds what is there" "the planted word was not found"
	else
		ok "$1"
	fi
}

lines_of_proc() {
	local file
	for file in /proc/[0-9]*/"$1"; do
		tr '\0' '\n' <"$file" || true
	done 2>/dev/null
}

cp "$work/token" "$evidence/positive"
if grep -rqaF -f "$work/token" "$evidence/positive"; then ok "a token that is somewhere is found"; else not_ok "a token that is somewhere is found"; fi

PLANTED_VARIABLE=$PLANTED sh -c 'sleep 3; env; cat /proc/*/environ /proc/*/cmdline' "$PLANTED" >"$evidence/remote environment" 2>&1 &
command=$!
sleep 0.5
lines_of_proc cmdline >"$evidence/arguments"
wait "$command" || true # processes of the sandbox may end while they are looked at
clean "remote environment"
clean "arguments"

pid=$(cut -d ' ' -f 1 "$work/up/modalsh-broker.pid")
mkdir "$evidence/environment of the broker"
export PLANTED_VARIABLE=$PLANTED
config_with "$work/second.yaml" socket "$work/second.sock" session "$PLANTED-2"
broker_start second "$work/second.yaml"
tr '\0' '\n' <"/proc/$broker/environ" >"$evidence/environment of the broker/second"
tr '\0' '\n' <"/proc/$pid/environ" >"$evidence/environment of the broker/first"
clean "environment of the broker"

"$build_dir/modalshctl" status >"$evidence/status"
"$build_dir/modalshctl" status --json >>"$evidence/status"
clean "status"

# errors of every kind, each with the token within reach
mkdir "$evidence/errors"
ln -s modalsh "$work/up/bin/$PLANTED"
"$work/up/bin/$PLANTED" >"$evidence/errors/no program" 2>&1 || true
config_with "$work/unknown.yaml" "$PLANTED" 1
"$build_dir/modalsh-broker" --config "$work/unknown.yaml" >"$evidence/errors/configuration" 2>&1 || true
config_with "$work/unreachable.yaml" socket "$work/unreachable.sock" session "$PLANTED-3" server_url '"https://127.0.0.1:1"'
broker_start unreachable "$work/unreachable.yaml"
MODALSH_SOCKET=$work/unreachable.sock sh -c true >"$evidence/errors/unreachable" 2>&1 || true
config_with "$work/wrong.yaml" socket "$work/wrong.sock" session "$PLANTED-4"
# a token of which one half is right must not be shown when it is refused
MODAL_TOKEN_ID=${MODAL_TOKEN_ID%?} broker_start wrong "$work/wrong.yaml"
MODALSH_SOCKET=$work/wrong.sock sh -c true >"$evidence/errors/refused" 2>&1 || true
(umask 077 && printf '[default]\ntoken_id = "%s"\ntoken_secret = "%s\n' "$MODAL_TOKEN_ID" "$MODAL_TOKEN_SECRET" >"$work/broken.toml")
(
	unset MODAL_TOKEN_ID MODAL_TOKEN_SECRET
	MODAL_CONFIG_PATH=$work/broken.toml "$build_dir/modalsh-broker" --config "$work/wrong.yaml" --foreground \
		>"$evidence/errors/token file" 2>&1 || true
)
clean "errors"

mkdir "$evidence/logs"
cp "$work/up/"*.log "$work/"*.log "$evidence/logs/"
clean "logs"

sh -c "echo $PLANTED >/workspace/$PLANTED"
cp -r "$work/up/state" "$evidence/files of the sandboxes"
clean "files of the sandboxes"

# ---- core files: a program that is killed in the same way does leave one, where the kernel writes them to the folder ----
mkdir "$work/cores" "$work/cores/broker" "$work/cores/control"
config_with "$work/core.yaml" socket "$work/core.sock" session "$PLANTED-5"
ulimit -c unlimited 2>/dev/null || true # sudo takes it away where root may not raise it again
cd "$work/cores/broker"
broker_start core "$work/core.yaml"
cd "$work/cores/control"
sleep 100 &
control=$!
if grep -q '^Max core file size *0 *0 ' "/proc/$broker/limits"; then
	ok "core files: the broker may not write any"
else
	not_ok "core files: the broker may not write any" "$(grep core "/proc/$broker/limits")"
fi
cd "$work"
soon 50 grep -q sleep "/proc/$control/comm"
kill -SEGV "$control" "$broker"
wait "$control" "$broker" 2>/dev/null || true
if [ -n "$(ls "$work/cores/broker")" ]; then
	not_ok "core files: the broker leaves none"
elif grep -rqaF -f "$work/planted" "$work/cores/control"; then
	ok "core files: the broker leaves none, another program does"
elif grep -q '[|/]' /proc/sys/kernel/core_pattern || [ "$(ulimit -c)" = 0 ]; then
	echo "# here no program leaves a core file in its folder"
else
	not_ok "core files: another program leaves one"
fi
verdicts_end
