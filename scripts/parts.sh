# Sourced by scripts/test and scripts/test-full: runs parts of a long check, prints the time of each, counts tests.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
jobs=$(nproc)
passed=0 failed=0 skipped=0 parts_failed=0 table=()
[ "$(id -u)" = 0 ] || echo "not root: what is missing will be named, not installed"

# part NAME COMMAND… runs it, prints its time, and notes when it fails.
part() {
  local name=$1 begin=$SECONDS result=ok
  shift
  printf '\n== %s\n' "$name"
  "$@" || { result=failed; parts_failed=$((parts_failed + 1)); }
  table+=("$(printf '%-52s %5d s  %s' "$name" $((SECONDS - begin)) "$result")")
  echo "== $name: $result, $((SECONDS - begin)) s"
  [ "$result" = ok ]
}

# build PRESET TARGET… configures and builds; without targets everything.
build() {
  local preset=$1 log=build/$1.log
  shift
  mkdir -p build
  cmake --preset "$preset" >"$log" 2>&1 && cmake --build --preset "$preset" -j "$jobs" ${1:+--target "$@"} >>"$log" 2>&1 ||
    { tail -n 60 "$log"; return 1; }
}

# suite PRESET CTEST-OPTIONS… runs tests in parallel and adds up ctest's closing line.
suite() {
  local preset=$1 log=build/$1-tests.log code=0 of=0 bad=0 unrun=0
  shift
  ctest --test-dir "build/$preset" -j "$jobs" --output-on-failure --no-tests=error "$@" >"$log" 2>&1 || code=$?
  read -r bad of < <(sed -nE 's/.*tests passed, ([0-9]+) tests? failed out of ([0-9]+).*/\1 \2/p' "$log") || true
  unrun=$(grep -c '\*\*\*Skipped' "$log" || true)
  passed=$((passed + of - bad - unrun)) failed=$((failed + bad)) skipped=$((skipped + unrun))
  grep -h 'skipped: ' "$log" || true
  if [ $code = 0 ]; then tail -n 12 "$log" | grep 'tests passed'; else grep -vE '^ *[0-9]+/[0-9]+ .*Passed|^ *Start ' "$log" | tail -n 200; fi
  return $code
}

# The last lines: the parts with their times, then the count. Exits 1 if a part failed.
finish() {
  printf '\n'
  printf '%s\n' "${table[@]}"
  printf '%-52s %5d s\n\n' "in all" "$SECONDS"
  [ $parts_failed = 0 ] || [ $failed != 0 ] || failed=$parts_failed # a part that broke before it could count
  echo "$passed passed, $failed failed, $skipped skipped"
  [ $parts_failed = 0 ] || exit 1
}
