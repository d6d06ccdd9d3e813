#!/usr/bin/env bash
# The rules of the house, one function each: rules.sh RULE [arguments], run in the source folder. Exit 77: skipped.
set -euo pipefail

fail() { echo "error: $*" >&2; exit 1; }
code_files() { find src tests studies $(ls -d bench 2>/dev/null) -name '*.h' -o -name '*.cpp'; }

# No include and no target link points to a room at its right. The order is the line in docs/house.md that starts with
# "core <"; rooms in braces stand side by side and do not see each other.
rule_arrows() {
  local order
  order=$(grep -m1 '^ *core < ' docs/house.md) || fail "docs/house.md has no line that starts with 'core <'"
  {
    grep -rhoHE '^#include "[^"]+"' src --include='*.h' --include='*.cpp' | sed -E 's|^src/([^/]+)/[^:]*:#include "([^/"]+)/.*|include \1 \2 &|'
    sed -nE 's/^finback_room\(([a-z]+) LINKS ([a-z ]*)(LIBRARIES.*)?\)/\1 \2/p' src/CMakeLists.txt |
      awk '{ print "room", $1; for (i = 2; i <= NF; ++i) print "link", $1, $i, "src/CMakeLists.txt" }'
    find src -mindepth 1 -maxdepth 1 -type d -printf 'folder %f\n'
  } | awk -v order="$order" '
    BEGIN {
      levels = split(order, part, "<")
      for (l = 1; l <= levels; ++l) {
        gsub(/[{}, ]+/, " ", part[l])
        n = split(part[l], names, " ")
        for (i = 1; i <= n; ++i) level[names[i]] = l
      }
    }
    function wrong(text) { print "error: " text; bad = 1 }
    $1 == "room" { target[$2] = 1 }
    $1 == "folder" { folder[$2] = 1 }
    $1 == "include" || $1 == "link" {
      ++seen
      if (!($3 in level)) wrong("no room " $3 ": " $0)
      else if ($2 != $3 && level[$3] >= level[$2]) wrong("room " $2 " may not see room " $3 ": " $0)
    }
    END {
      for (f in folder) {
        if (!(f in level)) wrong("src/" f " is not in the order of docs/house.md")
        if (f != "cli" && !(f in target)) wrong("src/" f " has no finback_room in src/CMakeLists.txt")
      }
      for (t in target) if (!(t in folder)) wrong("room " t " has no folder")
      if (seen < 20) wrong("only " seen + 0 " includes and links found: the rule looks at nothing")
      exit bad
    }'
}

# One idea a file: none is longer than 700 lines.
rule_sizes() {
  code_files | xargs wc -l | awk '$2 != "total" && $1 > 700 { print "error: " $2 " has " $1 " lines, split it"; bad = 1 } END { exit bad }'
}

# Nothing unfinished, no assert (it vanishes in release builds), no std::regex (it recurses), no machine's own paths, and the
# project speaks of itself alone: a tracker's numbers mean nothing to a reader.
rule_words() {
  local bad=0
  look() { # what pattern paths…
    local what=$1 pattern=$2 hits
    shift 2
    hits=$(grep -rnIE "$pattern" "$@" --exclude=rules.sh --exclude-dir=corpus 2>/dev/null || true)
    [ -z "$hits" ] || { echo "$hits"; echo "error: $what"; bad=1; }
  }
  look "unfinished work" '\b(TODO|FIXME|XXX)\b' src tests bench studies scripts docs cmake README.md
  look "assert(): use FB_CHECK" '(^|[^_a-z])assert\(|<cassert>|<assert\.h>' src
  look "std::regex: write a linear scanner" 'std::regex|<regex>' src
  look "a path of one machine" '/(home|work|Users)/[a-z]' src tests bench studies scripts docs cmake configs README.md CONTRIBUTING.md
  look "a tracker's number" '(issue|ticket|pull request|PR) *#?[0-9]+' src tests bench studies scripts docs README.md CONTRIBUTING.md
  return $bad
}

