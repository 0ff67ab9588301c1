#!/usr/bin/env bash
# Makes this checkout ready: system packages, then .venv with the locked Python packages and our own.
# Written for Debian 12; elsewhere it says what to install. Does nothing, quickly, when nothing changed.
# With --for-tests also what only tests need: Docker, Postgres, Prometheus, sshd, Chromium, an emulator of arm64 and
# virtual machines, none of which is started, the programs of a Kubernetes cluster, bubblewrap, Docker Compose, and
# SGLang's parser.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.installed
certificates=/etc/ssl/certs/ca-certificates.crt

main() {
    install_system_packages
    local wanted
    wanted=$(wanted_state)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        make_environment
        install_python_packages
        compile_test_runner
        echo "$wanted" >"$stamp"
    fi
    case "${1:-}" in
        --for-tests)
            # shellcheck disable=SC2046
            install_where_possible $(have dockerd || echo docker.io) $(have chromium || echo chromium) \
                $(have promtool || echo prometheus) $(have_postgres || echo postgresql) \
                $([ -x /usr/sbin/sshd ] || echo openssh-server) \
                $(have qemu-aarch64-static || echo qemu-user-static) \
                $(have qemu-system-x86_64 || echo qemu-system-x86) $(have busybox || echo busybox-static) \
                $(have cpio || echo cpio) \
                $([ -x /usr/bin/pip3 ] || echo python3-pip) \
                $(/usr/bin/python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv) \
                $(.venv/bin/python -m deploy.bubblewrap packages) \
                $(.venv/bin/python -m deploy.cluster packages)
            .venv/bin/python -m deploy.cluster build || echo "setup: without a cluster the tests on one are skipped"
            .venv/bin/python -m deploy.vm --fetch || echo "setup: without a kernel no virtual machine is tried"
            .venv/bin/python -m deploy.bubblewrap build || echo "setup: without bubblewrap no sandbox of its is tried"
            .venv/bin/python -m deploy.compose || echo "setup: without Docker Compose its tests are skipped"
            tests/contract/sglang/setup.sh || echo "setup: without SGLang's packages its contract tests are skipped"
            ;;
        --for-cluster)
            # shellcheck disable=SC2046
            install_where_possible $(.venv/bin/python -m deploy.cluster packages)
            ;;
    esac
}

# What the installed state depends on. The folder is part of it: a moved .venv no longer works.
wanted_state() {
    { cat requirements/build.txt requirements/dev.txt pyproject.toml && pwd; } | sha256sum | cut -d' ' -f1
}

install_system_packages() {
    local missing=()
    have git || missing+=(git)
    have ssh || missing+=(openssh-client)
    have make || missing+=(make)
    have c++ || have g++ || have clang++ || missing+=(g++) # for the step of the model server
    have go || missing+=(golang-go) # for the program that serves sandboxes from inside
    have ps || missing+=(procps) # commands in the sandbox, and its tests, look for processes
    [ -e "$certificates" ] || missing+=(ca-certificates)
    [ -x .venv/bin/python ] || find_python >/dev/null || missing+=(python3 python3-venv)
    [ ${#missing[@]} -eq 0 ] && return
    have apt-get || fail "please install: ${missing[*]} (Python 3.11 or later, with venv)"
    echo "setup: installing ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

# Whoever needs one of these says so where it is missing: its tests are skipped, a cluster does not start.
install_where_possible() {
    [ $# -eq 0 ] && return
    if ! have apt-get || [ "$(id -u)" -ne 0 ]; then
        echo "setup: not installed, for want of apt-get or of the superuser: $*"
        return
    fi
    echo "setup: installing $*"
    # As in single-user mode: packages do not start what they install.
    apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends "$@" >/dev/null ||
        echo "setup: they could not be installed: $*"
}

make_environment() {
    if ! .venv/bin/python -c '' 2>/dev/null; then
        local python
        python=$(find_python) || fail "no Python 3.11 or later with the venv module was found"
        rm -rf .venv
        "$python" -m venv .venv
    fi
}

# uv is installed by pip, everything else by uv, and both only what the locks' hashes allow.
install_python_packages() {
    # Trust what the machine trusts, such as a company's own certificate, and not the tools' built-in lists.
    export UV_SYSTEM_CERTS=1 PIP_CERT="${PIP_CERT:-$certificates}"
    if [ ! -x .venv/bin/uv ]; then
        .venv/bin/python -m ensurepip --upgrade >/dev/null
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/build.txt
    fi
    echo "setup: installing the Python packages (several GB the first time: PyTorch)"
    .venv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes requirements/build.txt requirements/dev.txt
    .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
}

# A sandbox sees .venv read-only and cannot keep what it compiles; uncompiled, every start of pytest there costs a third
# more processor time.
compile_test_runner() {
    local packages
    packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    .venv/bin/python -m compileall -q "$packages"/{_pytest,pytest,pluggy,iniconfig,packaging,pygments,anyio}
}

# The first Python that is new enough and can make a virtual environment (Debian ships it without).
find_python() {
    local python
    for python in python3.11 python3 python3.12 python3.13 /usr/bin/python3; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    return 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        fail "not root and no sudo; please run as root: $*"
    fi
}

have() { command -v "$1" >/dev/null; }

have_postgres() { have postgres || compgen -G "/usr/lib/postgresql/*/bin/postgres" >/dev/null; }

fail() {
    echo "setup: $*" >&2
    exit 1
}

main "$@"
