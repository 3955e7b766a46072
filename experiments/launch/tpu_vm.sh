#!/bin/bash
# TPU=NAME ZONE=us-west4-a TYPE=v5litepod-16 experiments/launch/tpu_vm.sh --config=NAME --workdir=gs://BUCKET/DIR …
# Makes a TPU VM, of one host or a slice of many, installs this checkout (its last commit) on every host, and runs
# experiments/run.py there with all words given here. SPOT=1: cheaper, may be taken away; it is then made anew and the
# run goes on, until it is finished. Set as well: RUNTIME, the VM's software (default v2-alpha-tpuv5-lite); DATA, a
# gs:// folder of prepared sets that is copied to every host; KEEP=1, the TPU stays; PAUSE, seconds between tries.
set -u
: "${TPU:?give TPU=NAME}" "${ZONE:?give ZONE, as us-west4-a}" "${TYPE:?give TYPE, as v5litepod-16}"
pause=${PAUSE:-60}
tpu=(gcloud compute tpus tpu-vm)
where=("$TPU" "--zone=$ZONE")

case " $*" in *" --workdir=gs://"*) ;; *)
    echo "error: give --workdir=gs://BUCKET/DIR: the disks of the hosts go with the TPU" >&2
    exit 2
    ;;
esac

state() { "${tpu[@]}" describe "${where[@]}" --format='value(state)' 2>/dev/null; }

on_all() { "${tpu[@]}" ssh "${where[@]}" --worker=all --command="$1"; }

make() {
    local spot=()
    [ -n "${SPOT:-}" ] && spot=(--spot)
    "${tpu[@]}" create "${where[@]}" "--accelerator-type=$TYPE" "--version=${RUNTIME:-v2-alpha-tpuv5-lite}" \
        ${spot[@]+"${spot[@]}"}
}

install() {
    local archive code
    archive=$(mktemp -d)/agejax.tgz
    git archive --format=tar.gz --output="$archive" HEAD &&
        "${tpu[@]}" scp "$archive" "$TPU:agejax.tgz" "--zone=$ZONE" --worker=all &&
        on_all "mkdir -p agejax && tar xzf agejax.tgz -C agejax && cd agejax && python3 -m pip install -q --user uv &&
            python3 -m uv venv -q --allow-existing --python 3.12 .venv && python3 -m uv pip install -q -e '.[tpu,gcs]'" &&
        if [ -n "${DATA:-}" ]; then on_all "gcloud storage rsync -r $(printf %q "$DATA") agejax/data"; fi
    code=$?
    rm -r "$(dirname "$archive")"
    return $code
}

# what a broken connection may have left running is stopped first
run() { on_all "cd agejax && { pkill -f '[e]xperiments/run.py'; sleep 5; .venv/bin/python experiments/run.py$1; }"; }

words=$(printf ' %q' "$@")
cd "$(dirname "$0")/../.." || exit 2
while :; do
    if [ "$(state)" != READY ]; then
        "${tpu[@]}" delete "${where[@]}" --quiet 2>/dev/null
        if ! { make && install; }; then
            sleep "$pause"
            continue
        fi
    fi
    run "$words"
    code=$?
    [ "$code" -eq 0 ] && break
    sleep "$pause" # until it shows that the TPU has been taken away
    if [ "$(state)" = READY ] && [ "$code" -le 2 ]; then break; fi # the run itself has failed
done
[ -n "${KEEP:-}" ] || "${tpu[@]}" delete "${where[@]}" --quiet
exit "$code"
