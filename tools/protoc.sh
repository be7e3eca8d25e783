#!/bin/sh
# Runs protoc with the given arguments: the one on PATH, else one that a registry package carries.
set -eu
if command -v protoc >/dev/null 2>&1; then
    exec protoc "$@"
fi
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
# The helper gets a target directory of its own: the cargo that called us holds the lock of the
# other one. The variables that cargo sets for build scripts must not leak into the helper's build.
unset CARGO_ENCODED_RUSTFLAGS RUSTFLAGS TARGET HOST OUT_DIR CARGO_BUILD_TARGET RUSTC_WRAPPER \
    RUSTC_WORKSPACE_WRAPPER 2>/dev/null || true
if [ -f "$here/protoc/Cargo.toml" ]; then
    exec "${CARGO:-cargo}" run --quiet --locked --manifest-path "$here/protoc/Cargo.toml" \
        --target-dir "$here/protoc/target" -- "$@"
fi
# A published crate cannot carry that package within itself. The same program, by its version.
installed=$here/protoc/bin/protoc-bin-vendored
if ! [ -x "$installed" ]; then
    "${CARGO:-cargo}" install --quiet --locked --root "$here/protoc" \
        --target-dir "$here/protoc/target" protoc-bin-vendored@3.3.0 >&2
fi
exec "$installed" "$@"
