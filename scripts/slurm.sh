#!/usr/bin/env bash
# One agent in shards, or a population, over all GPUs of several nodes: sbatch scripts/slurm.sh [ALGORITHM ENVIRONMENT FLAGS]
#SBATCH --job-name=purerl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

# All processes must see it. A job that is requeued goes on from its last checkpoint.
run="runs/slurm-${SLURM_JOB_ID}"
if [ -e "$run/config.json" ]; then
    exec srun purerl train --resume "$run" --distributed
fi
if [ $# -eq 0 ]; then
    set -- ppo brax/ant --seeds 8
fi
exec srun purerl train "$@" --distributed --out "$run"
