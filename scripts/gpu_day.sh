#!/usr/bin/env bash
# Tests and measurements on a GPU, in repeatable parts of at most nine minutes with little output.
#
#   scripts/gpu_day.sh PART OUT
#
#   tests           pytest -m gpu                                   OUT/tests.txt
#   bench-sd        a step with Stable Diffusion 1.5's size, and    OUT/bench-sd.md
#                   variants of it; bench-sdxl, bench-if likewise
#   corgi           train "a corgi" with the embedded prior, and a  OUT/corgi.txt, corgi.png,
#                   few prompts against the toy world's objects     quality.txt
#   train           the embedded prior, from the weights in         OUT/train.txt, sheet.png,
#                   assets, without the optimiser's state           pieces.json, piece-00, …
#
# After `train`, on the machine with OUT: python -m scripts.pieces join OUT assets/embedded-prior.
# The machine needs no network: missing packages are installed from wheels in .whl, which are not
# committed (scripts/gpu_wheels.sh fetches them). TRIAL=1 minimises every part, for tests on a CPU.
set -euo pipefail
cd "$(dirname "$0")/.."
part=$1 out=$2
mkdir -p "$out"
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE
if [ -d .whl ]; then
  site=${SITE:-/tmp/dreamfusion-site}
  [ -d "$site" ] || python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \
    --target "$site" .whl/*.whl
  export PYTHONPATH=$site:$PWD
fi
limit() { timeout -k 10 "$@"; }
trial() { [ -n "${TRIAL:-}" ]; }
work=${WORK:-/tmp/dreamfusion-day}

bench() {
  local kind=$1 tiny=() small=() settings enough=${BENCH_SECONDS:-400}
  trial && tiny=(--tiny) && small=(--points 4096 --warm-up 1 --repeats 1) && enough=20
  : > "$out/bench-$kind.md"
  # Made once: to draw so many weights by chance takes longer than to measure.
  rm -rf "$work/$kind"
  python3 -m scripts.random_pipelines "$kind" "$work/$kind" "${tiny[@]}"
  # The first with a profile; a variant that fails, or for which no time is left, costs the others nothing.
  for settings in "camera.views=1" "camera.views=4" \
    "camera.views=1 prior.vae_checkpointing=true prior.vae_slicing=true prior.offload=true" \
    "camera.views=1 prior.compile=true"; do
    [ "$SECONDS" -lt "$enough" ] || break
    printf '\n## %s, %s\n\n' "$kind" "$settings" >> "$out/bench-$kind.md"
    # What comes after the last step is the same for all of them: once is enough, on a CPU too much.
    local more=() after="output.mesh_resolution=32 output.texture_size=64 output.video_frames=1"
    [ "$settings" != "camera.views=1" ] || more=(--profile)
    [ "$settings" != "camera.views=1" ] || trial || after=
    # shellcheck disable=SC2086 -- settings are several words
    limit $((enough + 130 - SECONDS)) python3 -m scripts.bench --prior "$work/$kind" "${small[@]}" "${more[@]}" \
      -- $settings $after >> "$out/bench-$kind.md" 2> "$out/bench-$kind.err" ||
      echo "failed: $(tail -1 "$out/bench-$kind.err")" >> "$out/bench-$kind.md"
  done
  cat "$out/bench-$kind.md"
}

case $part in
tests)
  only=()
  trial && only=(--collect-only)
  status=0
  # Each process compiles its kernels, on a core of its own. Newer packages may warn of what they like.
  limit 500 python3 -m pytest -q -n 6 -m gpu -W default "${only[@]}" tests/scenes/nerf tests/utils tests/cuda \
    > "$out/tests.txt" 2>&1 || status=$?
  tail -5 "$out/tests.txt"
  exit "$status"
  ;;
bench-sd | bench-sdxl | bench-if)
  bench "${part#bench-}"
  ;;
corgi)
  small=()
  trial && small=(--set steps=2 --set output.mesh_resolution=16 --set output.texture_size=32)
  small+=(--set output.video_frames=1)
  rm -rf "$work/corgi" "$work/quality"
  { time limit 200 python3 -m dreamfusion train "a corgi" --prior embedded --out "$work/corgi" \
    "${small[@]}"; } > "$out/corgi.txt" 2>&1
  python3 -m dreamfusion render "$work/corgi" --mode grid --format png --frames 1 --size 256
  cp "$work/corgi/render-grid.png" "$out/corgi.png"
  prompts=("a corgi" "a mug" "a cat" "an airplane" "a red car" "a castle")
  trial && prompts=("a corgi")
  printf '%s\n' "${prompts[@]}" > "$work/prompts.txt"
  limit 320 python3 -m dreamfusion batch "$work/prompts.txt" --out "$work/quality" "${small[@]}"
  python3 -m dreamfusion evaluate "$work/quality" --judge toy --truth > "$out/quality.txt"
  cat "$out/corgi.txt" "$out/quality.txt"
  ;;
train)
  # From the start on, so that what is slow before the first step takes nothing from the end.
  options=(--seconds "${TRAIN_SECONDS:-480}" --steps 1000000 --decay-steps 0 --batch 1536 --ema 0.997)
  options+=(--views-per-noun 1024 --sheet-every 1000000 --save-every 1000000 --half-steps 0)
  trial && options=(--steps 2 --decay-steps 0 --batch 2 --views-per-noun 8 --sheet-steps 1)
  rm -f "$work/training/state.pt"
  limit 560 python3 -m scripts.embedded_prior --init assets/embedded-prior --noise-power 1.3 --seed 17 \
    --began-with "the prior of 2,016,576 pictures that this one replaces" \
    --work "$work/training" --out "$work/training/prior" "${options[@]}" \
    > "$out/train.txt" 2>&1 || { tail -3 "$out/train.txt"; exit 1; }
  cp "$work/training/prior/samples.png" "$out/sheet.png"
  python3 -m scripts.pieces cut "$work/training/prior" "$out"
  tail -2 "$out/train.txt"
  ;;
*)
  echo "error: no part $part" >&2
  exit 2
  ;;
esac
