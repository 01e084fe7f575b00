"""Rows in files: read back in order, bounded, and taken over from processes that are gone."""

from __future__ import annotations

import itertools
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_makers import wait_for

from metarouter.errors import OptionError
from metarouter.store.spill import Spill

VOLUME = Path("/dev/shm")  # noqa: S108 - folders of random names are made in it


def _opened(folder: Path, instance: str = "a", **options: Any) -> Spill:
    spill = Spill(folder, instance=instance, **options)
    spill.open()
    return spill


def _rows(*numbers: int, text: str = "") -> list[dict[str, Any]]:
    return [{"decision_id": f"d{number}", "prompt": text} for number in numbers]


def _drained(spill: Spill, limit: int = 2) -> list[str]:
    names: list[str] = []
    while (batch := spill.next_batch(limit)) is not None:
        names += [row["decision_id"] for row in batch.rows]
        spill.done(batch)
    return names


def test_rows_come_back_in_order_and_their_files_go(tmp_path: Path) -> None:
    """Rows put aside while others are read back come after them; nothing stays behind."""
    spill = _opened(tmp_path / "spill")
    assert spill.append(_rows(1, 2, 3)) == 3
    first = spill.next_batch(2)
    assert first is not None
    assert spill.append(_rows(4)) == 1
    spill.done(first)
    assert [row["decision_id"] for row in first.rows] + _drained(spill) == ["d1", "d2", "d3", "d4"]
    assert spill.bytes_waiting == 0
    spill.close()
    assert list((tmp_path / "spill").iterdir()) == []


def test_a_batch_that_was_not_done_comes_again(tmp_path: Path) -> None:
    spill = _opened(tmp_path)
    spill.append(_rows(1, 2))
    assert spill.next_batch(9) == spill.next_batch(9)
    spill.close()


def test_only_the_owner_can_read_what_waits(tmp_path: Path) -> None:
    spill = _opened(tmp_path / "spill")
    spill.append(_rows(1))
    spill.set_down({"decision_id": None})
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "spill").iterdir()}
    assert (stat.S_IMODE((tmp_path / "spill").stat().st_mode), modes) == (0o700, {0o600})
    spill.close()


def test_rows_above_the_limit_are_not_kept(tmp_path: Path) -> None:
    """As many as fit are; what was read back makes room."""
    spill = _opened(tmp_path, limit=100)
    long = _rows(1, 2, 3, text="x" * 10)
    assert spill.append(long) == 2
    assert spill.append(long) == 0
    assert _drained(spill) == ["d1", "d2"]
    assert spill.append(long[:1]) == 1
    spill.close()


def test_long_files_are_read_in_pieces(tmp_path: Path) -> None:
    """Neither a file nor a batch grows with what waits."""
    spill = _opened(tmp_path, file_bytes=300, batch_bytes=100)
    for number in range(20):
        spill.append(_rows(number, text="x" * 30))
    assert len(list(tmp_path.glob("*.jsonl"))) == 4  # of five rows, 62 bytes each
    batch = spill.next_batch(1000)
    assert batch is not None
    assert len(batch.rows) == 2
    assert _drained(spill, 1000) == [f"d{number}" for number in range(20)]
    spill.close()


def test_a_line_cut_by_a_crash_does_no_harm(tmp_path: Path) -> None:
    spill = _opened(tmp_path)
    spill.append(_rows(1))
    spill.close()
    (path,) = tmp_path.glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"decision_id": "cut')
    heir = _opened(tmp_path, "b")
    assert heir.adopt() == 1
    assert _drained(heir) == ["d1"]
    heir.close()


def test_files_that_somebody_removed_do_no_harm(tmp_path: Path) -> None:
    spill = _opened(tmp_path)
    spill.append(_rows(1))
    assert spill.next_batch(9) is not None
    for path in tmp_path.glob("*.jsonl"):
        path.unlink()
    assert _drained(spill) == []
    spill.close()


