//! What goes wrong on the network, said with what to do about it.

use oda_consensus::ids::NodeId;

/// The network side could not start or be used.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Not an address with a peer in it.
    #[error("`{text}` is not a peer address ({problem}): write /ip4/HOST/tcp/PORT/p2p/PEERID")]
    PeerAddress {
        /// What was given.
        text: String,
        /// What is wrong.
        problem: String,
    },
    /// Not an address.
    #[error("`{text}` is not a listen address ({problem}): write /ip4/HOST/tcp/PORT")]
    ListenAddress {
        /// What was given.
        text: String,
        /// What is wrong.
        problem: String,
    },
    /// Another process listens there.
    #[error("address {address} is in use: stop the other process or change [p2p] listen")]
    InUse {
        /// The address.
        address: String,
    },
    /// Not ours, or not allowed.
    #[error("address {address} cannot be listened on ({problem}): change [p2p] listen")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        problem: String,
    },
    /// The library refused.
    #[error("starting libp2p: {0}")]
    Start(String),
}

/// A request was not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestError {
    /// No answer in time, or the peer broke off.
    #[error("the peer did not answer: {0}")]
    Failed(String),
    /// No connection and no address that works.
    #[error("node {} cannot be reached: check that it runs, or give its address", .0.short())]
    Unreachable(NodeId),
    /// It speaks another network's protocol.
    #[error("node {} is of another network: it does not speak our chain's protocol", .0.short())]
    OtherNetwork(NodeId),
    /// More than a peer would read.
    #[error("a request of {bytes} bytes is too large: at most {max} go out")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// Most allowed.
        max: u32,
    },
    /// Too much at once.
    #[error("too many requests are waiting: try again later")]
    Busy,
}
