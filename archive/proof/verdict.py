"""The verdict of a verification in one sentence. Words only: what was found is in the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from archive.proof.report import RemovedFrom, Report, counted

__all__ = ["named", "sentence", "unproven"]

_NAMES: Final = 5
"""Hours that a sentence names; the report has them all."""


def named(hours: Sequence[str], most: int = _NAMES) -> str:
    """Hours by name, the first of them where there are many."""
    further = f" and {len(hours) - most:,} more" if len(hours) > most else ""
    return ", ".join(hours[:most]) + further


def sentence(report: Report) -> str:
    """The verdict, with what matters most."""
    if not report.files and not report.gone and not report.damages:
        if report.unproven:
            return "unproven: there are no recordings here, so there is nothing that your key vouches for"
        return "complete: there are no recordings here"
    held, removed, doubted = _held(report) + _declined(report), _removed(report), ", ".join(unproven(report))
    if report.verdict == "complete":
        return f"complete{f' but for {removed}' if removed else ''}: {held}, nothing missing{_unclosed(report)}"
    wrong = {
        "unproven": [doubted],
        "incomplete": [_missing(report), doubted],
        "damaged": [_damaged(report), _repeated(report), _missing(report), doubted],
    }[report.verdict]
    removed = f"; {removed}" if removed else ""
    return f"{report.verdict}: {'; '.join(filter(None, wrong))}; {held}{removed}{_unclosed(report)}"


def _declined(report: Report) -> str:
    if not report.declined:
        return ""
    return f", {counted(report.declined, 'exchange')} not recorded as {'its client' if report.declined == 1 else 'their clients'} asked"


def _held(report: Report) -> str:
    sealed = sum(hour.sealed for hour in report.hours)
    said = f"{counted(report.files, 'hour')}, {counted(report.members, 'record')}"
    if sealed:
        said += _sealed(report, sealed)
    if sealed < report.files:
        said += f", {'none sealed' if not sealed else f'{report.files - sealed:,} not'} (checksums and numbers are all that can be checked)"
    return said


def _sealed(report: Report, sealed: int) -> str:
    fitting = sum(bool(hour.as_sealed) for hour in report.hours)
    if fitting < sealed:
        some = format(fitting, ",") if fitting else "none"
        return f", {sealed:,} sealed, {some} of them as {'it was' if fitting == 1 else 'they were'} sealed"
    chained = report.head is not None and not (report.gone or any(each.file.suffix == ".json" for each in report.damaged))
    return f", {'all' if sealed == report.files else format(sealed, ',')} sealed{' and chained' if chained else ''}"


def _damaged(report: Report) -> str:
    if not report.damages:
        return ""
    first = report.damaged[0]
    known = ", known when it was sealed" if all(each.known for each in report.damaged) else ""
    where = f"the first in {first.file} at byte {first.offset:,}, {counted(first.length, 'byte')}"
    return f"{counted(report.damages, 'place')}{known}, {where}: {first.why}"


def _repeated(report: Report) -> str:
    twice = sum(each.count for each in report.repeated)
    return f"{counted(twice, 'record')} {'is' if twice == 1 else 'are'} there twice" if twice else ""


def _missing(report: Report) -> str:
    parts = []
    if report.gone:
        parts.append(f"{counted(len(report.gone), 'sealed hour')} {'is' if len(report.gone) == 1 else 'are'} gone")
    if unexplained := sum(each.count for each in report.missing if not each.why.startswith("damaged")):  # those are told of as damage
        parts.append(f"{counted(unexplained, 'record')} {'is' if unexplained == 1 else 'are'} missing and no gap record tells why")
    if told := sum(gap.records for gap in report.gaps):
        reasons = dict.fromkeys(gap.why for gap in report.gaps if gap.records)
        parts.append(f"{counted(told, 'record')} {'was' if told == 1 else 'were'} lost as gap records say ({'; '.join(reasons)})")
    return ", ".join(parts)


def unproven(report: Report, most: int = _NAMES) -> list[str]:
    """Which hours are unproven, a text for each reason."""
    reasons = dict[tuple[str, str], list[str]]()
    for each in report.unproven:
        reasons.setdefault(("hour" if each.segment else "folder", each.why), []).append(each.segment or str(each.file))
    return [
        f"{counted(len(hours), noun)} {'is' if len(hours) == 1 else 'are'} {why} ({named(hours, most)})"
        for (noun, why), hours in reasons.items()
    ]


def _removed(report: Report) -> str:
    forgotten = [each for each in report.removed if each.kind == "forget"]
    pruned = [each for each in report.removed if each.kind == "prune"]
    parts = []
    if forgotten:
        parts.append(f"{counted(sum(each.records for each in forgotten), 'record')} removed on request ({_hours(forgotten)})")
    if pruned:
        held = counted(sum(each.records for each in pruned), "record")
        parts.append(f"{counted(len(pruned), 'hour')} of {held} removed as being the oldest ({_hours(pruned)})")
    said = " and ".join(parts)
    if any(each.proof == "not sealed" for each in report.removed):
        said += ", as a line tells that is not sealed yet"
    return said


def _hours(removed: Sequence[RemovedFrom]) -> str:
    return named([each.segment for each in removed])


def _unclosed(report: Report) -> str:
    killed = sum(writer.killed for writer in report.writers)
    others = sum(not (writer.closed or writer.killed) for writer in report.writers)
    said = f"; {counted(killed, 'writer')} {'was' if killed == 1 else 'were'} killed, with what had not been written" if killed else ""
    if not others:
        return said
    elsewhere = ", or closed in an hour that was not given" if report.partial else ""
    return said + f"; {counted(others, 'writer')} {'has' if others == 1 else 'have'} not closed: still at work, or killed{elsewhere}"
