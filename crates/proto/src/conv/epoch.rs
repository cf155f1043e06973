//! The epoch as compare-and-swap (`gateway.md` 5, `mls-profile.md` 6.2).

/// A message's claim on the epochs of its conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// None: the relay orders it and looks no further.
    Unchecked,
    /// An opaque conversation's handshake: the first of its epoch wins, and later epochs may be skipped to.
    First(u64),
    /// A profile commit: exactly the present epoch, which then ends.
    Commit(u64),
    /// Anything else in a profile conversation: exactly the present epoch, which goes on.
    Within(u64),
}

/// Why a message lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EpochRefusal {
    #[error("the epoch is over")]
    Stale,
    #[error("the epoch has not begun")]
    Future,
}

impl Handshake {
    /// The epoch after this message, where `current` is the one before it.
    ///
    /// # Errors
    /// [`EpochRefusal`].
    pub fn apply(self, current: u64) -> Result<u64, EpochRefusal> {
        match self {
            Self::Unchecked => Ok(current),
            Self::First(epoch) if epoch >= current => Ok(epoch.saturating_add(1)),
            Self::First(_) => Err(EpochRefusal::Stale),
            Self::Commit(epoch) | Self::Within(epoch) if epoch < current => {
                Err(EpochRefusal::Stale)
            }
            Self::Commit(epoch) | Self::Within(epoch) if epoch > current => {
                Err(EpochRefusal::Future)
            }
            Self::Commit(epoch) => Ok(epoch.saturating_add(1)),
            Self::Within(epoch) => Ok(epoch),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_of_an_epoch_wins() {
        assert_eq!(Handshake::Commit(4).apply(4), Ok(5));
        assert_eq!(Handshake::Commit(4).apply(5), Err(EpochRefusal::Stale));
        assert_eq!(Handshake::Within(6).apply(5), Err(EpochRefusal::Future));
        assert_eq!(Handshake::First(9).apply(5), Ok(10));
        assert_eq!(Handshake::First(9).apply(10), Err(EpochRefusal::Stale));
    }

    proptest! {
        /// However messages race, epochs never go back, and each profile epoch has at most one commit.
        #[test]
        fn epochs_never_go_back(claims in prop::collection::vec((0_u64..4, any::<bool>()), 1..40)) {
            let (mut epoch, mut commits) = (0, 0);
            for (claim, commit) in claims {
                let message = if commit { Handshake::Commit(claim) } else { Handshake::Within(claim) };
                match message.apply(epoch) {
                    Ok(next) => {
                        prop_assert_eq!(claim, epoch);
                        prop_assert_eq!(next, epoch + u64::from(commit));
                        commits += u64::from(commit);
                        epoch = next;
                    }
                    Err(EpochRefusal::Stale) => prop_assert!(claim < epoch),
                    Err(EpochRefusal::Future) => prop_assert!(claim > epoch),
                }
            }
            prop_assert_eq!(epoch, commits);
        }
    }
}
