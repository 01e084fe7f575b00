"""Files with the schema of each public data set become labels or queries that the rest reads."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metarouter.cli import run
from metarouter.collection.answers import read_answers
from metarouter.collection.rows import read_queries, write_jsonl
from metarouter.errors import InputError, LabelError, MissingDependencyError, OptionError
from metarouter.labels import read_gain_table
from metarouter.labels.hub import HUB, STRONG, WEAK, load_hub

PROMPTS = [f"Question {i}: how do tides work?" for i in range(4)]


def battle(i: int, prompt: str) -> dict[str, Any]:
    """A row of the arena set or of RouteLLM's judge battles."""
    return {
        "id": i,
        "model_a": STRONG,
        "model_b": WEAK,
        "prompt": prompt,
        "response_a": "The moon.",
        "response_b": "The sea.",
        "winner_model_a": int(i % 2 == 0),
        "winner_model_b": int(i % 2 == 1),
        "winner_tie": 0,
    }


def conversation(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": "The moon."}]


def mt_bench(i: int, prompt: str) -> dict[str, Any]:
    return {
        "question_id": 81 + i // 2,
        "model_a": "alpaca-13b",
        "model_b": "gpt-4",
        "winner": ["model_b", "tie (inconsistent)"][i % 2],
        "judge": f"expert_{i}",
        "conversation_a": conversation(prompt),
        "conversation_b": conversation(prompt),
        "turn": 1 + i % 2,
    }


def healthbench(i: int, prompt: str) -> dict[str, Any]:
    return {
        "prompt_id": f"p{i}",
        "prompt": [*conversation(prompt), {"role": "user", "content": "And in spring?"}],
        "rubrics": [
            {"criterion": "Names the moon", "points": 7, "tags": ["axis:accuracy"]},
            {"criterion": "Frightens", "points": -3, "tags": []},
        ],
        "example_tags": ["theme:hedging", "physician_agreed_category:enough"],
        "canary": "x",
    }


def criterion(i: int, **weights: float | None) -> dict[str, Any]:
    names = [
        *("critically_important", "important", "slightly_important"),
        *("slightly_detrimental", "detrimental", "critically_detrimental"),
    ]
    notes = {f"{name}_weight": weights.get(name) for name in names}
    return {
        "id": f"c{i}",
        "title": "t",
        "annotations": {"criteria_description": f"Criterion {i}", **notes},
    }


def prbench(i: int, prompt: str) -> dict[str, Any]:
    return {
        "task": f"t{i}",
        "turns": 2,
        "field": "Finance",
        "topic": "Accounting",
        "expert": "Expert",
        **{f"prompt_{turn}": f"{prompt} ({turn})" if turn < 2 else None for turn in range(10)},
        **{f"response_{turn}": "Ask on." if turn == 0 else None for turn in range(10)},
        **{f"reference_texts_{turn}": ["A law."] if turn == 1 else [] for turn in range(10)},
        "rubric": [
            criterion(0, critically_important=9.0),
            criterion(1, slightly_important=2.0),
            criterion(2, detrimental=-4.0),
            criterion(3, slightly_detrimental=1.0),
        ],
    }


def routerbench(i: int, prompt: str) -> dict[str, Any]:
    row: dict[str, Any] = {"sample_id": f"s{i}", "prompt": repr([prompt]), "eval_name": "tides"}
    for model, score in (("gpt-4", 1.0), ("mixtral", float(i % 2))):
        row |= {model: score, f"{model}|model_response": "x", f"{model}|total_cost": 0.01}
    return row | {"oracle_model_to_route_to": "gpt-4"}


def mmlu(i: int, prompt: str) -> dict[str, Any]:
    return {"question": prompt, "subject": "physics", "choices": list("pqrs"), "answer": i % 4}


def gsm8k(i: int, prompt: str) -> dict[str, Any]:
    return {"question": prompt, "answer": f"Add them.\n#### {i},000"}


def gpt4_dataset(i: int, prompt: str) -> dict[str, Any]:
    answers = {"gpt4_response": "The moon.", "mixtral_response": "The sea."}
    return {"prompt": prompt, "source": ["a"], **answers, "mixtral_score": 1 + i}


MAKERS = {
    "arena-55k": lambda i, prompt: battle(i, json.dumps([prompt, "and then?"])),
    "gpt4-judge-battles": lambda i, prompt: battle(i, json.dumps([prompt])),
    "mmlu-battles": battle,
    "gpt4-dataset": gpt4_dataset,
    "mt-bench-human": mt_bench,
    "mmlu": mmlu,
    "gsm8k": gsm8k,
    "healthbench": healthbench,
    "prbench": prbench,
    "routerbench": routerbench,
}


def write_set(name: str, folder: Path) -> Path:
    """Small files of our own, laid out and typed as the published set's."""
    rows = [MAKERS[name](i, prompt) for i, prompt in enumerate(PROMPTS)]
    pattern = next(iter(HUB[name].files.values()))
    path = folder / pattern.replace("*", "00000-of-00001")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        write_jsonl(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return folder


def test_every_set_of_the_table_is_tried_here() -> None:
    """A new entry needs a file of its schema."""
    assert set(MAKERS) == set(HUB)


@pytest.mark.parametrize("name", [n for n in HUB if HUB[n].form != "queries"])
def test_labels_of_every_set_are_read_as_gains(name: str, tmp_path: Path) -> None:
    """The records are a form of labels, of the source that the table says."""
    records = load_hub(name, folder=write_set(name, tmp_path))
    labels: dict[str, Any] = {HUB[name].source: records}
    table, report = read_gain_table(**labels)
    assert report.rows_used == len(records)
    assert table.is_gold.all() == (HUB[name].source == "gold")
    assert len(table.models) == 2
    assert {text.removesuffix(" And in spring?") for text in table.queries} <= set(PROMPTS)


@pytest.mark.parametrize("name", [n for n in HUB if HUB[n].form == "queries"])
def test_queries_of_every_set_can_be_collected_and_graded(name: str, tmp_path: Path) -> None:
    """One file serves as the queries of collect and the answers of grade."""
    records = load_hub(name, folder=write_set(name, tmp_path))
    path = tmp_path / "queries.jsonl"
    write_jsonl(path, records)
    assert len(read_queries(path)) == len(PROMPTS)
    key = read_answers(path, "rubric" if "rubrics" in records[0] else "exact")
    assert len(key.by_id) + len(key.by_text) == len(PROMPTS)


def test_battles_keep_their_verdicts(tmp_path: Path) -> None:
    """Flags become winners, the first turn the query, and the judge is named."""
    records = load_hub("arena-55k", folder=write_set("arena-55k", tmp_path))
    assert records[0] == {
        "query": PROMPTS[0],
        "winner": "model_a",
        "model_a": STRONG,
        "model_b": WEAK,
        "judge": "arena",
    }
    assert [record["winner"] for record in records] == ["model_a", "model_b"] * 2


def test_only_votes_on_the_first_turn_are_taken(tmp_path: Path) -> None:
    """MT-Bench's second turns are judged on what no router has seen yet."""
    records = load_hub("mt-bench-human", folder=write_set("mt-bench-human", tmp_path))
    assert [record["judge"] for record in records] == ["expert_0", "expert_2"]
    assert {record["winner"] for record in records} == {"model_b"}


def test_a_question_with_options_is_worded_as_in_the_benchmark(tmp_path: Path) -> None:
    """Letters, options and the word that asks for the answer."""
    record = load_hub("mmlu", folder=write_set("mmlu", tmp_path))[2]
    assert record["query"] == f"{PROMPTS[2]}\nA. p\nB. q\nC. r\nD. s\nAnswer:"
    assert record["answer"] == "C"


def test_the_final_number_is_the_answer(tmp_path: Path) -> None:
    """What stands before it is the way there; commas go."""
    assert load_hub("gsm8k", folder=write_set("gsm8k", tmp_path))[3]["answer"] == "3000"


def test_criteria_have_the_points_of_their_class(tmp_path: Path) -> None:
    """Detrimental criteria cost points, whatever the sign in the file."""
    record = load_hub("prbench", folder=write_set("prbench", tmp_path))[0]
    assert [rubric["points"] for rubric in record["rubrics"]] == [9.0, 2.0, -4.0, -1.0]
    assert [turn["role"] for turn in record["messages"]] == ["user", "assistant", "user"]
    assert record["messages"][2]["content"] == f"A law.\n\n{PROMPTS[0]} (1)"
    health = load_hub("healthbench", folder=write_set("healthbench", tmp_path))[0]
    assert health["domain"] == "hedging"
    assert [rubric["points"] for rubric in health["rubrics"]] == [7.0, -3.0]


def test_every_model_of_a_wide_table_has_a_score(tmp_path: Path) -> None:
    """Models are the columns with a cost; the prompt is taken out of its list."""
    records = load_hub("routerbench", folder=write_set("routerbench", tmp_path))
    assert [(r["model"], r["score"]) for r in records[:2]] == [("gpt-4", 1.0), ("mixtral", 0.0)]
    assert records[0]["query"] == PROMPTS[0]


def test_a_prompt_that_looks_like_a_list_and_is_none_is_a_text(tmp_path: Path) -> None:
    rows = [routerbench(0, "") | {"prompt": text} for text in ("[{[]: 1}] is what?", "[{[]: 1}]")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "routerbench_0shot.parquet")
    records = load_hub("routerbench", folder=tmp_path)
    assert [record["query"] for record in records[::2]] == ["[{[]: 1}] is what?", "[{[]: 1}]"]


def test_the_judge_scores_the_weak_model_against_the_strong(tmp_path: Path) -> None:
    """1 to 5, where 5 is as good as the strong model's answer."""
    records = load_hub("gpt4-dataset", folder=write_set("gpt4-dataset", tmp_path))
    scores = [(r["model"], r["score"]) for r in records]
    assert scores[:4] == [(WEAK, 1.0), (STRONG, 5.0), (WEAK, 2.0), (STRONG, 5.0)]


def test_sets_and_splits_that_do_not_exist_are_told(tmp_path: Path) -> None:
    """With the names of those that do."""
    with pytest.raises(OptionError, match="data set = 'arena'; allowed: arena-55k"):
        load_hub("arena")
    with pytest.raises(OptionError, match="split of gsm8k = 'dev'; allowed: test, train"):
        load_hub("gsm8k", split="dev")
    with pytest.raises(InputError, match=r"holds no train\.csv"):
        load_hub("arena-55k", folder=tmp_path)


def test_a_set_that_changed_is_told_with_file_and_row(tmp_path: Path) -> None:
    """A missing column names the row, and a broken verdict too."""
    (tmp_path / "train.csv").write_text("model_a,model_b,prompt\nx,y,What is a spring tide?\n")
    with pytest.raises(LabelError, match=r"train\.csv: row 1: winner = None"):
        load_hub("arena-55k", folder=tmp_path)
    pq.write_table(pa.table({"question": ["q"]}), tmp_path / "x.parquet")
    folder = tmp_path / "main"
    folder.mkdir()
    (tmp_path / "x.parquet").rename(folder / "test-0.parquet")
    with pytest.raises(LabelError, match=r"test-0\.parquet: row 1: KeyError 'answer'"):
        load_hub("gsm8k", folder=tmp_path)


def test_pickle_is_never_read(tmp_path: Path) -> None:
    """A set that is published as pickle has to be converted first."""
    with pytest.raises(InputError, match=r"published as pickle.*routerbench_0shot\.parquet"):
        load_hub("routerbench")
    (tmp_path / "routerbench_0shot.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(InputError, match=r"holds no routerbench_0shot\.parquet"):
        load_hub("routerbench", folder=tmp_path)


def test_the_library_is_asked_for_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the install line."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"metarouter\[hub\]"):
        load_hub("gsm8k")


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    """One line, exit 1, and the file to fetch elsewhere."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = ["labels", "hub", "arena-55k", "--out", str(tmp_path / "v.jsonl")]
    done = subprocess.run(
        [sys.executable, "-m", "metarouter", *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot be downloaded" in done.stderr
    assert "fetch train.csv elsewhere and give its --folder" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_command_writes_a_file_of_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`metarouter labels hub` from a local folder, with machine output."""
    folder, out = write_set("gpt4-judge-battles", tmp_path), tmp_path / "votes.jsonl"
    arguments = ["labels", "hub", "gpt4-judge-battles", "--folder", str(folder)]
    assert run([*arguments, "--out", str(out), "--json", "-"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["results"]
    assert (found["form"], found["source"], found["rows"]) == ("votes", "preference", 4)
    assert json.loads(out.read_text().splitlines()[1])["judge"] == "gpt-4"
