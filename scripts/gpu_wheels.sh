#!/bin/sh
# Fetch into .whl the packages that a machine with CUDA lacks to run scripts/gpu_day.sh: wheels for
# Python 3.12 on x86-64. The wheel of ffmpeg is too large; runs then write no video.
set -eu
cd "$(dirname "$0")/.."
platforms=
for version in 2_28 2_27 2_17 2_12 2_5; do
  platforms="$platforms --platform manylinux_${version}_x86_64"
done
# shellcheck disable=SC2086 -- several words
python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  $platforms --platform manylinux2014_x86_64 -d .whl \
  diffusers trimesh fast-simplification xatlas "$@"
du -sh .whl
