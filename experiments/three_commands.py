"""From an empty environment to a served, trained router in three commands, with their times.

    ./run python experiments/three_commands.py

Builds the wheel as the image does, makes a virtual environment, and runs there what the page
of the gateway tells: pip install, fit on two label files, serve. Then one chat request goes
through the gateway to an upstream that stands in for a provider. The label files are of
``metarouter.testing.make_world``: 200 gold and 1,000 preference labels, in the forms of users'
own files. pip gets packages from the index that it is set up with, and its cache is not used.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2

from metarouter.testing import FakeUpstream, make_world

ROOT = Path(__file__).parents[1]
MODELS = ("gpt-small", "gpt-large")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="Interpreter of the environment.")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder, FakeUpstream() as upstream:
        here = Path(folder)
        wheel = build_wheel(here, arguments.python)
        labels = make_world(n_queries=1200, n_gold=200, n_test=0, models=MODELS).write(here / "own")
        subprocess.run([arguments.python, "-m", "venv", here / "venv"], check=True)
        binaries = here / "venv/bin"
        metarouter = str(binaries / "metarouter")
        files = ["--gold", str(labels.gold), "--preference", str(labels.preference)]
        seconds = {
            "pip install": timed(
                [str(binaries / "pip"), "install", "-q", "--no-cache-dir", f"{wheel}[train,serve]"],
                here,
            ),
            "metarouter fit": timed([metarouter, "fit", *files, "--out", "router"], here),
        }
        start = time.perf_counter()
        with served(metarouter, here, upstream.url) as url:
            answer, model = ask(url)
            seconds["metarouter serve, to the first answer"] = time.perf_counter() - start
        assert model in MODELS
        assert json.loads(upstream.requests[-1].body)["model"] == model
    for name, value in seconds.items():
        print(f"{value:7.1f} s  {name}")
    print(f"{sum(seconds.values()):7.1f} s  in all; {model} answered: {answer!r}")


def build_wheel(folder: Path, python: str) -> Path:
    """The wheel of this tree, made in an environment of deploy/build.txt alone."""
    subprocess.run([python, "-m", "venv", folder / "build"], check=True)
    pip = str(folder / "build/bin/pip")
    locked = ["--require-hashes", "-r", str(ROOT / "deploy/build.txt")]
    subprocess.run([pip, "install", "-q", *locked], check=True)
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([pip, "wheel", "-q", *options, str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def timed(command: list[str], folder: Path) -> float:
    """Seconds that a command takes; its output is shown."""
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=folder)
    return time.perf_counter() - start


@contextmanager
def served(metarouter: str, folder: Path, upstream: str) -> Iterator[str]:
    """A gateway until the block ends; its address."""
    command = [metarouter, "serve", "--router", "router", "--upstream", upstream, "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("metarouter serves on "):
                    yield line.split()[-1]
                    break
            else:
                raise SystemExit("the gateway did not start")
        finally:
            process.terminate()
            process.communicate(timeout=60)


def ask(url: str) -> tuple[str, str]:
    """What a client gets for one question, and who answered it."""
    messages = [{"role": "user", "content": "Why is the sky blue?"}]
    body = {"model": "metarouter", "messages": messages}
    answer = httpx2.post(f"{url}/chat/completions", json=body, timeout=30.0)
    text = answer.json()["choices"][0]["message"]["content"]
    return str(text), answer.headers["x-metarouter-model"]


if __name__ == "__main__":
    main()
