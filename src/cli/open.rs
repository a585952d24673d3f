//! Opening the store for a command, which says on a terminal that it waits for the servers.

use std::time::Duration;

use super::exit::say;
use super::terminal;
use crate::store::{self, Location, StoreError, UserStore};

/// The shortest wait that a person notices.
const NOTICEABLE: Duration = Duration::from_millis(200);

/// Opens a store as [`store::open`] does.
pub(super) fn open_store(location: &Location) -> Result<Box<dyn UserStore>, StoreError> {
    store::open(location).map(with_notice)
}

/// Opens a store as [`store::open_or_create`] does.
pub(super) fn open_or_create_store(location: &Location) -> Result<Box<dyn UserStore>, StoreError> {
    store::open_or_create(location).map(with_notice)
}

fn with_notice(mut store: Box<dyn UserStore>) -> Box<dyn UserStore> {
    if terminal::shows_messages() {
        store.notify_of_waits(|time| {
            if time >= NOTICEABLE {
                let time = time.as_secs_f64();
                say(&format!(
                    "resttool: waiting {time:.1} s until every server has seen the change"
                ));
            }
        });
    }
    store
}
