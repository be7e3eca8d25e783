#!/bin/sh
# Prints the path of a Chromium for the test of the live page: $CHROMIUM, the first one in PATH, or one
# that the system's package manager installs now, if that can be done without asking anybody.
set -eu

found() {
    for name in chromium chromium-browser google-chrome google-chrome-stable chrome; do
        if command -v "$name"; then
            return
        fi
    done
    return 1
}

# Minutes at most, and nothing that asks a question.
install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    limit=
    command -v timeout >/dev/null && limit='timeout 180'
    export DEBIAN_FRONTEND=noninteractive
    $limit apt-get -qq update && $limit apt-get -qq install -y --no-install-recommends chromium
}

if [ -n "${CHROMIUM:-}" ]; then
    printf '%s\n' "$CHROMIUM"
elif ! found; then
    install </dev/null >&2
    found
fi
