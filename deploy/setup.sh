#!/bin/sh
# Makes .venv with exactly what uv.lock names. Needs a Python from 3.11 on and nothing else. Run by every make target.
# Asks nothing, and does nothing once .venv is as pyproject.toml, uv.lock and this file want.
# With the word `wkhtmltopdf` it sees to that too: tests, samples and benchmarks draw with both engines. With `prometheus` it
# brings that program and promtool, for the tests of the rules; no service is started.
#
# PYTHON=/path/to/python chooses the interpreter when .venv is made (`make clean` before, to change it).
set -eu
cd "$(dirname "$0")/.."

UV_VERSION=0.13.8
STAMP=.venv/.ready
UV=.venv/.uv/bin/uv

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "Set-up stopped: $1"
    exit 1
}

# The scripts in .venv hold its absolute path, so a checkout that moved needs new ones.
wanted="$(pwd) $(cksum pyproject.toml uv.lock deploy/setup.sh | tr '\n' ' ')"
ready=$(cat "$STAMP" 2>/dev/null || :)
# A name in PATH is no proof: pyenv leaves shims behind that only fail.
is_fit() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_fit "$PYTHON" || fail "PYTHON=$PYTHON is not a Python from 3.11 on that runs."
        printf '%s\n' "$PYTHON"
        return
    fi
    for name in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3 python; do
        if is_fit "$name"; then
            printf '%s\n' "$name"
            return
        fi
    done
    fail "no Python from 3.11 on was found. Install one (Debian, Ubuntu: apt-get install python3 python3-venv;
macOS: brew install python), or name one: PYTHON=/path/to/python make"
}

# Installs packages where this needs no password: as root, or through a sudo that does not ask.
apt_install() {
    command -v apt-get >/dev/null 2>&1 || return 1
    if [ "$(id -u)" -eq 0 ]; then
        as_root=
    elif sudo -n apt-get --version >/dev/null 2>&1; then
        as_root='sudo -n'
    else
        return 1
    fi
    say "Installing $* through apt …"
    apt="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=60 -o Acquire::http::Timeout=20"
    $apt install -y --no-install-recommends "$@" </dev/null >/dev/null 2>&1 && return 0
    # A fresh machine has no package lists yet.
    $apt update </dev/null >/dev/null 2>&1 || :
    $apt install -y --no-install-recommends "$@" </dev/null >/dev/null 2>&1
}

see_to_wkhtmltopdf() {
    if ! command -v wkhtmltopdf >/dev/null 2>&1 && ! apt_install wkhtmltopdf; then
        say "
wkhtmltopdf is missing and could not be installed from here: what it is needed for is skipped. In the product, documents in
merchants' own HTML templates wait until it is there.
Debian, Ubuntu: apt-get install wkhtmltopdf. macOS, and where apt has none: https://wkhtmltopdf.org/downloads.html
"
    fi
}

# The package is only unpacked, into .venv: installed, it would start a server on this machine.
unpack_prometheus() (
    command -v apt-get >/dev/null 2>&1 || return 1
    folder=$(mktemp -d) && cd "$folder" || return 1
    apt-get -qq download prometheus >/dev/null 2>&1 || {
        { [ "$(id -u)" -eq 0 ] && apt-get -qq update; } >/dev/null 2>&1 || sudo -n apt-get -qq update >/dev/null 2>&1 || :
        apt-get -qq download prometheus >/dev/null 2>&1 || return 1
    }
    dpkg-deb -x prometheus_*.deb unpacked && rm -rf "$1" && mv unpacked "$1" && rm -rf "$folder"
)

see_to_prometheus() {
    tools=$(pwd)/.venv/prometheus
    if command -v promtool >/dev/null 2>&1 && command -v prometheus >/dev/null 2>&1; then return; fi
    [ -x "$tools/usr/bin/promtool" ] && return
    say "Fetching Prometheus through apt, for the tests of the alerts …"
    unpack_prometheus "$tools" || say "
Prometheus could not be brought from here: the tests of alerts and dashboards are skipped.
Debian, Ubuntu: apt-get install prometheus. macOS: brew install prometheus
"
}

[ "${1:-}" != wkhtmltopdf ] || see_to_wkhtmltopdf
if [ "$ready" = "$wanted" ] && [ -x .venv/bin/python ] && [ -x "$UV" ]; then
    [ "${1:-}" != prometheus ] || see_to_prometheus
    exit 0
fi

# $1: the python, $2…: arguments of its venv module. Debian ships that module without its ensurepip.
make_venv() {
    python=$1
    shift
    "$python" -m venv "$@" >/dev/null 2>&1 && return 0
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    apt_install "python$version-venv" || :
    "$python" -m venv "$@" >/dev/null || fail "$python cannot make virtual environments.
Debian, Ubuntu: apt-get install python$version-venv"
}

# A .venv made by other means is kept as long as its Python works.
case "$ready" in
"" | "$(pwd) "*) is_fit .venv/bin/python || rm -rf .venv ;;
*) rm -rf .venv ;;
esac
rm -f "$STAMP"

if [ ! -d .venv ]; then
    python=$(find_python)
    say "Setting up .venv with $("$python" --version) …"
    make_venv "$python" --without-pip .venv
fi

# uv lives apart from the packages that it manages: it removes what uv.lock does not name.
if [ "$("$UV" --version 2>/dev/null | cut -d ' ' -f 2)" != "$UV_VERSION" ]; then
    rm -rf .venv/.uv
    make_venv .venv/bin/python .venv/.uv
    PIP_USER=0 .venv/.uv/bin/python -m pip --quiet --disable-pip-version-check install "uv==$UV_VERSION" ||
        fail "uv $UV_VERSION could not be installed from PyPI; is the network there?"
fi

say "Installing the packages of uv.lock …"
unset VIRTUAL_ENV UV_PROJECT_ENVIRONMENT
# Every process would otherwise compile the packages when it is first started, seven of them at once.
"$UV" --quiet sync --locked --compile-bytecode --python .venv/bin/python --no-python-downloads ||
    fail "the packages of uv.lock could not be installed."

printf '%s' "$wanted" >"$STAMP"
[ "${1:-}" != prometheus ] || see_to_prometheus
