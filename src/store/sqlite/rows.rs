//! Rows of the tables, read and written. Other programs can write to the file, so every value is
//! checked.

use rusqlite::Row;
use rusqlite::types::ValueRef;

use crate::domain::{Account, BadRecord, GroupName, Groups, PasswordHash, User, UserName};
use crate::store::StoreError;
use crate::text::printable;
use crate::time::Timestamp;

/// The groups of a user, separated by commas, or NULL for none.
macro_rules! groups {
    () => {
        "(SELECT group_concat(\"group\", ',') FROM memberships WHERE user = name)"
    };
}

/// The columns of an [`Account`].
macro_rules! account_columns {
    () => {
        concat!("SELECT name, hash, locked, expires, created, changed, ", groups!(), " FROM users")
    };
}

/// The columns that [`user`] reads.
pub(super) const ONE_USER: &str = "SELECT hash, locked, expires FROM users WHERE name = ?1";
/// The columns that [`user`] reads, and the groups.
pub(super) const ONE_USER_WITH_GROUPS: &str =
    concat!("SELECT hash, locked, expires, ", groups!(), " FROM users WHERE name = ?1");
/// The columns that [`account`] reads, for all users in order.
pub(super) const ALL_ACCOUNTS: &str = concat!(account_columns!(), " ORDER BY name");
/// The columns that [`account`] reads, for one user.
pub(super) const ONE_ACCOUNT: &str = concat!(account_columns!(), " WHERE name = ?1");

/// Reads the columns hash, locked and expires.
pub(super) fn user(row: &Row<'_>) -> Result<User, BadRecord> {
    Ok(User {
        hash: hash(row, 0)?,
        locked: flag(row, 1, "lock")?,
        expires: timestamp(row, 2, "expiry")?,
    })
}

/// Reads a whole record. An unusable hash is part of the record, any other unusable value an error.
pub(super) fn account(row: &Row<'_>) -> Result<Account, StoreError> {
    let name = user_name(row)?;
    let time = |column, field| timestamp(row, column, field)?.ok_or(BadRecord::Field(field));
    let rest = || {
        Ok(Account {
            name: name.clone(),
            hash: hash(row, 1),
            locked: flag(row, 2, "lock")?,
            expires: timestamp(row, 3, "expiry")?,
            created: time(4, "time of creation")?,
            changed: time(5, "time of change")?,
            groups: groups(row, 6)?,
        })
    };
    rest().map_err(|why| StoreError::BadRecord { user: name.clone(), why })
}

pub(super) fn user_name(row: &Row<'_>) -> Result<UserName, StoreError> {
    let text = match row.get_ref(0) {
        Ok(ValueRef::Text(text)) => String::from_utf8_lossy(text),
        _ => "".into(),
    };
    UserName::parse(&text).map_err(|e| {
        let shown = printable(&text);
        let why = format!("the store holds a user named '{shown}', which is not a valid name: {e}");
        StoreError::failed_by(why, e)
    })
}

pub(super) fn hash(row: &Row<'_>, column: usize) -> Result<PasswordHash, BadRecord> {
    match row.get_ref(column) {
        Ok(ValueRef::Text(text)) => {
            PasswordHash::parse(&String::from_utf8_lossy(text)).map_err(BadRecord::Hash)
        }
        _ => Err(BadRecord::Field("hash")),
    }
}

pub(super) fn flag(row: &Row<'_>, column: usize, field: &'static str) -> Result<bool, BadRecord> {
    match row.get_ref(column) {
        Ok(ValueRef::Integer(flag)) => Ok(flag != 0),
        _ => Err(BadRecord::Field(field)),
    }
}

pub(super) fn timestamp(
    row: &Row<'_>,
    column: usize,
    field: &'static str,
) -> Result<Option<Timestamp>, BadRecord> {
    match row.get_ref(column) {
        Ok(ValueRef::Null) => Ok(None),
        Ok(ValueRef::Integer(seconds)) => {
            Timestamp::from_seconds(seconds).map(Some).ok_or(BadRecord::Field(field))
        }
        _ => Err(BadRecord::Field(field)),
    }
}

pub(super) fn groups(row: &Row<'_>, column: usize) -> Result<Groups, BadRecord> {
    let bad = BadRecord::Field("group");
    let text = match row.get_ref(column) {
        Ok(ValueRef::Null) => return Ok(Groups::default()),
        Ok(ValueRef::Text(text)) => std::str::from_utf8(text).map_err(|_| bad)?,
        _ => return Err(bad),
    };
    let names: Result<Vec<_>, _> = text.split(',').map(GroupName::parse).collect();
    Groups::new(names.map_err(|_| bad)?).map_err(|_| bad)
}

/// Returns the stored form of a time.
pub(super) fn seconds(timestamp: Timestamp) -> i64 {
    i64::try_from(timestamp.seconds()).unwrap_or(i64::MAX)
}
