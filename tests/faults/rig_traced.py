"""One writer's life, to be run below strace: prints what its process said as one line of JSON. `python rig_traced.py ARCHIVE`"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from faults.child import Child

SIZES = (300, 5000, 100_000, 300, 300)

if __name__ == "__main__":
    child = Child(Path(sys.argv[1]), SIZES, queue_records=3)
    child.wait(lambda said: said.all_offered)
    while not child.more(300):  # a sync that still fails
        pass
    print(json.dumps(dataclasses.asdict(child.close())))
