#!/usr/bin/env bash
# Download what benchmarks/on_gpu.sh needs, for a machine without network: the wheels of wheels.txt, no dependencies.
#
#     benchmarks/fetch_wheels.sh [--python 3.12] [--to DIR]
#
# --python is the version on the machine with the GPU (default 3.12), --to the folder (default benchmarks/wheels, which
# git ignores). About 35 MB. Wheels are for Linux on x86_64. Take the folder along with the checkout.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=3.12
to=$here/wheels

usage() {
    sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

while [ $# -gt 0 ]; do
    case $1 in
    --python | --to)
        [ $# -ge 2 ] || { echo "$1: expected a value" >&2; exit 2; }
        if [ "$1" = --python ]; then version=$2; else to=$2; fi
        shift 2
        ;;
    -h | --help) usage; exit 0 ;;
    *) echo "$1: expected --python VERSION or --to DIR" >&2; exit 2 ;;
    esac
done

mkdir -p "$to"
rm -f "$to"/*.whl
"${PYTHON:-python3}" -m pip download --disable-pip-version-check --quiet --no-deps --only-binary=:all: \
    --python-version "$version" --platform manylinux2014_x86_64 --platform manylinux_2_27_x86_64 \
    --platform manylinux_2_28_x86_64 --dest "$to" --requirement "$here/wheels.txt"

# POT carries 170 MB of debugging symbols; of the text reader only the small orientation model is used.
for wheel in "$to"/pot-*.whl; do
    "${PYTHON:-python3}" "$here/offline_site.py" --slim "$wheel"
done
for wheel in "$to"/rapidocr_onnxruntime-*.whl; do
    "${PYTHON:-python3}" "$here/offline_site.py" --slim "$wheel" --leave-out 'rapidocr_onnxruntime/models/ch_PP-OCR*'
done
du -sh "$to"
