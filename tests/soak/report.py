"""What a soak has to say at its end: figures, and whatever is wrong. Values and text only."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from soak.judge import Verdict
from soak.script import Plan
from soak.watch import Held, slope

__all__ = ["Report", "words"]


@dataclass(slots=True)
class Report:
    """All that a run has to say."""

    plan: Plan
    wrong: list[str] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)
    traffic: dict[str, Any] = field(default_factory=dict)
    rss: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    """Each second: seconds since the load began, and bytes by part."""
    start: dict[str, Held] = field(default_factory=dict)
    end: dict[str, Held] = field(default_factory=dict)
    health: dict[str, Any] = field(default_factory=dict)
    """What the gateway said of itself when all was over; `healthy` before it began."""
    healthy: dict[str, Any] = field(default_factory=dict)
    verified: str = ""
    transparent: str = ""
    loads: list[float] = field(default_factory=list)
    """The machine's load average over the run: how much else it had to do."""
    took: dict[str, float] = field(default_factory=dict)
    direct: dict[str, Any] = field(default_factory=dict)
    """The same traffic without a gateway, where that was asked for."""
    passed: float = 0.0
    """Bytes of bodies and messages a minute, either way."""

    def course(self, part: str) -> str:
        """MB of a part at twenty moments of the load."""
        return " ".join(f"{rss.get(part, 0) / 1e6:.0f}" for _, rss in self.rss[:: max(1, len(self.rss) // 20)])

    def growth(self, *parts: str) -> float:
        """MB a minute in the second half of the load, of these parts together: least squares over all samples."""
        half = [(at / 60, sum(rss.get(each, 0) for each in parts) / 1e6) for at, rss in self.rss if at >= self.plan.seconds / 2]
        return slope(half)


def words(report: Report) -> str:
    """The report as text."""
    level = [sum(rss.values()) / 1e6 for _, rss in report.rss] or [0.0]
    now = report.health
    lines = [
        f"load: {report.traffic.get('seconds', 0):.0f} s, load average {min(report.loads or [0]):.1f} to {max(report.loads or [0]):.1f}",
        f"passed: {report.passed / 1e6:.1f} MB a minute",
        f"ended: {report.traffic.get('ended')}",
        f"archive: {dict(report.verdict.counts)}",
        f"hours: {dict(report.verdict.hours)}",
        f"gaps: {[(gap['records'], gap['exchanges'], gap['why']) for gap in report.verdict.gaps]}",
        f"verify: {report.verified}",
        f"verify --transparency: {report.transparent}",
        f"late, ms: {json.dumps(report.traffic.get('lateness_ms'))}",
        *([f"directly: {json.dumps(report.direct.get('lateness_ms'))}"] if report.direct else []),
        f"memory: {level[0]:.0f} MB at first, {max(level):.0f} at most, {level[-1]:.0f} at last",
        *(f"memory: {name}, MB: {report.course(name)}" for name in report.start),
        *(f"growth: {name} {report.growth(name):+.2f} MB a minute in the second half" for name in report.start),
        f"growth: relay and keeper {report.growth('relay', 'keeper'):+.2f}",
        *(f"{name}: {before} before, {report.end.get(name)} after" for name, before in report.start.items()),
        *(f"{name}: {report.healthy[name]} before, {now[name]} after" for name in ("connections", "tasks", "exchanges")),
        f"seconds: {report.took}",
    ]
    return "\n".join([*lines, *(f"WRONG: {each}" for each in report.wrong)] + ["nothing is wrong"] * (not report.wrong))
