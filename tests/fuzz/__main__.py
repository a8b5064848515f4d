"""``python -m fuzz 17`` repeats the run of seed 17; ``0-1000`` runs many; see ``--help``."""

# ruff: noqa: T201  it is a command

from __future__ import annotations

import argparse
import sys
import time

from fuzz.world import run


def seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Simulate launchers; see tests/fuzz.")
    parser.add_argument("seeds", type=seeds, help="one seed, or the first and the last: 0-1000")
    parser.add_argument("--events", action="store_true", help="show all that happened, also if all went well")
    parser.add_argument("--keep-going", action="store_true", help="go on after a seed that failed")
    options = parser.parse_args()
    failed = 0
    started = time.monotonic()
    for seed in options.seeds:
        outcome = run(seed)
        if options.events:
            print("\n".join(f"{when:9.3f}  {who:14s} {what}" for when, who, what in outcome.events))
        if outcome.rule is not None:
            failed += 1
            if options.keep_going:
                print(f"seed {seed}: {outcome.rule}: {outcome.detail[:300]}", flush=True)
            else:
                print(outcome.report(f"python -m fuzz {seed}"))
                break
    print(f"{seed - options.seeds[0] + 1} seeds, {failed} failed, {time.monotonic() - started:.1f} s")
    return 1 if failed else 0


sys.exit(main())
