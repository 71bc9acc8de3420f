#!/usr/bin/env bash
# clang-tidy (the allow-list of .clang-tidy, as errors) on the .cpp files changed since a commit.
# usage: cmake/tidy.sh BUILD [SINCE]; SINCE is the fork from origin/main, or the last commit on it
set -euo pipefail
build=$1
since=${2:-}
if [[ -z $since ]]; then
  since=$(git merge-base HEAD origin/main 2>/dev/null || true)
  [[ -n $since && $since != $(git rev-parse HEAD) ]] || since=$(git rev-parse -q --verify HEAD~1 || true)
fi
[[ -n $since ]] || { echo "tidy: nothing to compare with"; exit 0; }
mapfile -t files < <(git diff --name-only --diff-filter=d "$since" -- 'hooks/*.cpp' 'bridge/*.cpp' \
  'adapters/*.cpp' 'verify/*.cpp')
((${#files[@]})) || { echo "tidy: no .cpp changed since $since"; exit 0; }
echo "tidy: ${#files[@]} files changed since ${since:0:12}"
printf '%s\n' "${files[@]}" | xargs -P "$(cmake/jobs.sh)" -n 1 clang-tidy -p "$build" --quiet \
  --warnings-as-errors='*'
