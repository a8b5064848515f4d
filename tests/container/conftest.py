"""podman with an image of this very tree, where images can be built; else all tests here are skipped, and say why."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from support import containers
from support.containers import BASE, IMAGE, Container, Podman


@pytest.fixture(scope="session")
def podman() -> Podman:
    if reason := containers.why_not():
        pytest.skip(reason)
    made = Podman()
    if not made.has_image(BASE):
        pytest.skip("no base image: `nox -s container` makes it")
    return made


@pytest.fixture(scope="session")
def image(podman: Podman) -> str:
    """The name of the image."""
    podman.build()
    return IMAGE


@pytest.fixture
def run(podman: Podman, image: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., Container]]:
    """Runs the image in the background: options of ``podman run`` first, then the arguments of the launcher."""
    made: list[Container] = []

    def start(*options: str, arguments: tuple[str, ...] = ()) -> Container:
        name = f"nodelaunch-test-{len(made)}"
        made.append(Container(podman, name, *options, image, *arguments))
        return made[-1]

    yield start
    for container in made:
        container.remove()
