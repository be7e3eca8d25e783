#!/usr/bin/env bash
# Proves that the tests bite: each patch in tools/faults/ is a mistake somebody could make in src/, and
# the tests named for it below must turn red with it. Copies what git sees to a temporary directory,
# applies one patch at a time and takes it back again, so that the work tree is never touched.
#
#   tools/faults.sh                    all patches
#   tools/faults.sh no-new-epoch ...   these
#   tools/faults.sh --apply            whether they still apply, and nothing else
#
# FAULTS_SEEDS=n sets how many seeds the simulation runs (4000), FAULTS_TARGET=dir keeps a target
# directory between calls: never that of the work tree, where cargo would take the last patch for built.
# Ends with a table; fails when a patch survives, or does not apply or compile.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# What has to turn red: the simulation unless another suite is named here, with the reason.
suite_of() {
    case $1 in
        # The simulation has no cuts.
        count-of-now-for-a-cut) echo '--lib mirror::tests::honest' ;;
        cut-*) echo '--test cache cuts::' ;;
        # A world of the simulation has no fleet.
        no-jitter) echo '--test herds' ;;
        # What is woken in vain finds nothing, so that only a count tells.
        wake-everybody) echo '--test fan_out' ;;
        # The simulation's histories have other numbers.
        reload-by-numbers | contradiction-in-the-epoch | stand-in-of-another-history)
            echo '--lib writer::tests' ;;
        # Its loads are too small for a second thread, or for being moved aside.
        jobs-without-a-bound | chunks-as-they-come) echo '--lib cores::tests' ;;
        load-in-place) echo '--test mirror other_tasks' ;;
        # Its restored stores differ in more than one write.
        creation-taken-for-a-duplicate) echo '--lib batch::tests' ;;
        # A world of the simulation has no index by value, no panic, no other lock and no journal.
        position-before-the-load | sync-without-progress | periodic-sync-of-the-past | token-forgets-progress)
            echo '--test events' ;;
        oldest-by-its-number | watcher-by-the-first-number) echo '--lib h61' ;;
        equals-hides-a-new-object) echo '--test followers' ;;
        old-entries-of-removals-only) echo '--test observers h63' ;;
        registrations-are-not-measured) echo '--test observers h65' ;;
        removal-waits) echo '--test observers h66' ;;
        panic-is-a-shutdown) echo '--test mirror panics' ;;
        # Each needs one kind of store that is another one; the simulation finds most as well.
        suspicion-forgotten | content-refused-for-its-term | values-not-compared | newest-by-numbers | older-term-ignored | \
            no-census | backoff-despite-waits) echo '--test mirror histories::' ;;
        # Its values are short and have no leases of their own, and its answers all have a term.
        budget-without-bytes | leases-not-compared | stand-in-is-a-newest-write)
            echo '--lib known::tests' ;;
        term-zero-is-a-term | overtaken-answers-count | count-under-a-higher-term) echo '--lib mirror::tests::terms' ;;
        # The simulation has neither suspicions nor tokens with a term.
        suspicion-is-ignored | ticket-is-not-waited-for | contradiction-is-not-read)
            echo '--lib wait::tests' ;;
        age-under-suspicion | load-without-a-revision | fixture-is-never-live | token-before-the-load)
            echo '--lib writer::tests' ;;
        # Its consumers do not end before their first event, and it does not look at idle tokens.
        token-forgets-its-start | step-ends-at-the-next-poll) echo '--test events resuming::' ;;
        # Its readers are on one thread, and none of its observers has a shared state.
        snapshot-* | progress-without-a-snapshot | states-of-the-step-before) echo '--test snapshots' ;;
        # Few of its worlds stay quiet after a response that is too large.
        oversized-is-health) echo '--test safeguards oversized::' ;;
        # The simulation has no audits with values.
        audit-without-values) echo '--test safeguards values::' ;;
        # The simulation has too few keys for a second run.
        part-without-its-end) echo '--test follow' ;;
        # Nor keys that lie so close that columns tie.
        tie-is-the-key | candidate-is-the-key) echo '--lib packed::tests' ;;
        # Nor numbers beyond 32 bits.
        age-of-32-bits) echo '--lib entry::compact' ;;
        # Hazards found in use, each with tests of its own.
        age-by-the-*) echo '--test mirror h70' ;;
        limit-of-the-load-only) echo '--test mirror h71' ;;
        proof-by-the-rest-of-the-queue | new-events-are-no-health) echo '--test mirror h72' ;;
        impossible-numbers) echo '--lib h73' ;;
        pages-beyond-the-count) echo '--lib h74' ;;
        events-of-another-watch) echo '--test mirror h75' ;;
        leaps-are-believed) echo '--test mirror h76' ;;
        *) echo '--test simulation' ;;
    esac
}

here=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
copy=$work/copy
mkdir "$copy"
# Files that are staged or new count, files that are gone do not.
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    if [ -f "$file" ]; then
        mkdir -p "$copy/$(dirname "$file")"
        cp -p "$file" "$copy/$file"
    fi
done
export CARGO_TARGET_DIR=${FAULTS_TARGET:-$work/target}
export CARGO_INCREMENTAL=1 RUST_BACKTRACE=0
export SIM_SEEDS=${FAULTS_SEEDS:-4000}
# The copy is no repository, and must not be taken for a part of one above it.
export GIT_CEILING_DIRECTORIES=$work

table=()
failures=0

note() {
    table+=("$(printf '%-26s %-13s %s' "$1" "$2" "$3")")
    printf '%s\n' "${table[-1]}"
}

fail() {
    note "$1" "$2" "$3"
    failures=$((failures + 1))
}

# The first thing said by the test that failed.
said() {
    grep -m1 -A1 'panicked at' "$1" | tail -n 1 | cut -c 1-120
}

try() {
    local name=$1 patch=$here/tools/faults/$1.patch log=$work/$1.log began=$SECONDS suite
    if ! (cd "$copy" && git apply -C1 "$patch") 2>"$log"; then
        fail "$name" 'NOT APPLIED' "$(head -n 1 "$log")"
        return
    fi
    if [ -n "$apply_only" ]; then
        (cd "$copy" && git apply -C1 --reverse "$patch")
        return
    fi
    suite=$(suite_of "$name")
    # Unquoted: a suite is several words.
    # shellcheck disable=SC2086
    if ! (cd "$copy" && cargo test --all-features $suite --no-run) >"$log" 2>&1; then
        fail "$name" 'NOT COMPILED' "$(grep -m1 '^error' "$log")"
    # shellcheck disable=SC2086
    elif (cd "$copy" && cargo test --all-features $suite) >"$log" 2>&1; then
        fail "$name" SURVIVED "$suite"
    else
        note "$name" red "$((SECONDS - began)) s: $(said "$log")"
    fi
    (cd "$copy" && git apply -C1 --reverse "$patch")
}

apply_only=
if [ "${1:-}" = --apply ]; then
    apply_only=yes
    shift
fi
names=("$@")
if [ $# -eq 0 ]; then
    for patch in tools/faults/*.patch; do
        names+=("$(basename "$patch" .patch)")
    done
fi
for name in "${names[@]}"; do
    try "$name"
done
if [ -z "$apply_only" ]; then
    printf '\n== %s of %s turned red\n' "$((${#names[@]} - failures))" "${#names[@]}"
    printf '%s\n' "${table[@]}"
fi
[ "$failures" -eq 0 ]
