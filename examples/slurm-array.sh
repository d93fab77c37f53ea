#!/bin/bash
# Generate on a SLURM cluster: one array task a GPU, each makes its share of the shards.
#
#     sbatch examples/slurm-array.sh --n 6000000 --out /shared/cifar5m --labeler /shared/labeler
#
# Run the same line again after failures or preemption: finished shards stay, the rest is made.
#SBATCH --job-name=cifar5m
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail
exec cifar5m-generate "$@"
