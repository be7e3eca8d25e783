//! Keys outside the mirrored range: a lie would be worse than a panic.

use super::*;

fn foo() -> Snapshot<usize> {
    space_of(KeyRange::prefix("/foo/"), &[b"/foo/a", b"/foo/b"]).snapshot()
}

/// The line of the caller, for the location of a panic one line below or above.
macro_rules! panics_here {
    ($body:expr) => {{
        let (message, at) = panic_of(|| {
            let _ = $body;
        });
        assert!(at.contains("views/outside.rs:"), "{at}");
        let line: u32 = at.split(':').nth(1).unwrap().parse().unwrap();
        assert!(line.abs_diff(line!()) <= 2, "{at} is not {}", line!());
        assert!(message.contains("outside the mirrored range [/foo/, /foo0)"), "{message}");
        assert!(message.contains("`try_` form"), "{message}");
    }};
}

#[test]
fn t33_queries_outside_panic_at_the_caller() {
    let view = foo();
    panics_here!(view.get("/foo"));
    panics_here!(view.get("/foo0"));
    panics_here!(view.get_many(&["/foo/a", "/bar", "/foo/b"]));
    panics_here!(view.contains("/bar"));
    panics_here!(view.search(""));
    panics_here!(view.prefix("/foo"));
    panics_here!(view.prefix("/bar/"));
    panics_here!(view.prefix("\u{7f}"));
    panics_here!(view.count("/"));
    panics_here!(view.range("/foo".."/foo/b"));
    panics_here!(view.range("/foo/a".."/foo1"));
    panics_here!(view.range("/bar"..));
    panics_here!(view.range(.."/zzz"));
}

#[test]
fn t33_try_forms_say_what_was_asked() {
    let view = foo();
    let outside = view.try_get("/bar").unwrap_err();
    assert_eq!(outside.asked, KeyRange::key("/bar"));
    assert_eq!(outside.mirrored, KeyRange::prefix("/foo/"));
    assert_eq!(
        outside.to_string(),
        "[/bar, /bar\\x00) is outside the mirrored range [/foo/, /foo0)"
    );
    let many = view.try_get_many(&["/foo/a", "/foo/c", "/bar", "/zoo"]).unwrap_err();
    assert_eq!(many.asked, KeyRange::key("/bar"));
    assert_eq!(view.try_prefix("/fo").unwrap_err().asked, KeyRange::prefix("/fo"));
    assert_eq!(view.try_range("/a".."/b").unwrap_err().asked, KeyRange::bytes("/a", "/b"));
    // And answer inside.
    assert_eq!(*view.try_get("/foo/b").unwrap().unwrap().value(), 1);
    assert!(view.try_get("/foo/").unwrap().is_none());
    let many = view.try_get_many(&["/foo/b", "/foo/", "/foo/a", "/foo/b"]).unwrap();
    let many: Vec<_> = many.iter().map(|entry| entry.map(|entry| *entry.value())).collect();
    assert_eq!(many, [Some(1), None, Some(0), Some(1)]);
    assert!(view.get_many::<&str>(&[]).is_empty());
    assert_eq!(ranks(view.try_prefix("/foo/").unwrap()), [0, 1]);
    assert_eq!(ranks(view.try_range("/foo/b".."/foo0").unwrap()), [1]);
}

/// A range with an open end means "as far as is mirrored", but not when its other end lies beyond:
/// then nothing of it is known.
#[test]
fn t33_open_ranges_beyond_the_mirrored_one_are_outside() {
    let view = foo();
    let is_outside = |range: KeyRange| view.try_range(range).is_err();
    assert!(is_outside(KeyRange::from("/foo1")));
    assert!(is_outside(KeyRange::prefix(b"\xff")));
    assert!(is_outside((.."/foo").into()));
    assert!(is_outside((.."/bar").into()));
    // Exactly at the ends they are empty.
    assert_eq!(ranks(view.range("/foo0"..)), [0; 0]);
    assert_eq!(ranks(view.range(.."/foo/")), [0; 0]);
    assert_eq!(ranks(view.range("/foo0".."/foo0")), [0; 0]);
    assert_eq!(ranks(view.range("/foo/"..)), [0, 1]);
    assert_eq!(ranks(view.range(.."/foo0")), [0, 1]);
}

#[test]
fn t33_reversed_ranges_are_empty_wherever_they_are() {
    let view = foo();
    for (from, to) in [("/foo/b", "/foo/a"), ("/z", "/a"), ("/z", "/foo/a"), ("/foo/b", "/a")] {
        assert_eq!(ranks(view.try_range(from..to).unwrap()), [0; 0], "{from}..{to}");
    }
}

#[test]
fn unbounded_ends_and_the_empty_prefix_mean_everything_mirrored() {
    let view = foo();
    assert_eq!(ranks(view.prefix("")), [0, 1]);
    assert_eq!(ranks(view.range(..)), [0, 1]);
    assert_eq!((view.count(""), view.all().len(), view.len()), (2, 2, 2));
    // A piece clips instead: what it is asked is meant within it.
    assert_eq!(ranks(view.all().prefix("/")), [0, 1]);
    assert_eq!(ranks(view.all().range("/foo/b".."/zzz")), [1]);
    assert!(view.all().get("/bar").is_none());
}

#[test]
fn a_range_without_upper_end_has_no_outside_above() {
    let view = space_of(KeyRange::from("m"), &[b"m", b"z"]).snapshot();
    assert_eq!(ranks(view.range("n"..)), [1]);
    assert_eq!(ranks(view.prefix(b"\xff")), [0; 0]);
    assert!(view.try_prefix("a").is_err() && view.try_range("a"..).is_err());
    assert!(view.try_range(.."l").is_err() && view.try_range(.."m").is_ok());
}
