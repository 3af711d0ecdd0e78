#!/bin/sh
# Builds an artifact for a GPU of each golden model, on a machine with the compiler. run.sh runs them where a GPU is.
#   tests/gpu/prepare.sh [FOLDER [NAME…]]
# TARGET (cuda:sm_90a) and BRAID (target/release/braid) may be set. One line for each artifact, and 1 if one could not be built.
set -u
cd "$(dirname "$0")/../.." || exit 2
out=${1:-target/gpu}
[ $# -gt 0 ] && shift
names=" $* "
target=${TARGET:-cuda:sm_90a}
braid=${BRAID:-target/release/braid}
# Those large enough to have matrices that are quantised.
quantised=" tiny-hybrid tiny-deltanet "
# Those with bf16 artifacts too: of each kind of mixer one whose checkpoint is in bf16.
bf16=" qwen3 mixtral mamba gated_deltanet rwkv7 nemotron_h olmo_hybrid tiny-hybrid tiny-deltanet "
built=0 failed=0
spec=$(mktemp -d) || exit 2
trap 'rm -rf "$spec"' EXIT

# Golden prompts are short: chunks of 16 rows are the smallest that matrix units do.
build() { # name, spec, dtype
  if "$braid" build "$2" --target "$target" --dtype "$3" --chunk 16 -o "$out/$1/$3.braidart" > "$spec/log" 2>&1; then
    built=$((built + 1))
    rm -f "$out/$1/$3.h"
    echo "built   $1 $3 ($(wc -c < "$out/$1/$3.braidart") bytes)"
  elif [ $? -eq 3 ]; then
    echo "without $1 $3: $(grep -m 1 error "$spec/log")"
    rmdir "$out/$1" 2> /dev/null
    return 1
  else
    failed=$((failed + 1))
    echo "FAILED  $1 $3: $(grep -m 1 error "$spec/log")"
    return 1
  fi
}

# What a processor makes of some tokens with the same weights: enough for tiles.
logits() { # name, spec, dtype
  weights=tests/goldens/$1
  [ -f "$weights/model.safetensors" ] || weights=examples/$1/weights
  # Rows of 16 bits, as on a GPU, and recurrences step by step.
  "$braid" logits "$2" --dtype "$3" --target cpu-bytes --chunk off --weights "$weights" --ids "$(seq -s , 5 7 460)" \
    -o "$out/$1/$3.safetensors" > "$spec/log" 2>&1 || { failed=$((failed + 1)); echo "FAILED  $1 $3, logits: $(grep -m 1 error "$spec/log")"; }
}

for golden in tests/goldens/*/golden.safetensors; do
  folder=$(dirname "$golden")
  name=$(basename "$folder")
  case "$names" in "  " | *" $name "*) ;; *) continue ;; esac
  # Its golden results are filled masks, which verify does not read.
  [ "$name" = tiny-diffusion ] && continue
  if [ ! -f "$folder/model.safetensors" ] && [ ! -d "examples/$name/weights" ]; then
    echo "without $name: its weights are not part of the project"
    continue
  fi
  mkdir -p "$out/$name"
  # A demo model has its spec among the examples.
  from=examples/$name
  if [ -f "$folder/config.json" ]; then
    from=$spec/$name.braid
    "$braid" import "$folder" -o "$from" > "$spec/log" 2>&1
  fi
  build "$name" "$from" f32
  case $bf16 in *" $name "*) build "$name" "$from" bf16 ;; esac
  case $quantised in *" $name "*) for dtype in int8 int4 int4z; do build "$name" "$from" $dtype && logits "$name" "$from" $dtype; done ;; esac
done
# Steps that are launches of their own, and the same in the walk of all others: no golden model is wide enough.
for name in apart handed experts wide window; do
  case "$names" in "  " | *" $name "*)
    mkdir -p "$out/$name" "$out/portable_$name"
    build "$name" "tests/gpu/$name.braid" bf16
    own=$target target=cuda:sm_80
    build "portable_$name" "tests/gpu/$name.braid" bf16
    target=$own ;;
  esac
done
case "$names" in "  " | *" sides "*) mkdir -p "$out/sides" && build sides tests/gpu/sides.braid bf16 ;; esac
echo "$built artifacts in $out, $failed failed, $(du -sk "$out" | cut -f 1) KiB in all"
[ "$failed" -eq 0 ]
