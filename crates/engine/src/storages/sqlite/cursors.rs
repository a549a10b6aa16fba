//! Where the sources stand, and who owns what is committed: a table beside the user's.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use wiredflow_core::storage::{Cursor, Epoch, FENCE_PREFIX, Fence};

use super::failure::Failure;

/// Refuses an earlier owner.
pub(super) fn check(
    transaction: &Transaction<'_>,
    table: &str,
    fence: &Fence,
) -> Result<(), Failure> {
    if !fence.stands() {
        return Ok(());
    }
    for owner in &fence.of {
        let stands = epoch(transaction, table, owner)?;
        if stands > fence.epoch {
            return Err(Failure::from(fence.refusal(owner, stands)));
        }
        if stands < fence.epoch {
            let source = format!("{FENCE_PREFIX}{owner}");
            put(transaction, table, (&source, None), fence.epoch)?;
        }
    }
    Ok(())
}

/// Keeps earlier owners out from now on.
pub(super) fn take_over(
    connection: &mut Connection,
    table: &str,
    fence: &Fence,
) -> Result<(), Failure> {
    if !fence.stands() {
        for owner in &fence.of {
            let stands = epoch(connection, table, owner)?;
            if stands > fence.epoch {
                return Err(Failure::from(fence.refusal(owner, stands)));
            }
        }
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    check(&transaction, table, fence)?;
    transaction.commit()?;
    Ok(())
}

/// Keeps a source's position.
pub(super) fn set(
    transaction: &Transaction<'_>,
    table: &str,
    cursor: &Cursor,
    epoch: Epoch,
) -> Result<(), Failure> {
    put(
        transaction,
        table,
        (&cursor.source, Some(&cursor.position)),
        epoch,
    )
}

/// Where a source stood at the last commit that said so.
pub(super) fn position(
    connection: &Connection,
    table: &str,
    source: &str,
) -> Result<Option<String>, Failure> {
    let sql = "SELECT position FROM _wiredflow_cursors WHERE storage = ?1 AND source = ?2";
    if !is_there(connection)? {
        return Ok(None);
    }
    let found = connection
        .prepare_cached(sql)?
        .query_row((table, source), |row| row.get(0))
        .optional()?;
    Ok(found.flatten())
}

/// The epoch of the last owner; `0` where there was none.
fn epoch(connection: &Connection, table: &str, owner: &str) -> Result<Epoch, Failure> {
    let sql = "SELECT epoch FROM _wiredflow_cursors WHERE storage = ?1 AND source = ?2";
    if !is_there(connection)? {
        return Ok(Epoch::default());
    }
    let source = format!("{FENCE_PREFIX}{owner}");
    let found: Option<i64> = connection
        .prepare_cached(sql)?
        .query_row((table, source), |row| row.get(0))
        .optional()?;
    Ok(Epoch(
        found
            .and_then(|epoch| u64::try_from(epoch).ok())
            .unwrap_or_default(),
    ))
}

fn is_there(connection: &Connection) -> Result<bool, Failure> {
    let known = "SELECT 1 FROM sqlite_schema WHERE name = '_wiredflow_cursors'";
    Ok(connection.prepare_cached(known)?.exists(())?)
}

fn put(
    transaction: &Transaction<'_>,
    table: &str,
    (source, position): (&str, Option<&str>),
    epoch: Epoch,
) -> Result<(), Failure> {
    let sql =
        "INSERT INTO _wiredflow_cursors (storage, source, position, epoch) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET position = excluded.position, epoch = excluded.epoch";
    if transaction.prepare_cached(sql).is_err() {
        transaction.execute_batch(
            "CREATE TABLE IF NOT EXISTS _wiredflow_cursors (
                 storage TEXT NOT NULL, source TEXT NOT NULL, position TEXT, epoch INTEGER NOT NULL,
                 PRIMARY KEY (storage, source)) WITHOUT ROWID",
        )?;
    }
    let number = i64::try_from(epoch.0).unwrap_or(i64::MAX);
    transaction
        .prepare_cached(sql)?
        .execute((table, source, position, number))?;
    Ok(())
}
