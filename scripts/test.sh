#!/usr/bin/env bash
# Runs all tests of a built preset and closes with their number.
# usage: scripts/test.sh [preset] [ctest options]
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=${1:-release}
log=build/$preset/test.log
ctest --preset "$preset" --parallel "$(nproc)" "${@:2}" | tee "$log"
status=${PIPESTATUS[0]}

# "98% tests passed, 1 tests failed out of 50"; ctest counts skipped tests as passed.
read -r failed total < <(sed -nE 's/.*tests passed, ([0-9]+) tests failed out of ([0-9]+).*/\1 \2/p' "$log") || {
  echo "no test was run" >&2
  exit 1
}
skipped=$(grep -c '\*\*\*Skipped' "$log")
echo "$((total - failed - skipped)) passed, $failed failed, $skipped skipped"
exit "$status"
