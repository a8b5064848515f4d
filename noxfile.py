"""Sessions, one per check; a plain ``nox`` runs all sessions that need only packages.

nox                 everything but openstack, container, crash, soak, lives, bench and audit
nox -s tests        unit and property tests with coverage, whole launchers on a virtual clock
                    (in asyncio's debug mode, which finds calls from wrong threads and coroutines never awaited)
nox -s conformance  stores and drivers against their suites, and broken drivers that the suites have to find
nox -s simulation   whole launchers in virtual time, 100 seeds; NODELAUNCH_SEEDS=1000 for more
nox -s integration  against real ZooKeeper and sshd (Debian packages zookeeper, openssh-server);
                    NODELAUNCH_FUZZ_EXAMPLES=500 for more of what a hostile driver may say
nox -s docs         the documentation as a site, in build/site, where every link has to lead somewhere
nox -s crash        launchers killed at every point of every step; NODELAUNCH_CRASH=all for more real processes
nox -s upstream     against released Zuul versions on a real ZooKeeper; their environments are kept in .nox
nox -s openstack    against a real OpenStack control plane; NODELAUNCH_OPENSTACK_LAB names the folder of its scripts
nox -s container    the image, built and run with podman, and what deploy/ has for it; as root, with Debian's packages
                    podman, runc and debootstrap; its base image takes minutes to make, and is kept in .nox
nox -s gates        speed as far as it holds on any machine: operations, calls, how cost grows
nox -s drills       partitions, crashes and full disks on a real ensemble under load, for three minutes and with
                    always the same seed; NODELAUNCH_DRILL_S and NODELAUNCH_DRILL_SEED for others
nox -s soak         half an hour at 50 requests a second, after which nothing may have grown; NODELAUNCH_SOAK_S
nox -s lives        20,000 requests, after which no container, task, descriptor or znode may have grown;
                    NODELAUNCH_ZOOKEEPER_LIVES=20000 for as many on ZooKeeper
nox -s bench        measures launchers beside each other; arguments go to ``python -m bench``
nox -s audit        known vulnerabilities of the dependencies, as PyPI has them; needs the network
nox -s nodepool     beside an unmodified Nodepool 11.0.0, which is installed from the package index (350 MB)
"""

import os
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.options.default_venv_backend = "uv|venv"
WORKERS = ("--numprocesses", str(2 * (os.cpu_count() or 1)), "--dist", "worksteal")
"""Number of workers for tests that mostly wait for other processes."""
nox.options.sessions = [
    "lint",
    "types",
    "layers",
    "tests",
    "conformance",
    "simulation",
    "integration",
    "upstream",
    "nodepool",
    "browser",
    "docs",
    "gates",
    "drills",
]
DRILL_SEED = "4"


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, lint and dead code."""
    session.install("-e", ".[dev]")
    session.run("ruff", "format", "--check", "src", "tests", "bench", "docs/hooks.py", "noxfile.py")
    session.run("ruff", "check", "src", "tests", "bench", "docs/hooks.py", "noxfile.py")
    session.run("vulture")


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict, and a check that all public names have types for other type checkers too."""
    session.install("-e", ".[dev]", "pyright[nodejs]>=1.1.414,<1.2")
    session.run("mypy")
    session.run("pyright", "--verifytypes", "nodelaunch", "--ignoreexternal")  # fails below 100 %


@nox.session
def layers(session: nox.Session) -> None:
    """Rules for imports between packages."""
    session.install("-e", ".[dev]")
    session.run("lint-imports", "--no-cache")


@nox.session
def tests(session: nox.Session) -> None:
    """Tests that need no server; decisions/ and protocol/ must be covered to the last branch by the unit tests.

    In asyncio's debug mode. Warnings are errors in all sessions: that is in pyproject.toml.
    """
    session.install("-e", ".[dev]")
    session.run("coverage", "run", "-m", "pytest", "--asyncio-debug", "tests/unit", *session.posargs)
    session.run(
        "coverage",
        "report",
        "--fail-under=100",
        "--include=src/nodelaunch/decisions/*,src/nodelaunch/protocol/*,src/nodelaunch/errors.py",
    )
    session.run(
        "pytest", "--asyncio-debug", "tests/property", "tests/scenarios", "tests/nodepool_parity", *WORKERS,
        *session.posargs, env={"PYTHONASYNCIODEBUG": "1"},
    )  # fmt: skip


