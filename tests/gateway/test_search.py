"""`verbatim search` as its users type it, on archives with an index and without one."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result
from commandline import running, verbatim
from samples import HOUR, Shelf, in_parts, whole

from archive.catalog.follow import Follower
from archive.record import id_text
from gateway import demo
from gateway.cli import cli


def asked(text: str) -> bytes:
    return json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}).encode()


def streamed(*pieces: str) -> bytes:
    return "".join(f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': it}}]})}\n\n" for it in pieces).encode()


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["search", *map(str, arguments)], prog_name="verbatim")


def follow(folder: Path) -> None:
    with closing(Follower(folder)) as follower:
        while follower.step():
            pass


@pytest.fixture(params=["indexed", "not indexed"])
def kept(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, list[str]]:
    """An archive of four exchanges, and their ids, oldest first."""
    shelf = Shelf(tmp_path / "kept")
    shelf.open()
    first, third, fourth = (
        whole(HOUR + 1, body=asked("Is there wind in Zürich today?"), answer=b'{"choices":[{"message":{"content":"calm"}}]}'),
        whole(HOUR + 3, body=asked("nothing to see\x1b[31m here \u202eever"), status=404),
        whole(HOUR + 4, body=asked("Is there wind in Zürich today?"), route="other"),
    )
    second = in_parts([streamed("Out of m", "em"), streamed("ory, said ", "the machine")], at=HOUR + 2)
    for each in ([first], second, [third], [fourth]):
        shelf.put(each)
    shelf.close()
    if request.param == "indexed":
        follow(shelf.folder)
    return shelf.folder, [id_text(it.id) for it in (first, second[0], third, fourth)]


def test_search_lists_the_newest_first_with_the_place(kept: tuple[Path, list[str]]) -> None:
    folder, ids = kept
    done = run("zurich", "wind", "--archive", folder)
    lines = done.stdout.splitlines()
    assert done.exit_code == 0
    assert [ids[3] in lines[0], ids[0] in lines[2], len(lines)] == [True, True, 4]
    assert lines[1] == lines[3] == "    user Is there wind in Zürich today?"
    assert run("zurich", "-n", "1", "--archive", folder).stdout.count("Zürich") == 1


def test_words_cut_over_the_events_and_parts_of_an_answer_are_found(kept: tuple[Path, list[str]]) -> None:
    folder, ids = kept
    (found,) = map(json.loads, run("memory", "--json", "--archive", folder).stdout.splitlines())
    assert found["id"] == ids[1]
    assert "Out of memory, said the machine" in found["snippet"]
    assert found["parts"] == 2


def test_a_word_that_a_stream_cut_in_two_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the upstream's socket to the words on the terminal."""
    monkeypatch.setattr("gateway.demo.chat.pieces", lambda text: [text[at : at + 3] for at in range(0, len(text), 3)])
    asked_for = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "What is Verbatim?"}]}
    with demo.running(pace=0) as url:
        flags = ["--port", "0", "--no-viewer", "--route", f"openai={url}"]
        with running(tmp_path, "serve", *flags) as gateway, httpx.Client(trust_env=False) as client:
            at = gateway.find(r"gateway +(http://\S+)\n") + "/openai/v1/chat/completions"
            answer = client.post(at, json=asked_for, headers={"Authorization": "Bearer x"})
            assert gateway.end() == 0
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    pieces = [choice["delta"].get("content") or "" for it in events for choice in it["choices"]]
    words = re.findall(r"[a-z]{5,}", "".join(pieces))
    cut = next(it for it in words if it not in answer.text)
    for index in (False, True):
        if index:
            assert verbatim(tmp_path, "index").returncode == 0
        for word in (cut, f"{cut[:-1]}*", '"' + re.search(rf"[\w]+ {cut}", "".join(pieces))[0] + '"'):  # type: ignore[index]
            done = verbatim(tmp_path, "search", word, "--json")
            assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [answer.headers["x-verbatim-id"]], done.stderr
            assert cut in json.loads(done.stdout)["snippet"]


def test_phrases_beginnings_headers_and_filters(kept: tuple[Path, list[str]]) -> None:
    folder, ids = kept

    def found(*arguments: str) -> list[str]:
        return [json.loads(line)["id"] for line in run(*arguments, "--json", "--archive", folder).stdout.splitlines()]

    assert found("out of memory") == found("mach*", "memor*") == [ids[1]]
    assert found("of out") == []
    assert found("of", "out") == [ids[1]]
    assert found("tester/1") == list(reversed(ids))
    assert found("gpt-4o", "--status", "404") == [ids[2]]
    assert found("gpt-4o", "--route", "other") == [ids[3]]


def test_control_characters_of_models_do_not_reach_the_terminal(kept: tuple[Path, list[str]]) -> None:
    folder, _ = kept
    done = run("nothing", "--archive", folder)
    assert "nothing to see" in done.stdout
    assert not {"\x1b", "\u202e"} & set(done.stdout)


def test_a_search_without_an_index_finds_the_same_and_says_how_to_make_it_quick(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "kept")
    shelf.put(whole(body=asked("alpha")))
    done = run("alpha", "--archive", shelf.folder)
    assert "alpha" in done.stdout
    assert "`verbatim index`" in done.stderr
    follow(shelf.folder)
    assert run("alpha", "--archive", shelf.folder).stderr == ""


def test_a_search_for_nothing_that_was_said_or_could_be(kept: tuple[Path, list[str]]) -> None:
    folder, _ = kept
    done = run("absent", "--archive", folder)
    assert done.exit_code == 0
    assert "Nothing recorded says that." in done.stderr
    assert done.stdout == run("absent", "--json", "--archive", folder).stdout == ""
    for wrong, hint in ((["--", "-"], "needs a word"), (["x" * 1001], "1000 characters"), (["x", "--status", "odd"], "status")):
        done = run("--archive", folder, *wrong)
        assert done.exit_code == 2
        assert hint in done.stderr
        assert len(done.stderr.splitlines()) == 1
    done = run("x", "--archive", folder / "none")
    assert done.exit_code == 2
    assert "to search" in done.stderr
