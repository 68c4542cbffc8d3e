//! Whether others can reach this node: whom it believes, and whom it asks next (N1).
//!
//! What a peer says it saw may be a lie that sends everybody elsewhere, and so may "I can reach you" and "I cannot". So
//! an address counts only if two peers this node dialled itself, of two ranges of addresses, saw it, and two such
//! servers each reached this node there with a number it had made up; and it is private only once two say that they
//! could not. Pure: [`super::relays`] carries it out.

use super::address::{Group, Scope, Scopes, group, is_circuit, plain, scope};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use tokio::time::{Duration, Instant};

/// Peers that must say the same.
const AGREE: usize = 2;
/// Addresses considered at a time.
const MAX_SEEN: usize = 16;
/// Addresses announced because others reached them; of more, the newest.
pub const MAX_CONFIRMED: usize = 2;
/// A question not answered by then is given up.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// How a node learns whether it can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asks {
    /// Not at all: it announces what it listens on.
    #[default]
    Nobody,
    /// It asks others to dial it at addresses of this scope and wider ones.
    Servers(Scope),
    /// It takes for granted that nobody can.
    IsPrivate,
}

/// What a node knows of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reachability {
    /// Nothing yet.
    #[default]
    Unknown,
    /// Two others reached it at an address.
    Public,
    /// Two others could not reach it.
    Private,
}

/// Who speaks: all peers in one range of addresses have one voice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Voice {
    /// One in a range of addresses.
    Range(Group),
    /// One on this site or machine.
    Peer(PeerId),
}

/// The voice of a peer reached at an address.
pub fn voice(peer: PeerId, at: &Multiaddr) -> Voice {
    group(at).map_or(Voice::Peer(peer), Voice::Range)
}

/// One address that may be this node's.
#[derive(Debug, Default)]
struct Candidate {
    seen_by: BTreeSet<Voice>,
    asked: BTreeSet<Voice>,
    reached_by: BTreeSet<Voice>,
    /// Questions spent; the library asks about each form of an address once.
    questions: usize,
}

struct Question {
    address: Multiaddr,
    form: Multiaddr,
    server: Voice,
    since: Instant,
}

/// What was seen, asked and answered.
pub struct Reach {
    me: PeerId,
    asks: Asks,
    scopes: Scopes,
    candidates: BTreeMap<Multiaddr, Candidate>,
    question: Option<Question>,
    confirmed: Vec<Multiaddr>,
    failed: BTreeSet<Voice>,
}

impl Reach {
    /// Nothing known.
    pub fn new(me: PeerId, asks: Asks, scopes: Scopes) -> Self {
        let (candidates, confirmed, failed) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        Self { me, asks, scopes, candidates, question: None, confirmed, failed }
    }

    /// What is known.
    pub fn reachability(&self) -> Reachability {
        if !self.confirmed.is_empty() {
            Reachability::Public
        } else if self.asks == Asks::IsPrivate || self.failed.len() >= AGREE {
            Reachability::Private
        } else {
            Reachability::Unknown
        }
    }

    /// Addresses others reached, the newest first.
    pub fn confirmed(&self) -> &[Multiaddr] {
        &self.confirmed
    }

    /// A peer this node dialled saw it come from an address. The port it came from says little behind a router, so what
    /// may be reached there are the ports this node listens on.
    pub fn seen(&mut self, by: Voice, from: &Multiaddr, listening: &[Multiaddr]) {
        let Asks::Servers(least) = self.asks else { return };
        let Some((_, ip)) = plain(from).filter(|(_, ip)| scope(*ip).is_some_and(|s| s >= least)) else { return };
        if !self.scopes.has(ip) {
            return;
        }
        for address in listening.iter().filter_map(|at| moved(at, ip)) {
            if let Some(candidate) = self.candidates.get_mut(&address) {
                if candidate.seen_by.len() < AGREE {
                    candidate.seen_by.insert(by);
                }
                continue;
            }
            if self.candidates.len() >= MAX_SEEN {
                let poor = self.candidates.iter().find(|(_, c)| c.seen_by.len() < AGREE).map(|(a, _)| a.clone());
                let Some(poor) = poor else { return };
                self.candidates.remove(&poor);
            }
            self.candidates.insert(address, Candidate { seen_by: [by].into(), ..Candidate::default() });
        }
    }

    /// The next question and whom to ask, if there is one.
    pub fn ask(&mut self, servers: &[(PeerId, Voice)], now: Instant) -> Option<(PeerId, Multiaddr)> {
        if self.question.is_some() {
            return None;
        }
        for (address, candidate) in &mut self.candidates {
            let forms = [Some(address.clone()), address.clone().with_p2p(self.me).ok()];
            let Some(form) = forms.get(candidate.questions).cloned().flatten() else { continue };
            let fresh = servers.iter().find(|(_, voice)| !candidate.asked.contains(voice));
            let Some((server, voice)) = fresh.filter(|_| candidate.seen_by.len() >= AGREE) else { continue };
            candidate.questions += 1;
            candidate.asked.insert(*voice);
            let (address, since) = (address.clone(), now);
            self.question = Some(Question { address, form: form.clone(), server: *voice, since });
            return Some((*server, form));
        }
        None
    }

    /// A server has answered; whether that was the question.
    pub fn answered(&mut self, form: &Multiaddr, was_reached: bool) -> bool {
        let Some(question) = self.question.take_if(|q| q.form == *form) else { return false };
        let Some(candidate) = self.candidates.get_mut(&question.address) else { return true };
        if !was_reached {
            self.failed.insert(question.server); // no more than the questions, two for each candidate
            return true;
        }
        candidate.reached_by.insert(question.server);
        if candidate.reached_by.len() >= AGREE && !self.confirmed.contains(&question.address) {
            self.confirmed.insert(0, question.address);
            self.confirmed.truncate(MAX_CONFIRMED);
        }
        true
    }

