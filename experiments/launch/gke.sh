#!/bin/bash
# NAME=RUN IMAGE=… DATA=BUCKET HOSTS=4 CHIPS=4 DEVICE=google.com/tpu NODES='{"cloud.google.com/gke-tpu-topology": "4x4",
#   "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice"}' experiments/launch/gke.sh --config=NAME --workdir=gs://…
# Fills in gke_jobset.yaml and gives it to kubectl. All words go to experiments/run.py. IMAGE has this project in
# /agejax; DATA is the bucket of prepared sets; HOSTS pods of CHIPS devices each; NODES a nodeSelector as JSON; set as
# well: RESTARTS (default 20), ACCOUNT (default "default"). DEVICE=nvidia.com/gpu is one process of CHIPS GPUs a pod.
set -eu
: "${NAME:?}" "${IMAGE:?}" "${DATA:?}" "${HOSTS:?}" "${CHIPS:?}" "${DEVICE:?}" "${NODES:?}"
export NAME IMAGE DATA HOSTS CHIPS DEVICE NODES RESTARTS="${RESTARTS:-20}" ACCOUNT="${ACCOUNT:-default}"

words=(--data_dir=/data "$@")
if [ "$DEVICE" != google.com/tpu ]; then # GKE tells the pods of a TPU slice of each other
    words+=("--cluster.coordinator=$NAME-run-0-0.$NAME:8476" "--cluster.processes=$HOSTS")
    words+=("--cluster.index=\$(JOB_COMPLETION_INDEX)")
fi
python3 - "$(dirname "$0")/gke_jobset.yaml" "${words[@]}" <<'PYTHON' | kubectl apply -f -
import json, os, string, sys
words = [word.replace("$", "$$") if "JOB_COMPLETION_INDEX" not in word else word for word in sys.argv[2:]]
print(string.Template(open(sys.argv[1]).read()).substitute(os.environ, WORDS=json.dumps(words)))
PYTHON
