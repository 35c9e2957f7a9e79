#!/usr/bin/env bash
# Everything that wants a GPU, in one call of less than ten minutes, on a machine without network.
#
#     benchmarks/fetch_wheels.sh                    # beforehand, where there is a network: 31 MB into benchmarks/wheels
#     benchmarks/on_gpu.sh                          # on the machine with the GPU: results/gpu/*.json, and a summary
#     benchmarks/on_gpu.sh --cpu [--quick]          # tried without one, small; results go to build/gpu_on_cpu
#
# Further options: --out DIR, --wheels DIR, --only STEP ..., --total SECONDS, --jobs N; `on_gpu.sh --help` says them all.
# $PYTHON is the interpreter (default python3; 3.11 or later) with torch, torchvision, accelerate, safetensors, typer,
# rich, tqdm, jinja2, scipy, scikit-learn, matplotlib and pytest. Nothing is installed into it: what it lacks is unpacked
# from the wheels into a temporary environment, which uses the package as it stands in this checkout.
#
# How the ten minutes are divided; each step has a limit of its own, and the next one starts whatever became of it:
#     set-up                                                    10 s
#     alone, one after another, since they are timed:
#         stage1_speed   float32, TF32, bf16; memory formats; CUDA graph    at most 110 s
#         stage2_speed   the same for the student's steps                   at most 110 s
#         paper_slice    200 steps of both stages of preset `paper`         at most  80 s
#     side by side:
#         gpu_tests      the tests that are skipped without a GPU           at most  60 s
#         contract       every method's contract on CUDA                    at most 230 s
#         tutorial_NN    the notebooks' text forms, as scripts              at most 240 s
#     in all at most 570 s (--total); what has not begun by then says so in its record.
# One of these alone: on_gpu.sh --only contract.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
began=$(date +%s)
wheels=$here/wheels
arguments=()
while [ $# -gt 0 ]; do
    case $1 in
    --wheels)
        [ $# -ge 2 ] || { echo "--wheels: expected a folder" >&2; exit 2; }
        wheels=$2
        shift 2
        ;;
    *)
        arguments+=("$1")
        shift
        ;;
    esac
done

environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
"$python" "$here/offline_site.py" "$environment" --wheels "$wheels" || exit 2
export PYTHONDONTWRITEBYTECODE=1 MPLBACKEND=agg
"$environment/bin/python" "$here/on_gpu.py" --began "$began" ${arguments[@]+"${arguments[@]}"}
