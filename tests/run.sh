#!/usr/bin/env bash
# Runs the whole test suite from a fresh clone: installs the test tools and Mosquitto if absent, then checks style, types and
# layers, and runs all tests with the coverage of consensus/ and contracts/. Arguments go to pytest.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../cluster/environment.sh"

ensure_installed test
command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || install_package "the MQTT broker Mosquitto" mosquitto

cd "$project"
unset GRIDPACT_HOME GRIDPACT_PARENT
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
"$venv/bin/lint-imports" --config setup.cfg
exec "$venv/bin/python" -m pytest --cov --cov-report=term "$@"
