#!/usr/bin/env bash
# Trains on two machines: start it on both, with the name of one of them in HEAD. Arguments are those of `mtl train`.
set -eu
: "${HEAD:?name the machine that the others connect to, such as HEAD=node1}"
gpus=$(python -c 'import torch; print(torch.cuda.device_count() or 2)')
# Where machines have several networks, name the one between them, such as eth0:
#   export GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0
exec torchrun --nnodes 2 --nproc-per-node "$gpus" --rdzv-backend c10d --rdzv-endpoint "$HEAD:29511" --rdzv-id "${JOB:-mtl}" \
    --max-restarts 3 --signals-to-handle SIGTERM,SIGINT,SIGUSR1 -m mtlcli train "$@"
