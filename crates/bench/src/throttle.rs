//! A TCP proxy that passes bytes towards the server no faster than a line of a given rate, with no more
//! buffer than a modem has.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};

/// What the kernel keeps for the slow direction, in bytes; it doubles this for its own needs.
const BUFFER: u32 = 16 * 1024;
/// How late a timer may be.
const LATE: Duration = Duration::from_millis(4);
/// What passes at a time: one packet.
const PACKET: usize = 1_460;

/// A throttled way to a server; ends when dropped.
#[derive(Debug)]
pub struct Throttle {
    pub addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Throttle {
    /// `bytes_per_second` from the client to the server; the other way is free.
    pub fn start(server: SocketAddr, bytes_per_second: u64) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // Set before the connection is made, so that its window never grows beyond.
        socket.set_recv_buffer_size(BUFFER)?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(64)?;
        let addr = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                connections.spawn(pass(near, server, bytes_per_second));
            }
        });
        Ok(Self { addr, task })
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(near: TcpStream, server: SocketAddr, rate: u64) -> std::io::Result<()> {
    let far = TcpStream::connect(server).await?;
    far.set_nodelay(true)?;
    near.set_nodelay(true)?;
    let (mut near_read, mut near_write) = near.into_split();
    let (mut far_read, mut far_write) = far.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut far_read, &mut near_write).await });
    let mut packet = [0; PACKET];
    // When the line is free again.
    let mut free = Instant::now();
    loop {
        let read = near_read.read(&mut packet).await?;
        if read == 0 {
            break;
        }
        // A timer that came late is made up for; time in which nothing came is not.
        let earliest = Instant::now().checked_sub(LATE).unwrap_or(free);
        free = free.max(earliest) + Duration::from_nanos(read as u64 * 1_000_000_000 / rate);
        far_write.write_all(&packet[..read]).await?;
        // Timers are no finer than this; the debt is kept exactly.
        if free > Instant::now() + Duration::from_millis(1) {
            tokio::time::sleep_until(free.into()).await;
        }
    }
    back.abort();
    far_write.shutdown().await
}
