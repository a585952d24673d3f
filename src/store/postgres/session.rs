//! A connection for commands: every call blocks, within a limit.

use std::time::Duration;

use tokio::runtime::{self, Runtime};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::connect::{ConnectError, ConnectionParams, Link, describe};
use crate::store::{StoreError, SystemError};
use crate::text::quoted;

/// The limit of the time of one statement. The largest ones write a thousand users.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection, and the runtime on whose thread it is used.
pub(super) struct Session {
    // Before the runtime, which has to be there when the connection ends.
    link: Link,
    runtime: Runtime,
    role: String,
}

impl Session {
    /// Connects to the primary.
    pub(super) fn open(params: &ConnectionParams) -> Result<Self, StoreError> {
        let runtime = runtime()?;
        let link = runtime.block_on(params.connect()).map_err(not_connected)?;
        Ok(Self { link, runtime, role: params.role().to_owned() })
    }

    /// Runs one statement.
    pub(super) fn run<T>(
        &self,
        call: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, StoreError> {
        let limited =
            async { tokio::time::timeout(STATEMENT_TIMEOUT, call(&self.link.client)).await };
        match self.runtime.block_on(limited) {
            Ok(result) => result.map_err(|e| self.error(e)),
            Err(_) => Err(StoreError::Unreachable(format!(
                "no answer within {} s",
                STATEMENT_TIMEOUT.as_secs()
            ))),
        }
    }

    /// Runs one statement whose rows come as they are read. Only the server limits its time.
    pub(super) fn stream<T>(
        &self,
        call: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, StoreError> {
        self.runtime.block_on(call(&self.link.client)).map_err(|e| self.error(e))
    }

    /// Translates an error, with the role if it lacks a right.
    fn error(&self, e: tokio_postgres::Error) -> StoreError {
        if e.code() != Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
            return store_error(e);
        }
        let why = format!("role {} lacks a right: {}", quoted(&self.role), describe(&e));
        let hint = "'resttool check' names the rights that the role lacks";
        StoreError::failed_by(why, e).with_hint(Some(hint.to_owned()))
    }

    /// Returns the warnings of the server since the last call.
    pub(super) fn take_warnings(&self) -> Vec<String> {
        self.link.take_warnings()
    }
}

/// Makes a runtime for one thread.
pub(super) fn runtime() -> Result<Runtime, StoreError> {
    runtime::Builder::new_current_thread().enable_io().enable_time().build().map_err(|e| {
        StoreError::failed_by(format!("cannot start the client of the database: {e}"), e)
    })
}

fn not_connected(e: ConnectError) -> StoreError {
    let hint = e.hint();
    StoreError::NotConnected(SystemError::new(e.to_string(), e)).with_hint(hint)
}

/// Translates an error of the server or of the connection.
pub(super) fn store_error(e: tokio_postgres::Error) -> StoreError {
    let Some(code) = e.code().cloned() else {
        return StoreError::Unreachable(describe(&e));
    };
    match code {
        SqlState::LOCK_NOT_AVAILABLE => StoreError::Busy,
        SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED => {
            StoreError::Conflict
        }
        SqlState::READ_ONLY_SQL_TRANSACTION
        | SqlState::ADMIN_SHUTDOWN
        | SqlState::CRASH_SHUTDOWN
        | SqlState::CANNOT_CONNECT_NOW
        | SqlState::TOO_MANY_CONNECTIONS => StoreError::Unreachable(describe(&e)),
        code => StoreError::failed_by(
            format!("the database refused a statement: {} ({})", describe(&e), code.code()),
            e,
        ),
    }
}