    /// Whether a question was given up just now.
    pub fn gives_up(&mut self, now: Instant) -> bool {
        self.question.take_if(|q| now.saturating_duration_since(q.since) > ANSWER_WAIT).is_some()
    }
}

/// An address this node listens on, as it would be at another IP address.
fn moved(listening: &Multiaddr, ip: IpAddr) -> Option<Multiaddr> {
    let (address, own) = plain(listening).filter(|(a, _)| !is_circuit(a))?;
    let first = match ip {
        IpAddr::V4(ip) => Protocol::Ip4(ip),
        IpAddr::V6(ip) => Protocol::Ip6(ip),
    };
    (own.is_ipv4() == ip.is_ipv4()).then(|| std::iter::once(first).chain(address.iter().skip(1)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    /// One peer in each of so many ranges.
    fn servers(n: u8) -> Vec<(PeerId, Voice)> {
        let one = |i: u8| {
            let peer = PeerId::random();
            (peer, voice(peer, &at(&format!("/ip4/198.{i}.1.1/tcp/1"))))
        };
        (1..=n).map(one).collect()
    }

    fn reach() -> Reach {
        Reach::new(PeerId::random(), Asks::Servers(Scope::Private), Scopes::of([].iter()))
    }

    fn listening() -> Vec<Multiaddr> {
        vec![at("/ip4/192.168.1.5/tcp/4001"), at("/ip4/127.0.0.1/tcp/4001"), at("/ip6/::1/tcp/4001")]
    }

    const OUTSIDE: &str = "/ip4/203.0.113.7/tcp/61001";

    #[test] // N1
    fn two_ranges_of_addresses_must_reach_it() {
        let (mut reach, servers, now) = (reach(), servers(3), Instant::now());
        reach.seen(servers[0].1, &at(OUTSIDE), &listening());
        assert_eq!(reach.ask(&servers, now), None, "one says so");
        reach.seen(servers[0].1, &at(OUTSIDE), &listening());
        assert_eq!(reach.ask(&servers, now), None, "and says so again");
        reach.seen(servers[1].1, &at(OUTSIDE), &listening());
        let (first, form) = reach.ask(&servers, now).unwrap();
        assert_eq!(form, at("/ip4/203.0.113.7/tcp/4001"), "the port it listens on");
        assert_eq!(reach.ask(&servers, now), None, "one question at a time");
        assert!(!reach.answered(&at("/ip4/203.0.113.7/tcp/22"), true), "that was not the question");
        assert!(reach.answered(&form, true));
        assert_eq!(reach.reachability(), Reachability::Unknown, "one server may lie");
        let neighbour = (PeerId::random(), servers[0].1);
        assert_eq!(reach.ask(&[neighbour], now), None, "another of the same range is no other voice");
        let (second, form) = reach.ask(&servers, now).unwrap();
        assert_ne!(first, second);
        assert!(reach.answered(&form, true));
        assert_eq!(reach.reachability(), Reachability::Public);
        assert_eq!(reach.confirmed(), [at("/ip4/203.0.113.7/tcp/4001")]);
        assert_eq!(reach.ask(&servers, now), None);
    }

    #[test] // N1
    fn two_must_fail_before_it_counts_as_private() {
        let (mut reach, servers, now) = (reach(), servers(2), Instant::now());
        for (_, voice) in &servers {
            reach.seen(*voice, &at(OUTSIDE), &listening());
        }
        for expected in [Reachability::Unknown, Reachability::Private] {
            let (_, form) = reach.ask(&servers, now).unwrap();
            assert!(reach.answered(&form, false));
            assert_eq!(reach.reachability(), expected);
        }
        assert!(!reach.gives_up(now + ANSWER_WAIT * 2), "nothing is asked any more");
    }

    #[test] // K3, attack 17: liars neither choose what is tested nor fill the list
    fn what_is_seen_is_bounded_and_global() {
        let (mut reach, servers, now) = (reach(), servers(2), Instant::now());
        for bad in ["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip4/203.0.113.7/udp/1", "/dns4/a.b/tcp/1"] {
            for (_, voice) in &servers {
                reach.seen(*voice, &at(bad), &listening());
            }
            assert!(reach.candidates.is_empty(), "{bad}");
        }
        for i in 1..100 {
            reach.seen(servers[0].1, &at(&format!("/ip4/203.0.113.{i}/tcp/1")), &listening());
        }
        assert_eq!(reach.candidates.len(), MAX_SEEN);
        for (_, voice) in &servers {
            reach.seen(*voice, &at("/ip4/198.51.100.7/tcp/1"), &listening());
        }
        assert_eq!(reach.ask(&servers, now).unwrap().1, at("/ip4/198.51.100.7/tcp/4001"));
    }

    #[test] // N1
    fn a_silent_server_gives_way() {
        let (mut reach, servers, now) = (reach(), servers(2), Instant::now());
        for (_, voice) in &servers {
            reach.seen(*voice, &at(OUTSIDE), &listening());
        }
        let (first, form) = reach.ask(&servers, now).unwrap();
        assert!(!reach.gives_up(now + ANSWER_WAIT));
        assert!(reach.gives_up(now + ANSWER_WAIT * 2));
        assert!(!reach.answered(&form, true), "too late");
        assert_ne!(reach.ask(&servers, now).unwrap().0, first);
    }
}
