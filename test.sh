#!/usr/bin/env bash
# Runs all tests and checks. Installs what is missing: Debian packages (as root, or with sudo), then a virtual
# environment in .venv with nox, which creates another environment for each session. Arguments go to nox.
set -euo pipefail
cd "$(dirname "$0")"

case " $* " in *" -h "* | *" --help "*)
    cat <<'HELP'
Usage: ./test.sh [-s SESSION...] [-- PYTEST-ARGUMENTS...]

Installs what is missing and runs all tests and checks, or the named sessions of noxfile.py:
    ./test.sh                            all that a plain run has
    ./test.sh -s lint types              two of them
    ./test.sh -s tests -- -k triage      tests by name
    ./test.sh -l                         which sessions there are
HELP
    exit ;;
esac

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

missing=()
[ -e /usr/share/java/zookeeper.jar ] || missing+=(zookeeper)
[ -e /usr/share/java/slf4j-simple.jar ] || missing+=(libslf4j-java)
[ -e /usr/share/java/netty-handler.jar ] || missing+=(libnetty-java)
command -v java >/dev/null || missing+=(default-jre-headless)
[ -x /usr/sbin/sshd ] || missing+=(openssh-server)
command -v ssh-keygen >/dev/null || missing+=(openssh-client)
command -v jq >/dev/null || missing+=(jq)
command -v socat >/dev/null || missing+=(socat)
command -v node >/dev/null || missing+=(nodejs)
command -v chromium >/dev/null || missing+=(chromium)
case " $* " in *" container "*) # only for that session: they are large
    for program in podman runc debootstrap; do
        command -v $program >/dev/null || missing+=($program)
    done ;;
esac
python=$(find_python)
[ -n "$python" ] || missing+=(python3 python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
    root=()
    [ "$(id -u)" = 0 ] || root=(sudo)
    "${root[@]}" apt-get update -q
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
    python=$(find_python)
fi

# Tests of user data run a real cloud-init. It is unpacked, never installed: it would take over the machine at its next
# boot. If it is not available, these tests are skipped with a message.
unpack_cloud_init() {
    local packages=(cloud-init python3-attr python3-certifi python3-chardet python3-charset-normalizer
        python3-configobj python3-idna python3-jinja2 python3-json-pointer python3-jsonpatch python3-jsonschema
        python3-markupsafe python3-netifaces python3-oauthlib python3-pyrsistent python3-requests python3-serial
        python3-six python3-urllib3 python3-yaml)
    local folder=$PWD/.nox/cloud-init debs package known
    debs=$(mktemp -d)
    known=$(apt-cache show --no-all-versions "${packages[@]}" 2>/dev/null | sed -n 's/^Package: //p') # of this release
    # shellcheck disable=SC2086
    (cd "$debs" && apt-get download -qq $known) >/dev/null 2>&1 || true
    mkdir -p "$debs/unpacked"
    for package in "$debs"/*.deb; do
        [ ! -e "$package" ] || dpkg -x "$package" "$debs/unpacked"
    done
    if PYTHONPATH="$debs/unpacked/usr/lib/python3/dist-packages" /usr/bin/python3 -c 'import cloudinit.stages' 2>/dev/null
    then
        mkdir -p .nox && mv "$debs/unpacked" "$folder"
    else
        echo "not there: cloud-init, from Debian's packages; tests of user data are skipped"
    fi
    rm -rf "$debs"
}
[ -e .nox/cloud-init ] || unpack_cloud_init

[ -x .venv/bin/nox ] || { "$python" -m venv .venv && .venv/bin/pip install -q 'nox[uv]>=2024.10.9'; }
exec .venv/bin/nox "$@"
