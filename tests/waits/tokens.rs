//! Tokens: their text, key spaces without a mirror, and a key space that has not loaded.

use etcd_keyspace::{Header, Token};

use super::*;

fn of_term(revision: i64, raft_term: u64) -> Header {
    Header { raft_term, ..header(revision) }
}

#[test]
fn h53_a_text_of_a_token_has_the_term_and_older_texts_parse() {
    // Kept by others: a change of these texts is a change of the format.
    let token = Token::from(of_term(7, 3));
    assert_eq!((token.to_string().as_str(), token.term()), ("c1.7.3", 3));
    let older = Token::of_write(0xc1, 7);
    assert_eq!((older.to_string().as_str(), older.term()), ("c1.7", 0));
    for text in ["c1.7.3", "c1.7", "0.0", "c1.7.18446744073709551615"] {
        assert_eq!(text.parse::<Token>().unwrap().to_string(), text);
    }
    assert_eq!("c1.7.0".parse::<Token>().unwrap(), older);
    assert_ne!(token, older);
    assert_eq!(Token::of_write(0xc1, -7).to_string().parse::<Token>().unwrap().revision(), 0);
    for bad in ["1.1.", "1..1", "1.1.+1", "1.1.g", "1.1.1.1", "1.1.18446744073709551616"] {
        assert!(bad.parse::<Token>().is_err(), "{bad}");
    }
}

#[test]
fn h51_without_a_mirror_a_token_is_met_by_its_revision() {
    let (ks, mut writer, _) = at_five();
    // Nothing is read from etcd there, so no term can be checked and none is waited for.
    for term in [0, 1, 99] {
        assert_eq!(now(ks.wait_for_revision(of_term(5, term))).unwrap(), 5);
        assert_eq!(now(ks.read_at(of_term(5, term))).unwrap().confirmed(), 5);
        assert_eq!(now(ks.snapshot_at(Token::from(of_term(5, term)))).unwrap().confirmed(), 5);
    }
    let mut later = pin!(ks.wait_for_revision(of_term(6, 99)));
    assert!(poll_once(later.as_mut()).is_pending());
    writer.confirm(6);
    assert_eq!(now(later).unwrap(), 6);
    drop(writer);
    assert_eq!(now(ks.wait_for_revision(of_term(6, 99))).unwrap(), 6, "what is met stays met");
    check_stopped(now(ks.wait_for_revision(of_term(7, 99))));
    let ks = KeySpace::from_entries(KeyRange::all(), [Entry::new("/a", 1, 7)]).unwrap();
    assert_eq!(now(ks.wait_for_revision(of_term(7, 99))).unwrap(), 7);
}

#[test]
fn h53_a_wait_for_a_token_of_another_cluster_fails() {
    let (ks, mut writer, _) = at_five();
    let elsewhere = Header { cluster_id: 0xbad, ..of_term(5, 1) };
    for result in [
        now(ks.wait_for_revision(elsewhere)).map(drop),
        now(ks.read_at(elsewhere)).map(drop),
        now(ks.snapshot_at(elsewhere)).map(drop),
    ] {
        let refused = matches!(result, Err(WaitError::OtherCluster { asked: 0xbad, .. }));
        assert!(refused, "{result:?}");
    }
    writer.confirm(6);
}

#[test]
fn h54_the_token_of_a_key_space_that_has_not_loaded_asks_for_nothing() {
    let (young, mut writer) = texts().writer();
    let token = young.token();
    assert_eq!((token.to_string().as_str(), token.revision(), token.cluster_id()), ("0.0", 0, 0));
    let (other, _writer, _) = at_five();
    let sent: Token = token.to_string().parse().unwrap();
    for token in [token, sent] {
        assert_eq!(now(other.wait_for_revision(token)).unwrap(), 5);
        // Its own key space meets it with the first load, whatever epoch and cluster that has.
        let mut waiting = pin!(young.read_at(token));
        assert!(poll_once(waiting.as_mut()).is_pending());
    }
    let waiting = young.wait_for_revision(token);
    writer.load(header(3), vec![]).unwrap();
    assert_eq!(now(waiting).unwrap(), 3);
    assert_eq!(young.token(), Token::of_write(common::CLUSTER, 3));
}