@nox.session
def conformance(session: nox.Session) -> None:
    """Every store and driver keeps its contract, in this process and in others; broken drivers are detected."""
    session.install("-e", ".[dev]")
    session.run("pytest", "tests/conformance", *WORKERS, *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """The status page in Debian's Chromium; skips if it is not installed."""
    session.install("-e", ".[browser]")
    session.run("pytest", "tests/browser", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site, into build/site; links, anchors and pages that lead nowhere fail it."""
    session.install("-e", ".[docs]")
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})
    session.run("pytest", "tests/site", *session.posargs)


@nox.session
def simulation(session: nox.Session) -> None:
    """Whole launchers against a store and clouds that fail; planted bugs must be found."""
    session.install("-e", ".[dev]")
    session.run("pytest", "tests/fuzz", *WORKERS, *session.posargs)


@nox.session
def crash(session: nox.Session) -> None:
    """A launcher is killed at every point of every step, in virtual time; real launchers at some points, by SIGKILL."""
    session.install("-e", ".[dev]")
    session.run("pytest", "tests/crash", *WORKERS, *session.posargs)


@nox.session
def integration(session: nox.Session) -> None:
    """Tests against real servers; skips tests whose server is not installed, with a reason."""
    session.install("-e", ".[dev]", "kubernetes-validate>=1.31")
    session.run("pytest", "tests/integration", *WORKERS, *session.posargs)


@nox.session
def upstream(session: nox.Session) -> None:
    """Tests with unmodified Zuul on a real ZooKeeper; each release gets its own environment."""
    session.install("-e", ".[dev]")
    home = Path(session.virtualenv.location).with_name("upstream-peers")
    session.run(
        "pytest", "tests/peers", "-m", "not nodepool", *WORKERS, *session.posargs,
        env={"NODELAUNCH_UPSTREAM_HOME": str(home)},
    )  # fmt: skip


@nox.session
def drills(session: nox.Session) -> None:
    """Three launchers on an ensemble of three servers; each part breaks by a seeded schedule.

    What it needs and can't have, such as Zuul from the package index or the right to mount, it says, and goes without.
    """
    session.install("-e", ".[dev]")
    home = Path(session.virtualenv.location).with_name("upstream-peers")
    seed = os.environ.get("NODELAUNCH_DRILL_SEED", DRILL_SEED)
    env = {"NODELAUNCH_UPSTREAM_HOME": str(home), "NODELAUNCH_DRILL_SEED": seed}
    session.run("pytest", "tests/drills", *session.posargs, env=env)


@nox.session
def nodepool(session: nox.Session) -> None:
    """Beside an unmodified Nodepool 11.0.0 on one ZooKeeper; fails, rather than skips, if it is not available."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "support.nodepool", env={"PYTHONPATH": "tests"})
    session.run("pytest", "tests/peers", "-m", "nodepool", *WORKERS, *session.posargs)


@nox.session
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of all dependencies of the package; fails if they can't be looked up."""
    session.install(".[openstack]")
    packages = Path(session.create_tmp(), "packages")
    scanner = Path(session.create_tmp(), "scanner")
    frozen = session.run(
        "python", "-c",
        "from importlib.metadata import distributions as all_\n"
        "for name, version in sorted({(d.name, d.version) for d in all_()}):\n"
        "    print(f'{name}=={version}' if name not in ('nodelaunch', 'pip') else '')",
        silent=True,
    )  # fmt: skip
    packages.write_text(str(frozen))
    session.run("python", "-m", "venv", "--clear", str(scanner))
    session.run(str(scanner / "bin" / "python"), "-m", "pip", "install", "--quiet", "pip-audit", external=True)
    options = ("--no-deps", "--disable-pip", "--strict", "--vulnerability-service", "pypi")
    try:
        session.run(str(scanner / "bin" / "pip-audit"), "--requirement", str(packages), *options, external=True)
    except CommandFailed:
        session.error(
            "the audit did not come out clean: a table above names packages with known vulnerabilities, which need"
            " newer versions; anything else above says that https://pypi.org/pypi/NAME/VERSION/json could not be read,"
            " and then nothing is known: repeat it where PyPI's JSON interface can be reached"
        )


@nox.session
def openstack(session: nox.Session) -> None:
    """Tests on the control plane of a real OpenStack, which it starts; fails, rather than skips, if there is none.

    It takes half an hour; what is given instead of its tests, such as tests/real_openstack/test_life.py, takes less.

    The scripts that run it (openstack-up, openstack-down, openstack-status, openstack-fault) are no part of this
    project: NODELAUNCH_OPENSTACK_LAB names their folder.
    """
    folder = os.environ.get("NODELAUNCH_OPENSTACK_LAB")
    if not folder or not Path(folder, "openstack-up").exists():
        session.error("NODELAUNCH_OPENSTACK_LAB has to name the folder of openstack-up and its fellows")
    session.install("-e", ".[dev]")
    session.run("pytest", "--timeout", "3600", *(session.posargs or ["tests/real_openstack"]))


@nox.session
def container(session: nox.Session) -> None:
    """Build the image and run it; fails, rather than skips, if that is not possible."""
    session.install("-e", ".[dev]", "podman-compose>=1.5")
    session.run("python", "-m", "support.containers", env={"PYTHONPATH": "tests"})
    session.run("pytest", "tests/container", *session.posargs)


@nox.session
def gates(session: nox.Session) -> None:
    """Limits for cost that hold on any machine: operations, calls, and growth of cost; under two minutes."""
    session.install("-e", ".[bench]")
    session.run("pytest", "tests/gates", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure launchers on a real ZooKeeper; arguments go to ``python -m bench``, such as ``run latency closed``.

    It takes hours for all scenarios with five repetitions; by default it only sees that each of them works.
    """
    session.install("-e", ".[bench]")
    arguments = session.posargs or ["run", "all", "--quick", "--repeat", "1"]
    session.run("python", "-m", "bench", *arguments, env={"PYTHONPATH": "tests"})


@nox.session
def soak(session: nox.Session) -> None:
    """Constant load on a launcher for hours; fails if memory, tasks, descriptors or znodes grow."""
    session.install("-e", ".[bench]")
    session.run("python", "-m", "bench", "soak", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def lives(session: nox.Session) -> None:
    """Whole lives of requests against a launcher in the test's own process leave nothing behind."""
    session.install("-e", ".[dev]")
    session.run("pytest", "tests/lives", *session.posargs)
