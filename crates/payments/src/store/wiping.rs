//! Writes over what a database file no longer uses.
//!
//! What is removed from a database stays in its file until something else is written there. A filler takes
//! every free page, until the file has to grow for more of it; then it goes again, and what is free holds
//! nothing but the filler.

use std::path::Path;

use redb::{Database, TableDefinition};

const FILLER: TableDefinition<u64, &[u8]> = TableDefinition::new("filler");
/// The smallest page, in bytes: as many rows as the file has of these need at least the whole file.
const PAGE_BYTES: u64 = 4_096;
/// Two values do not fit into a page, so that each takes one.
const VALUE: &[u8] = &[0; 3_000];
/// Rows that are written at once.
const STEP_ROWS: u64 = 512;
/// Transactions until what the last one let go of can be taken.
const SETTLING: u64 = 3;

/// Writes over everything in the file at `path` that `database` does not use. Nobody else may use it meanwhile.
pub(super) fn overwrite_free(database: &Database, path: &Path) -> Result<(), redb::Error> {
    let bytes = || match std::fs::metadata(path) {
        Ok(file) => Ok(file.len()),
        Err(error) => Err(redb::Error::Io(error)),
    };
    for row in 0..SETTLING {
        fill(database, row..row.saturating_add(1))?;
    }
    let before = bytes()?;
    let rows_max = before.div_ceil(PAGE_BYTES).saturating_add(STEP_ROWS);
    let mut next = SETTLING;
    while bytes()? <= before && next < rows_max {
        let end = next.saturating_add(STEP_ROWS);
        fill(database, next..end)?;
        next = end;
    }
    let write = database.begin_write()?;
    write.delete_table(FILLER)?;
    write.commit()?;
    Ok(())
}

fn fill(database: &Database, rows: std::ops::Range<u64>) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut filler = write.open_table(FILLER)?;
        for row in rows {
            filler.insert(row, VALUE)?;
        }
    }
    write.commit()?;
    Ok(())
}
