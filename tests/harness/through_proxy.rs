//! What the proxy does to connections.

use super::*;

#[tokio::test]
async fn pass_hands_on_and_counts() {
    let (proxy, mut stream) = through_proxy().await;
    assert_eq!(echo(&mut stream, b"hello").await, b"hello");
    assert_eq!((proxy.accepted(), proxy.connections()), (1, 1));
    assert_eq!((proxy.bytes_up(), proxy.bytes_down()), (5, 5));
    // The end of one direction is handed on, and the other still works.
    stream.write_all(b"bye").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within("the end comes back", stream.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"bye");
}

#[tokio::test]
async fn stall_accepts_and_holds_until_pass() {
    let (proxy, mut old) = through_proxy().await;
    proxy.stall().await;
    let mut new = connect(&proxy).await;
    for stream in [&mut old, &mut new] {
        stream.write_all(b"held").await.unwrap();
        silent(stream).await;
    }
    assert_eq!((proxy.bytes_up(), proxy.bytes_down()), (0, 0));
    proxy.pass().await;
    for stream in [&mut old, &mut new] {
        assert_eq!(read_exact(stream, 4).await, b"held");
    }
}

#[tokio::test]
async fn cut_closes_all_and_refuses_until_pass() {
    let (proxy, mut stream) = through_proxy().await;
    assert_eq!(echo(&mut stream, b"hello").await, b"hello");
    proxy.cut().await;
    assert_eq!((proxy.mode(), proxy.connections()), (Mode::Cut, 0));
    assert!(ended(&mut stream).await.is_empty());
    refused(&proxy).await;
    proxy.pass().await;
    let mut stream = connect(&proxy).await;
    assert_eq!(echo(&mut stream, b"again").await, b"again");
    assert_eq!(proxy.accepted(), 2);
    // Also when the next mode comes at once, and when the connection hangs in a stall.
    proxy.reset().await;
    assert!(ended(&mut stream).await.is_empty());
    let mut stream = connect(&proxy).await;
    proxy.stall().await;
    stream.write_all(b"lost").await.unwrap();
    proxy.reset().await;
    assert_eq!(proxy.mode(), Mode::Stall);
    assert!(ended(&mut stream).await.is_empty());
}

#[tokio::test]
async fn refuse_leaves_what_is_connected() {
    let (proxy, mut stream) = through_proxy().await;
    assert_eq!(echo(&mut stream, b"hello").await, b"hello");
    proxy.refuse().await;
    refused(&proxy).await;
    assert_eq!(echo(&mut stream, b"hello").await, b"hello");
    proxy.pass().await;
    assert_eq!(echo(&mut connect(&proxy).await, b"hello").await, b"hello");
}

#[tokio::test]
async fn blackhole_swallows_one_direction() {
    for (direction, up, down) in [(Direction::Up, 0, 0), (Direction::Down, 4, 0)] {
        let (proxy, mut stream) = through_proxy().await;
        proxy.blackhole(direction).await;
        stream.write_all(b"lost").await.unwrap();
        silent(&mut stream).await;
        assert_eq!((proxy.bytes_up(), proxy.bytes_down()), (up, down), "{direction:?}");
        proxy.pass().await;
        assert_eq!(echo(&mut stream, b"kept").await, b"kept", "what was swallowed is lost");
    }
}

#[tokio::test]
async fn cut_after_hands_on_exactly_that_many_bytes() {
    for bytes in [0, 1, 9, 10, 70_000] {
        let (proxy, mut stream) = through_proxy().await;
        assert_eq!(echo(&mut stream, b"before").await, b"before");
        proxy.cut_after(bytes).await;
        let sent: Vec<u8> = (0..100_000).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let (mut reads, mut writes) = stream.split();
        let write = async {
            // The cut may come while there is more to write.
            let _ = writes.write_all(&sent).await;
        };
        let read = async {
            let mut got = Vec::new();
            let _ = reads.read_to_end(&mut got).await;
            got
        };
        let ((), got) = within("the cut", async { tokio::join!(write, read) }).await;
        within("reached", proxy.reached()).await;
        assert_eq!(got.len() as u64, bytes);
        assert_eq!(got, sent[..got.len()]);
        assert_eq!(proxy.bytes_down(), bytes + 6);
        refused(&proxy).await;
    }
}

#[tokio::test]
async fn stall_after_hands_on_exactly_that_many_bytes_and_holds_the_rest() {
    for bytes in [0, 7, 10] {
        let (proxy, mut stream) = through_proxy().await;
        proxy.stall_after(bytes as u64).await;
        stream.write_all(b"0123456789").await.unwrap();
        assert_eq!(read_exact(&mut stream, bytes).await, b"0123456789"[..bytes]);
        within("the stall", proxy.stalled()).await;
        silent(&mut stream).await;
        proxy.pass().await;
        assert_eq!(read_exact(&mut stream, 10 - bytes).await, b"0123456789"[bytes..]);
    }
}

