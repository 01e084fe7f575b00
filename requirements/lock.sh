#!/bin/sh
# Makes the hashed lock files anew: ./run requirements/lock.sh (needs uv on PATH or in .tools).
set -eu
cd "$(dirname "$0")/.."
uv=$(command -v uv || echo .tools/bin/uv)
compile() { "$uv" pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate "$@"; }
echo "uv==0.13.8" | compile - -o requirements/uv.txt
compile pyproject.toml -o requirements/base.txt
compile pyproject.toml --extra train -o requirements/train.txt
compile pyproject.toml --extra train --extra onnx --group dev -o requirements/dev.txt
