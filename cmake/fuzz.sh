#!/usr/bin/env bash
# Runs every program fuzz_* of a build folder RUNS times, from the seeds in tests/fuzz/corpus/<name>,
# as many at once as there are cores. What a program said is in BUILD/<name>.log, an input that broke
# it beside that. usage: cmake/fuzz.sh BUILD RUNS
set -euo pipefail
build=$1 runs=$2

fuzz() {  # fuzz <program>
  local name work seeds=()
  name=$(basename "$1")
  work=$build/corpus/$name
  mkdir -p "$work"
  [[ ! -d tests/fuzz/corpus/$name ]] || seeds=("tests/fuzz/corpus/$name")
  if "$1" -runs="$runs" -timeout=20 -artifact_prefix="$build/$name-" -print_final_stats=1 "$work" \
      "${seeds[@]}" >"$build/$name.log" 2>&1; then
    echo "fuzz: $name: $(grep '^Done' "$build/$name.log"), no complaint"
  else
    tail -n 60 "$build/$name.log"
    echo "fuzz: $name failed; all of it is in $build/$name.log"
    return 1
  fi
}
export -f fuzz
export build runs

mapfile -t programs < <(find "$build/tests/fuzz" -maxdepth 1 -type f -executable -name 'fuzz_*' | sort)
((${#programs[@]})) || { echo "fuzz: no program fuzz_* in $build/tests/fuzz"; exit 1; }
echo "fuzz: ${#programs[@]} programs, $runs runs each"
printf '%s\n' "${programs[@]}" | xargs -P "$(cmake/jobs.sh)" -I {} bash -c 'fuzz {}'
