//! The handshake over a socket, from either side, and what is told when it fails.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use relay_proto::{
    Problem, RelayId,
    link::{
        Encoding, Message, MessageType, NodeType,
        codec::{self, Frame},
        handshake::{
            Acceptor, Credential, Expected, FEATURE_PROBE, HANDSHAKE_TIMEOUT, HandshakeError,
            Identity, Initiator, MAX_HANDSHAKE_MESSAGE, Offer, Proven, REASON, close_code,
            error_message,
        },
    },
};

use super::{
    admission::{Admission, Arrival, Refusal},
    socket::{Packet, Socket, receive, send},
};

/// Why a connection did not become a link.
#[derive(Debug, thiserror::Error)]
pub enum ShakeError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("{relay}: {refusal}")]
    Refused { relay: RelayId, refusal: Refusal },
    #[error("the handshake took longer than {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    #[error("the connection ended in the handshake: {0}")]
    Io(#[from] io::Error),
    #[error("the other side closed in the handshake: {0} {1}")]
    Closed(u16, String),
    #[error("a malformed message in the handshake: {0}")]
    Malformed(String),
}

impl ShakeError {
    /// One word for logs and the metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Handshake(error) => error.reason(),
            Self::Refused { refusal, .. } => refusal.reason(),
            Self::Timeout => "timeout",
            Self::Io(_) => "io",
            Self::Closed(..) => "closed",
            Self::Malformed(_) => "malformed",
        }
    }

    /// What the other side is told, with the word that we log; nothing where it is gone or was the one to
    /// refuse.
    fn problem(&self) -> Option<Problem> {
        let problem = match self {
            Self::Handshake(HandshakeError::Refused(_)) | Self::Io(_) | Self::Closed(..) => None,
            Self::Handshake(error) => Some(error.problem()),
            Self::Refused { refusal, .. } => Some(refusal.problem()),
            Self::Timeout => Some(Problem::new(relay_proto::Code::Timeout, self.to_string())),
            Self::Malformed(_) => Some(Problem::invalid(self.to_string())),
        };
        problem.map(|problem| problem.with(REASON, self.reason()))
    }
}

/// What the handshake settled.
#[derive(Debug)]
pub struct Shaken {
    pub peer: Proven,
    pub heartbeat: Duration,
    pub main_relay: Option<RelayId>,
    /// From this side's `hello` or its proof to what the other side answered it with.
    pub rtt: Duration,
}

impl Shaken {
    pub fn answers_heartbeats(&self) -> bool {
        self.peer.has_feature(FEATURE_PROBE)
    }
}

/// The dialling side.
///
/// # Errors
/// [`ShakeError`]; the other side was told and the socket is to be dropped.
pub async fn initiate(
    socket: &mut impl Socket,
    encoding: Encoding,
    identity: &Identity,
    offer: Offer,
    expected: &Expected,
    credentials: &[Credential],
) -> Result<Shaken, ShakeError> {
    let steps = async {
        let initiator = Initiator::new(identity, offer, &nonce()?);
        write(socket, encoding, &initiator.hello()).await?;
        let asked = Instant::now();
        let hello = read(socket, encoding).await?;
        let rtt = asked.elapsed();
        let (authenticating, auth) = initiator.on_hello(&hello, expected, credentials)?;
        write(socket, encoding, &auth).await?;
        let welcome = authenticating.on_welcome(&read(socket, encoding).await?)?;
        let relaxed = Shaken {
            peer: welcome.peer,
            heartbeat: welcome.heartbeat,
            main_relay: welcome.main_relay,
            rtt,
        };
        Ok(relaxed)
    };
    let shaken =
        tokio::time::timeout(HANDSHAKE_TIMEOUT, steps).await.unwrap_or(Err(ShakeError::Timeout));
    tell(socket, encoding, shaken).await
}

/// What the accepting side brings.
#[expect(missing_debug_implementations, reason = "lives for one handshake, and holds the policy")]
pub struct Accepting<'a> {
    pub identity: &'a Identity,
    pub offer: Offer,
    pub heartbeat: Duration,
    pub admission: &'a dyn Admission,
    pub arrival: &'a Arrival,
}

