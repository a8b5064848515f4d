"""The command line of the measurements."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench import page, plots, report, results, runner, soak
from bench.launchers import KINDS, kind
from bench.probes import PROBES
from bench.results import Row
from bench.scenarios import scenarios
from support.nodepool import PeerMissingError

OUT = Path("bench-results")
PAGE = Path("docs/performance.md")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures launchers on a real ZooKeeper.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_run(commands.add_parser("run", help="measure, and print a line for each run"))
    _add_soak(commands.add_parser("soak", help="work for long at a constant rate; fails where anything grows"))
    listing = commands.add_parser("list", help="the scenarios and their cases")
    listing.set_defaults(run=run_list)
    for name, function, about in (
        ("summary", run_summary, "medians and ratios of what is measured"),
        ("plot", run_plot, "PNG files of what is measured"),
        ("soak-plot", run_soak_plot, "a PNG file of a soak"),
        ("page", run_page, "fill the tables of a page with what is measured"),
    ):
        parts = commands.add_parser(name, help=about)
        parts.add_argument(
            "results", type=Path, nargs="?", default=OUT, help="folder of results (default: %(default)s)"
        )
        if name != "summary":
            parts.add_argument("--to", type=Path, default=PAGE if name == "page" else OUT)
        parts.set_defaults(run=function)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scenario", nargs="+", choices=(*scenarios(), *PROBES, "all"), metavar="SCENARIO")
    parser.add_argument(
        "--launcher", action="append", metavar="NAME",
        help=f"{', '.join(KINDS)}, or NAME=COMMAND with {{config}}; again for each (default: nodelaunch and floor)",
    )  # fmt: skip
    parser.add_argument("--repeat", type=int, default=5, help="runs of each case and launcher (default: %(default)s)")
    parser.add_argument("--case", default="*", metavar="PATTERN", help="only cases whose name matches")
    parser.add_argument("--quick", action="store_true", help="smaller loads, to see that all works")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of results (default: %(default)s)")
    parser.set_defaults(run=run_measurements)


def _add_soak(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", type=float, default=float(os.environ.get("NODELAUNCH_SOAK_S", "1800")),
        help="how long (default: %(default)g, from NODELAUNCH_SOAK_S)",
    )  # fmt: skip
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second (default: %(default)g)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of its samples (default: %(default)s)")
    parser.set_defaults(run=run_soak)


def run_soak(args: argparse.Namespace) -> int:
    """Exit code 1 where something grew, or was wrong otherwise."""
    wrong = soak.run(seconds=args.seconds, rate=args.rate, out=args.out)
    samples = soak.load(args.out / soak.FILE)
    print(*samples[:: max(1, len(samples) // 10)], *wrong, sep="\n")
    return 1 if wrong else 0


def run_soak_plot(args: argparse.Namespace) -> int:
    print(plots.draw_soak(soak.load(args.results / soak.FILE), args.to))
    return 0


def run_measurements(args: argparse.Namespace) -> int:
    """Exit code 1 where a run broke."""
    kinds = [kind(text) for text in args.launcher or ("nodelaunch", "floor")]
    known = scenarios(is_quick=args.quick)
    names = [*known, *PROBES] if "all" in args.scenario else args.scenario
    chosen = [(name, known[name]) for name in names if name in known]
    broken = 0
    for row in runner.run_scenarios(chosen, kinds, repeat=args.repeat, pattern=args.case, out=args.out):
        broken += _tell(row)
    for name in names:
        if name in PROBES:
            broken += sum(map(_tell, _probed(name, args)))
    print(report.summary(results.load(args.out)))
    return 1 if broken else 0


def _probed(name: str, args: argparse.Namespace) -> Iterable[Row]:
    about = results.machine()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for figures in PROBES[name](Path(folder), args.quick):
            row = {"scenario": name, **figures, "about": about}
            results.append(args.out, row)
            yield row


def _tell(row: Row) -> bool:
    """Print a run; whether it is broken."""
    print(report.line(row), flush=True)
    return "error" in row or bool(row.get("errors"))


def run_list(_args: argparse.Namespace) -> int:
    for name, scenario in scenarios().items():
        print(f"{name:10} {scenario.about}: {', '.join(case.name for case in scenario.cases)}")
    for name, probe in PROBES.items():
        print(f"{name:10} {(probe.__doc__ or '').splitlines()[0]}")
    return 0


def run_summary(args: argparse.Namespace) -> int:
    print(report.summary(results.load(args.results)))
    return 0


def run_plot(args: argparse.Namespace) -> int:
    for path in plots.draw(results.load(args.results), args.to):
        print(path)
    return 0


def run_page(args: argparse.Namespace) -> int:
    page.fill(args.to, results.load(args.results))
    return 0


def _interrupt(_number: int, _frame: object) -> None:
    """Let SIGTERM end a run as SIGINT does: every block is left, and with it every child process is ended."""
    signal.raise_signal(signal.SIGINT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    args = make_parser().parse_args(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code: int = args.run(args)
    except KeyboardInterrupt:
        return 130
    except (ValueError, LookupError, FileNotFoundError, PeerMissingError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return code
