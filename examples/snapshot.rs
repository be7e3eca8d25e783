//! Long work on data that stands still: a report while everything changes, and what changed meanwhile.
//!
//! A snapshot is a view as a value: taken in no time, owned, never changing, and it may be held across
//! an `.await` for as long as you like. What it shares with later views costs nothing; it keeps alive
//! only what was replaced since. A read guard is for short reads: the next change waits for it.

#[path = "../tests/support/etcd.rs"]
mod etcd;

use std::error::Error;

use etcd_client::{Client, Txn, TxnOp};
use etcd_keyspace::{Change, Etcd, EtcdOptions, KeySpace, Snapshot, Token};

const ACCOUNTS: u64 = 100;
const EACH: i64 = 1_000;

fn key(account: u64) -> String {
    format!("/accounts/{account:03}")
}

/// Moves money in one transaction: the sum of all accounts never changes.
async fn transfer(
    client: &mut Client,
    (from, to): (u64, u64),
    balances: (i64, i64),
) -> Result<Token, Box<dyn Error>> {
    let puts = [(from, balances.0), (to, balances.1)];
    let puts = puts.map(|(account, balance)| TxnOp::put(key(account), balance.to_string(), None));
    let done = client.txn(Txn::new().and_then(puts)).await?;
    Ok(done.header().ok_or("a response without a header")?.into())
}

/// Long work that waits again and again. With a guard this would not compile in a spawned task, and it
/// would hold up every change; a snapshot does neither.
async fn report(snapshot: Snapshot<i64>) -> i64 {
    let mut sum = 0;
    for entry in snapshot.iter() {
        sum += entry.value();
        tokio::task::yield_now().await;
    }
    sum
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = etcd::EtcdServer::start().await?;
    let mut client = server.client().await;
    let puts: Vec<_> =
        (0..ACCOUNTS).map(|account| TxnOp::put(key(account), EACH.to_string(), None)).collect();
    client.txn(Txn::new().and_then(puts)).await?;
    let source = Etcd::new([server.endpoint()], EtcdOptions::new());
    let ks = KeySpace::<i64>::builder("/accounts/")?.json().start(source).await?;

    let before = ks.snapshot();
    let mut newest = ks.token();
    let mut sums = Vec::new();
    for n in 0..20 {
        // A report begins, and the accounts change while it is made.
        sums.push(tokio::spawn(report(ks.snapshot())));
        let amount = i64::try_from(n)?;
        newest = transfer(&mut client, (n, n + 50), (EACH - amount, EACH + amount)).await?;
    }
    let mut right = 0;
    for sum in sums {
        right += usize::from(sum.await? == EACH * i64::try_from(ACCOUNTS)?);
    }
    println!("{right} reports, each of whole transactions");

    // What changed between two moments: it costs what changed, however many keys there are.
    let after = ks.snapshot_at(newest).await?;
    let changes = after.diff(&before);
    let written = changes.iter().filter(|change| matches!(change, Change::Updated { .. })).count();
    println!("{written} accounts were written, of {}", before.len());
    let first = before.get(key(7)).map_or(0, |entry| *entry.value());
    let then = after.get(key(7)).map_or(0, |entry| *entry.value());
    println!("account 7 had {first} and has {then}");
    Ok(())
}
