#!/usr/bin/env bash
# Runs every program fuzz_* of a build folder RUNS times, from the seeds in tests/fuzz/corpus/<name>.
# usage: cmake/fuzz.sh BUILD RUNS
set -euo pipefail
build=$1 runs=$2
mapfile -t programs < <(find "$build/tests/fuzz" -maxdepth 1 -type f -executable -name 'fuzz_*' | sort)
((${#programs[@]})) || { echo "fuzz: no program fuzz_* in $build/tests/fuzz"; exit 1; }
for program in "${programs[@]}"; do
  name=$(basename "$program")
  work=$build/corpus/$name
  mkdir -p "$work"
  seeds=()
  [[ ! -d tests/fuzz/corpus/$name ]] || seeds=("tests/fuzz/corpus/$name")
  echo "fuzz: $name, $runs runs"
  "$program" -runs="$runs" -artifact_prefix="$build/" -print_final_stats=1 "$work" "${seeds[@]}"
done
