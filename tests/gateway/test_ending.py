"""Signals, in a process of their own: before it can end in order, and after."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from commandline import ROOT, clean_environment

SCRIPT = """
import os, signal, sys
from gateway.ending import Ending, at_a_terminal
before = signal.getsignal(signal.SIGTERM)
if sys.argv[1] == "ignored":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
print("terminal" if at_a_terminal() else "none")
with Ending(hangup_ends=sys.argv[1] == "ends") as ending:
    if sys.argv[2] == "begun":
        ending.on_end = lambda: print("end")
        ending.on_hangup = lambda: print("hangup")
    signal.raise_signal(signal.Signals[sys.argv[3]])
    print("goes on")
print("as before" if signal.getsignal(signal.SIGTERM) is before else "ours")
"""


def told(*arguments: str) -> list[str]:
    command = [sys.executable, "-P", "-W", "error", "-c", SCRIPT, *arguments]
    ran = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=True
    )
    return ran.stdout.split("\n")[1:-1]


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_before_it_can_end_in_order_a_signal_ends_the_process(number: str) -> None:
    assert told("reloads", "not yet", number) == []


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_afterwards_it_is_handed_on(number: str) -> None:
    assert told("reloads", "begun", number) == ["end", "goes on", "as before"]


def test_a_hangup_is_handed_on_or_ends_as_it_was_decided() -> None:
    assert told("reloads", "begun", "SIGHUP") == ["hangup", "goes on", "as before"]
    assert told("reloads", "not yet", "SIGHUP") == ["goes on", "as before"]
    assert told("ends", "begun", "SIGHUP") == ["end", "goes on", "as before"]
    assert told("ends", "not yet", "SIGHUP") == []


def test_nohup_is_heeded() -> None:
    script = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    for how, said in (("ends", "terminal"), ("ignored", "none")):
        command = [sys.executable, "-c", script, sys.executable, "-P", "-c", SCRIPT, how, "begun", "SIGTERM"]
        ran = subprocess.run(
            command, cwd=ROOT, env=clean_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
        )
        assert ran.stdout.split()[0] == said
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
