"""From figures to judgement: medians of the rounds, the goals, the Markdown tables. Pure: no clock, no process, no file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Cells = Mapping[tuple[str, str], Mapping[str, float]]
"""(contender, workload) -> the median figures."""


def medians(rounds: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, float]]:
    """The median of every figure over the rounds. Added latency (`added_*`) is taken against `direct` in the same round first.

    Of memory the highest counts, of exactness the lowest; errors add up.
    """
    rounds = list(rounds)
    direct = {(cell["round"], cell["workload"]): cell["figures"] for cell in rounds if cell["contender"] == "direct"}
    gathered: dict[tuple[str, str], dict[str, list[float]]] = {}
    for cell in rounds:
        figures = dict(cell["figures"])
        base = direct.get((cell["round"], cell["workload"]), {})
        if cell["contender"] != "direct":
            figures |= {f"added_{name}": value - base[name] for name, value in figures.items() if name.endswith("_ms") and name in base}
        values = gathered.setdefault((cell["contender"], cell["workload"]), {})
        for name, value in figures.items():
            values.setdefault(name, []).append(value)
    special: dict[str, Callable[[list[float]], float]] = {"peak_mb": max, "archived": min, "errors": sum, "unaccounted": max}
    return {key: {name: float(special.get(name, median)(each)) for name, each in values.items()} for key, values in gathered.items()}


@dataclass(frozen=True, slots=True)
class Goal:
    """One sentence of the requirement, what was measured, and whether that is enough."""

    what: str
    measured: str
    met: bool | None
    """None: could not be measured in this run."""
    short: str = ""

    @property
    def verdict(self) -> str:
        return "not measured" if self.met is None else "met" if self.met else f"**short** {self.short}"


def goals(cells: Cells) -> list[Goal]:
    """Every goal of the requirement, in its order."""
    most, least = _at_most(cells), _at_least(cells)
    found = [
        most("CPU per request, 1 KB at 1,000/s: at most 2x nginx", "json-rate", "cpu_ms", 2),
        most("CPU per request, 1 KB at saturation: at most 2x nginx", "json", "cpu_ms", 2),
        most("CPU per request, 200 KB at 200/s: at most 1x nginx", "upload-rate", "cpu_ms", 1),
        most("CPU per request, 200 KB at saturation: at most 1x nginx", "upload", "cpu_ms", 1),
        most("CPU per paced stream: at most 1.5x nginx", "sse-paced", "cpu_ms", 1.5),
        most("CPU per request, 1 KB, TLS upstream, at 1,000/s: at most 1.2x nginx", "tls-rate", "cpu_ms", 1.2),
        most("CPU per request, 1 KB, TLS upstream, at saturation: at most 1.2x nginx", "tls", "cpu_ms", 1.2),
        _lag(cells),
    ]
    for other, title in (("caddy", "Caddy"), ("node", "Node")):
        for workload, size in (("json", "1 KB"), ("upload", "200 KB")):
            found.append(least(f"requests per second, {size}: more than {title}", "off", other, workload, 1))
    for contender, where in (("on", "on one core"), ("on2", "on any core")):
        if (contender, "json") in cells or contender == "on":
            found.append(least(f"recording {where}, 1 KB: at least 0.85x of not recording", contender, "off", "json", 0.85))
        if (contender, "upload") in cells or contender == "on":
            found.append(least(f"recording {where}, 200 KB: at least 25x LiteLLM's pass-through", contender, "litellm", "upload", 25))
            found.append(least(f"recording {where}, 200 KB: at least 4x mitmdump writing flows", contender, "mitmdump", "upload", 4))
    for workload, size in (("json-rate", "1 KB at 1,000/s"), ("upload-rate", "200 KB at 200/s")):
        found.append(_calm(cells, workload, f"p99 of {size}, recording: at most 1.5x of not recording"))
    if ("workers2", "json") in cells:
        found.append(least("two workers, 1 KB: at least 1.7x one", "workers2", "off2", "json", 1.7))
    for contender in ("on", "on2"):
        for workload, size in (("json", "1 KB"), ("upload", "200 KB")):
            if (contender, workload) in cells or contender == "on":
                found.append(
                    _bounded(cells, contender, workload, f"memory at saturation, {size}{'' if contender == 'on' else ', any core'}")
                )
    return found + _crowd(cells) + _archive(cells)


def _at_most(cells: Cells) -> Any:
    def goal(what: str, workload: str, figure: str, times: float) -> Goal:
        ours, theirs = _get(cells, "off", workload, figure), _get(cells, "nginx", workload, figure)
        if not ours or not theirs:
            return Goal(what, "", None)
        ratio = ours / theirs
        return Goal(what, f"{ratio:.2f}x ({ours:.3f} / {theirs:.3f} ms)", ratio <= times, f"by {ratio / times:.2f}x")

    return goal


def _at_least(cells: Cells) -> Any:
    def goal(what: str, one: str, other: str, workload: str, times: float) -> Goal:
        ours, theirs = _get(cells, one, workload, "per_s"), _get(cells, other, workload, "per_s")
        if not ours or not theirs:
            return Goal(what, "", None)
        ratio = ours / theirs
        return Goal(what, f"{ratio:.2f}x ({ours:,.0f} / {theirs:,.0f} per s)", ratio >= times, f"by {times / ratio:.2f}x")

    return goal


def _lag(cells: Cells) -> Goal:
    what = "an event's way, p99 at 32 streams: at most 3 ms more than without a proxy"
    if ("off", "sse-32") not in cells or ("direct", "sse-32") not in cells:
        return Goal(what, "", None)
    lag = _get(cells, "off", "sse-32", "added_event_p99_ms")
    recording = _get(cells, "on", "sse-32", "added_event_p99_ms")
    return Goal(what, f"{lag:.2f} ms, recording {recording:.2f}", lag <= 3, f"by {lag - 3:.1f} ms")


def _calm(cells: Cells, workload: str, what: str) -> Goal:
    on, off = _get(cells, "on", workload, "p99_ms"), _get(cells, "off", workload, "p99_ms")
    if not on or not off:
        return Goal(what, "", None)
    return Goal(what, f"{on / off:.2f}x ({on:.2f} / {off:.2f} ms)", on <= 1.5 * off, f"by {on / off / 1.5:.2f}x")


QUEUE_MB = 64 * 1.048576
WORK_MB = 64.0
"""What a batch in the writer's hands may take beside the queue: records as lines and as members, and requests in flight."""


