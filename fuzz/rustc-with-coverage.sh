#!/bin/sh
# Cargo calls this for each crate of this workspace, with rustc as the first argument, when
# `cargo xtask fuzz` builds. It adds the counters that tell libFuzzer which inputs reach new code.
# All of these flags belong to stable rustc. Build scripts run by themselves and get none of them.
# Counted code is not optimised far: that takes long to compile, and hardly runs faster.
set -eu
for argument in "$@"; do
    case "$argument" in build_script_*) exec "$@" ;; esac
done
exec "$@" \
    --cfg fuzzing \
    -C opt-level=1 \
    -C passes=sancov-module \
    -C llvm-args=-sanitizer-coverage-level=4 \
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
    -C llvm-args=-sanitizer-coverage-pc-table \
    -C llvm-args=-sanitizer-coverage-trace-compares
