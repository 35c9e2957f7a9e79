#!/usr/bin/env bash
# The tests of teachers behind real servers, KServe's among them, whose environment is made here: two minutes.
#
#     bash benchmarks/real_servers.sh [python]
#
# Environments are kept in build/servers, or in the directory that MEKD_SERVERS names.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python}
servers=${MEKD_SERVERS:-build/servers}
kserve=$servers/kserve-0.21
if [ ! -e "$kserve/ready" ]; then
    "$python" -m venv --clear "$kserve"
    "$kserve/bin/python" -m pip install --quiet --disable-pip-version-check kserve==0.21 onnxruntime
    touch "$kserve/ready"
fi
exec "$python" -m pytest -q -o addopts=--import-mode=importlib tests/blackbox/remote/test_real_servers.py
