#!/bin/sh
# Puts load on modalsh and looks whether its broker is afterwards as it was. `load.sh --help` names the options.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
exec /usr/bin/python3 -B -E -s "$here/load.py" "$@"
