#!/bin/bash
# One run on TPU slices of a GKE cluster that xpk made:
#   CLUSTER=pods IMAGE=REGISTRY/mlvlab_jax-train:0.1.0 scripts/launch/xpk.sh digits --config configs/digits.yaml --workdir /runs/digits
# The run folder must be on storage that was attached with `xpk storage attach`. A workload that ends with 75 has saved
# and is started again.
set -euo pipefail

name=$1
shift
printf -v arguments ' %q' "$@"

xpk workload create \
  --cluster "$CLUSTER" \
  --workload "$name" \
  --docker-image "$IMAGE" \
  --tpu-type "${TPU_TYPE:-v5litepod-16}" \
  --num-slices "${NUM_SLICES:-1}" \
  --max-restarts "${MAX_RESTARTS:-10}" \
  --restart-on-exit-codes 75 \
  --command "python -m mlvlab_jax.train$arguments"
