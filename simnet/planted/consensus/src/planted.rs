//! Which planted bug is awake on this thread. A simulation runs on one thread, so tests may run side by side.

use std::cell::{Cell, RefCell};

thread_local! {
    static AWAKE: RefCell<String> = const { RefCell::new(String::new()) };
    static REACHED: Cell<u64> = const { Cell::new(0) };
}

/// Whether this bug is awake. Called where it is planted.
pub fn on(bug: &str) -> bool {
    let awake = AWAKE.with_borrow(|awake| awake == bug);
    if awake {
        REACHED.with(|n| n.set(n.get().saturating_add(1)));
    }
    awake
}

/// A bug that is awake until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Awake(());

/// Wakes one bug on this thread; the one before sleeps.
pub fn wake(bug: &str) -> Awake {
    AWAKE.with_borrow_mut(|awake| bug.clone_into(awake));
    REACHED.with(|n| n.set(0));
    Awake(())
}

impl Awake {
    /// How often the wrong line ran: 0 means that no run came by, not that no check saw it.
    pub fn reached(&self) -> u64 {
        REACHED.with(Cell::get)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        AWAKE.with_borrow_mut(String::clear);
    }
}
