#!/usr/bin/env bash
# Runs the whole test suite from a fresh clone: installs the test tools and Mosquitto if absent, then runs all tests (those of
# tests/architecture check style, types and layers) on two processes, with the coverage of consensus/ and contracts/. Arguments go to pytest.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../cluster/environment.sh"

ensure_installed test
command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || install_package "the MQTT broker Mosquitto" mosquitto

cd "$project"
unset GRIDPACT_HOME GRIDPACT_PARENT
exec "$venv/bin/python" -m pytest --numprocesses=2 --dist=loadfile --cov --cov-report=term "$@"
