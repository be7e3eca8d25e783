//! The live page in a real browser, on a real etcd: changes appear in place, disconnect and recovery
//! show, it fits a phone, and the console stays silent.

use serde_json::json;

use super::*;
use crate::chromium::{Page, find};
use crate::support::EtcdServer;
use crate::support::real::{at, delete, put};

const ROWS: &str = "document.querySelectorAll('#rows tr:not(.gone)').length";

fn row(key: &str) -> String {
    format!("document.querySelector('#rows tr[data-key=\"{key}\"]:not(.gone)')")
}

fn state(name: &str) -> String {
    format!("document.documentElement.dataset.state === '{name}'")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_follows_changes_in_place_and_shows_disconnect_and_recovery() {
    let Some(browser) = find() else {
        println!("skipped: no Chromium; install one (tools/chromium.sh), or name it in $CHROMIUM");
        return;
    };
    let etcd = EtcdServer::builder().durable().start().await.unwrap();
    let mut client = etcd.client().await;
    for name in ["a", "b", "c"] {
        put(&mut client, format!("/p/{name}"), r#"{"weight":1}"#).await;
    }
    let service = serve(at(etcd.endpoint()), "/p/", Limits::default()).await;
    let mut page = within("the browser", Page::open(browser)).await;
    page.go(&format!("http://{}/", service.at)).await;
    page.until("three rows", &format!("{ROWS} === 3 && {}", state("live"))).await;

    // In place: the row is the same node afterwards.
    page.value(&format!("({}).known = true", row("/p/b"))).await;
    put(&mut client, "/p/b", r#"{"weight":7}"#).await;
    let changed = format!("{0}.known && {0}.innerText.includes('weight 7')", row("/p/b"));
    page.until("the changed value", &changed).await;
    put(&mut client, "/p/bb", "<b>text</b>").await;
    page.until("the new row", &format!("{} !== null", row("/p/bb"))).await;
    let order =
        "[...document.querySelectorAll('#rows tr:not(.gone)')].map(row => row.dataset.key).join()";
    assert_eq!(page.value(order).await, "/p/a,/p/b,/p/bb,/p/c", "in the order of keys");
    let text = page.value(&format!("{}.children[1].innerText", row("/p/bb"))).await;
    assert_eq!(text, "<b>text</b>", "values are shown, not run");
    delete(&mut client, "/p/a").await;
    page.until("the deleted row", "document.querySelector('#rows tr[data-key=\"/p/a\"]') === null")
        .await;
    page.until("the plots", "document.querySelectorAll('#rates rect').length > 0").await;

    search(&mut page, &mut client).await;
    fits_a_phone(&mut page).await;

    etcd.kill();
    page.until("the lost etcd", &state("reconnecting")).await;
    assert_eq!(page.value(ROWS).await, 3, "the last data is shown");
    page.until("the error", "document.getElementById('error').innerText.length > 20").await;
    etcd.restart().await.unwrap();
    page.until("the etcd that is back", &state("live")).await;

    service.stop.send_replace(true);
    page.until("the lost service", &state("offline")).await;
    within("the service", service.serving).await.unwrap().unwrap();
    let mut client = etcd.client().await;
    delete(&mut client, "/p/c").await;
    put(&mut client, "/p/d", "1").await;
    let again = serve_at(service.at, at(etcd.endpoint()), "/p/").await;
    page.until("the service that is back", &state("live")).await;
    let missed = format!("{} === null && {} !== null", row("/p/c"), row("/p/d"));
    page.until("what was missed", &missed).await;
    assert_eq!(page.complaints().await, Vec::<String>::new());
    again.stop.send_replace(true);
}

/// Types a prefix, and takes it out again.
async fn search(page: &mut Page, client: &mut etcd_keyspace::etcd_client::Client) {
    let typed = |text: &str| {
        format!(
            "(() => {{ const box = document.getElementById('search'); box.value = '{text}'; \
             box.dispatchEvent(new Event('input')); }})()"
        )
    };
    page.value(&typed("b")).await;
    page.until("the rows that match", &format!("{ROWS} === 2 && {} === null", row("/p/c"))).await;
    put(client, "/p/c", "2").await;
    put(client, "/p/bbb", "2").await;
    page.until("a new row that matches", &format!("{} !== null", row("/p/bbb"))).await;
    assert_eq!(page.value(ROWS).await, 3, "and none that does not");
    page.value(&typed("zzz")).await;
    page.until("nothing", "!document.getElementById('empty').hidden").await;
    delete(client, "/p/bbb").await;
    page.value(&typed("")).await;
    page.until("everything", &format!("{ROWS} === 3")).await;
}

async fn fits_a_phone(page: &mut Page) {
    let phone = json!({"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": true});
    page.call("Emulation.setDeviceMetricsOverride", phone).await;
    page.until("the width of a phone", "window.innerWidth === 390").await;
    assert_eq!(page.value("document.documentElement.scrollWidth").await, 390);
    page.call("Emulation.clearDeviceMetricsOverride", json!({})).await;
}
