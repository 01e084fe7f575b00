"""Public data sets of the Hugging Face hub as labels or queries: one closed table.

Each entry says which files of which repository hold the rows, and how a row
becomes a label (votes, scores) or a query to make labels from. Files come from
the hub (extra ``hub``) or from a folder that was filled elsewhere; they are read
as data alone, so what is published as pickle has to be converted first.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from metarouter.errors import (
    InputError,
    LabelError,
    MissingDependencyError,
    OptionError,
    ProviderError,
)
from metarouter.labels.battles import battle_votes
from metarouter.labels.dumps import read_dump

__all__ = ["HUB", "HubDataset", "load_hub"]

Row = Mapping[str, Any]
Convert = Callable[[Row], list[dict[str, Any]]]

STRONG, WEAK = "gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1"
"""RouteLLM's pair, under the names that its battles use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubDataset:
    """Where a data set is, and what its rows become.

    Parameters
    ----------
    repo : str, repository on the hub.
    files : mapping of split to the glob of its files; the first is the default.
    form : "votes", "scores" or "queries"
        Labels to fit on, or queries with what answers are graded by.
    source : "gold" or "preference", what labels of this set are.
    convert : callable, a row to records; none where the row is of no use.
    on_hub : bool, False where the hub has it as pickle alone.
    """

    repo: str
    files: Mapping[str, str]
    form: Literal["votes", "scores", "queries"]
    source: Literal["gold", "preference"]
    convert: Convert
    on_hub: bool = True


def load_hub(
    name: str, *, split: str | None = None, folder: str | Path | None = None
) -> list[dict[str, Any]]:
    """Rows of a public data set, as records of a label form.

    Parameters
    ----------
    name : str, one of `HUB`.
    split : str, optional; the first of the set's splits by default.
    folder : path, optional
        A folder laid out as the repository; without one the files are
        downloaded with ``huggingface_hub``, which keeps them in its cache.

    Returns
    -------
    list of dict
        For ``metarouter fit`` or ``read_gain_table`` (votes, scores), or for
        ``metarouter collect`` and ``grade`` (queries).

    Raises
    ------
    OptionError
        When there is no such set or split.
    InputError
        When the folder lacks the files, or they are on the hub as pickle alone.
    ProviderError
        When the hub cannot be reached, or refuses.
    MissingDependencyError
        When a download needs ``huggingface_hub`` and it is not installed.

    Examples
    --------
    >>> sorted(HUB)[:3]
    ['arena-55k', 'gpt4-dataset', 'gpt4-judge-battles']
    """
    dataset = HUB.get(name)
    if dataset is None:
        raise OptionError.of("data set", name, ", ".join(sorted(HUB)))
    split = next(iter(dataset.files)) if split is None else split
    if split not in dataset.files:
        raise OptionError.of(f"split of {name}", split, ", ".join(dataset.files))
    pattern = dataset.files[split]
    root = _download(name, dataset, pattern) if folder is None else Path(folder)
    paths = sorted(root.glob(pattern))
    if not paths:
        raise InputError(f"{root}: holds no {pattern}; allowed: the files of {dataset.repo}")
    records = [record for path in paths for record in _converted(path, dataset.convert)]
    if not records:
        raise LabelError(f"{root}/{pattern}: no row is of use as {dataset.form}")
    return records


def _converted(path: Path, convert: Convert) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(read_dump(path), 1):
        try:
            yield from convert(row)
        except LabelError as error:
            what = str(error).removeprefix("battles: row 1")
            raise LabelError(f"{path}: row {number}{what}") from error
        except (KeyError, TypeError, ValueError, IndexError) as error:
            what = f"{type(error).__name__} {error}"
            raise LabelError(
                f"{path}: row {number}: {what}; allowed: the columns of the published set; "
                "it may have changed"
            ) from error