def _bounded(cells: Cells, contender: str, workload: str, what: str) -> Goal:
    what += f": at most the queue ({QUEUE_MB:.0f} MB) and {WORK_MB:.0f} MB over idle, every exchange archived or counted as dropped"
    idle, peak = _get(cells, contender, workload, "idle_mb"), _get(cells, contender, workload, "peak_mb")
    if not idle or not peak:
        return Goal(what, "", None)
    lost = _get(cells, contender, workload, "unaccounted")
    dropped = _get(cells, contender, workload, "dropped")
    text = f"{peak:.0f} MB, idle {idle:.0f}; {dropped:,.0f} dropped, {lost:,.0f} unaccounted for"
    over = peak - idle - QUEUE_MB - WORK_MB
    reasons = ([f"{over:.0f} MB over"] if over > 0 else []) + ([f"{lost:.0f} lost"] if lost else [])
    return Goal(what, text, not reasons, ", ".join(reasons))


def _crowd(cells: Cells) -> list[Goal]:
    """The goals for a thousand streams at once."""
    found = []
    for contender, title in (("off", "not recording"), ("on", "recording")):
        figures = cells.get((contender, "crowd"))
        what = f"{figures['streams']:,.0f} paced streams at once, {title}" if figures else f"1,000 paced streams at once, {title}"
        if not figures:
            found.append(Goal(what, "", None))
            continue
        for name, figure, limit, unit in (
            ("memory", "peak_mb", 150, "MB"),
            ("time over ideal", "over_ideal_s", 5, "s"),
            ("CPU", "cpu_s", 10, "s"),
        ):
            value = figures[figure]
            found.append(
                Goal(f"{what}: {name} at most {limit} {unit}", f"{value:.1f} {unit}", value <= limit, f"by {value - limit:.1f} {unit}")
            )
        wrong = figures["errors"]
        found.append(Goal(f"{what}: every stream whole", f"{wrong:.0f} broken", not wrong, f"by {wrong:.0f}"))
        if "archived" in figures:
            missing = figures["streams"] - figures["archived"]
            found.append(
                Goal(f"{what}: archive exact", f"{figures['archived']:,.0f} of {figures['streams']:,.0f}", not missing, f"by {missing:.0f}")
            )
    return found


