"""How full a full cloud is kept by a backlog of 300 mixed requests: `PYTHONPATH=tests python bench/full_quota.py`.

On a virtual clock, so that the figures depend on decisions alone; the cloud's own log is what is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

import looptime
import structlog

from support.backlog import CAPACITY, REQUESTS, work_off


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
            report = runner.run(work_off(Path(folder), seed))
        print(
            f"seed {seed}: {REQUESTS} requests, capacity {CAPACITY}, most in use {report.most}, "
            f"utilisation {report.utilisation:.1%}, overtaken {len(report.overtaken)}"
        )


if __name__ == "__main__":
    main()
