#!/usr/bin/env bash
# Runs all tests and checks. Installs what is missing: Debian packages (as root, or with sudo), then a virtual
# environment in .venv with nox, which makes one of its own for each session.
set -euo pipefail
cd "$(dirname "$0")"

missing=()
[ -e /usr/share/java/zookeeper.jar ] || missing+=(zookeeper)
[ -e /usr/share/java/slf4j-simple.jar ] || missing+=(libslf4j-java)
[ -e /usr/share/java/netty-handler.jar ] || missing+=(libnetty-java)
command -v java >/dev/null || missing+=(default-jre-headless)
[ -x /usr/sbin/sshd ] || missing+=(openssh-server)
command -v git >/dev/null || missing+=(git)
python=$(command -v python3.13 || command -v python3.12 || command -v python3.11 || command -v python3)
"$python" -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
    root=()
    [ "$(id -u)" = 0 ] || root=(sudo)
    "${root[@]}" apt-get update -q
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -qy --no-install-recommends "${missing[@]}"
fi

[ -x .venv/bin/nox ] || { "$python" -m venv .venv && .venv/bin/pip install -q 'nox>=2024.10.9'; }
.venv/bin/nox "$@"