WRITER: Sequence[tuple[str, str, int]] = (("2 KB", "write-2", 25_000), ("20 KB", "write-20", 12_000), ("200 KB", "write-200", 1_500))


def _archive(cells: Cells) -> list[Goal]:
    """The goals for the archive's writer, for what telling it costs the loop, and for what others feel."""
    found = []
    for size, workload, least in WRITER:
        ours, theirs = _get(cells, "writer", workload, "per_s"), _get(cells, "codexlike", workload, "per_s")
        cpu = _get(cells, "writer", workload, "cpu_us")
        text = f"{ours:,.0f} per s, {1e6 / (cpu or 1):,.0f} per CPU second" + (
            f"; {ours / theirs:,.1f}x of one like codex-lb" if theirs else ""
        )
        goal = Goal(
            f"writer on one core, {size}: at least {least:,} records per second", text, ours >= least, f"by {least / (ours or 1):.2f}x"
        )
        found.append(goal if ours else Goal(goal.what, "", None))
    for what, figure, most in (("a record", "record_us", 5.0), ("a stream chunk", "chunk_us", 2.0)):
        ours, theirs = _get(cells, "writer", "enqueue", figure), _get(cells, "codexlike", "enqueue", figure)
        goal = Goal(
            f"telling {what} costs the event loop at most {most:g} us",
            f"{ours:.2f} us, like codex-lb {theirs:.1f} us",
            ours <= most,
            f"by {ours / most:.2f}x",
        )
        found.append(goal if ours else Goal(goal.what, "", None))
    late, busy = _get(cells, "on", "large", "late_worst_ms"), _get(cells, "on", "large", "busy_worst_ms")
    off, lost = _get(cells, "off", "large", "late_worst_ms"), _get(cells, "on", "large", "dropped")
    goal = Goal(
        "the loop stands still for at most 20 ms while 100 MB are recorded",
        f"{late:.1f} ms at worst, not recording {off:.1f}; busy for {busy:.1f} at a time; {lost:.0f} dropped",
        late <= 20 and not lost,
        f"by {late - 20:.1f} ms" if late > 20 else "not all recorded",
    )
    found.append(goal if late else Goal(goal.what, "", None))
    return found + _still(cells)


def _still(cells: Cells) -> list[Goal]:
    """The goals for a disk that stands still."""
    found = []
    still, working = _get(cells, "stalled", "disk", "p99_ms"), _get(cells, "working", "disk", "p99_ms")
    what = "others' p99 at most 20 ms while the disk stands still"
    found.append(
        Goal(what, f"{still:.1f} ms, while it works {working:.1f}", still <= 20, f"by {still - 20:.1f} ms")
        if still
        else Goal(what, "", None)
    )
    what = f"memory while the disk stands still: at most the queue ({QUEUE_MB:.0f} MB) and {WORK_MB:.0f} MB over idle"
    idle, peak = _get(cells, "stalled", "disk", "idle_mb"), _get(cells, "stalled", "disk", "peak_mb")
    over = peak - idle - QUEUE_MB - WORK_MB
    dropped = _get(cells, "stalled", "disk", "dropped")
    found.append(
        Goal(what, f"{peak:.0f} MB, idle {idle:.0f}; {dropped:,.0f} dropped and told", over <= 0, f"by {over:.0f} MB")
        if peak
        else Goal(what, "", None)
    )
    return found