rule_format() {
  command -v clang-format-16 >/dev/null || { echo "skipped: clang-format-16 is not installed (scripts/setup --test)"; exit 77; }
  code_files | xargs clang-format-16 --dry-run -Werror
}

subcommands() { # of `finback WORDS…`, from its help
  "$@" --help | awk 'tolower($1) == "subcommands:" { on = 1; next } /^$/ { on = 0 } on && /^  [a-z]/ { print $1 }'
}

# Every command, with its subcommands, explains itself and shows an example.
rule_help() {
  local bad=0 count=0
  visit() {
    local names name
    names=$(subcommands "$@")
    if [ -n "$names" ]; then
      for name in $names; do visit "$@" "$name"; done
    else
      count=$((count + 1))
      "$@" --help | grep -qi '^ *examples\?:' || { echo "error: ${*#*/} --help shows no example"; bad=1; }
    fi
  }
  visit "$1"
  [ "$count" -gt 0 ] || fail "no command found: the rule looks at nothing"
  return $bad
}

# Every command in the README and the docs exists, with its options: lines of code blocks that start with finback, scripts/ or studies/.
rule_documented_commands() {
  local finback=$1 file line word bad=0 count=0
  while IFS=: read -r file line; do
    count=$((count + 1))
    line=${line%%#*}
    line=${line%%>*}
    read -r -a words <<<"$line"
    case ${words[0]} in
      scripts/* | studies/*) [ -x "${words[0]}" ] || { echo "error: $file names ${words[0]}, which is no script"; bad=1; } ;;
      *)
        local command=("$finback") help
        for word in "${words[@]:1}"; do
          case $word in -* | */* | *.* | *=*) break ;; esac
          subcommands "${command[@]}" | grep -qx "$word" || break
          command+=("$word")
        done
        help=$("${command[@]}" --help)
        if [ ${#command[@]} = 1 ] && [ ${#words[@]} -gt 1 ] && [ "${words[1]#-}" = "${words[1]}" ]; then
          echo "error: $file shows '$line', but finback has no command ${words[1]}"
          bad=1
        fi
        for word in "${words[@]:1}"; do
          case $word in
            --*) grep -qE -- "(^|[ ,])${word%%=*}([ ,=]|$)" <<<"$help" || { echo "error: $file shows '$line', but there is no option $word"; bad=1; } ;;
          esac
        done
        ;;
    esac
  done < <(awk '/^```/ { on = !on; next } on { sub(/^\$ /, ""); sub(/^build\/release\//, ""); if (/^(finback|(scripts|studies)\/[a-z])/) print FILENAME ":" $0 }' \
    README.md CONTRIBUTING.md docs/*.md docs/studies/*.md)
  [ "$count" -gt 0 ] || fail "only $count commands found: the rule looks at nothing"
  return $bad
}

# Every relative link of the pages leads to a file.
rule_links() {
  local page target bad=0 count=0
  while read -r page target; do
    count=$((count + 1))
    [ -e "$(dirname "$page")/${target%%#*}" ] || { echo "error: $page links to $target, which is not there"; bad=1; }
  done < <(grep -HoE '\]\([^)]+\)' README.md CONTRIBUTING.md docs/*.md docs/studies/*.md | sed -E 's/^([^:]+):\]\((.*)\)$/\1 \2/' | grep -vE ' (https?:|#)')
  [ "$count" -gt 5 ] || fail "only $count links found: the rule looks at nothing"
  return $bad
}

# A kernel file compiled for one instruction set defines nothing that the linker could share with the rest of the program: a
# weak symbol compiled with AVX-512 would crash older machines.
rule_kernel_symbols() {
  local nm=$1
  shift
  [ $# -gt 0 ] || fail "no kernel objects given"
  if "$nm" -C -A "$@" | grep -E ' [WVu] '; then fail "weak symbols in the kernel objects above"; fi
}

"rule_$@"