/// The accepting side.
///
/// # Errors
/// [`ShakeError`]; the other side was told and the socket is to be dropped.
pub async fn accept(
    socket: &mut impl Socket,
    encoding: Encoding,
    accepting: &Accepting<'_>,
) -> Result<Shaken, ShakeError> {
    let Accepting { identity, offer, heartbeat, admission, arrival } = accepting;
    let steps = async {
        let acceptor = Acceptor::new(identity, *offer, admission.methods(), nonce()?);
        let (answered, hello) = acceptor.on_hello(&read(socket, encoding).await?)?;
        write(socket, encoding, &hello).await?;
        let asked = Instant::now();
        let auth = read(socket, encoding).await?;
        let rtt = asked.elapsed();
        let claim = answered.on_auth(&auth)?;
        let admitted = admission
            .admit(&claim, arrival)
            .await
            .map_err(|refusal| ShakeError::Refused { relay: claim.peer.relay.clone(), refusal })?;
        let main_relay = (identity.node_type == NodeType::Main).then(|| identity.relay.clone());
        let secret = admitted.secret.as_ref().map(|secret| secret.as_slice());
        write(socket, encoding, &claim.welcome(*heartbeat, main_relay.clone(), secret)).await?;
        Ok(Shaken { peer: claim.peer, heartbeat: *heartbeat, main_relay, rtt })
    };
    let shaken =
        tokio::time::timeout(HANDSHAKE_TIMEOUT, steps).await.unwrap_or(Err(ShakeError::Timeout));
    tell(socket, encoding, shaken).await
}

/// Tells the other side why it goes no further.
async fn tell(
    socket: &mut impl Socket,
    encoding: Encoding,
    shaken: Result<Shaken, ShakeError>,
) -> Result<Shaken, ShakeError> {
    if let Err(error) = &shaken
        && let Some(problem) = error.problem()
    {
        refuse(socket, encoding, &problem).await;
    }
    shaken
}

/// An `error` message and the close code that goes with it, as far as the other side still listens.
pub(super) async fn refuse(socket: &mut impl Socket, encoding: Encoding, problem: &Problem) {
    let telling = async {
        write(socket, encoding, &error_message(problem)).await?;
        let reason = problem.message.chars().take(100).collect::<String>();
        let reason = if reason.len() > 120 { problem.code.to_string() } else { reason };
        send(socket, Packet::Close(close_code(problem.code), reason)).await
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), telling).await;
}

async fn write(socket: &mut impl Socket, encoding: Encoding, message: &Message) -> io::Result<()> {
    let mut bytes = Vec::new();
    codec::encode_message(message, encoding, &mut bytes);
    send(socket, packet(bytes, encoding)).await
}

/// Encoded frames as a message of the kind that the encoding uses.
pub(super) fn packet(bytes: Vec<u8>, encoding: Encoding) -> Packet {
    match encoding {
        Encoding::Cbor => Packet::Binary(Bytes::from(bytes)),
        Encoding::Json => Packet::Text(Bytes::from(bytes)),
    }
}

/// The next message; unknown types are passed over, as later.
async fn read(socket: &mut impl Socket, encoding: Encoding) -> Result<Message, ShakeError> {
    loop {
        let bytes = match (receive(socket).await?, encoding) {
            (Packet::Text(bytes), Encoding::Json) | (Packet::Binary(bytes), Encoding::Cbor) => {
                bytes
            }
            (Packet::Close(code, reason), _) => return Err(ShakeError::Closed(code, reason)),
            (Packet::Alive, _) => continue,
            _ => return Err(ShakeError::Malformed("text and binary are mixed up".to_owned())),
        };
        if bytes.len() > MAX_HANDSHAKE_MESSAGE {
            return Err(ShakeError::Malformed("longer than a handshake needs".to_owned()));
        }
        let (frame, rest) = codec::decode_first(&bytes, encoding)
            .map_err(|error| ShakeError::Malformed(error.to_string()))?;
        match frame {
            Some(Frame::Message(message)) if rest.is_empty() => return Ok(message),
            None if rest.is_empty() => {}
            _ => {
                let (expected, got) = (MessageType::Hello, MessageType::Stream);
                return Err(HandshakeError::Unexpected { expected, got }.into());
            }
        }
    }
}

fn nonce() -> io::Result<[u8; 32]> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    Ok(nonce)
}
