#!/usr/bin/env bash
# Makes build/sglang: the pinned SGLang as far as it needs no GPU (its parser, its schemas, its grammar backend), on
# top of the packages of .venv. About 270 MB. Does nothing, quickly, when nothing changed.
#
# `tests/contract/sglang/setup.sh --lock` writes requirements.txt anew: exact versions with hashes, no addresses.
set -euo pipefail
cd "$(dirname "$0")/../../.."
export UV_SYSTEM_CERTS=1

here=tests/contract/sglang
environment=build/sglang

main() {
    if [ "${1:-}" = --lock ]; then
        lock
    fi
    local wanted
    wanted=$({ cat "$here/requirements.txt" && pwd; } | sha256sum | cut -d' ' -f1)
    if [ "$(cat "$environment/.installed" 2>/dev/null)" != "$wanted" ]; then
        install
        echo "$wanted" >"$environment/.installed"
    fi
}

lock() {
    .venv/bin/uv pip compile --quiet --no-deps --universal --python-version 3.11 --generate-hashes --no-header \
        --no-annotate --output-file "$here/requirements.txt" "$here/requirements.in" >/dev/null
}

install() {
    .venv/bin/uv venv --quiet --clear --python .venv/bin/python "$environment"
    .venv/bin/uv pip install --quiet --python "$environment/bin/python" --no-deps --require-hashes \
        -r "$here/requirements.txt"
    # Its own packages come first, and those of .venv, PyTorch above all, after them.
    .venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        >"$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_shared.pth"
}

main "$@"
