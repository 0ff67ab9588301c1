#!/usr/bin/env bash
# Push the images of build/images to a registry of yours, sign each by its digest with a key of yours, and print what
# Helm has to be told of them:
#   make images && deploy/sign.sh registry.example.internal cosign.key >build/digests
#   helm install mimo ./helm --set=global.imageRegistry=registry.example.internal $(cat build/digests) ...
# The key's password is in COSIGN_PASSWORD; nothing is written to a public log. Needs, from Go:
#   go install github.com/google/go-containerregistry/cmd/crane@v0.22.1
#   go install github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3
# A registry without a certificate: INSECURE=1.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -eq 2 ] || { sed -n '2,/^set/{/^#/p}' "$0" >&2; exit 2; }
registry=${1%/} key=$2

declare -A places=(
    [agent]="api.image orchestrator.image"
    [agent-ray]=sandbox.ray.image
    [model-server]=modelServer.image
    [router]=router.image
    [postgres]=database.image
    [sandboxd]=sandbox.image
    [task]=sandbox.taskImage
)

for archive in build/images/*.tar; do
    name=$(basename "$archive" .tar)
    name=${name%-*} # the rest says what it is made of
    pushed=$(crane push ${INSECURE:+--insecure} "$archive" "$registry/mimo-coder/$name")
    cosign sign --yes --key "$key" --use-signing-config=false --tlog-upload=false \
        ${INSECURE:+--allow-insecure-registry} "$pushed" >&2
    for place in ${places[$name]:-}; do
        echo "--set=$place.digest=${pushed#*@}"
    done
done
