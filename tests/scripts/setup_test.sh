#!/usr/bin/env bash
# What scripts/setup.sh does about missing system packages, on a machine made of stand-ins: dpkg-query knows
# one package, id says which user it is, sudo works or refuses, apt-get writes down how it was called.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failures=0

stand_in() { # name, body
  printf '#!/bin/bash\n%s\n' "$2" >"$scratch/bin/$1"
  chmod +x "$scratch/bin/$1"
}

# run_setup <uid> <sudo body>: status in $status, output in $output, calls of apt-get in $calls
run_setup() {
  rm -rf "${scratch:?}"/*
  mkdir -p "$scratch/bin" "$scratch/project"
  cp -r "$repository/scripts" "$scratch/project/scripts"
  stand_in dpkg-query 'printf "installed=cmake "; exit 1'
  stand_in id "echo $1"
  stand_in sudo "$2"
  # An install that fails ends the set-up before it would make an environment.
  stand_in apt-get "echo \"\$*\" >>$scratch/calls; [ \"\$1\" = update ]"
  status=0
  output=$(PATH="$scratch/bin:$PATH" "$scratch/project/scripts/setup.sh" 2>&1) || status=$?
  calls=$(cat "$scratch/calls" 2>/dev/null || true)
}

expect() { # description, condition...
  if ! "${@:2}"; then
    echo "FAILED: $1"
    echo "status $status, apt-get calls: $calls"
    echo "$output"
    failures=$((failures + 1))
  fi
}
contains() { [[ $1 == *"$2"* ]]; }
lacks() { [[ $1 != *"$2"* ]]; }

run_setup 1000 'exit 1'
expect "without rights the set-up stops" [ "$status" -eq 1 ]
expect "without rights nothing is installed" [ -z "$calls" ]
expect "the missing package is listed" contains "$output" "  libfmt-dev"
expect "the installed package is not listed" lacks "$output" "  cmake"
expect "the command to run is given" contains "$output" "sudo apt-get install -y ninja-build"
expect "no environment was made" [ ! -e "$scratch/project/.venv" ]

run_setup 1000 'shift; exec "$@"'
expect "sudo that does not ask is used" contains "$calls" "install -y -q --no-install-recommends ninja-build"
expect "a failed install stops the set-up" [ "$status" -ne 0 ]

run_setup 0 'exit 1'
expect "root needs no sudo" contains "$calls" "install -y"
expect "the package lists are brought up to date first" [ "${calls%%$'\n'*}" = "update -q" ]

((failures == 0)) && echo "setup: all expectations met"
