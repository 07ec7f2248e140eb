"""What may be searched for, and that it folds as FTS5 folds."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from archive.errors import BadName
from archive.words.query import TOKENIZER, Query, Term, spaced, words_of

DB = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
DB.execute(f"CREATE VIRTUAL TABLE said USING fts5(text, tokenize='{TOKENIZER}')")
DB.execute("CREATE VIRTUAL TABLE bare USING fts5(text, content='', columnsize=0, detail=none, tokenize='" + TOKENIZER + "')")
DB.execute("CREATE VIRTUAL TABLE word USING fts5vocab(said, instance)")


def tokens(text: str) -> list[str]:
    """FTS5's own."""
    DB.execute("DELETE FROM said")
    DB.execute("INSERT INTO said(rowid, text) VALUES (1, ?)", (text,))
    return [word for (word,) in DB.execute("SELECT term FROM word ORDER BY offset")]


def found(query: str, text: str) -> bool:
    """Whether the index finds the text as a candidate for all terms."""
    DB.execute("INSERT INTO bare(bare) VALUES ('delete-all')")
    DB.execute("INSERT INTO bare(rowid, text) VALUES (1, ?)", (spaced(text),))
    return all(DB.execute("SELECT 1 FROM bare WHERE bare MATCH ?", (term.match(),)).fetchone() for term in Query.parse(query).terms)


WRITTEN = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("aAéÉñ ẞß\u0301\u0323-_./\x00\n世界ｶﾞ한국İıſǅ①½"), max_size=40)


@settings(max_examples=400, deadline=None)
@given(WRITTEN)
@example("Ångström NAÏVE e\u0323\u0302 \u0301 x\u0301\u20ddy İ ß ſ x\x00y ﬁ 🌍a 🤍a")
def test_words_fold_as_the_index_folds_them(text: str) -> None:
    single = "".join(f" {it} " if len(spaced(it)) > 1 else it for it in text)  # Chinese and Japanese one by one, as words_of has them
    assert words_of(text) == tokens(single)


@settings(max_examples=400, deadline=None)
@given(WRITTEN, st.data())
def test_what_a_text_holds_is_found_and_confirmed(text: str, data: st.DataObject) -> None:
    words = words_of(text)
    if not words:
        return
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, len(words) - 1))
    # A stretch of the text as it is written, cut at the words' ends.
    phrase = '"' + " ".join(words[first : last + 1]) + '"'
    assert Query.parse(phrase).matches([text])
    begun = f'"{" ".join([*words[first:last], words[last][:1]])}"*'
    assert Query.parse(begun).matches([text])
    if not any(len(spaced(it)) > 1 for it in "".join(words)):
        assert found(phrase, text)
        assert found(begun, text)


@settings(max_examples=400, deadline=None)
@given(WRITTEN, WRITTEN)
def test_nothing_is_confirmed_that_the_index_does_not_find(text: str, asked: str) -> None:
    try:
        query = Query.parse(asked)
    except BadName:
        return
    joined = all(len(spaced(it)) == 1 for it in text + asked)  # of Chinese, marks between two characters part them for the index alone
    if joined and query.matches([text]):
        assert found(asked, text)


@pytest.mark.parametrize(
    ("query", "text", "held"),
    [
        ("zurich", "Grüße aus ZÜRICH!", True),
        ("Zürich", "zurich", True),
        ("Grüße Zürich", "Zürich, viele Grüße", True),
        ('"Grüße Zürich"', "Zürich, viele Grüße", False),
        ('"viele Grüße"', "Zürich, viele -- Grüße", True),
        ("gpt-4o", "model GPT-4o.", True),
        ("gpt-4o", "gpt and 4o", False),
        ("/v1/chat", "POST /openai/v1/chat/completions", True),
        ("out_of_memory", "Out of memory", True),
        ("mem", "memory", False),
        ("mem*", "out of memory", True),
        ('"of mem"*', "out of memory", True),
        ("of-mem*", "out of memory", True),
        ("o-mem*", "out of memory", False),
        ("ab", "a b", False),
        ("世界", "你好，世界和平", True),
        ("界和平", "你好，世界和平", True),
        ("和", "你好，世界和平", True),
        ("平", "你好，世界和平", True),
        ("世平", "你好，世界和平", False),
        ("你好世界", "你好世界和平", True),
        ("カタカナ", "これはカタカナです", True),
        ("は カナ", "これはカタカナです", True),
        ("gpt世界", "gpt世界", True),
        ("서울", "서울에서", False),
        ("서울*", "서울에서", True),
        ("x", "line\x00x", True),
    ],
)
def test_queries_and_what_they_find(query: str, text: str, held: bool) -> None:
    assert Query.parse(query).matches([text]) is held
    if held:
        assert found(query, text)
        assert Query.parse(query).snippet(["nothing", text]) != ""


def test_chinese_and_japanese_are_found_without_spaces_between_words() -> None:
    text = "機械学習モデルの評価について、東京都で議論した。"
    for query in ("学習", "モデル", "東京", "京都", "評", "議論した", "機械学習モデルの評価"):
        assert found(query, text)
        assert Query.parse(query).matches([text])
    for query in ("習学", "東都", "大阪"):
        assert not found(query, text)


def test_terms_may_be_in_different_texts_but_a_phrase_in_one() -> None:
    texts = ["the quick brown", "fox jumps"]
    assert Query.parse("fox quick").matches(texts)
    assert not Query.parse('"brown fox"').matches(texts)
    assert not Query.parse("fox quick absent").matches(texts)


def test_a_query_is_read_as_people_write_it() -> None:
    assert Query.parse('  Error: "out of  memory" gpt-4* -- error').terms == (
        Term(("error",), False),
        Term(("out", "of", "memory"), False),
        Term(("gpt", "4"), True),
    )
    assert Query.parse('"never closed').terms == (Term(("never", "closed"), False),)
    assert Query.parse('a"b c"d').terms == (Term(("a",), False), Term(("b", "c"), False), Term(("d",), False))


@pytest.mark.parametrize(
    ("text", "hint"), [("", "word"), ("-- !", "word"), ("x" * 1001, "1000"), (" ".join(f"w{it}" for it in range(33)), "32")]
)
def test_a_search_that_cannot_be_says_what_to_do(text: str, hint: str) -> None:
    with pytest.raises(BadName, match=hint):
        Query.parse(text)


def test_nothing_in_a_query_is_an_operator_of_the_index() -> None:
    for query in ("a AND b", "NOT x", "NEAR(a b)", "text:x", "^a", "a OR b", "a + b", "{a}:b", "';DROP", "*", 'a"*'):
        try:
            parsed = Query.parse(query)
        except BadName:
            continue
        assert isinstance(found(query, "nothing"), bool)
        assert parsed.matches([query])


def test_a_snippet_shows_the_place() -> None:
    text = "x " * 500 + "Über den Wolken" + " y" * 500
    shown = Query.parse("wolken").snippet(["first", text], width=60)
    assert "Über den Wolken" in shown
    assert shown.startswith("…")
    assert shown.endswith("…")
    assert len(shown) <= 62
    assert Query.parse("absent").snippet([text]) == ""
