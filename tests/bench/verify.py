"""Sealing and verifying an hour: MB of lines a second of processor time, on one core. Prints one JSON line; asserts nothing.

`taskset -c 1 python tests/bench/verify.py [--megabytes 200] [--shape agents|20000|2000]`: simulated agents, or texts of so many bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from traffic import agents, segments_of, unique, upto

from archive.folder import hour_of, seal_path
from archive.handle import open_file
from archive.member import Found
from archive.proof.inclusion import prove
from archive.proof.seal import seal_hour
from archive.proof.verify import verify

ROUNDS = 3
"""The best of so many: the machine has other work."""


def figures(folder: Path, megabytes: float, shape: str) -> dict[str, Any]:
    records = agents(per_second=0.1) if shape == "agents" else unique(size=int(shape), per_second=1000)
    made = segments_of(folder, upto(records, megabytes))
    path = made.paths[0]  # the records of an hour, of which there may be more
    for other in made.paths[1:]:
        other.unlink()
    plain = _best(lambda: verify([path]))
    sealing = _best(lambda: _sealed(folder, path))
    sealed = _best(lambda: verify([folder]))
    report = verify([folder])
    (hour,) = report.hours
    megabytes = hour.line_bytes / 1e6
    with open_file(path) as handle:
        found = [each for each in handle.scan() if isinstance(each, Found)]
    begun = time.perf_counter()
    proof = prove(folder, found[len(found) // 2].tag.id)
    return {
        "shape": shape,
        "records": hour.records,
        "line_MB": round(megabytes, 1),
        "file_MB": round(hour.bytes / 1e6, 1),
        "seal_bytes_a_record": round(seal_path(folder, hour_of(path.name)).stat().st_size / hour.records, 1),
        "verify_MB_per_s": round(megabytes / plain),
        "seal_MB_per_s": round(megabytes / sealing),
        "verify_sealed_MB_per_s": round(megabytes / sealed),
        "prove_ms": round((time.perf_counter() - begun) * 1000),
        "proof_bytes": sum(len(bytes.fromhex(each)) for each in proof["records"][0]["proof"]),
        "as_sealed": hour.as_sealed,
    }


def _sealed(folder: Path, path: Path) -> None:
    hour = hour_of(path.name)
    seal_path(folder, hour).unlink(missing_ok=True)
    seal_hour(folder, hour, now=0.0, version="bench")


def _best(work: Callable[[], object]) -> float:
    """Seconds of processor time."""
    times = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--shape", default="agents")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(figures(Path(folder), options.megabytes, options.shape)))


if __name__ == "__main__":
    main()
