#!/usr/bin/env bash
# What only a GPU can show, in at most eight minutes: a table on the screen and gpu-check.json.
#   bash benchmarks/gpu/check.sh [--tiny] [--model FOLDER] [--out FILE] [SECTION …]
# --tiny runs the same path with tiny shapes, on a CPU where there is no GPU.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONDONTWRITEBYTECODE= # or every process of Ray compiles its libraries again
exec "${PYTHON:-python}" -m benchmarks.gpu.check "$@"
