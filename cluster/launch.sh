#!/usr/bin/env bash
# Starts GridPact from a fresh clone: makes .venv, installs the project into it, runs `gridpact up` with the arguments given.
# Works from any folder. A second start installs nothing.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

ensure_installed ""
exec "$venv/bin/gridpact" up "$@"
