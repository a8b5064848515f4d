#!/usr/bin/env bash
# Installs nodelaunch into a virtual environment (.venv-demo) and shows its main job; needs only Python 3.11 or newer.
set -euo pipefail
cd "$(dirname "$0")"
python=$(command -v python3.13 || command -v python3.12 || command -v python3.11 || command -v python3)
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    root=()
    [ "$(id -u)" = 0 ] || root=(sudo)
    "${root[@]}" apt-get update -q
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends python3-venv
fi
[ -x .venv-demo/bin/nodelaunch ] || { "$python" -m venv .venv-demo && .venv-demo/bin/pip install -q .; }
exec .venv-demo/bin/nodelaunch demo "$@"
