"""Rule by which `python -m bench soak` recognises growth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench import soak
from bench.soak import Sample

FLAT = Sample(0, 60.0, 100, 10, 500, 0, 0, 500.0, 600.0, 30.0)


def half_an_hour(change: Callable[[Sample, float], Sample] = lambda sample, _at_s: sample) -> list[Sample]:
    """Samples of a flat run, each changed by *change*, given the time."""
    return [change(FLAT._replace(at_s=10.0 * n), 10.0 * n) for n in range(1, 181)]


def test_flat_is_no_growth() -> None:
    assert soak.growth(half_an_hour()) == []


@pytest.mark.parametrize(("name", "per_hour"), [("rss_mib", 15), ("tasks", 150), ("descriptors", 12), ("znodes", 400)])
def test_each_figure_that_grows_steadily_is_named(name: str, per_hour: float) -> None:
    def grown(sample: Sample, at_s: float) -> Sample:
        return sample._replace(**{name: getattr(sample, name) + per_hour * at_s / 3600})

    (found,) = soak.growth(half_an_hour(grown))
    assert found.startswith(f"{name} grew from ")


def test_warm_up_and_single_peaks_are_no_growth() -> None:
    def uneven(sample: Sample, at_s: float) -> Sample:
        cold = sample._replace(rss_mib=45.0 + at_s / 20) if at_s < 300 else sample
        return cold._replace(tasks=2000, znodes=9000) if at_s % 300 == 0 else cold

    assert soak.growth(half_an_hour(uneven)) == []


def test_samples_while_requests_pile_up_are_left_out_unless_they_are_most() -> None:
    def piled(sample: Sample, at_s: float, since_s: float) -> Sample:
        return sample._replace(submitted=5000, tasks=600, znodes=5000) if at_s >= since_s else sample

    assert soak.growth(half_an_hour(lambda sample, at_s: piled(sample, at_s, 1500))) == []
    (found,) = soak.growth(half_an_hour(lambda sample, at_s: piled(sample, at_s, 900)))
    assert found == "it did not keep up with the requests in 91 of 151 samples"


def test_samples_are_read_as_they_were_written(tmp_path: Path) -> None:
    with soak.rows(tmp_path) as write:
        write(FLAT)
    assert soak.load(tmp_path / soak.FILE) == [FLAT]
