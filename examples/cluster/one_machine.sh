#!/usr/bin/env bash
# Trains with one process for each GPU of this machine, two processes where there is none. Arguments are those of `mtl train`.
set -eu
gpus=$(python -c 'import torch; print(torch.cuda.device_count() or 2)')
# SIGUSR1 too is passed on to the processes, which save and end.
exec torchrun --nproc-per-node "$gpus" --max-restarts 3 --signals-to-handle SIGTERM,SIGINT,SIGUSR1 -m mtlcli train "$@"
