//! When a lite node that takes no new work may go: its claims are over, and its channels no longer carry what they were for.
//!
//! A payment that was claimed or given back is so on this side only, until the peer has signed a commitment without it
//! (BOLT 2). Who leaves before that leaves earned money to the payment's deadline, and the refused tranches held.

use oda_lightning::Wallet;
use std::time::{Duration, Instant};

/// How long the channels are to be usable, and to carry nothing that waits for its preimage. LDK hands what is claimed to
/// its peer as soon as they meet; whether the peer signed for it the wallet cannot tell.
const QUIET: Duration = Duration::from_secs(3);
/// How long to wait for peers that do not come: who accepted a channel is called once a minute.
const PATIENCE: Duration = Duration::from_secs(90);

/// What was seen since all claims are over.
#[derive(Debug, Default)]
pub(super) struct Parting {
    begun: Option<Instant>,
    quiet: Option<Instant>,
}

impl Parting {
    /// Whether to go, as the wallet looks now.
    pub(super) fn is_over(&mut self, wallet: &Wallet) -> bool {
        let at_rest = wallet.channels().iter().all(|c| c.usable || !c.ready) && !wallet.carries_unclaimed();
        self.step(Instant::now(), at_rest)
    }

    fn step(&mut self, now: Instant, at_rest: bool) -> bool {
        let begun = *self.begun.get_or_insert(now);
        let quiet = at_rest.then(|| *self.quiet.get_or_insert(now));
        self.quiet = quiet;
        now - begun > PATIENCE || quiet.is_some_and(|since| now - since >= QUIET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_when_the_channels_were_quiet_for_a_while_or_peers_stay_away() {
        let (start, s) = (Instant::now(), Duration::from_secs);
        let mut parting = Parting::default();
        assert!(!parting.step(start, true));
        assert!(!parting.step(start + s(2), false), "the peer is gone again");
        assert!(!parting.step(start + s(4), true), "quiet from here on");
        assert!(!parting.step(start + s(6), true));
        assert!(parting.step(start + s(7), true));

        let mut parting = Parting::default();
        assert!(!parting.step(start, false));
        assert!(!parting.step(start + PATIENCE, false));
        assert!(parting.step(start + PATIENCE + s(1), false));
    }
}
