#!/usr/bin/env bash
# Installs nodelaunch into a virtual environment (.venv-demo) and shows its main job; needs only Python 3.11 or newer,
# which it installs on Debian where it is missing (as root, or with sudo).
set -euo pipefail
cd "$(dirname "$0")"

find_python() { command -v python3.13 || command -v python3.12 || command -v python3.11 || command -v python3 || true; }

python=$(find_python)
if [ -z "$python" ] || ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    root=()
    [ "$(id -u)" = 0 ] || root=(sudo)
    "${root[@]}" apt-get update -q
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends python3 python3-venv
    python=$(find_python)
fi
[ -x .venv-demo/bin/nodelaunch ] || { "$python" -m venv .venv-demo && .venv-demo/bin/pip install -q .; }
exec .venv-demo/bin/nodelaunch demo "$@"
