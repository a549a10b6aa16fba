//! The proxy that harms, between a plain client and a peer that repeats what it hears.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use wiredflow_testkit::{Fault, FaultProxy, wait_until};

const SOON: Duration = Duration::from_secs(10);
/// Long enough that bytes on this machine would have come.
const NOTHING_FOR: Duration = Duration::from_millis(150);

/// A peer that sends back what it gets, to any number of clients, until the test's process ends.
fn echo() -> FaultProxy {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(|| {
                let stream = stream.unwrap();
                drop(std::io::copy(&mut &stream, &mut &stream));
            });
        }
    });
    FaultProxy::start(address)
}

fn connect(proxy: &FaultProxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

fn say(stream: &mut TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).unwrap();
    let mut heard = vec![0; text.len()];
    stream.read_exact(&mut heard).unwrap();
    String::from_utf8(heard).unwrap()
}

#[test]
fn without_a_fault_all_goes_through_and_ends_are_passed_on() {
    let proxy = echo();
    let mut stream = connect(&proxy);
    assert_eq!(say(&mut stream, "hello"), "hello");
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    wait_until(SOON, || proxy.open() == 0);
    assert_eq!((proxy.connections(), proxy.passed()), (1, (5, 5)));
}

#[test]
fn a_cut_comes_after_exactly_so_many_bytes_and_once() {
    let proxy = echo();
    let mut stream = connect(&proxy);
    assert_eq!(say(&mut stream, "before"), "before");
    proxy.to_client(Fault::CutAfter(7));
    assert_eq!(say(&mut stream, "1234"), "1234");
    stream.write_all(b"5678").unwrap();
    let mut heard = Vec::new();
    // Whether the end is an orderly one or a reset is the kernel's choice.
    drop(stream.read_to_end(&mut heard));
    assert_eq!(heard, b"567");
    proxy.wait_until_spent(SOON);
    assert_eq!(say(&mut connect(&proxy), "12345678"), "12345678");
}

#[test]
fn one_bit_of_one_byte_is_turned_once() {
    let proxy = echo();
    let mut stream = connect(&proxy);
    proxy.to_peer(Fault::Corrupt(2));
    assert_eq!(say(&mut stream, "aaaa"), "aa`a");
    assert_eq!(say(&mut stream, "aaaa"), "aaaa");
}

#[test]
fn silence_holds_what_is_said_closes_nothing_and_can_be_lifted() {
    let proxy = echo();
    let mut stream = connect(&proxy);
    proxy.both(Fault::Silence);
    stream.write_all(b"anyone?").unwrap();
    stream.set_read_timeout(Some(NOTHING_FOR)).unwrap();
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(proxy.open(), 1);
    proxy.both(Fault::None);
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut heard = [0; 7];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"anyone?");
}

#[test]
fn a_delay_and_a_throttle_take_their_time() {
    let proxy = echo();
    let mut stream = connect(&proxy);
    for (fault, least) in [
        (
            Fault::Delay(Duration::from_millis(200)),
            Duration::from_millis(200),
        ),
        (Fault::Throttle(1000), Duration::from_millis(300)),
    ] {
        proxy.to_peer(fault);
        let begun = Instant::now();
        let text = "x".repeat(300);
        assert_eq!(say(&mut stream, &text), text);
        assert!(begun.elapsed() >= least, "{fault:?}: {:?}", begun.elapsed());
    }
}

#[test]
fn all_connections_can_be_cut_at_once_and_a_peer_that_is_away_ends_them() {
    let proxy = echo();
    let (mut one, mut other) = (connect(&proxy), connect(&proxy));
    assert_eq!(say(&mut one, "1") + &say(&mut other, "2"), "12");
    proxy.cut();
    for stream in [&mut one, &mut other] {
        assert!(matches!(stream.read(&mut [0; 8]), Ok(0) | Err(_)));
    }
    assert_eq!(say(&mut connect(&proxy), "again"), "again");

    let nobody = FaultProxy::before(wiredflow_testkit::free_port());
    let mut stream = connect(&nobody);
    assert!(matches!(stream.read(&mut [0; 8]), Ok(0) | Err(_)));
}
