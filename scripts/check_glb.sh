#!/usr/bin/env bash
# Check GLB files with third-party programs.
#
#     scripts/check_glb.sh runs/a-corgi/mesh/model.glb …
#
# Khronos' validator (npm's gltf-validator, fetched into a temporary folder) must report no error and
# no warning. If `blender` is installed, it must import one textured mesh, upright and of the size in
# the file. Exit status 1 if a check fails.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 FILE.glb …" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
files=()
for file in "$@"; do files+=("$(realpath "$file")"); done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$work"
npm install --silent --no-fund --no-audit gltf-validator@2.0.0-dev.3.10
cat > check.js <<'JS'
const fs = require('fs');
const {validateBytes} = require('gltf-validator');
async function check() {
  for (const file of process.argv.slice(2)) {
    const {issues} = await validateBytes(new Uint8Array(fs.readFileSync(file)));
    console.log(`${file}: ${issues.numErrors} errors, ${issues.numWarnings} warnings`);
    for (const m of issues.messages.filter((m) => m.severity < 2)) console.log(`  ${m.message}`);
    if (issues.numErrors + issues.numWarnings) process.exitCode = 1;
  }
}
check().catch((error) => { console.error(String(error)); process.exit(1); });
JS
node check.js "${files[@]}"

if command -v blender > /dev/null; then
  blender --background --factory-startup --python-exit-code 1 \
    --python "$here/check_in_blender.py" -- "${files[@]}" | grep -v '^$'
else
  echo "blender is not installed: not checked with it"
fi