def _download(name: str, dataset: HubDataset, pattern: str) -> Path:
    if not dataset.on_hub:
        raise InputError(
            f"{name}: {dataset.repo} is published as pickle, which runs code when it is read; "
            f"convert it to {pattern} in a sandbox, and give its `folder`"
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ModuleNotFoundError as error:
        raise MissingDependencyError.of("downloading a data set", "hub") from error
    try:
        found = snapshot_download(dataset.repo, repo_type="dataset", allow_patterns=[pattern])
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ProviderError(
            f"{dataset.repo} cannot be downloaded: {reason[:200]}; without a network, fetch "
            f"{pattern} elsewhere and give its `folder`"
        ) from error
    return Path(found)


def _battle(judge: str) -> Convert:
    def convert(row: Row) -> list[dict[str, Any]]:
        return battle_votes([row], judge=judge)[0]

    return convert


def _mmlu_battle(row: Row) -> list[dict[str, Any]]:
    return battle_votes([row], judge="", min_characters=0)[0]


def _mt_bench_vote(row: Row) -> list[dict[str, Any]]:
    """Votes on the first turn: a router decides before there is a second one."""
    return battle_votes([row])[0] if int(row["turn"]) == 1 else []


def _weak_score(row: Row) -> list[dict[str, Any]]:
    """The judge's 1 to 5 for the weak model; the strong model is the reference, 5."""
    query = str(row["prompt"]).strip()
    scores = {WEAK: float(row["mixtral_score"]), STRONG: 5.0}
    return [
        {"query": query, "model": model, "score": score, "judge": "gpt-4"}
        for model, score in scores.items()
    ]


def _mmlu(row: Row) -> list[dict[str, Any]]:
    """A question with its options, as RouteLLM's benchmark words it."""
    letters = "ABCD"
    options = [f"{letter}. {text}" for letter, text in zip(letters, row["choices"], strict=True)]
    query = "\n".join([str(row["question"]), *options, "Answer:"])
    return [{"query": query, "domain": row["subject"], "answer": letters[int(row["answer"])]}]


def _gsm8k(row: Row) -> list[dict[str, Any]]:
    answer = str(row["answer"]).split("####")[1].strip()
    return [{"query": str(row["question"]), "answer": answer.replace(",", "")}]


def _healthbench(row: Row) -> list[dict[str, Any]]:
    themes = [tag.removeprefix("theme:") for tag in row["example_tags"] if "theme:" in tag]
    rubrics = [{"criterion": r["criterion"], "points": float(r["points"])} for r in row["rubrics"]]
    messages = [{"role": turn["role"], "content": turn["content"]} for turn in row["prompt"]]
    record = {"query_id": row["prompt_id"], "messages": messages, "rubrics": rubrics}
    return [record | ({"domain": themes[0]} if themes else {})]


def _prbench(row: Row) -> list[dict[str, Any]]:
    """A conversation of up to ten turns, its last user turn unanswered."""
    messages: list[dict[str, str]] = []
    for turn in range(int(row["turns"])):
        given = [text for text in row.get(f"reference_texts_{turn}") or [] if text]
        prompt = "\n\n".join([*given, str(row[f"prompt_{turn}"])])
        messages.append({"role": "user", "content": prompt})
        if turn < int(row["turns"]) - 1:
            messages.append({"role": "assistant", "content": str(row[f"response_{turn}"])})
    rubrics = [_criterion(item["annotations"]) for item in row["rubric"]]
    record = {"query_id": row["task"], "messages": messages, "rubrics": rubrics}
    return [record | {"domain": row["topic"]}]


def _criterion(notes: Row) -> dict[str, Any]:
    """One of PRBench's criteria, whose weight stands in the column of its class."""
    for level in ("critically_", "", "slightly_"):
        for kind, sign in (("important", 1.0), ("detrimental", -1.0)):
            weight = notes.get(f"{level}{kind}_weight")
            if weight is not None and not math.isnan(float(weight)):
                points = sign * abs(float(weight))
                return {"criterion": notes["criteria_description"], "points": points}
    raise ValueError("a criterion without a weight")


def _routerbench(row: Row) -> list[dict[str, Any]]:
    """One score for each model: the columns that have a cost beside them."""
    query = _turns(str(row["prompt"]))
    models = [name.removesuffix("|total_cost") for name in row if name.endswith("|total_cost")]
    return [
        {
            "query_id": row["sample_id"],
            "query": query,
            "domain": row["eval_name"],
            "model": model,
            "score": float(row[model]),
        }
        for model in models
    ]


def _turns(text: str) -> str:
    """A prompt that is written as a Python list of turns, as one text."""
    if not text.startswith("["):
        return text
    try:
        turns = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text  # what literal_eval raises of a text that is no literal
    is_list = isinstance(turns, list) and all(isinstance(turn, str) for turn in turns)
    return "\n".join(turns) if is_list else text


_PARQUET = {"train": "data/train-*.parquet"}

HUB: dict[str, HubDataset] = {
    "arena-55k": HubDataset(
        repo="lmsys/lmsys-arena-human-preference-55k",
        files={"train": "train.csv"},
        form="votes",
        source="preference",
        convert=_battle("arena"),
    ),
    "gpt4-judge-battles": HubDataset(
        repo="routellm/gpt4_judge_battles",
        files=_PARQUET,
        form="votes",
        source="preference",
        convert=_battle("gpt-4"),
    ),
    "mmlu-battles": HubDataset(
        repo="routellm/mmlu_battles",
        files=_PARQUET,
        form="votes",
        source="gold",
        convert=_mmlu_battle,
    ),
    "gpt4-dataset": HubDataset(
        repo="routellm/gpt4_dataset",
        files=_PARQUET | {"validation": "data/validation-*.parquet"},
        form="scores",
        source="preference",
        convert=_weak_score,
    ),
    "mt-bench-human": HubDataset(
        repo="lmsys/mt_bench_human_judgments",
        files={"human": "data/human-*.parquet", "gpt4_pair": "data/gpt4_pair-*.parquet"},
        form="votes",
        source="preference",
        convert=_mt_bench_vote,
    ),
    "mmlu": HubDataset(
        repo="cais/mmlu",
        files={split: f"all/{split}-*.parquet" for split in ("test", "validation", "dev")},
        form="queries",
        source="gold",
        convert=_mmlu,
    ),
    "gsm8k": HubDataset(
        repo="openai/gsm8k",
        files={split: f"main/{split}-*.parquet" for split in ("test", "train")},
        form="queries",
        source="gold",
        convert=_gsm8k,
    ),
    "healthbench": HubDataset(
        repo="openai/healthbench",
        files={
            "all": "2025-05-07-06-14-12_oss_eval.jsonl",
            "hard": "hard_2025-05-08-21-00-10.jsonl",
            "consensus": "consensus_2025-05-09-20-00-46.jsonl",
        },
        form="queries",
        source="gold",
        convert=_healthbench,
    ),
    "prbench": HubDataset(
        repo="ScaleAI/PRBench",
        files={
            split: f"data/{split}-*.parquet"
            for split in ("finance", "legal", "finance_hard", "legal_hard")
        },
        form="queries",
        source="gold",
        convert=_prbench,
    ),
    "routerbench": HubDataset(
        repo="withmartian/routerbench",
        files={shots: f"routerbench_{shots}.parquet" for shots in ("0shot", "5shot")},
        form="scores",
        source="gold",
        convert=_routerbench,
        on_hub=False,
    ),
}
"""Public data sets by name."""
