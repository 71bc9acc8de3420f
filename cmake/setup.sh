#!/usr/bin/env bash
# Everything a fresh machine needs before CMake can run; called by `make setup`. Running it again
# costs a second. usage: cmake/setup.sh [lint] [fuzz]
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=${PATH//"$PWD/.venv/bin:"/}  # the Makefile puts it first; here the system's own tools count

cmake_at_least=3.25
wheels=()
clang_tidy=clang-tidy==23.1.4  # passes by what stands in system headers: a third of the time of older ones
build_wheels=(cmake==4.4.4 ninja==1.13.2)  # for .venv, where the system's are older or absent
need=(g++ cmake ninja-build ccache mold git nlohmann-json3-dev libgtest-dev libbenchmark-dev
      libhdf5-dev libxtensor-dev libcli11-dev libxxhash-dev libssl-dev)
for group in "$@"; do
  case $group in
    lint) need+=(clang-format); wheels+=("$clang_tidy") ;;
    fuzz) need+=(clang libclang-rt-dev) ;;
    *) echo "setup: no group '$group'; lint and fuzz are the choices" >&2; exit 2 ;;
  esac
done

say() { printf 'setup: %s\n' "$*"; }

python_is_complete() {  # 3.11 or newer, able to make a virtual environment, with the C headers
  "$1" -c '
import ensurepip, os, sys, sysconfig, venv
header = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(0 if sys.version_info >= (3, 11) and os.path.exists(header) else 1)' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if command -v "$candidate" >/dev/null && python_is_complete "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

missing_packages() {
  local package
  for package in "${need[@]}"; do
    [[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) == "install ok installed" ]] ||
      echo "$package"
  done
  [[ -x .venv/bin/python ]] || find_python >/dev/null || printf '%s\n' python3 python3-venv python3-dev
}

install_packages() {
  local as_root=()
  if ((EUID != 0)); then
    if ! sudo -n true 2>/dev/null; then
      say "system packages are missing, and this user may not install them. Please type:"
      echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends $*"
      exit 1
    fi
    as_root=(sudo -n)
  fi
  say "installing $*"
  "${as_root[@]}" apt-get -q update
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -q install -y --no-install-recommends "$@"
}

check_tools() {  # where there is no dpkg: programs and headers instead of packages
  local absent=() tool
  for tool in c++ git; do
    command -v "$tool" >/dev/null || absent+=("$tool")
  done
  for tool in nlohmann/json.hpp gtest/gtest.h benchmark/benchmark.h; do
    ! command -v c++ >/dev/null || echo "#include <$tool>" | c++ -x c++ -std=c++20 -fsyntax-only - 2>/dev/null || absent+=("$tool")
  done
  find_python >/dev/null || absent+=("Python 3.11 or newer with venv and headers")
  if ((${#absent[@]})); then
    say "not found: ${absent[*]}. Install them and run make again (Debian names: ${need[*]})."
    exit 1
  fi
}

if command -v dpkg-query >/dev/null; then
  mapfile -t missing < <(missing_packages)
  ((${#missing[@]} == 0)) || install_packages "${missing[@]}"
else
  check_tools
fi

system_builds() {  # CMake and ninja of the system are there, and new enough
  local version
  command -v ninja >/dev/null && version=$(cmake --version 2>/dev/null | awk 'NR == 1 {print $3}') &&
    [[ -n $version && $(printf '%s\n' "$cmake_at_least" "$version" | sort -V | head -1) == "$cmake_at_least" ]]
}

install_wheels() {
  .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off --quiet "$@"
}

if [[ ! -x .venv/bin/python || ! -e .venv/bin/pip ]]; then
  python=$(find_python) || { say "no Python 3.11 or newer with venv and headers; set PYTHON=…"; exit 1; }
  say "making .venv with $python"
  "$python" -m venv .venv
fi

stamp=.venv/.requirements-$(sha256sum requirements.txt | cut -c1-16)
if [[ ! -e $stamp ]]; then
  say "installing the packages of requirements.txt (the first time downloads about 3 GB)"
  install_wheels -r requirements.txt
  rm -f .venv/.requirements-*
  touch "$stamp"
fi

if ! system_builds && [[ ! -x .venv/bin/cmake || ! -x .venv/bin/ninja ]]; then
  say "the system's CMake is older than $cmake_at_least, or ninja is absent: ${build_wheels[*]} go into .venv"
  install_wheels "${build_wheels[@]}"
fi

for wheel in "${wheels[@]}"; do
  stamp=.venv/.wheel-$wheel
  [[ -e $stamp ]] || { say "installing $wheel"; install_wheels "$wheel" && touch "$stamp"; }
done
