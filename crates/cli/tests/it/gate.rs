//! A way to a broker that holds back packets of one kind: so a process can be killed at a point between two of
//! its packets.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::thread;

/// The kinds of packets that a message is acknowledged by: at QoS 1, and the steps of QoS 2.
pub(crate) const PUBACK: u8 = 4;
pub(crate) const PUBREC: u8 = 5;
pub(crate) const PUBCOMP: u8 = 7;

/// Takes connections for as long as the test lives.
#[derive(Debug)]
pub(crate) struct Gate {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The kind that is held back; 0 for none.
    kind: AtomicU8,
    held_back: AtomicUsize,
}

impl Gate {
    /// A way to a broker on 127.0.0.1.
    pub(crate) fn start(broker: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let broker = TcpStream::connect(("127.0.0.1", broker)).unwrap();
                let (from, to) = (broker.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || copy(from, to));
                let state = Arc::clone(&shared);
                thread::spawn(move || watch(client, broker, &state));
            }
        });
        Self { port, state }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on the client's packets of this kind are lost.
    pub(crate) fn hold_back(&self, kind: u8) {
        self.state.kind.store(kind, Ordering::SeqCst);
    }

    pub(crate) fn let_through(&self) {
        self.hold_back(0);
    }

    /// How many packets were lost.
    pub(crate) fn held_back(&self) -> usize {
        self.state.held_back.load(Ordering::SeqCst)
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    drop(io::copy(&mut from, &mut to));
    drop(to.shutdown(std::net::Shutdown::Both));
}

/// Packet by packet, until either side has gone.
fn watch(mut client: TcpStream, mut broker: TcpStream, state: &State) {
    while let Ok(packet) = packet(&mut client) {
        if packet[0] >> 4 == state.kind.load(Ordering::SeqCst) {
            state.held_back.fetch_add(1, Ordering::SeqCst);
        } else if broker.write_all(&packet).is_err() {
            break;
        }
    }
    drop(broker.shutdown(std::net::Shutdown::Both));
}

fn packet(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 2];
    from.read_exact(&mut packet)?;
    let mut length = usize::from(packet[1] & 0x7F);
    for shift in [7, 14, 21] {
        if packet[packet.len() - 1] < 0x80 {
            break;
        }
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7F) << shift;
        packet.push(byte[0]);
    }
    let head = packet.len();
    packet.resize(head + length, 0);
    from.read_exact(&mut packet[head..])?;
    Ok(packet)
}
