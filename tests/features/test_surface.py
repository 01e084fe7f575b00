"""Surface features say what their names say."""

from __future__ import annotations

import math

import pytest

from metarouter.features import SURFACE_NAMES, SurfaceFeatures


def described(text: str) -> dict[str, float]:
    return dict(zip(SURFACE_NAMES, SurfaceFeatures().embed([text])[0].tolist(), strict=True))


@pytest.mark.parametrize(
    ("text", "feature", "count"),
    [
        ("four", "log_chars", 4),
        ("one two  three", "log_words", 3),
        ("a b a", "log_distinct_words", 2),
        ("abc d", "log_longest_word", 3),
        ("abc d", "log_mean_word", 2),
        ("1 and 22", "log_digit", 3),
        ("x = 3*y + 2", "log_operator", 3),
        ("What? What.", "log_what", 2),
        ("Which of the following:\nA. x\nB. y", "log_option_letter", 2),
        ("This is not so, except here", "log_negation", 2),
        ("```\ncode\n```", "log_code_fence", 2),
        ("say \\frac12 $$x$$", "log_latex_command", 3),
        ("user: hi\nassistant: ho\nuser: hm", "log_turn", 3),
        ("жар", "log_greek_cyrillic", 3),
        ("中文", "log_cjk", 2),
        ("¿qué?", "log_latin_accented", 2),
        ("der Hund und die Katze", "log_german", 3),
        ("see https://x.org", "log_link", 1),
    ],
)
def test_counts_come_as_the_logarithm_of_one_more(text: str, feature: str, count: int) -> None:
    assert described(text)[feature] == pytest.approx(math.log1p(count), rel=1e-6)


def test_shares_are_of_bytes() -> None:
    assert described("ab12")["share_digit"] == pytest.approx(0.5)


def test_a_question_mark_counts_only_at_the_end() -> None:
    assert described("Why? Because.")["ends_in_question"] == 0
    assert described("Because. Why? \n")["ends_in_question"] == 1


def test_an_empty_text_has_all_features_zero() -> None:
    assert set(described("").values()) == {0.0}


def test_names_are_distinct() -> None:
    assert len(set(SURFACE_NAMES)) == len(SURFACE_NAMES) == SurfaceFeatures().dim
