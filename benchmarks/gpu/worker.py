"""The process of one job: `python -m gpu.worker JSON`, see `jobs`.

The JSON has the job's module in `what` and its options; the module has `prepare(options)`, which
imports and may touch no GPU, and `measure(options)`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

from gpu import measuring
from gpu.jobs import READY


def main() -> None:
    options = json.loads(sys.argv[1])
    if options["tiny"]:
        measuring.REPEATS = 3
    module = importlib.import_module(f"gpu.{options['what']}")
    module.prepare(options)
    measuring.say(READY)
    if sys.stdin.readline():  # nothing comes where the driver has ended
        module.measure(options)
    sys.stdout.flush()
    os._exit(0)  # to take down a backend in order takes a second or two of the budget


if __name__ == "__main__":
    main()
