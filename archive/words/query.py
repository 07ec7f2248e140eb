"""What is searched for: words, phrases and beginnings, folded as the index folds them, and whether texts hold them.

The index is SQLite's FTS5 with `unicode61 remove_diacritics 2`. Which characters make words and what they fold to is asked of FTS5
itself, once a character, in memory: no table of ours can differ from it. Chinese and Japanese have no spaces between words, so each
pair of neighbouring characters is indexed as a word. Opens no files.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final

from archive.database import connect
from archive.errors import BadName

__all__ = ["Query", "Term", "spaced", "words_of"]

TOKENIZER: Final = "unicode61 remove_diacritics 2"

_LONGEST: Final = 1000
"""Characters of a query: more than anyone types."""
_TERMS: Final = 32

# Han with extensions, Hiragana, Katakana (half-width too), Bopomofo, and the marks that repeat or lengthen a character. Korean is
# written with spaces.
_CHINESE_JAPANESE: Final = (
    "\u3005-\u3007\u3031-\u3035\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af"
)
_RUN: Final = re.compile(f"[{_CHINESE_JAPANESE}]+")
_ONE: Final = re.compile(f"([{_CHINESE_JAPANESE}])")
_PIECE: Final = re.compile(r'"([^"]*)"?(\*?)|([^\s"]+)')


def spaced(text: str) -> str:
    """`text` as it is given to FTS5: a run of Chinese or Japanese as its pairs of neighbours, and its last character.

    So each character begins one word of the index, and one character alone is found as a beginning.
    """
    if text.isascii() or not _RUN.search(text):
        return text
    return _RUN.sub(lambda run: f" {' '.join(run[0][at : at + 2] for at in range(len(run[0])))} ", text)


def words_of(text: str) -> list[str]:
    """The words of `text` as the index knows them; each Chinese or Japanese character one by one."""
    return _folded(text).split()


@dataclass(frozen=True, slots=True)
class Term:
    """Words one after another; `begins`: the last of them may go on."""

    words: tuple[str, ...]
    begins: bool

    def match(self) -> str:
        """For FTS5's MATCH: the texts that hold all the words in any order, as far as an index without positions can tell."""
        asked = []
        for at, word in enumerate(self.words):
            chinese = bool(_ONE.fullmatch(word))
            if chinese and at + 1 < len(self.words) and _ONE.fullmatch(self.words[at + 1]):
                asked.append(f'"{word}{self.words[at + 1]}"')
            elif chinese and at and _ONE.fullmatch(self.words[at - 1]):
                continue  # the second of a pair
            else:
                asked.append(f'"{word}"' + (" *" if chinese or (self.begins and at + 1 == len(self.words)) else ""))
        return " ".join(asked)

    def is_whole(self) -> bool:
        """Whether `match` asks for whole words only, which FTS5 answers for some texts without gathering all that hold them."""
        return "*" not in self.match()


@dataclass(frozen=True, slots=True)
class Query:
    """All of `terms`, each in any text of one exchange."""

    terms: tuple[Term, ...]

    @classmethod
    def parse(cls, text: str) -> Query:
        """Words apart by spaces, all of which must be said; "words in quotation marks", or joined by marks as in gpt-4o, one after
        another; begin* for all words that begin so. Case and accents do not matter, nor do marks.

        Raises BadName for a text without a word, or one too long.
        """
        if len(text) > _LONGEST:
            raise BadName(f"a search has at most {_LONGEST} characters; leave out the least telling words")
        terms: dict[Term, None] = {}
        for quoted, star, plain in _PIECE.findall(text):
            piece = plain or quoted
            if words := words_of(piece):
                terms[Term(tuple(words), bool(star) or piece.endswith("*"))] = None
        if not terms:
            raise BadName('a search needs a word of letters or digits, such as Zürich, "out of memory" or gpt-4*')
        if len(terms) > _TERMS:
            raise BadName(
                f"a search has at most {_TERMS} words; leave out the least telling ones, or put what belongs together in quotation marks"
            )
        return cls(tuple(terms))

    def is_plain(self) -> bool:
        """Whether each term is one word: an index of words without their order is sure of these."""
        return all(len(term.words) == 1 for term in self.terms)

    def matches(self, texts: Iterable[str]) -> bool:
        """Whether each term is in one of `texts` (what one exchange says, as `archive.words.text` has it); asks for no more of them than it
        needs."""
        wanted = list(self.terms)
        for text in texts:
            wanted = [term for term in wanted if _place(term, text) is None]
            if not wanted:
                return True
        return False

    def snippet(self, texts: Sequence[str], *, width: int = 160) -> str:
        """About `width` characters around the place where the first term that is found stands; "" when none is. Raw: no control
        character is taken out."""
        for term in self.terms:
            for text in texts:
                at = _place(term, text)
                if at is not None:
                    begin = max(0, at - width // 3)
                    return ("…" if begin else "") + text[begin : begin + width] + ("…" if begin + width < len(text) else "")
        return ""


def _place(term: Term, text: str) -> int | None:
    """About where `text` holds the term; None where it does not."""
    if text.isascii():
        lower = text.lower()
        if any(word not in lower for word in term.words):
            return None  # as nearly all texts: ten times quicker than folding them
    pattern = "(?:^| )" + " +".join(map(re.escape, term.words)) + ("" if term.begins else "(?: |$)")
    found = re.search(pattern, _folded(text))
    return None if found is None else min(found.start(), len(text))


# Folding.


def _folded(text: str) -> str:
    """`text` with every word folded, and spaces for all that is none."""
    return _ONE.sub(r" \1 ", text.translate(_FOLDS)) if not text.isascii() else text.translate(_FOLDS)


class _Folds(dict[int, str]):
    """What each character is to the index: itself folded, a space where it parts words, nothing where it is a mark upon a letter.

    Filled as characters are met. Any thread may use it.
    """

    def __init__(self) -> None:
        super().__init__({code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)})
        self._lock = Lock()
        self._known: sqlite3.Connection | None = None

    def __missing__(self, code: int) -> str:
        with self._lock:
            folded = self[code] = self._ask(code) if not 0xD800 <= code < 0xE000 else " "
        return folded

    def _ask(self, code: int) -> str:
        if self._known is None:
            self._known = connect(":memory:")
            self._known.execute(f"CREATE VIRTUAL TABLE said USING fts5(text, tokenize='{TOKENIZER}')")
            self._known.execute("CREATE VIRTUAL TABLE word USING fts5vocab(said, instance)")
        self._known.execute("INSERT INTO said(rowid, text) VALUES (1, ?)", (f"x{chr(code)}y",))
        words = [word for (word,) in self._known.execute("SELECT term FROM word ORDER BY offset")]
        self._known.execute("DELETE FROM said")
        return words[0][1:-1] if len(words) == 1 else " "


_FOLDS: Final = _Folds()