def test_a_living_process_keeps_its_files(tmp_path: Path) -> None:
    """They are taken over once it closes, by one process only."""
    living = _opened(tmp_path, "living")
    living.append(_rows(1))
    heirs = [_opened(tmp_path, name) for name in ("b", "c")]
    assert [heir.adopt() for heir in heirs] == [0, 0]
    living.close()
    assert sum(heir.adopt() for heir in heirs) == 1
    assert sorted(name for heir in heirs for name in _drained(heir)) == ["d1"]
    for heir in heirs:
        heir.close()
    assert list(tmp_path.iterdir()) == []


_PROGRAM = """
import sys, time
from pathlib import Path
from metarouter.store.spill import Spill
spill = Spill(Path(sys.argv[1]), instance="killed")
spill.open()
spill.append([{"decision_id": "d1"}])
print("ready", flush=True)
time.sleep(60)
"""


def test_the_files_of_a_killed_process_are_taken_over(tmp_path: Path) -> None:
    """Not while it lives; the system lets go of its lock when it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, tmp_path], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        heir = _opened(tmp_path, "heir")
        assert heir.adopt() == 0
        process.kill()
    wait_for(heir.adopt)
    assert _drained(heir) == ["d1"]
    heir.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not VOLUME.is_dir(), reason="no second filesystem")
def test_a_folder_on_a_volume_of_its_own_is_opened(tmp_path: Path) -> None:
    """As in a container, where the folder above it is on another filesystem, and read-only."""
    with tempfile.TemporaryDirectory(dir=VOLUME) as volume:
        (tmp_path / "spill").symlink_to(volume)
        spill = _opened(tmp_path / "spill")
        assert spill.append(_rows(1)) == 1
        assert _drained(spill) == ["d1"]
        spill.close()


def test_text_that_is_no_text_is_kept_all_the_same(tmp_path: Path) -> None:
    spill = _opened(tmp_path)
    assert spill.append(_rows(1, text="half \ud800 a surrogate")) == 1
    batch = spill.next_batch(9)
    assert batch is not None
    assert batch.rows[0]["prompt"] == "half \ufffd a surrogate"
    spill.close()


def test_a_folder_that_cannot_be_made_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match=r"store\.spill = .*file/spill: cannot be written"):
        _opened(tmp_path / "file" / "spill")


def test_a_file_that_cannot_be_made_drops_rows_and_says_so(tmp_path: Path) -> None:
    spill = _opened(tmp_path / "spill")
    (tmp_path / "spill").rename(tmp_path / "gone")
    assert spill.append(_rows(1)) == 0
    spill.close()


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 1), st.integers(1, 4)),
        st.tuples(st.just("take"), st.integers(0, 1), st.integers(1, 3)),
        st.tuples(st.just("die"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("adopt"), st.integers(0, 1), st.just(0)),
    ),
    max_size=30,
)


@given(steps=_STEPS)
def test_every_row_comes_back_whoever_dies_when(steps: list[tuple[str, int, int]]) -> None:
    """Two processes put aside, read back, die and take over, in any order."""
    names = (f"process{number}" for number in itertools.count())
    rows = itertools.count()
    put: list[str] = []
    taken: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        alive = [_opened(Path(folder), next(names)) for _ in range(2)]
        for action, who, n in steps:
            if action == "append":
                made = _rows(*itertools.islice(rows, n))
                put += [row["decision_id"] for row in made]
                assert alive[who].append(made, is_safe=False) == n
            elif action == "take" and (batch := alive[who].next_batch(n)) is not None:
                taken += [row["decision_id"] for row in batch.rows]
                alive[who].done(batch)
            elif action == "die":
                alive[who].close()
                alive[who] = _opened(Path(folder), next(names))
            elif action == "adopt":
                alive[who].adopt()
        for spill in alive:
            spill.adopt()
            taken += _drained(spill)
            spill.close()
        # a file that was read in part when its owner died is read again from its start
        assert set(taken) == set(put)
        assert list(Path(folder).iterdir()) == []
