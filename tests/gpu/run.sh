#!/bin/sh
# Runs artifacts for a GPU against golden results: one line for each, a summary, and 1 if anything failed.
#   tests/gpu/run.sh [FOLDER]
# Needs a GPU, `braid-run` (BRAID_RUN, or target/release/braid-run), a folder that prepare.sh wrote, and the goldens; no compiler.
set -u
cd "$(dirname "$0")/../.." || exit 2
out=${1:-target/gpu}
run=${BRAID_RUN:-target/release/braid-run}
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT
passed=0 failed=0

# Runs the rest of the arguments; `what` names it.
check() { # what, command…
  what=$1
  shift
  if "$@" > "$scratch/out" 2> "$scratch/err"; then
    passed=$((passed + 1))
    echo "ok      $what  $(tail -n 1 "$scratch/out")"
  else
    code=$?
    failed=$((failed + 1))
    echo "FAILED  $what ($code): $(grep -h -m 1 -e '^error' -e 'ERROR SUMMARY' "$scratch/err" "$scratch/out" | head -n 1)"
  fi
}

weights() { # name
  if [ -f "tests/goldens/$1/model.safetensors" ]; then echo "tests/goldens/$1"; else echo "examples/$1/weights"; fi
}

verify() { # name, dtype, a program to run it in
  name=$1 dtype=$2
  shift 2
  # bf16, int: as a part of the largest logit. f32: what meta.json asks for, or 1e-4.
  limit=
  [ -f "tests/goldens/$name/meta.json" ] || limit="--tolerance 1e-4"
  golden=tests/goldens/$name/golden.safetensors
  [ "$dtype" = bf16 ] && limit="--relative 1e-2"
  # Quantised: what a processor makes of the same numbers.
  case $dtype in int*) golden=$out/$name/$dtype.safetensors limit="--relative 1e-2" ;; esac
  "$@" "$run" verify "$out/$name/$dtype.braidart" --weights "$(weights "$name")" --golden "$golden" $limit
}

# Launches of their own against the walk's tiles.
apart() { # name
  "$run" logits "$out/portable_$1/bf16.braidart" --weights random:1 --ids "$(seq -s , 1 999),$(seq -s , 1 999),$(seq -s , 1 700)" -o "$scratch/portable" &&
    "$run" verify "$out/$1/bf16.braidart" --weights random:1 --golden "$scratch/portable" --relative 1e-2
}

# Sequences side by side, token after token and each at another position, against each as a whole.
sides() { # arguments of the second command…
  # More than 16 rows ahead of the last eight. In calls of fewer, warps ask for weights while the first thread watches for other blocks: racecheck
  # names the number by which it tells them, though a later look will do.
  rows=$(for row in $(seq 40); do seq -s , "$row" $((row + 27)) | tr '\n' ';'; done | sed 's/;$//')
  "$run" logits "$out/sides/bf16.braidart" --weights random:1 --ids "$rows" -o "$scratch/whole" &&
    "$@" "$run" logits "$out/sides/bf16.braidart" --weights random:1 --ids "$rows" --steps 8 -o "$scratch/sides" &&
    "$run" verify "$out/sides/bf16.braidart" --weights random:1 --golden "$scratch/sides" --relative 1e-2
}

# The same command, time after time, has to write the same bits.
repeats() { # name, dtype
  ids=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32
  for turn in $(seq 20); do
    "$run" logits "$out/$1/$2.braidart" --weights "$(weights "$1")" --ids $ids -o "$scratch/logits" || return 1
    sum=$(cksum < "$scratch/logits")
    [ "$turn" -eq 1 ] && first=$sum
    [ "$sum" = "$first" ] || { echo "error: turn $turn gives other bits" >&2; return 1; }
  done
  echo "20 times the same bits"
}

"$run" --version || exit 2
for artifact in "$out"/*/*.braidart; do
  [ -f "$artifact" ] || { echo "no artifacts in $out: tests/gpu/prepare.sh writes them"; exit 2; }
  name=$(basename "$(dirname "$artifact")")
  dtype=$(basename "$artifact" .braidart)
  case $name in
    portable_*) continue ;;
    apart | handed | experts | wide | window) check "launches of their own ($name)" apart "$name" && continue ;;
    sides) check "sequences side by side" sides && continue ;;
  esac
  check "$name $dtype" verify "$name" "$dtype"
done

for name in qwen3 jamba gated_deltanet tiny-hybrid; do
  for artifact in "$out/$name"/*.braidart; do
    dtype=$(basename "$artifact" .braidart)
    [ -f "$artifact" ] && check "$name $dtype, repeats" repeats "$name" "$dtype"
  done
done

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2> /dev/null | tail -n 1)
if [ -n "$sanitizer" ]; then
  for name in llama jamba; do
    [ -f "$out/$name/f32.braidart" ] || continue
    for tool in memcheck racecheck; do
      check "$name f32, $tool" verify "$name" f32 "$sanitizer" --tool "$tool" --error-exitcode 9
    done
  done
  if [ -f "$out/sides/bf16.braidart" ]; then
    for tool in memcheck racecheck; do
      check "sequences side by side, $tool" sides "$sanitizer" --tool "$tool" --error-exitcode 9
    done
  fi
  for name in apart handed experts wide window; do
    [ -f "$out/$name/bf16.braidart" ] || continue
    for tool in memcheck racecheck; do
      check "launches of their own ($name), $tool" "$sanitizer" --tool "$tool" --error-exitcode 9 "$run" logits "$out/$name/bf16.braidart" \
        --weights random:1 --ids "$(seq -s , 1 998)" -o "$scratch/logits"
    done
  done
else
  echo "no compute-sanitizer on this machine: memcheck and racecheck are left out"
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
