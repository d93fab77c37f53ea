#!/bin/bash
# Generate on all GPUs of one machine, or of several, with torchrun.
#
#     GPUS=8 examples/torchrun.sh --n 6000000 --out /shared/cifar5m --labeler /shared/labeler
#
# Several machines: NODES=2 NODE=0 HEAD=host:29500 on the first, NODE=1 on the second.
set -euo pipefail
exec torchrun --nproc-per-node "${GPUS:-8}" --nnodes "${NODES:-1}" --node-rank "${NODE:-0}" \
  --rdzv-endpoint "${HEAD:-localhost:29500}" -m -- cifar5m.commands.generate "$@"
