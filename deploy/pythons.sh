#!/bin/sh
# Runs the fast part of the suite (rules and providers) on every Python that the product supports and that is at hand, in
# PATH or among pyenv's. Each has an environment of its own under .venv/.pythons, with exactly what uv.lock names.
# Arguments go to pytest. Ends with an error where one failed, or where there was none but the one of .venv.
set -eu
cd "$(dirname "$0")/.."

UV=.venv/.uv/bin/uv
unset VIRTUAL_ENV

# $1: the version, such as 3.12. A name in PATH is no proof: pyenv leaves shims behind that only fail.
find_python() {
    for python in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python3; do
        if "$python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" >/dev/null 2>&1; then
            command -v "$python"
            return
        fi
    done
}

found=0
failed=
for version in 3.11 3.12 3.13 3.14; do
    python=$(find_python "$version")
    if [ -z "$python" ]; then
        echo "Python $version is not at hand."
        continue
    fi
    found=$((found + 1))
    echo "Python $version: $python"
    environment=.venv/.pythons/$version
    if ! UV_PROJECT_ENVIRONMENT=$environment "$UV" --quiet sync --locked --python "$python" --no-python-downloads ||
        ! "$environment/bin/python" -m pytest -q -p no:cacheprovider -n 2 tests/rules tests/providers "$@"; then
        failed="$failed $version"
    fi
done

[ -z "$failed" ] || { echo "Failed on Python$failed." && exit 1; }
[ "$found" -gt 1 ] || { echo "Only $found of the Pythons from 3.11 to 3.14 is at hand: nothing was compared." && exit 1; }
