"""Apply cloud-init to the user data of machines, each in a folder in place of the machine's root.

Standard input has one JSON list of objects with ``user_data`` and ``folder``. cloud-init's module ``ssh`` writes the
host keys to ``FOLDER/etc/ssh``. The last line of standard output has, for each machine, the merged configuration, the
scripts that cloud-init would run, and its warnings. Any Python that can import ``cloudinit`` runs this script. It
writes and deletes nothing outside the folders.
"""

import inspect
import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

from cloudinit import stages, util
from cloudinit.config import cc_ssh, schema
from cloudinit.sources.DataSourceNone import DataSourceNone


class Warnings(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


def within(folder, path):
    """Return *path* below *folder*; a path that is below it already stays."""
    return Path(path) if Path(path).is_relative_to(folder) else folder / path.lstrip("/")


def merged(user_data, folder):
    """The configuration that all parts of *user_data* make, and the scripts in them."""
    init = stages.Init()
    init._cfg = {"system_info": {"paths": {"cloud_dir": f"{folder}/cloud", "run_dir": f"{folder}/run"}}}
    source = DataSourceNone({}, SimpleNamespace(get_primary_arch=lambda: "x86_64"), init.paths)
    source.userdata_raw, source.vendordata_raw = user_data, None
    init.datasource = init.paths.datasource = source
    instance = folder / "cloud" / "instances" / source.get_instance_id()
    (instance / "scripts").mkdir(parents=True)
    (folder / "run").mkdir()
    (folder / "cloud" / "instance").symlink_to(instance)
    Path(init.paths.get_runpath("instance_data_sensitive")).write_text('{"v1": {"cloud_name": "lab"}}')
    init._consume_userdata()
    config = util.load_yaml(Path(init.paths.get_ipath("cloud_config")).read_text()) or {}
    return config, [path.read_text() for path in sorted((instance / "scripts").iterdir())]


def set_host_keys(config, folder):
    """Run the module ``ssh`` with all that it writes and deletes moved into *folder*."""

    def found(pattern):
        return [str(path) for path in within(folder, str(Path(pattern).parent)).glob(Path(pattern).name)]

    guarded = SimpleNamespace(**vars(cc_ssh.util))
    guarded.del_file = lambda path: within(folder, path).unlink()
    guarded.write_file = lambda path, content, mode: util.write_file(str(within(folder, path)), content, mode)
    assert cc_ssh.glob.glob("/nowhere/*") == []  # these are the names that the module has for them
    cc_ssh.util, cc_ssh.glob, cc_ssh.apply_credentials = guarded, SimpleNamespace(glob=found), lambda *_: None
    cc_ssh.ug_util = SimpleNamespace(normalize_users_groups=lambda *_: ({}, {}), extract_default=lambda _: (None, {}))
    cc_ssh.ssh_util = SimpleNamespace(DISABLE_USER_OPTS="")
    cc_ssh.subp = None  # it would make keys of its own
    cloud = SimpleNamespace(
        datasource=SimpleNamespace(publish_host_keys=lambda _: None),
        distro=SimpleNamespace(osfamily="debian"),
        get_public_ssh_keys=list,
    )
    log = [logging.getLogger("ssh")] if "log" in inspect.signature(cc_ssh.handle).parameters else []
    cc_ssh.handle("ssh", config, cloud, *log, [])


def faults(config):
    """Return the errors that cloud-init's own schema finds."""
    try:
        schema.validate_cloudconfig_schema(config, strict=True)
    except schema.SchemaValidationError as error:
        return str(error)
    return ""


def boot(user_data, folder):
    warnings = Warnings()
    logging.getLogger().addHandler(warnings)
    config, scripts = merged(user_data, folder)
    if "ssh_keys" in config:
        set_host_keys(config, folder)
    logging.getLogger().removeHandler(warnings)
    return {"config": config, "scripts": scripts, "warnings": warnings.texts, "faults": faults(config)}


def main():
    machines = json.load(sys.stdin)
    booted = [boot(machine["user_data"], Path(machine["folder"]).resolve()) for machine in machines]
    sys.stdout.write("\n" + json.dumps(booted) + "\n")


if __name__ == "__main__":
    main()
