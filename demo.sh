#!/usr/bin/env bash
# Installs nodelaunch into a virtual environment (.venv-demo) and shows its main job; needs only Python 3.11 or newer,
# which it installs on Debian if it is missing (as root, or with sudo).
set -euo pipefail
cd "$(dirname "$0")"

# Take the first of these that runs and is new enough (a version manager's shim may exist without its Python).
find_python() {
    local name
    for name in python3.13 python3.12 python3.11 python3 /usr/bin/python3; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
}

python=$(find_python)
if [ -z "$python" ]; then
    root=()
    [ "$(id -u)" = 0 ] || root=(sudo)
    "${root[@]}" apt-get update -q
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends python3 python3-venv
    python=$(find_python)
fi
[ -x .venv-demo/bin/nodelaunch ] || { "$python" -m venv .venv-demo && .venv-demo/bin/pip install -q .; }
exec .venv-demo/bin/nodelaunch demo "$@"
