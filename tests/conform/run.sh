#!/bin/sh
# Compares modalsh with the local shells, case by case. `run.sh --help` names the options.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
exec /usr/bin/python3 -B -E -s "$here/runner.py" "$@"
