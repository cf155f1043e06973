//! A line between two relays that loses a message, and breaks with it, wherever a test says.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the relay that accepts links.
    In,
    /// To the relay that dials.
    Out,
}

/// The message that is lost: so many others go the same way before it.
#[derive(Debug, Clone, Copy)]
struct Cut {
    way: Way,
    spared: usize,
}

/// A proxy that knows where a WebSocket message ends. Ends, with all lines through it, when dropped.
#[derive(Debug)]
pub struct Shears {
    address: SocketAddr,
    cut: Arc<Mutex<Option<Cut>>>,
    _accepting: JoinSet<()>,
}

impl Shears {
    /// Listens on loopback for a relay there.
    pub async fn before(to: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = Arc::<Mutex<Option<Cut>>>::default();
        let mut accepting = JoinSet::new();
        let shared = cut.clone();
        accepting.spawn(async move {
            let mut lines = JoinSet::new();
            while let Ok((dialler, _)) = listener.accept().await {
                let cut = shared.clone();
                lines.spawn(async move {
                    let Ok(acceptor) = TcpStream::connect(to).await else { return };
                    let _ = (dialler.set_nodelay(true), acceptor.set_nodelay(true));
                    let (from_dialler, to_dialler) = dialler.into_split();
                    let (from_acceptor, to_acceptor) = acceptor.into_split();
                    tokio::select! {
                        () = carry(from_dialler, to_acceptor, Way::In, &cut) => {}
                        () = carry(from_acceptor, to_dialler, Way::Out, &cut) => {}
                    }
                });
            }
        });
        Self { address, cut, _accepting: accepting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The `n`-th message that way from now on, counted from 1, is lost, and the line breaks.
    pub fn cut_at(&self, way: Way, n: usize) {
        *self.cut.lock().unwrap() = Some(Cut { way, spared: n - 1 });
    }

    /// Nothing is to be lost any more; whether nothing was.
    pub fn call_off(&self) -> bool {
        self.cut.lock().unwrap().take().is_some()
    }
}

/// Hands on whole messages until one is to be lost.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Way,
    cut: &Mutex<Option<Cut>>,
) {
    let mut held = Vec::new();
    let mut is_open = false;
    loop {
        let length = if is_open { frame(&held) } else { head(&held) };
        let Some(length) = length.filter(|length| *length <= held.len()) else {
            match from.read_buf(&mut held).await {
                Ok(1..) => continue,
                _ => return,
            }
        };
        // Whatever is no text and no bytes keeps the line alive, and says nothing.
        let is_message = is_open && matches!(held[0] & 0x0f, 1 | 2);
        is_open = true;
        if is_message && is_lost(cut, way) {
            return;
        }
        if to.write_all(&held[..length]).await.is_err() {
            return;
        }
        held.drain(..length);
    }
}

fn is_lost(cut: &Mutex<Option<Cut>>, way: Way) -> bool {
    let mut cut = cut.lock().unwrap();
    match &mut *cut {
        Some(planned) if planned.way == way && planned.spared == 0 => {
            *cut = None;
            true
        }
        Some(planned) if planned.way == way => {
            planned.spared -= 1;
            false
        }
        _ => false,
    }
}

/// The length of the upgrade, once it is there.
fn head(held: &[u8]) -> Option<usize> {
    held.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4)
}

/// The length of the frame that `held` begins with, once that is known (RFC 6455 section 5.2).
fn frame(held: &[u8]) -> Option<usize> {
    let second = *held.get(1)?;
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let (head, length) = match second & 0x7f {
        126 => (4, u64::from(u16::from_be_bytes(held.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(held.get(2..10)?.try_into().ok()?)),
        short => (2, u64::from(short)),
    };
    Some(head + mask + usize::try_from(length).ok()?)
}