def _get(cells: Cells, contender: str, workload: str, figure: str) -> float:
    return cells.get((contender, workload), {}).get(figure, 0.0)


Column = tuple[str, str, str, str]
"""(heading, workload, figure, format)."""

SATURATED: Sequence[Column] = (
    ("1 KB req/s", "json", "per_s", ",.0f"),
    ("CPU ms", "json", "cpu_ms", ".3f"),
    ("200 KB req/s", "upload", "per_s", ",.0f"),
    ("CPU ms", "upload", "cpu_ms", ".3f"),
    ("1 KB over TLS req/s", "tls", "per_s", ",.0f"),
    ("CPU ms", "tls", "cpu_ms", ".3f"),
    ("streams/s", "sse", "per_s", ",.0f"),
    ("CPU ms", "sse", "cpu_ms", ".2f"),
    ("peak MB", "upload", "peak_mb", ".0f"),
)
STEADY: Sequence[Column] = (
    ("1 KB CPU ms", "json-rate", "cpu_ms", ".3f"),
    ("added p50", "json-rate", "added_p50_ms", ".2f"),
    ("p99", "json-rate", "added_p99_ms", ".2f"),
    ("over TLS CPU ms", "tls-rate", "cpu_ms", ".3f"),
    ("200 KB CPU ms", "upload-rate", "cpu_ms", ".3f"),
    ("added p50", "upload-rate", "added_p50_ms", ".2f"),
    ("p99", "upload-rate", "added_p99_ms", ".2f"),
)
PACED: Sequence[Column] = (
    ("CPU ms a stream", "sse-paced", "cpu_ms", ".2f"),
    ("first byte, added p50", "sse-paced", "added_first_p50_ms", ".2f"),
    ("p99", "sse-paced", "added_first_p99_ms", ".2f"),
    ("each event, added p50", "sse-paced", "added_event_p50_ms", ".2f"),
    ("p99", "sse-paced", "added_event_p99_ms", ".2f"),
    ("p99 at 32 streams", "sse-32", "added_event_p99_ms", ".2f"),
)
CROWD: Sequence[Column] = (
    ("s over ideal", "crowd", "over_ideal_s", ".2f"),
    ("peak MB", "crowd", "peak_mb", ".0f"),
    ("CPU s", "crowd", "cpu_s", ".2f"),
    ("first byte p99 ms", "crowd", "first_p99_ms", ".1f"),
    ("event p99 ms", "crowd", "event_p99_ms", ".1f"),
    ("broken", "crowd", "errors", ".0f"),
    ("archive exact", "crowd", "archived", ",.0f"),
)


WRITING: Sequence[Column] = tuple(
    column
    for size, workload, _ in WRITER
    for column in (
        (f"{size} records/s", workload, "per_s", ",.0f"),
        ("CPU us", workload, "cpu_us", ",.0f"),
        ("bytes", workload, "bytes", ",.0f"),
    )
)
TELLING: Sequence[Column] = (
    ("a record, 2 KB", "enqueue", "record_us", ",.1f"),
    ("a stream chunk", "enqueue", "chunk_us", ",.2f"),
    ("a request of 1 MB", "enqueue", "upload_us", ",.0f"),
)
LARGE: Sequence[Column] = (
    ("p50 ms", "large", "p50_ms", ".2f"),
    ("p99 ms", "large", "p99_ms", ".1f"),
    ("worst ms", "large", "worst_ms", ".1f"),
    ("loop late p99", "large", "late_p99_ms", ".1f"),
    ("worst", "large", "late_worst_ms", ".1f"),
    ("loop busy worst", "large", "busy_worst_ms", ".1f"),
    ("the 100 MB took s", "large", "upload_s", ".2f"),
)
STILL: Sequence[Column] = (
    ("p50 ms", "disk", "p50_ms", ".2f"),
    ("p99 ms", "disk", "p99_ms", ".1f"),
    ("worst ms", "disk", "worst_ms", ".1f"),
    ("idle MB", "disk", "idle_mb", ".0f"),
    ("peak MB", "disk", "peak_mb", ".0f"),
    ("recorded", "disk", "kept", ",.0f"),
    ("dropped and told", "disk", "dropped", ",.0f"),
)
ARCHIVE_ROWS = (("writer", "**Verbatim**"), ("codexlike", "like codex-lb"))
LARGE_ROWS = (("off", "**Verbatim, not recording**"), ("on", "**Verbatim, recording**"))
STILL_ROWS = (("working", "the disk works"), ("stalled", "it stands still"))
STAGES = (("hash, decode", "content_us"), ("line", "line_us"), ("pack", "pack_us"), ("append", "append_us"), ("sync", "sync_us"))


