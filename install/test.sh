#!/bin/bash
# Installs what is needed, builds, and runs the tests: unit tests, drivers, structure, refusals, secrets (`make check`),
# the conformance cases, and programs that start shells.
#
# usage: test.sh [--help]
# The build folder is $MODALSH_BUILD_DIR, else build/ in the source tree.
set -eu

# shellcheck source=install/common.sh
. "$(dirname "$0")/common.sh"

case ${1:-} in
'') ;;
-h | --help) usage_print; exit 0 ;;
*) die "unknown argument $1 (see --help)" ;;
esac

packages_want "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}"
export MODALSH_NO_INSTALL=1
mkdir -p "$build_dir"
build_dir=$(cd "$build_dir" && pwd)
export MODALSH_BUILD_DIR=$build_dir
step "build" build
if $step_ok; then
	step "make check" check_run
	step "conformance" as_root "$top/tests/conform/run.sh"
	step "programs" as_root "$top/tests/conform/run.sh" --programs
fi
steps_end
