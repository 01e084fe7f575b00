"""Mutate valid label files and check that the reader neither breaks nor loses rows.

    ./run python experiments/fuzz_readers.py [--files 12000] [--seed 0]

Each mutated file is read with ``on_bad_row="skip"`` and, by turns, "error". A
file may be read or be refused with an InputError; any other exception fails.
Of a file that is read, every row must be accounted for, and a JSONL file must
have as many rows as it has lines that are not blank.
"""

from __future__ import annotations

import argparse
import csv
import faulthandler
import gzip
import io
import json
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from metarouter.errors import InputError
from metarouter.labels import ReadReport, read_gain_table

Rows = list[dict[str, Any]]
STRANGE = [
    "NaN",
    "-Infinity",
    "1e999",
    "1e308",
    "-1e308",
    "null",
    "true",
    "[]",
    "{}",
    '""',
    '" "',
    "-1",
    "9" * 40,
]
STRANGE += ["null", "true", "[]", "{}", '""', '" "', '"\\ud800"', '"model_c"', '"both_bad"']
STRANGE += ["\u2028", "\x00", "\ufeff"]


def main() -> int:
    """Run the mutations, print the counts, and fail when one broke the reader."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faulthandler.enable()
    start = time.perf_counter()
    counts = fuzz(options.files, options.seed)
    print(f"{options.files:,} mutated files, seed {options.seed}")
    for outcome, count in sorted(counts.items()):
        print(f"  {outcome:<40}{count:>8,}")
    print(f"  {time.perf_counter() - start:.0f} s")
    return 1 if any("FAILED" in outcome for outcome in counts) else 0


def fuzz(n_files: int, seed: int) -> Counter[str]:
    """Count the outcomes of reading `n_files` mutated files."""
    rng = np.random.default_rng(seed)
    files = seed_files()
    names = sorted(files)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for i in range(n_files):
            name = names[i % len(names)]
            path = Path(folder) / name.partition("-")[2]
            path.write_bytes(mutated(files[name], name, rng))
            mode = "error" if i // len(names) % 4 == 3 else "skip"
            outcome = read(path, mode)
            counts[outcome] += 1
            if "FAILED" in outcome:
                kept = Path(tempfile.gettempdir()) / f"fuzz-{seed}-{i}-{path.name}"
                kept.write_bytes(path.read_bytes())
                print(f"{kept}: {outcome}", file=sys.stderr)
    return counts


def read(path: Path, mode: Any) -> str:
    """What came of reading one file."""
    try:
        _, report = read_gain_table(path, on_bad_row=mode)
    except InputError as error:
        return f"refused ({mode})" if is_one_line(str(error)) else "FAILED: unprintable message"
    except Exception as error:  # noqa: BLE001 - finding any other exception is the purpose
        traceback.print_exc()
        return f"FAILED: {type(error).__name__}"
    json.dumps(report.to_dict(), ensure_ascii=False, allow_nan=False).encode()
    if not is_accounted_for(report) or report.rows_read != n_lines(path, report.rows_read):
        return "FAILED: rows lost"
    return "read, all rows used" if report.rows_used == report.rows_read else "read, rows reported"


def is_one_line(message: str) -> bool:
    """A message that can be printed on one line, and encoded."""
    return "\n" not in message and message.encode(errors="replace").decode() == message


def is_accounted_for(report: ReadReport) -> bool:
    """Every row of every file is in exactly one count, and every bad row has a reason."""
    fates = ("used", "skipped", "merged", "unpaired", "other_models")
    return all(
        file.rows_read == sum(getattr(file, f"rows_{fate}") for fate in fates)
        and file.rows_skipped == sum(bad.count for bad in file.bad_rows)
        for file in report.files
    )


def n_lines(path: Path, default: int) -> int:
    """Lines that are not blank of a JSONL file; `default` where rows are not lines."""
    data = path.read_bytes()
    is_plain = path.suffix == ".jsonl" and not data.startswith((b"\xff\xfe", b"\xfe\xff", b"\x1f"))
    text = data.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
    if not is_plain or text.lstrip().startswith("["):
        return default
    return sum(bool(line) and not line.isspace() for line in text.split("\n"))


def seed_files() -> dict[str, bytes]:
    """Valid files of every form, format, encoding and compression, by ``form-file`` name."""
    files: dict[str, bytes] = {}
    for form, rows in forms().items():
        for suffix, write in WRITERS.items():
            files[f"{form}-labels{suffix}"] = write(rows)
    return files


def forms() -> dict[str, Rows]:
    """A few valid rows of each form, with all optional columns."""
    shared = {"judge": "grader", "domain": "maths", "weight": 1.0, "prompt_tokens": 12}
    texts = ["What is 7 × 8?", "Write a haiku, please", 'Say "no"\nand go', "naïve café", "x"]
    queries = [{"query": text, "query_id": f"q{i}", **shared} for i, text in enumerate(texts)]
    pair = {"model_a": "large", "model_b": "small"}
    return {
        "scores": [
            {**query, "model": model, "score": 0.25 * i + 0.5 * (model == "large")}
            for i, query in enumerate(queries)
            for model in ("large", "small")
        ],
        "gains": [{**query, **pair, "gain": 0.5 - 0.25 * i} for i, query in enumerate(queries)],
        "votes": [
            {**query, **pair, "winner": winner, "annotator": f"a{i}"}
            for i, (query, winner) in enumerate(
                zip(queries, ["model_a", "model_b", "tie", "both_bad", "small"], strict=True)
            )
        ],
    }


def _jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _json(rows: Rows) -> bytes:
    chats = [
        {**row, "query": None, "messages": [{"role": "user", "content": row["query"]}]}
        for row in rows
    ]
    return json.dumps(chats, indent=1).encode()


def _csv(rows: Rows, delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _parquet(rows: Rows) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, compression="none")
    return buffer.getvalue()


def _nested_parquet(rows: Rows) -> bytes:
    """Chats as lists of structs, names as dictionaries."""
    chats = [[{"role": "user", "content": row["query"]}] for row in rows]
    table = pa.Table.from_pylist([{**row, "query": None} for row in rows]).drop(["query"])
    names = [name for name in table.column_names if name.startswith(("model", "judge"))]
    for name in names:
        place = table.column_names.index(name)
        table = table.set_column(place, name, table.column(name).dictionary_encode())
    buffer = io.BytesIO()
    pq.write_table(table.append_column("messages", pa.array(chats)), buffer, compression="none")
    return buffer.getvalue()


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": lambda rows: _csv(rows, "\t"),
    ".parquet": _parquet,
    ".pq": _nested_parquet,
    ".txt": lambda rows: _jsonl(rows).decode().encode("utf-16"),
    ".jsonl.gz": lambda rows: gzip.compress(_jsonl(rows)),
    ".csv.zst": lambda rows: zstandard.compress(_csv(rows)),
}


def mutated(data: bytes, name: str, rng: np.random.Generator) -> bytes:
    """The file after one or two mutations, of its text or of its bytes."""
    compressed = name.endswith((".gz", ".zst"))
    if compressed and rng.random() < 0.8:
        inner = gzip.decompress(data) if name.endswith(".gz") else zstandard.decompress(data)
        return WRITERS_BACK[name[-3:]](mutated(inner, "inner", rng))
    for _ in range(rng.integers(1, 3)):
        is_text = not compressed and not name.endswith((".parquet", ".pq")) and rng.random() < 0.7
        mutate = TEXT_MUTATIONS if is_text else BYTE_MUTATIONS
        data = mutate[rng.integers(len(mutate))](data, rng)
    return data


WRITERS_BACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    "zst": zstandard.compress,
}


def _place(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    """A short span of the data."""
    start = int(rng.integers(len(data) + 1))
    return start, min(len(data), start + int(rng.geometric(0.1)))


def _flip(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _place(data, rng)
    return data[:start] + rng.bytes(end - start) + data[end:]


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _place(data, rng)
    return data[:start] + data[end:]


def _truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: _place(data, rng)[0]]


def _insert(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _place(data, rng)
    return data[:start] + rng.bytes(end - start) + data[start:]


def _repeat(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _place(data, rng)
    return data[:end] + data[start:end] * int(rng.integers(1, 4)) + data[end:]


def _strange_token(data: bytes, rng: np.random.Generator) -> bytes:
    tokens = list(re.finditer(rb'"[^"\n]*"|[\w.+-]+', data))
    if not tokens:
        return data
    token = tokens[rng.integers(len(tokens))]
    return data[: token.start()] + str(rng.choice(STRANGE)).encode() + data[token.end() :]


def _swap_tokens(data: bytes, rng: np.random.Generator) -> bytes:
    tokens = list(re.finditer(rb'"[^"\n]*"|[\w.+-]+', data))
    if len(tokens) < 2:
        return data
    a, b = (tokens[i] for i in sorted(rng.choice(len(tokens), 2, replace=False)))
    parts = (data[: a.start()], b[0], data[a.end() : b.start()], a[0], data[b.end() :])
    return b"".join(parts)


def _shuffle_lines(data: bytes, rng: np.random.Generator) -> bytes:
    lines = data.split(b"\n")
    return b"\n".join(lines[i] for i in rng.integers(len(lines), size=len(lines) + 1))


def _recode(data: bytes, rng: np.random.Generator) -> bytes:
    encoding = str(rng.choice(["latin-1", "cp1252", "utf-16", "utf-8-sig", "utf-32", "cp500"]))
    return data.decode(errors="replace").encode(encoding, errors="replace")


BYTE_MUTATIONS = [_flip, _cut, _truncate, _insert, _repeat]
TEXT_MUTATIONS = [_strange_token, _strange_token, _swap_tokens, _shuffle_lines, _recode]


if __name__ == "__main__":
    sys.exit(main())
