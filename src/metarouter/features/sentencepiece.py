"""SentencePiece models of the unigram kind, read as data for the tokenizer in Rust.

Such a file is a protocol buffer: pieces with their scores, and a table that
normalises characters. Reading these three things takes no SentencePiece.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["read_unigram"]

# Field numbers of sentencepiece_model.proto.
_PIECES, _NORMALIZER = 1, 3
_TEXT, _SCORE, _TYPE = 1, 2, 3
_CHARSMAP = 2
_NORMAL = 1
# Wire types of a protocol buffer, and the lengths of those whose length is fixed.
_VARINT, _BYTES = 0, 2
_LENGTH = {1: 8, 5: 4}


def read_unigram(file: Path) -> Tokenizer:
    """The tokenizer that a SentencePiece file describes.

    Spaces are evened out and one is put before the text, as SentencePiece does
    unless it is told otherwise. The unknown piece is the first. Control pieces
    are never read off a text, a run of unknown characters is one piece.

    Parameters
    ----------
    file : Path of a unigram model. No piece of it may have ``▁`` after another
        character, which is so unless it was trained across spaces.

    References
    ----------
    Kudo, Richardson (2018), SentencePiece, https://arxiv.org/abs/1808.06226
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    model = _fields(file.read_bytes())
    charsmap = _fields(model[_NORMALIZER][0])[_CHARSMAP][0]
    pieces = [_piece(_fields(message)) for message in model[_PIECES]]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(charsmap),
            normalizers.Replace(Regex(" +"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def _piece(fields: dict[int, list[Any]]) -> tuple[str, float]:
    text: str = fields[_TEXT][0].decode()
    score: float = struct.unpack("<f", fields[_SCORE][0])[0] if _SCORE in fields else 0.0
    # With a space before it, which no normalised word holds, a control piece is never matched.
    return (text if fields.get(_TYPE, [_NORMAL]) == [_NORMAL] else f" {text}"), score


def _fields(message: bytes) -> dict[int, list[Any]]:
    """Values of a protocol buffer by field number: whole numbers, all else as bytes."""
    found: dict[int, list[Any]] = {}
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        value: int | bytes
        if key & 7 == _VARINT:
            value, at = _varint(message, at)
        else:
            size, at = _varint(message, at) if key & 7 == _BYTES else (_LENGTH[key & 7], at)
            value, at = message[at : at + size], at + size
        found.setdefault(key >> 3, []).append(value)
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and where it ends."""
    value = shift = 0
    while True:
        octet = message[at]
        value |= (octet & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if octet < 0x80:
            return value, at
