//! What happens, how it stands with the relay, and waiting for either.

use tokio::sync::{broadcast, watch};

use super::Chat;
use crate::{
    engine::Wish,
    error::{Error, Refusal, Result},
    views::{Connection, Delivery, Event},
};

impl Chat {
    /// What happens from now on. A watcher that falls behind is told so by the receiver, and looks everything up again.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// How it stands with the relay.
    pub fn connection(&self) -> Connection {
        self.shared.connection.borrow().clone()
    }

    /// The same, to be waited on.
    pub fn connection_changes(&self) -> watch::Receiver<Connection> {
        self.shared.connection.subscribe()
    }

    /// Waits until the relay is reached.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] with the relay's reason where it does not let this device in; [`Error::Closed`].
    pub async fn online(&self) -> Result<()> {
        let mut changes = self.connection_changes();
        loop {
            match &*changes.borrow_and_update() {
                Connection::Online { .. } => return Ok(()),
                Connection::Refused { why } => return Err(Refusal::Invalid(why.clone()).into()),
                Connection::Connecting | Connection::Offline { .. } => {}
            }
            changes.changed().await.map_err(|_| Error::Closed)?;
        }
    }

    /// Waits until everything was taken in that the relay had when the connection began.
    ///
    /// # Errors
    /// As [`online`](Self::online).
    pub async fn caught_up(&self) -> Result<()> {
        self.online().await?;
        let mut caught_up = self.shared.caught_up.subscribe();
        caught_up.wait_for(|caught_up| *caught_up).await.map(|_| ()).map_err(|_| Error::Closed)
    }

    /// Tries to connect now, where it would wait.
    pub async fn connect(&self) {
        self.wish(Wish::Connect).await;
    }

    /// Waits until nothing is under way any more: everything in the outbox was stored by the relay or has failed or waits for
    /// somebody else. Gives how much is left.
    ///
    /// # Errors
    /// [`Error::State`].
    pub async fn settled(&self) -> Result<usize> {
        let mut events = self.events();
        loop {
            let outbox = self.outbox()?;
            let moving = outbox.iter().any(|out| {
                matches!(out.delivery, Delivery::Sending | Delivery::Waiting { why: None })
            });
            if !moving {
                return Ok(outbox.len());
            }
            match events.recv().await {
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Err(Error::Closed),
            }
        }
    }
}
