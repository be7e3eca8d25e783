#!/bin/sh
# Prints the path of an etcd of the version given, which a registry package carries, so that
# `ETCD=$(tools/etcd.sh 3.4) cargo test` tests with it. Each folder of `etcd` is a version on offer:
# two numbers for the last release of a line, three for the first one that there is. Cargo takes one
# release of a line into a dependency graph, so each has a manifest and a lock file of its own.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
manifest=$here/etcd/${1:-none}/Cargo.toml
if ! [ -f "$manifest" ]; then
    {
        printf 'usage: %s VERSION, which is one of:' "$0"
        for offered in "$here"/etcd/*/Cargo.toml; do
            printf ' %s' "$(basename -- "$(dirname -- "$offered")")"
        done
        printf '\nThe tests run the newest etcd when $ETCD is not set.\n'
    } >&2
    exit 2
fi
exec "${CARGO:-cargo}" run --quiet --locked --manifest-path "$manifest" \
    --target-dir "$here/etcd/target"
