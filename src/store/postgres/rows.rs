//! Rows of the tables, read and written. Other programs can write to the database, so every value is
//! checked.

use tokio_postgres::Row;

use super::session::store_error;
use crate::domain::{
    Account, BadRecord, CredentialVersion, GroupName, Groups, LegacyParams, LegacyScheme,
    PasswordHash, StoredHash, User, UserName, WrappedHash,
};
use crate::store::StoreError;
use crate::text::printable;
use crate::time::Timestamp;

/// The columns of a [`User`].
macro_rules! user_columns {
    () => {
        "hash, scheme, salt, rounds, imported, locked, expires, credential_version"
    };
}

/// The groups of a user in order.
macro_rules! groups {
    () => {
        "ARRAY(SELECT \"group\" FROM resttool.memberships WHERE \"user\" = name ORDER BY 1)"
    };
}

/// The columns of an [`Account`].
macro_rules! account_columns {
    () => {
        concat!(
            "SELECT ",
            user_columns!(),
            ", name, created, changed, ",
            groups!(),
            " FROM resttool.users"
        )
    };
}

/// True if the server takes no changes, so that it may lack the last ones.
macro_rules! read_only {
    () => {
        "pg_catalog.current_setting('transaction_read_only')::bool"
    };
}

/// One row for each of the names: whether the server is read-only, the name, the tag of the state, and
/// the columns that [`user`] reads. All but the first and the tag are NULL if there is no such user.
pub(super) const USERS: &str = concat!(
    "SELECT ",
    read_only!(),
    ", users.name, (SELECT tag FROM resttool.state), ",
    user_columns!(),
    " FROM unnest($1::text[]) AS wanted LEFT JOIN resttool.users ON name = wanted"
);
/// As [`USERS`], with the groups in the column [`GROUPS_OF_USER`].
pub(super) const USERS_WITH_GROUPS: &str = concat!(
    "SELECT ",
    read_only!(),
    ", users.name, (SELECT tag FROM resttool.state), ",
    user_columns!(),
    ", ",
    groups!(),
    " FROM unnest($1::text[]) AS wanted LEFT JOIN resttool.users ON name = wanted"
);
/// The column of the name in [`USERS`].
const NAME: usize = 1;
/// The column of the tag in [`USERS`].
pub(super) const TAG: usize = 2;
/// The first column of [`USERS`] that [`user`] reads.
const USER: usize = 3;
/// The column of the groups in [`USERS_WITH_GROUPS`].
const GROUPS_OF_USER: usize = 11;
/// The columns that [`account`] reads, for all users in order.
pub(super) const ALL_ACCOUNTS: &str = concat!(account_columns!(), " ORDER BY name");
/// The columns that [`account`] reads, for users of these names.
pub(super) const SOME_ACCOUNTS: &str = concat!(account_columns!(), " WHERE name = ANY ($1)");

/// Reads the columns of a [`User`], which begin at `first`.
fn user(row: &Row, first: usize) -> Result<User, BadRecord> {
    Ok(User {
        hash: hash(row, first)?,
        locked: get(row, first + 5, "lock")?,
        expires: timestamp(row, first + 6, "expiry")?,
        credential_version: version(row, first + 7)?,
    })
}

/// A user and their groups, or the reason why the record is unusable.
pub(super) type FoundRow = Result<(User, Groups), BadRecord>;

/// Reads a row of [`USERS`], or of [`USERS_WITH_GROUPS`]. Returns `None` if there is no such user.
pub(super) fn found(
    row: &Row,
    with_groups: bool,
) -> Result<Option<(UserName, FoundRow)>, StoreError> {
    let read = || {
        let groups = if with_groups { groups(row, GROUPS_OF_USER)? } else { Groups::default() };
        Ok((user(row, USER)?, groups))
    };
    let is_known = row.try_get::<_, Option<&str>>(NAME).map_err(store_error)?.is_some();
    is_known.then(|| Ok((user_name(row, NAME)?, read()))).transpose()
}

/// Reads a whole record. An unusable hash is part of the record, any other unusable value an error.
pub(super) fn account(row: &Row) -> Result<Account, StoreError> {
    let name = user_name(row, 8)?;
    let time = |column, field| timestamp(row, column, field)?.ok_or(BadRecord::Field(field));
    let rest = || {
        Ok(Account {
            name: name.clone(),
            hash: hash(row, 0),
            credential_version: version(row, 7)?,
            locked: get(row, 5, "lock")?,
            expires: timestamp(row, 6, "expiry")?,
            created: time(9, "time of creation")?,
            changed: time(10, "time of change")?,
            groups: groups(row, 11)?,
        })
    };
    rest().map_err(|why| StoreError::BadRecord { user: name.clone(), why })
}

/// Reads a user name.
pub(super) fn user_name(row: &Row, column: usize) -> Result<UserName, StoreError> {
    let text: &str = row.try_get(column).unwrap_or_default();
    UserName::parse(text).map_err(|e| {
        let shown = printable(text);
        let why = format!("the store holds a user named '{shown}', which is not a valid name: {e}");
        StoreError::failed_by(why, e)
    })
}

fn get<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    column: usize,
    field: &'static str,
) -> Result<T, BadRecord> {
    row.try_get(column).map_err(|_| BadRecord::Field(field))
}

/// Reads the columns hash, scheme, salt, rounds and imported.
fn hash(row: &Row, first: usize) -> Result<StoredHash, BadRecord> {
    let bcrypt = PasswordHash::parse(get(row, first, "hash")?).map_err(BadRecord::Hash)?;
    let scheme: Option<&str> = get(row, first + 1, "scheme")?;
    let wrapped = scheme.map(|scheme| wrapped_hash(row, first, scheme)).transpose()?;
    Ok(StoredHash { bcrypt, wrapped })
}

fn wrapped_hash(row: &Row, first: usize, scheme: &str) -> Result<WrappedHash, BadRecord> {
    let scheme = LegacyScheme::from_name(scheme).ok_or(BadRecord::Field("scheme"))?;
    let rounds: Option<i64> = get(row, first + 3, "rounds")?;
    let rounds = rounds.map(u32::try_from).transpose().map_err(|_| BadRecord::Field("rounds"))?;
    let params = LegacyParams::new(scheme, get(row, first + 2, "salt")?, rounds)
        .map_err(|_| BadRecord::Field("scheme"))?;
    let imported = timestamp(row, first + 4, "time of import")?;
    Ok(WrappedHash { params, imported: imported.ok_or(BadRecord::Field("time of import"))? })
}

fn version(row: &Row, column: usize) -> Result<CredentialVersion, BadRecord> {
    get(row, column, "version of the password").map(CredentialVersion::from_number)
}

fn timestamp(
    row: &Row,
    column: usize,
    field: &'static str,
) -> Result<Option<Timestamp>, BadRecord> {
    let seconds: Option<i64> = get(row, column, field)?;
    seconds
        .map(|seconds| Timestamp::from_seconds(seconds).ok_or(BadRecord::Field(field)))
        .transpose()
}

fn groups(row: &Row, column: usize) -> Result<Groups, BadRecord> {
    let bad = BadRecord::Field("group");
    let names: Vec<&str> = get(row, column, "group")?;
    let names: Result<Vec<_>, _> = names.into_iter().map(GroupName::parse).collect();
    Groups::new(names.map_err(|_| bad)?).map_err(|_| bad)
}

/// Returns the stored form of a time.
pub(super) fn seconds(timestamp: Timestamp) -> i64 {
    i64::try_from(timestamp.seconds()).unwrap_or(i64::MAX)
}
