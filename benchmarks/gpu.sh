#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
#
# The protocol's arms at full budgets, in eight minutes of one GPU, on a machine without network.
#
#   python benchmarks/gpu_folder.py .gpu            where there is network
#   benchmarks/gpu.sh .gpu OUT [OPTION...]          where the GPU is; OPTIONs go to protocol.py
#
# OUT gets a JSON file an arm as it ends, and REPORT.md; a second call with the same OUT goes on.
set -euo pipefail
folder=$(realpath "$1") out=$(realpath -m "$2")
here=$(dirname "$(realpath "$0")")
python=${PYTHON:-python3}
site=$out/site
mkdir -p "$out"
if [ ! -d "$site" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site.part" "$folder"/wheels/*.whl
    mv "$site.part" "$site"
fi
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} RETORT_DATA=$folder/data HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
exec "$python" "$here/protocol.py" --full --here --seconds 420 --sets fairytaleqa --methods led nkd adam capstone \
    --trunk "$folder/trunk" --work "$out/work" --results "$out/protocol" "${@:3}"
