"""More than the gateway may take, and more than it has descriptors for. Small enough for a busy machine; `soak.overload` can do more."""

from __future__ import annotations

from pathlib import Path

from soak.overload import exhausted, overload

ENOUGH = 0.5
"""Of what was let in at the usual rate, so much must be under five times of it. On a quiet machine it is all; the load itself needs the
processor, too, and a machine that others use may have half of it left."""


def test_five_times_the_load_is_refused_at_once_and_what_is_let_in_is_answered_and_recorded(tmp_path: Path) -> None:
    """Acceptance J123."""
    outcome = overload(tmp_path, streams=20, delay=0.1, seconds=4.0)
    print(outcome.usual.told(), outcome.over.told(), outcome.recovered)
    over = outcome.over
    assert set(outcome.usual.answers) <= {"200", "503 overloaded"}
    assert set(over.answers) == {"200", "503 overloaded"}  # nobody was cut off, nobody waited in vain
    assert over.answers["503 overloaded"] > 100
    assert over.goodput > outcome.usual.goodput * ENOUGH
    assert all(seconds.isdigit() and int(seconds) >= 1 for seconds in over.retry_after)
    assert outcome.recovered <= 5.0
    assert outcome.fds[1] <= outcome.fds[0]
    assert outcome.overloaded == over.answers["503 overloaded"] + outcome.usual.answers["503 overloaded"] + outcome.refused_after
    assert (set(outcome.archived.values()), outcome.lost) == ({1}, 0)
    assert outcome.accepted <= set(outcome.archived)
    assert "Traceback" not in outcome.log


def test_more_clients_than_descriptors_are_refused_and_nothing_breaks(tmp_path: Path) -> None:
    """Acceptance J123."""
    crowd = exhausted(tmp_path, nofile=100, connections=600)
    print(crowd.during.told(), crowd.after.told())
    answers = crowd.during.answers
    assert answers["200"] >= 10  # those who found room
    assert answers["503 overloaded"] > 0
    # Whoever came when there was not even a descriptor to refuse with found a closed connection, never an answer that was not meant.
    assert set(answers) <= {"200", "503 overloaded", "502 upstream_unreachable", "ConnectionResetError", "IncompleteReadError"}
    assert crowd.after.answers["200"] == 20
    assert crowd.fds[1] <= crowd.fds[0]
    assert crowd.during.nonces | crowd.after.nonces <= set(crowd.archived)
    assert set(crowd.archived.values()) == {1}
    assert "Traceback" not in crowd.log
