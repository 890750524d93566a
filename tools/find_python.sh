#!/bin/sh
# Prints the path of a Python that is 3.10 or later: $PYTHON when it is set, else the first on PATH.
set -u

is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

if [ -n "${PYTHON:-}" ]; then
    if is_recent "$PYTHON"; then
        command -v "$PYTHON"
        exit 0
    fi
    echo "pomona: expected PYTHON to be a Python 3.10 or later, got PYTHON=$PYTHON." >&2
    exit 1
fi
for name in python3 python python3.14 python3.13 python3.12 python3.11 python3.10; do
    if path=$(command -v "$name") && is_recent "$path"; then
        echo "$path"
        exit 0
    fi
done
echo "pomona: there is no Python 3.10 or later on PATH. Install one (on Debian: apt-get install" >&2
echo "python3 python3-venv python3-dev) or name one: make PYTHON=/path/to/python3.12 ..." >&2
exit 1
