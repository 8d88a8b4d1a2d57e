#!/usr/bin/env bash
# Builds, verifies and times the CUDA device on a machine with an NVIDIA GPU, and prints a short table last.
#   scripts/gpu_run.sh [--prebuilt folder] [--sanitize] [--bench-only text] [--no-verify] [--random-seconds N]
# `folder` holds the programs sextant, cuda_bench and sextant_cuda_tests (and shared libraries that they need), built elsewhere.
# Full logs go to $OUT, or to build/gpu.
set -uo pipefail
cd "$(dirname "$0")/.."
prebuilt="" sanitize=0 verify=1 only="" random_seconds=180
while [ $# -gt 0 ]; do
  case "$1" in
    --prebuilt) prebuilt=$2; shift ;;
    --sanitize) sanitize=1 ;;
    --no-verify) verify=0 ;;
    --random-seconds) random_seconds=$2; shift ;;
    --bench-only) only=$2; shift ;;
    *) echo "gpu_run.sh: unknown argument \"$1\""; exit 2 ;;
  esac
  shift
done
logs=${OUT:-build/gpu}
mkdir -p "$logs"
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader | tee "$logs/machine.txt"

if [ -n "$prebuilt" ]; then
  sextant=$prebuilt/sextant bench=$prebuilt/cuda_bench tests=$prebuilt/sextant_cuda_tests
  export LD_LIBRARY_PATH="$PWD/$prebuilt:${LD_LIBRARY_PATH:-}"
else
  { cmake --preset bench -DSEXTANT_CUDA=ON --log-level=WARNING && cmake --build build/bench; } > "$logs/build.txt" 2>&1 || { tail -20 "$logs/build.txt"; exit 1; }
  sextant=build/bench/apps/sextant/sextant bench=build/bench/bench/cuda_bench tests=build/bench/tests/sextant_cuda_tests
fi

status=0
if [ $verify = 1 ]; then
  timeout 240 "$sextant" verify --device cuda > "$logs/verify.txt" 2>&1 || status=1
  timeout 400 "$sextant" verify --random --device cuda --seconds "$random_seconds" > "$logs/random.txt" 2>&1 || status=1
  if [ -x "$tests" ]; then
    timeout 240 "$tests" > "$logs/tests.txt" 2>&1 || status=1
  else
    echo "not run: no $tests" > "$logs/tests.txt"
  fi
fi
if [ $sanitize = 1 ]; then
  : > "$logs/sanitize.txt"
  # Both tools, a process a backend, all at once: the tools' own work on the host is what takes the time.
  # The fixed sweep, and a sample of random batches of a size that the tools finish.
  for tool in memcheck racecheck synccheck; do
    for backend in TRITON_ATTN ROCM_AITER_UNIFIED_ATTN ROCM_ATTN ROCM_AITER_FA TRITON_MLA ROCM_AITER_MLA; do
      {
        log=$logs/${tool}_$backend.txt
        timeout 300 compute-sanitizer --tool $tool --error-exitcode 9 "$sextant" verify --device cuda --reduced --backends $backend > "$log" 2>&1
        echo "$tool $backend: exit $?; $(tail -1 "$log")" >> "$logs/sanitize.txt"
        log=$logs/${tool}_random_$backend.txt
        timeout 300 compute-sanitizer --tool $tool --error-exitcode 9 "$sextant" verify --random --small --cases 25 --seconds 120 \
          --device cuda --backends $backend > "$log" 2>&1
        echo "$tool, random, $backend: exit $?; $(tail -1 "$log")" >> "$logs/sanitize.txt"
      } &
    done
  done
  wait
  grep -q -v 'exit 0;' "$logs/sanitize.txt" && status=1
fi
# A process a group: a kernel that faults takes only its own group with it.
groups=("copy" "_" "gemm" "decode 32" "decode 8" "decode 64" "decode page" "decode q" "decode e" "decode D" "mla 16h" "mla 64h" "mla 128h" "extend" "prefill" "mixed")
[ -n "$only" ] && groups=("$only")
: > "$logs/bench.txt"
for group in "${groups[@]}"; do
  timeout 100 "$bench" --only "$group" 2>&1 | grep -v -e ' attention cases, 0 wrong' -e '^NVIDIA' >> "$logs/bench.txt" || status=1
done

echo "== verify"
[ -f "$logs/verify.txt" ] && head -c 3500 "$logs/verify.txt"
[ -f "$logs/random.txt" ] && head -c 2500 "$logs/random.txt"
[ -f "$logs/tests.txt" ] && { echo "== tests (graphs, determinism, wrong ids)"; grep -E '^\[  (PASSED|FAILED|SKIPPED)|^not run' "$logs/tests.txt" | head -20; }
[ -f "$logs/sanitize.txt" ] && { echo "== sanitize"; cat "$logs/sanitize.txt"; }
echo "== bench"
cut -c1-130 "$logs/bench.txt"
exit $status
