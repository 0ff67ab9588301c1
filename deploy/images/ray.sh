#!/bin/sh
# As an installer would have written it: what KubeRay calls to see whether a head is there.
exec python3 -P -m ray.scripts.scripts "$@"
