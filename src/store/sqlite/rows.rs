//! Rows of the tables, read and written. Other programs can write to the file, so every value is
//! checked.

use rusqlite::Row;
use rusqlite::types::ValueRef;

use crate::domain::{
    Account, BadRecord, CredentialVersion, GroupName, Groups, LegacyParams, LegacyScheme,
    PasswordHash, StoredHash, User, UserName, WrappedHash,
};
use crate::store::StoreError;
use crate::text::printable;
use crate::time::Timestamp;

/// The groups of a user, separated by commas, or NULL for none.
macro_rules! groups {
    () => {
        "(SELECT group_concat(\"group\", ',') FROM memberships WHERE user = name)"
    };
}

/// The columns of a [`User`].
macro_rules! user_columns {
    () => {
        "hash, scheme, salt, rounds, imported, locked, expires, credential_version"
    };
}

/// The columns of an [`Account`].
macro_rules! account_columns {
    () => {
        concat!("SELECT ", user_columns!(), ", name, created, changed, ", groups!(), " FROM users")
    };
}

/// The columns that [`user`] reads.
pub(super) const ONE_USER: &str =
    concat!("SELECT ", user_columns!(), " FROM users WHERE name = ?1");
/// The columns that [`user`] reads, and the groups.
pub(super) const ONE_USER_WITH_GROUPS: &str =
    concat!("SELECT ", user_columns!(), ", ", groups!(), " FROM users WHERE name = ?1");
/// The column of the groups in [`ONE_USER_WITH_GROUPS`].
pub(super) const GROUPS_OF_USER: usize = 8;
/// The columns that [`account`] reads, for all users in order.
pub(super) const ALL_ACCOUNTS: &str = concat!(account_columns!(), " ORDER BY name");
/// Returns a query of the columns that [`account`] reads, for all users in order, of an older schema
/// too.
pub(super) fn all_accounts_of_schema(version: u32) -> String {
    let (scheme, credentials) = match version {
        ..3 => ("NULL, NULL, NULL, NULL", "0"),
        _ => ("scheme, salt, rounds, imported", "credential_version"),
    };
    let groups = if version < 2 { "NULL" } else { groups!() };
    format!(
        "SELECT hash, {scheme}, locked, expires, {credentials}, name, created, changed, {groups}
         FROM users ORDER BY name"
    )
}

/// The columns that [`account`] reads, for one user.
pub(super) const ONE_ACCOUNT: &str = concat!(account_columns!(), " WHERE name = ?1");

/// Reads the columns of a [`User`].
pub(super) fn user(row: &Row<'_>) -> Result<User, BadRecord> {
    Ok(User {
        hash: hash(row)?,
        locked: flag(row, 5, "lock")?,
        expires: timestamp(row, 6, "expiry")?,
        credential_version: version(row, 7)?,
    })
}

/// Reads a whole record. An unusable hash is part of the record, any other unusable value an error.
pub(super) fn account(row: &Row<'_>) -> Result<Account, StoreError> {
    let name = user_name(row)?;
    let time = |column, field| timestamp(row, column, field)?.ok_or(BadRecord::Field(field));
    let rest = || {
        Ok(Account {
            name: name.clone(),
            hash: hash(row),
            credential_version: version(row, 7)?,
            locked: flag(row, 5, "lock")?,
            expires: timestamp(row, 6, "expiry")?,
            created: time(9, "time of creation")?,
            changed: time(10, "time of change")?,
            groups: groups(row, 11)?,
        })
    };
    rest().map_err(|why| StoreError::BadRecord { user: name.clone(), why })
}

/// Reads the column `name`.
pub(super) fn user_name(row: &Row<'_>) -> Result<UserName, StoreError> {
    let text = match row.get_ref("name") {
        Ok(ValueRef::Text(text)) => String::from_utf8_lossy(text),
        _ => "".into(),
    };
    UserName::parse(&text).map_err(|e| {
        let shown = printable(&text);
        let why = format!("the store holds a user named '{shown}', which is not a valid name: {e}");
        StoreError::failed_by(why, e)
    })
}

/// Reads the columns hash, scheme, salt, rounds and imported, the first of a row.
fn hash(row: &Row<'_>) -> Result<StoredHash, BadRecord> {
    let bcrypt = match row.get_ref(0) {
        Ok(ValueRef::Text(text)) => {
            PasswordHash::parse(&String::from_utf8_lossy(text)).map_err(BadRecord::Hash)?
        }
        _ => return Err(BadRecord::Field("hash")),
    };
    let wrapped = match row.get_ref(1) {
        Ok(ValueRef::Null) => None,
        _ => Some(wrapped_hash(row)?),
    };
    Ok(StoredHash { bcrypt, wrapped })
}

fn wrapped_hash(row: &Row<'_>) -> Result<WrappedHash, BadRecord> {
    let text = |column, field| match row.get_ref(column) {
        Ok(ValueRef::Text(text)) => std::str::from_utf8(text).map_err(|_| BadRecord::Field(field)),
        _ => Err(BadRecord::Field(field)),
    };
    let scheme = LegacyScheme::from_name(text(1, "scheme")?).ok_or(BadRecord::Field("scheme"))?;
    let rounds = match row.get_ref(3) {
        Ok(ValueRef::Null) => None,
        Ok(ValueRef::Integer(rounds)) => {
            Some(u32::try_from(rounds).map_err(|_| BadRecord::Field("rounds"))?)
        }
        _ => return Err(BadRecord::Field("rounds")),
    };
    let params = LegacyParams::new(scheme, text(2, "salt")?, rounds)
        .map_err(|_| BadRecord::Field("scheme"))?;
    let imported = timestamp(row, 4, "time of import")?;
    Ok(WrappedHash { params, imported: imported.ok_or(BadRecord::Field("time of import"))? })
}

fn version(row: &Row<'_>, column: usize) -> Result<CredentialVersion, BadRecord> {
    match row.get_ref(column) {
        Ok(ValueRef::Integer(number)) => Ok(CredentialVersion::from_number(number)),
        _ => Err(BadRecord::Field("version of the password")),
    }
}

fn flag(row: &Row<'_>, column: usize, field: &'static str) -> Result<bool, BadRecord> {
    match row.get_ref(column) {
        Ok(ValueRef::Integer(flag)) => Ok(flag != 0),
        _ => Err(BadRecord::Field(field)),
    }
}

fn timestamp(
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
