"""``python -m crash``: the crash matrix as a table; with names of steps, only those.

``--write`` puts its rows into docs/reliability.md; ``--point N`` prints the events at one point of each cell.
"""

from __future__ import annotations

import argparse
import os
import sys
from multiprocessing import Pool

from crash import page
from crash.matrix import Result, results_of
from crash.site import run
from crash.steps import Cell, cells

CELLS = list(cells())


def _result(number: int) -> Result:
    return results_of(CELLS[number])


def _tell(cell: Cell, point: int) -> None:
    for when, who, what in run(cell, point).outcome.events:
        print(f"{when:9.3f}  {who:14s} {what}")  # noqa: T201


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m crash", description=__doc__)
    parser.add_argument("step", nargs="*")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--point", type=int)
    args = parser.parse_args()
    chosen = [number for number, cell in enumerate(CELLS) if not args.step or cell.step.name in args.step]
    if args.point is not None:
        for number in chosen:
            print(CELLS[number])  # noqa: T201
            _tell(CELLS[number], args.point)
        return 0
    with Pool(os.cpu_count()) as pool:
        results = pool.map(_result, chosen, chunksize=1)
    print(page.table(results))  # noqa: T201
    failures = [report for result in results for report in result.failures]
    print(*failures, sep="\n\n")  # noqa: T201
    if args.write:
        page.write(results)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
