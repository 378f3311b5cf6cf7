#!/bin/sh
# Everything that wants a GPU, in one call: the gpu tests, the benchmark, training the embedded prior.
#
#   scripts/gpu_session.sh OUT [training options]
#
# OUT gets tests.txt, bench.md and embedded-prior/; OUT/work keeps the training's state: run again to
# go on. Each part runs even if the one before it fails; the exit status is that of the worst.
# To try it on a CPU: BENCH="--random tiny --warm-up 1 --repeats 1" scripts/gpu_session.sh /tmp/out \
#   --steps 2 --word-steps 2 --decay-steps 0 --batch 2 --half-steps 0 --views-per-noun 8 --sheet-steps 1
set -u
cd "$(dirname "$0")/.."
out=$1
shift
mkdir -p "$out"
status=0
python -m pytest -q -m gpu > "$out/tests.txt" 2>&1 || status=$?
[ "$status" = 5 ] && status=0 # nothing was collected: there is no GPU here
tail -3 "$out/tests.txt"
# shellcheck disable=SC2086 -- BENCH holds several words
python -m scripts.bench ${BENCH:---random full} > "$out/bench.md" 2> "$out/bench.err" || status=$?
cat "$out/bench.md"
[ $# -gt 0 ] || set -- --steps 20000 --half-steps 0 --batch 256
python -m scripts.embedded_prior --work "$out/work" --out "$out/embedded-prior" "$@" \
  > "$out/training.txt" 2>&1 || status=$?
tail -3 "$out/training.txt"
exit "$status"