def stage_table(cells: Cells) -> str:
    """Where the writer's CPU goes: a row a size; what its stages do not account for is the queue's and the threads'."""
    lines = [
        "**Where the writer's CPU goes; us a record, share**",
        "",
        "| | " + " | ".join(name for name, _ in STAGES) + " | queue, threads |",
    ]
    lines.append("|---|" + "--:|" * (len(STAGES) + 1))
    for size, workload, _ in WRITER:
        figures = cells.get(("writer", workload), {})
        if not figures.get("line_us"):
            continue
        parts = [figures[name] for _, name in STAGES]
        parts.append(max(0.0, figures["cpu_us"] - sum(parts)))
        lines.append(f"| {size} | " + " | ".join(f"{part:.1f}, {part / sum(parts):.0%}" for part in parts) + " |")
    return "\n".join(lines) + "\n" if len(lines) > 4 else ""


def table(title: str, columns: Sequence[Column], cells: Cells, contenders: Sequence[tuple[str, str]]) -> str:
    """One Markdown table: a row a contender, in the given order; empty where nothing was measured."""
    wanted = [column for column in columns if any((name, column[1]) in cells for name, _ in contenders)]
    if not wanted:
        return ""
    lines = [f"**{title}**", "", "| | " + " | ".join(heading for heading, *_ in wanted) + " |", "|---|" + "--:|" * len(wanted)]
    for name, row in contenders:
        values = [cells.get((name, workload), {}).get(figure) for _, workload, figure, _ in wanted]
        if any(value is not None for value in values):
            texts = ("" if value is None else format(value, column[3]) for value, column in zip(values, wanted, strict=True))
            lines.append(f"| {row} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def goal_table(found: Sequence[Goal]) -> str:
    lines = ["**Goals**", "", "| goal | measured | |", "|---|---|---|"]
    return "\n".join(lines + [f"| {goal.what} | {goal.measured} | {goal.verdict} |" for goal in found]) + "\n"


def document(machine: str, notes: Sequence[str], cells: Cells, contenders: Sequence[tuple[str, str]], *, partly: bool) -> str:
    """All of it as Markdown, fit to be pasted into a page. `partly`: only what could be judged; else goals not measured are named too."""
    found = [goal for goal in goals(cells) if goal.met is not None or not partly]
    parts = [
        machine + "\n",
        table("As much as goes through, 32 connections", SATURATED, cells, contenders),
        table("At a fixed rate: 1 KB at 1,000/s, 200 KB at 200/s; times in ms", STEADY, cells, contenders),
        table("Paced streams; times in ms", PACED, cells, contenders),
        table("A crowd of paced streams", CROWD, cells, contenders),
        table("The archive's writer on one core", WRITING, cells, ARCHIVE_ROWS),
        stage_table(cells),
        table("What telling costs the event loop; us of CPU", TELLING, cells, ARCHIVE_ROWS),
        table("500 requests a second of others while a request of 100 MB goes through", LARGE, cells, LARGE_ROWS),
        table("The same beside 200 requests a second of 200 KB, recorded, while the disk stands still", STILL, cells, STILL_ROWS),
        goal_table(found) if found else "",
        "\n".join(f"- {note}" for note in notes) + "\n" if notes else "",
    ]
    return "\n".join(part for part in parts if part)
