#!/bin/bash
# A search on SLURM: Ray over the allocation, and the same job queued again until the search is finished.
#
#   sbatch examples/slurm.sh search.yaml
#   sbatch --nodes=8 --time=48:00:00 --partition=gpu examples/slurm.sh search.yaml
#   sbatch examples/slurm.sh search.yaml --set budget.trials=100 --set resources.concurrent=8
#
# Submit it from the folder that holds search.yaml and .venv, on storage that all nodes share. What search.yaml says of
# storage, cache and data must be seen by all nodes at the same path; the first seconds of a run look at that.
# Ten minutes before the walltime the search is stopped, its trials keep their newest checkpoints, and the job is queued
# again with all that was given to sbatch; then it resumes. After a node's failure SLURM queues it again by itself.
# scancel JOB ends it for good; `medtune resume NAME`, or sbatch again, goes on.
#
# Where the search's folder is there already, the search goes on as it was started: search.yaml isn't read again but for
# the folder's place, and of --set it takes what a resume may change (budget, resources, mlflow, cache, tags); another
# change is refused with a sentence. For other settings give the search another name, or use `medtune extend`. Write
# paths in --set absolute. RAY_TMPDIR is a short folder of each node's own disk (/tmp); the job makes one of its own in
# it, and removes only that.
#
#SBATCH --job-name=medtune
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@600
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
set -uo pipefail

usage='usage: sbatch slurm.sh SEARCH.yaml [--set a.b=c]...'
settings=${1:?$usage}
changes=("${@:2}")
for ((i = 0; i < ${#changes[@]}; i += 2)); do
    if [ "${changes[i]}" != --set ] || [ -z "${changes[i + 1]:-}" ]; then
        echo "unexpected: ${changes[*]:i}; $usage" >&2
        exit 2
    fi
done
environment=${MEDTUNE_ENVIRONMENT:-.venv}   # folder of the Python environment
most=${MEDTUNE_RESTARTS:-100}               # times that the job may be queued again

export PATH="$(realpath "$environment")/bin:$PATH"
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}        # srun doesn't take it from sbatch
export RAY_USAGE_STATS_ENABLED=0
export RAY_TMPDIR=${RAY_TMPDIR:-/tmp}/ray-$SLURM_JOB_ID    # this job's own, which is removed; short, for sockets' sake
export RAY_AUTH_MODE=token                                 # others on these nodes can't use this job's Ray
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))') || exit 1
export RAY_AUTH_TOKEN

steps=()       # process ids of srun, which pass signals on
driver=        # process id of medtune
stopped=no     # whether the walltime is near

stop_search() {
    stopped=yes
    echo "$(date): the walltime is near; the search is stopped"
    if [ -n "$driver" ]; then kill -TERM "$driver" 2>/dev/null; fi
}

end_ray() {    # not `ray stop`: on a shared node it would end other jobs' Ray too
    if [ -n "$driver" ]; then kill -KILL "$driver" 2>/dev/null; fi
    local step
    for step in "${steps[@]}"; do   # the head last, since the others tell it that they leave
        kill -TERM "$step" 2>/dev/null
        wait "$step" 2>/dev/null
    done
    steps=()
    rm -rf "$RAY_TMPDIR"
}

trap stop_search USR1
trap end_ray EXIT
trap 'exit 143' TERM

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)   # the node that this script runs on
port=$((20000 + SLURM_JOB_ID % 6000 * 2))                            # jobs that share a node need different ones
head=$(python -c 'import ray.util; print(ray.util.get_node_ip_address())') || exit 1
resources=(--num-cpus="$SRUN_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}")
resources+=(--dashboard-agent-listen-port=0)

# On each node: Ray, until it ends or the step is told to end (twice perhaps), and then its files go.
on_node='trap "kill -TERM \$ray" TERM; "$@" & ray=$!; until wait $ray; code=$?; ! kill -0 $ray 2>/dev/null; do :; done'
on_node+='; rm -rf "$RAY_TMPDIR"; exit $code'

mkdir -p "$RAY_TMPDIR"
srun --nodes=1 --ntasks=1 --nodelist="$first" --overlap \
    bash -c "$on_node" on_node ray start --block --head --node-ip-address="$head" --port="$port" --ray-client-server-port=$((port + 1)) \
    --include-dashboard=false --temp-dir="$RAY_TMPDIR" "${resources[@]}" &
steps=("$!")
for _ in $(seq 120); do
    if (: >"/dev/tcp/$head/$port") 2>/dev/null; then break; fi
    if ! kill -0 "${steps[0]}" 2>/dev/null; then echo "Ray's head doesn't start"; exit 1; fi
    sleep 1
done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    others=$((SLURM_JOB_NUM_NODES - 1))
    srun --nodes="$others" --ntasks="$others" --ntasks-per-node=1 --exclude="$first" --overlap \
        bash -c "$on_node" on_node ray start --block --address="$head:$port" "${resources[@]}" &
    steps=("$!" "${steps[@]}")
fi

python - "$head:$port" "$SLURM_JOB_NUM_NODES" <<'END' || { echo "Ray didn't start on all nodes within 5 minutes"; exit 1; }
import sys, time
import ray
address, wanted = sys.argv[1], int(sys.argv[2])
ray.init(address=address, log_to_driver=False)
until = time.monotonic() + 300
while sum(node["Alive"] for node in ray.nodes()) < wanted:
    if time.monotonic() > until:
        sys.exit(1)
    time.sleep(1)
END

folder=$(python - "$settings" "${changes[@]}" <<'END'
import sys
from pathlib import Path
from search.settings import load
from spaces.mistakes import Mistake
try:
    config = load(Path(sys.argv[1]), sys.argv[3::2])
except Mistake as mistake:
    sys.exit("\n".join(mistake.sentences))
print(Path(config.storage, config.name))
END
) || exit 2

code=130
if [ $stopped = no ]; then
    if [ -d "$folder" ]; then
        echo "going on with $folder as it was started; $settings isn't read again"
        medtune resume "$folder" --address "$head:$port" "${changes[@]}" &
    else
        medtune search "$settings" --address "$head:$port" "${changes[@]}" &
    fi
    driver=$!
    while true; do
        wait "$driver"   # ends early when a signal comes
        code=$?
        kill -0 "$driver" 2>/dev/null || break
    done
    wait "$driver" 2>/dev/null
    code=$?
    driver=
fi

# 0: finished, or out of its own budget. 130: stopped. 2: something is wrong that another run wouldn't mend.
if [ $stopped = yes ] && [ "$code" -eq 130 ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "$most" ]; then
        echo "queued again $most times already; sbatch it again to go on"
        exit 1
    fi
    end_ray
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
