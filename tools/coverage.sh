#!/usr/bin/env bash
# Branch coverage of the suite, subprocesses and workers too; fails below the floor.
# Slower than ./run test by half or more, so not part of CI. Tests of speed skip themselves.
set -euo pipefail
cd "$(dirname "$0")/.."
export COVERAGE_FILE="$PWD/.coverage"
rm -f .coverage .coverage.*
COVERAGE_PROCESS_START="$PWD/pyproject.toml" ./run test "$@"
./run coverage combine -q
./run coverage report --fail-under=90