#[tokio::test]
async fn a_stalled_connection_stays_open_when_its_other_end_is_gone() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(&server.local_addr().unwrap().to_string()).await.unwrap();
    let mut stream = connect(&proxy).await;
    let (mut other, _) = within("the connection", server.accept()).await.unwrap();
    stream.write_all(b"unread").await.unwrap();
    within("it comes", other.readable()).await.unwrap();
    proxy.stall().await;
    other.write_all(b"held").await.unwrap();
    // With bytes unread the end of it is a reset.
    drop((other, server));
    silent(&mut stream).await;
    proxy.pass().await;
    ended(&mut stream).await;
    drop(stream);
    within("both ends are gone", async {
        while proxy.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn delay_adds_to_the_way_of_each_direction() {
    let (proxy, mut stream) = through_proxy().await;
    proxy.delay(Duration::from_millis(100)).await;
    let begun = Instant::now();
    assert_eq!(echo(&mut stream, b"hello").await, b"hello");
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    // It is a distance and not a width: many chunks on their way at once take little longer.
    let begun = Instant::now();
    let (mut reads, mut writes) = stream.split();
    let sent = vec![7; 400_000];
    let mut got = vec![0; sent.len()];
    let both = async { tokio::join!(writes.write_all(&sent), reads.read_exact(&mut got)) };
    let (written, read) = within("all comes back", both).await;
    written.unwrap();
    read.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // A change of the mode ends a delay that has begun.
    proxy.delay(Duration::from_secs(3600)).await;
    stream.write_all(b"late").await.unwrap();
    silent(&mut stream).await;
    proxy.pass().await;
    assert_eq!(read_exact(&mut stream, 4).await, b"late");
}

#[tokio::test]
async fn a_dropped_proxy_closes_everything() {
    let (proxy, mut stream) = through_proxy().await;
    assert_eq!(echo(&mut stream, b"hello").await, b"hello");
    let address = proxy.endpoint().replace("http://", "");
    drop(proxy);
    assert!(ended(&mut stream).await.is_empty());
    // A process that another test is just starting may hold a copy of the listener for a moment.
    while TcpStream::connect(&address).await.is_ok() {}
}

#[tokio::test]
async fn etcd_works_through_the_proxy_and_a_watch_ends_with_a_cut() {
    let server = shared().await;
    let proxy = Proxy::start(&server.endpoint()).await.unwrap();
    let key = unique_prefix("proxy") + "key";
    let mut client = Client::connect([proxy.endpoint()], None).await.unwrap();
    client.put(key.as_str(), "1", None).await.unwrap();
    let mut watch = client.watch(key.as_str(), None).await.unwrap();
    let created = within("created", watch.message()).await.unwrap().unwrap();
    assert!(created.created());
    proxy.stall().await;
    server.client().await.put(key.as_str(), "2", None).await.unwrap();
    let mut message = Box::pin(watch.message());
    still_pending("a stalled watch is silent", QUIET, &mut message).await;
    proxy.pass().await;
    let event = within("the held event", message).await.unwrap().unwrap();
    assert_eq!(event.events()[0].kv().unwrap().value(), b"2");
    proxy.cut().await;
    within("the watch ends", watch.message()).await.unwrap_err();
    client.get(key.as_str(), None).await.unwrap_err();
    proxy.pass().await;
    assert_eq!(value(&mut client, &key).await.as_deref(), Some("2"));
}

/// A connection through a proxy to a server that sends back what it gets.
async fn through_proxy() -> (Proxy, TcpStream) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    let proxy = Proxy::start(&address).await.unwrap();
    let stream = connect(&proxy).await;
    (proxy, stream)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.endpoint().replace("http://", "")).await.unwrap()
}

async fn refused(proxy: &Proxy) {
    let error = TcpStream::connect(proxy.endpoint().replace("http://", "")).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

async fn read_exact(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut got = vec![0; bytes];
    within("bytes", stream.read_exact(&mut got)).await.unwrap();
    got
}

async fn echo(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).await.unwrap();
    read_exact(stream, bytes.len()).await
}

/// What still comes until the connection ends, in good order or not.
async fn ended(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = within("the end of the connection", stream.read_to_end(&mut rest)).await;
    rest
}

async fn silent(stream: &mut TcpStream) {
    let mut byte = [0];
    let got = tokio::time::timeout(QUIET, stream.peek(&mut byte)).await;
    assert!(got.is_err(), "something came: {got:?}");
}
