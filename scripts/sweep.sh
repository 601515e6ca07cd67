#!/usr/bin/env bash
# Sweeps learning rate by loss by seed for one model on one set, then prints the table of all runs.
#
#     scripts/sweep.sh gan digits
#     LRS=1e-3,3e-4 LOSSES=relativistic,hinge SEEDS=0,1,2 scripts/sweep.sh gan ring8 trainer.max_steps=2000
#
# A sweep that was stopped goes on when the same line is typed again: what is done is skipped.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "error: sweep.sh needs a model and data - type scripts/sweep.sh MODEL DATA [KEY=VALUE ...]" >&2
    exit 2
fi
model=$1
data=$2
shift 2

# DATA is a name, or a path to one's own.
case $(genai list data --json) in
    *"\"name\": \"$data\""*) set -- "data=$data" "$@" ;;
    *) set -- "data.path=$data" "$@" ;;
esac
# Without LOSSES: all that the model has, or none where it has no choice of losses.
read_losses='
import json, sys
models = json.load(sys.stdin)["properties"]["model"]["anyOf"]
model = next((m for m in models if m["title"] == sys.argv[1]), {"properties": {}})
print(",".join(model["properties"].get("loss", {}).get("enum", [])))
'
LOSSES=${LOSSES-$(genai config schema | python3 -c "$read_losses" "$model")}
if [ -n "$LOSSES" ]; then
    set -- "model.loss=$LOSSES" "$@"
fi

code=0
genai train "$model" --multirun --resume \
    "optim.lr=${LRS:-3e-3,1e-3,3e-4}" \
    "seed=${SEEDS:-0,1}" \
    "$@" || code=$?
genai runs list
exit "$code"
