//! Where the sources stand, and who owns what is committed: a table beside the user's, shared by all who write to the
//! database.
//!
//! An owner looks at the lines of its fence, and holds them, before anything else of a transaction. Who takes over changes
//! them: he waits until a commit that has begun is through, and one that begins later is refused. An owner that is frozen in
//! the middle of a commit would hold them for ever, so the server ends a transaction of ours that idles.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient, Transaction};
use wiredflow_core::Error;
use wiredflow_core::storage::{Cursor, Epoch, FENCE_PREFIX, Fence};

use super::failure::Failure;

/// How long the server waits for the rest of a transaction that holds a fence, in milliseconds.
const IDLES_WITHIN: &str = "5000";

/// Makes the table, where there is none.
pub(super) async fn make(transaction: &Transaction<'_>) -> Result<(), Failure> {
    // Two that make it at once would fail: one waits for the other here.
    let missing = "SELECT pg_advisory_xact_lock(hashtext('_wiredflow_cursors')) WHERE to_regclass('_wiredflow_cursors') IS NULL";
    if transaction.query_typed_opt(missing, &[]).await?.is_some() {
        let sql = "CREATE TABLE IF NOT EXISTS _wiredflow_cursors (
                       storage text NOT NULL, source text NOT NULL, position text, epoch numeric NOT NULL,
                       PRIMARY KEY (storage, source))";
        transaction.batch_execute(sql).await?;
    }
    Ok(())
}

/// Refuses an earlier owner, and holds the fence until the transaction ends.
pub(super) async fn check(
    transaction: &Transaction<'_>,
    table: &str,
    fence: &Fence,
) -> Result<(), Failure> {
    if !fence.stands() {
        return Ok(());
    }
    let sql = "SELECT source, epoch::text, set_config('idle_in_transaction_session_timeout', $3, true)
               FROM _wiredflow_cursors WHERE storage = $1 AND source = ANY($2) ORDER BY source FOR SHARE";
    let sources = sources(fence);
    let rows = transaction
        .query_typed(
            sql,
            &[
                (&table, Type::TEXT),
                (&sources, Type::TEXT_ARRAY),
                (&IDLES_WITHIN, Type::TEXT),
            ],
        )
        .await?;
    let mut stand = 0;
    for row in &rows {
        let epoch = allowed(fence, row.get(0), row.get(1))?;
        stand += usize::from(epoch == fence.epoch);
    }
    match stand == sources.len() {
        true => Ok(()),
        // Nobody has said yet that this owner has begun.
        false => raise(transaction, table, fence).await,
    }
}

/// Keeps earlier owners out from now on.
pub(super) async fn take_over(
    client: &mut Client,
    table: &str,
    fence: &Fence,
) -> Result<(), Failure> {
    if !fence.stands() {
        return look(client, table, fence).await;
    }
    let transaction = client.transaction().await?;
    let taken = async {
        make(&transaction).await?;
        raise(&transaction, table, fence).await
    };
    match taken.await {
        Ok(()) => Ok(transaction.commit().await?),
        Err(failure) => {
            // See the commit of rows.
            drop(transaction.rollback().await);
            Err(failure)
        }
    }
}

/// Puts the epoch into the lines of the fence, unless a later one stands there.
async fn raise(transaction: &Transaction<'_>, table: &str, fence: &Fence) -> Result<(), Failure> {
    let sql = "INSERT INTO _wiredflow_cursors AS known (storage, source, epoch)
               SELECT $1, source, $3::text::numeric FROM unnest($2::text[]) AS source ORDER BY source
               ON CONFLICT (storage, source) DO UPDATE SET epoch = excluded.epoch WHERE excluded.epoch >= known.epoch";
    let (sources, epoch) = (sources(fence), fence.epoch.0.to_string());
    let raised = transaction
        .execute_typed(
            sql,
            &[
                (&table, Type::TEXT),
                (&sources, Type::TEXT_ARRAY),
                (&epoch, Type::TEXT),
            ],
        )
        .await?;
    match raised == sources.len() as u64 {
        true => Ok(()),
        false => {
            look(transaction, table, fence).await?;
            let message = "somebody has changed the lines of `_wiredflow_cursors` by hand";
            Err(Failure::from(Error::remote(message)))
        }
    }
}

/// Refuses an earlier owner, and changes nothing.
async fn look(client: &impl GenericClient, table: &str, fence: &Fence) -> Result<(), Failure> {
    if !is_there(client).await? {
        return Ok(());
    }
    let sql = "SELECT source, epoch::text FROM _wiredflow_cursors WHERE storage = $1 AND source = ANY($2)";
    let sources = sources(fence);
    let rows = client
        .query_typed(sql, &[(&table, Type::TEXT), (&sources, Type::TEXT_ARRAY)])
        .await?;
    for row in &rows {
        allowed(fence, row.get(0), row.get(1))?;
    }
    Ok(())
}

/// The epoch of a line, where it is not past that of the fence.
fn allowed(fence: &Fence, source: &str, epoch: &str) -> Result<Epoch, Failure> {
    // One that is no number of ours is as good as the latest.
    let epoch = Epoch(epoch.parse().unwrap_or(u64::MAX));
    let owner = source.strip_prefix(FENCE_PREFIX).unwrap_or(source);
    match epoch > fence.epoch {
        true => Err(Failure::from(fence.refusal(owner, epoch))),
        false => Ok(epoch),
    }
}

fn sources(fence: &Fence) -> Vec<String> {
    let source = |owner| format!("{FENCE_PREFIX}{owner}");
    fence.of.iter().map(source).collect()
}

/// Keeps the sources' positions.
pub(super) async fn set(
    transaction: &Transaction<'_>,
    table: &str,
    cursors: &[Cursor],
    epoch: Epoch,
) -> Result<(), Failure> {
    let sql = "INSERT INTO _wiredflow_cursors (storage, source, position, epoch)
               VALUES ($1, $2, $3, $4::text::numeric)
               ON CONFLICT (storage, source) DO UPDATE SET position = excluded.position, epoch = excluded.epoch";
    let number = epoch.0.to_string();
    for cursor in cursors {
        transaction
            .execute_typed(
                sql,
                &[
                    (&table, Type::TEXT),
                    (&cursor.source, Type::TEXT),
                    (&cursor.position, Type::TEXT),
                    (&number, Type::TEXT),
                ],
            )
            .await?;
    }
    Ok(())
}

/// Where a source stood at the last commit that said so.
pub(super) async fn position(
    client: &Client,
    table: &str,
    source: &str,
) -> Result<Option<String>, Failure> {
    if !is_there(client).await? {
        return Ok(None);
    }
    let sql = "SELECT position FROM _wiredflow_cursors WHERE storage = $1 AND source = $2";
    let row = client
        .query_typed_opt(sql, &[(&table, Type::TEXT), (&source, Type::TEXT)])
        .await?;
    Ok(row.and_then(|row| row.get(0)))
}

async fn is_there(client: &impl GenericClient) -> Result<bool, Failure> {
    let known = "SELECT to_regclass('_wiredflow_cursors') IS NOT NULL";
    Ok(client.query_typed_one(known, &[]).await?.get(0))
}
