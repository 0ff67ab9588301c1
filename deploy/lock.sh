#!/usr/bin/env bash
# Writes requirements/*.txt from pyproject.toml: exact versions with hashes, no addresses.
# Keeps the pins that still fit; `deploy/lock.sh --upgrade` takes the newest versions.
#
#   build.txt   what deploy/setup.sh installs first
#   base.txt    the light install: agent, sandbox, REST API, command line
#   agent.txt   base + containers, pods, Postgres, spans, MCP and ACP: the image of the service
#   agent-ray.txt   agent + Ray: the image of workers whose executors are in a Ray cluster, and of its machines
#   router.txt  the gateway alone: the image of the router
#   model.txt   base + the embedded model server and training
#   dev.txt     model + tests and checks; what the checkout's .venv holds
set -euo pipefail
cd "$(dirname "$0")/.."
export UV_SYSTEM_CERTS=1

main() {
    lock dev "$@" pyproject.toml --extra model --extra dev --group build
    # The smaller sets are cut from the largest, so that a package has one version everywhere.
    lock model --constraints requirements/dev.txt pyproject.toml --extra model
    lock base --constraints requirements/dev.txt pyproject.toml
    lock agent --constraints requirements/dev.txt pyproject.toml \
        --extra docker --extra kubernetes --extra postgres --extra telemetry --extra mcp --extra acp
    lock agent-ray --constraints requirements/dev.txt pyproject.toml \
        --extra docker --extra kubernetes --extra postgres --extra telemetry --extra mcp --extra acp --extra ray
    lock router --constraints requirements/dev.txt --group router
    lock build --constraints requirements/dev.txt --group build
}

lock() {
    local name=$1
    shift
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --output-file "requirements/$name.txt" "$@" >/dev/null
}

main "$@"
