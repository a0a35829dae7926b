#!/bin/bash
# Train one run on all hosts of a TPU pod slice. Start it on a machine with gcloud:
#
#   scripts/tpu_pod.sh NAME ZONE --config=configs/final.py --config.dtype=bfloat16 --workdir=/mnt/shared/runs/final
#
# Every host needs CIFAR-10 and a clone in ~/jaxresnet with `pip install -e '.[tpu]'` in its .venv. All hosts must share
# the folder of the workdir (Filestore or another NFS). The same command resumes the run.

set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: $0 NAME ZONE FLAGS-OF-JAXRESNET.MAIN..." >&2
    exit 2
fi
name=$1 zone=$2
shift 2
printf -v flags ' %q' "$@"
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="cd jaxresnet && source .venv/bin/activate && jaxresnet train --coordinator=auto$flags"
