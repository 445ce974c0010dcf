# Makes the project's own Python environment, .venv. Sourced by cluster/launch.sh and tests/run.sh; needs bash.
# Sets: project (the project's folder) and venv (its environment). Nothing is done when the environment is already right.

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$project/.venv

say() { printf 'gridpact: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Runs apt-get as root; without root, or without apt, says which command to run.
# usage: install_package WHAT-FOR PACKAGE...
install_package() {
  local purpose=$1
  shift
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    die "$purpose is missing; install it with: sudo apt-get install $*"
  fi
  say "installing $* ($purpose)"
  if ! DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >&2; then
    apt-get update >&2 || die "apt-get update failed; $purpose is missing: install it with: apt-get install $*"
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >&2 ||
      die "$purpose is missing; this failed: apt-get install $*"
  fi
}

python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# Prints a Python of 3.11 or newer: the one that $PYTHON names, else one that the libraries have ready-made wheels for, else any.
find_python() {
  local candidate version
  if [ -n "${PYTHON:-}" ]; then
    version=$(python_version "$PYTHON") || die "PYTHON=$PYTHON is no Python"
    case $version in 3.1[1-9] | 3.[2-9][0-9]) command -v "$PYTHON"; return ;; esac
    die "PYTHON=$PYTHON is Python $version; 3.11 or newer is needed"
  fi
  for candidate in python3 python3.12 python3.11 python3.13 python3.14; do
    version=$(python_version "$candidate") || continue
    case $version in 3.11 | 3.12) command -v "$candidate"; return ;; esac
  done
  for candidate in python3 python3.13 python3.14 python3.15; do
    version=$(python_version "$candidate") || continue
    case $version in 3.1[3-9] | 3.[2-9][0-9]) command -v "$candidate"; return ;; esac
  done
  return 1
}

# LevelDB's bindings have wheels for Python 3.11 and 3.12 on x86-64 and aarch64; elsewhere they are compiled.
need_compiler() {
  case "$(python_version "$1")/$(uname -m)" in
    3.11/x86_64 | 3.12/x86_64 | 3.11/aarch64 | 3.12/aarch64) return ;;
  esac
  local missing=()
  command -v g++ >/dev/null || missing+=(g++)
  [ -e /usr/include/leveldb/db.h ] || [ -e /usr/local/include/leveldb/db.h ] || missing+=(libleveldb-dev)
  "$1" -c 'import sys, sysconfig, os; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    missing+=("python$(python_version "$1")-dev")
  [ ${#missing[@]} -eq 0 ] || install_package "what compiling the LevelDB bindings needs" "${missing[@]}"
}

make_venv() {
  local python
  if ! python=$(find_python); then
    install_package "Python 3.11 or newer" python3 python3-venv
    python=$(find_python) || die "needs Python 3.11 or newer; this system has $(python_version python3 || echo none)"
  fi
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    install_package "the venv module of $python" "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
  need_compiler "$python"
  if [ -e "$venv" ]; then
    say "$venv is incomplete or made for another place; making it anew"
    rm -rf -- "$venv"
  fi
  say "making $venv with Python $(python_version "$python")"
  "$python" -m venv "$venv" || die "$python -m venv $venv failed"
}

# What an installation depends on: the project's files, its place and the Python. Changes of code need no new installation.
fingerprint() {
  {
    printf '%s\n' "$1" "$project"
    cat "$project/pyproject.toml" "$project/setup.cfg" "$venv/pyvenv.cfg"
  } | sha256sum | cut -d ' ' -f 1
}

# Installs with pip: on a terminal one line says what it works on; all that pip said is shown only if it fails.
# usage: install TARGET
install() {
  local log=$venv/install.log status=0 line
  "$venv/bin/python" -m pip install --disable-pip-version-check --no-color --progress-bar off --editable "$1" 2>&1 | tee "$log" |
    while IFS= read -r line; do
      case $line in
        Collecting* | *Downloading* | *Using\ cached* | Building* | Installing*) [ ! -t 2 ] || printf '\r\033[K  %.76s' "${line#"${line%%[! ]*}"}" >&2 ;;
      esac
    done || status=$?
  [ ! -t 2 ] || printf '\r\033[K' >&2
  if [ "$status" -ne 0 ]; then
    cat "$log" >&2
    die "the installation failed; what pip said stands above"
  fi
}

# usage: ensure_installed EXTRA   ("" installs the project alone, "test" with the test tools)
ensure_installed() {
  local extra=$1 stamp=$venv/.installed${1:+-$1} target=$project${1:+[$1]}
  if [ -x "$venv/bin/python" ] && [ -x "$venv/bin/gridpact" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint "$extra")" ]; then
    return
  fi
  if ! "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    ! grep -qsF "$venv" "$venv/bin/activate"; then
    make_venv
  fi
  say "installing GridPact${extra:+ with its $extra tools}; the first time this downloads about 20 MB"
  rm -f -- "$stamp"
  install "$target"
  fingerprint "$extra" >"$stamp"
  fingerprint "" >"$venv/.installed"
}
