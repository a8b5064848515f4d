"""A restart that is needed is reported until a restart, or a corrected file, brings the configuration back in sync."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from nodelaunch.cli.status import in_words
from nodelaunch.config.models import Config
from nodelaunch.launcher import load_config
from nodelaunch.monitoring.metrics import Metrics
from nodelaunch.monitoring.overview import Overview
from nodelaunch.reloading import ConfigReloader
from nodelaunch.status import ask_status
from support.launchers import CONFIG, Running, running, written

pytestmark = pytest.mark.looptime

OTHER_PORT = CONFIG.replace("port: 0", "port: 8006")
REMARK = "restart needed: webapp changed in the configuration, and take effect only after a restart"


@pytest.fixture(autouse=True)
def _all_is_logged() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))


async def told(site: Running) -> tuple[bool, bool, bool]:
    """Return whether status, the page and metrics say that a restart is needed."""
    found = await ask_status(site.client.store, site.view, 0.0)
    page = Overview(site.launcher)
    metrics = Metrics(site.launcher)
    try:
        notices = page.take().notices
        figures = (await metrics.render()).decode()
    finally:
        page.close()
        metrics.close()
    return (
        any(line.endswith(f": {REMARK}") for line in in_words(found)),
        ("warning", REMARK) in notices,
        "\nnodelaunch_restart_needed 1.0\n" in figures,
    )


async def test_restart_is_needed_until_what_the_process_began_with_is_configured_again(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        assert await told(site) == (False, False, False)
        with capture_logs() as logs:
            changes = await site.launcher.reload(written_config(tmp_path, OTHER_PORT))
            assert changes.needs_restart == ("webapp",)
            assert await told(site) == (True, True, True)
            await site.launcher.reload(written_config(tmp_path, OTHER_PORT, max_servers=3))
            assert await told(site) == (True, True, True)
            assert (await site.launcher.reload(written_config(tmp_path, CONFIG))).needs_restart == ()
            assert await told(site) == (False, False, False)
        names = [entry["event"] for entry in logs if entry["event"].startswith("restart")]
        assert names == ["restart_needed", "restart_not_needed"]


def written_config(folder: Path, config: str, **values: object) -> Config:
    return load_config(written(folder, config, **values))


async def test_refused_files_are_told_of_until_they_are_right(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        page = Overview(site.launcher)
        path = written(tmp_path)
        reloader = ConfigReloader(site.launcher, path)
        good = path.read_text()
        path.write_text(good + "labels: [\n")
        assert not await reloader.reload()
        (launcher,) = (await ask_status(site.client.store, site.view, 0.0)).launchers
        assert launcher.config is not None
        (problem,) = launcher.config.problems
        assert problem.startswith(f"{path}:{len(good.splitlines()) + 2}:")
        said = site.launcher.config_standing.remarks()
        assert said[0].startswith("an older configuration is in force: the files were refused at 2023-11-14 ")
        assert said[1:] == [f"refused: {problem}"]
        assert [("error", remark) for remark in said] == page.take().notices
        path.write_text(good)
        assert await reloader.reload()
        assert page.take().notices == []
        page.close()
