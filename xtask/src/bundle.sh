#!/bin/sh
# Runs what `cargo xtask bundle` packed, on a GPU machine without Rust. No argument prints the commands.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
bin="${KRONSPARSE_BIN:-${TMPDIR:-/tmp}/kronsparse-bundle-$(id -u)-$(cksum <"$here/bin.tar.gz" | cut -d' ' -f1)}"
if [ ! -x "$bin/bin/kronsparse" ]; then
  mkdir -p "$bin"
  tar -xzf "$here/bin.tar.gz" -C "$bin"
fi
bin="$bin/bin"
export KRONSPARSE_TESTDATA="$here/testdata"

case "${1:-help}" in
test) # every program that talks to a GPU, or the tests whose names contain one of the words
  shift
  export KRONSPARSE_REQUIRE_GPU=1
  "$bin/kronsparse" info
  "$bin/tests/kronsparse" cuda::
  failed=
  for program in "$bin"/tests/cuda* "$bin"/tests/gpu* "$bin"/tests/vendor*; do
    [ -x "$program" ] || continue
    echo "== $(basename "$program") $*"
    "$program" --nocapture "$@" || failed="$failed $(basename "$program")"
  done
  [ -z "$failed" ] || { echo "FAILED:$failed"; exit 1; }
  ;;
sanitize) # a short set under three tools of compute-sanitizer; or the tests named
  shift
  export KRONSPARSE_REQUIRE_GPU=1
  export KRONSPARSE_RANDOM="${KRONSPARSE_RANDOM:-24}"
  [ $# -gt 0 ] || set -- random_patterns graph_capture
  sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
  # The kernels are compiled first, without the tool.
  "$bin/tests/cuda" "$@"
  for tool in memcheck racecheck initcheck; do
    echo "== $tool"
    "$sanitizer" --tool "$tool" --error-exitcode 1 "$bin/tests/cuda" "$@"
  done
  ;;
bench) # the command: run.sh bench ARGUMENTS is `kronsparse ARGUMENTS`
  shift
  cd "$here"
  exec "$bin/kronsparse" "$@"
  ;;
run) # any test program by its name
  shift
  program=$1
  shift
  exec "$bin/tests/$program" "$@"
  ;;
*)
  echo "Usage: run.sh test [NAME...] | sanitize [NAME...] | bench ARGUMENTS | run PROGRAM [ARGUMENTS]"
  echo "programs: $(ls "$bin/tests" | tr '\n' ' ')"
  ;;
esac
