//! Tables: a name in the file, and the type of what stands under it.
//!
//! This crate knows its own tables only. A consumer that keeps something beside payments, in the same file and in the
//! same commits, names a table of its own beside the type that it holds.

use std::fmt;
use std::marker::PhantomData;

use redb::TableDefinition;

/// How the database has every table.
pub(super) type Definition<'a> = TableDefinition<'a, &'static [u8], &'static [u8]>;

/// The table of replies as earlier versions kept them, in clear. The store drops it once it is empty.
pub(crate) const OLD_REPLIES_NAME: &str = "replies";

/// The names that this crate has in the file, its own bookkeeping included.
const TAKEN: [&str; 14] = [
    "provider_channels",
    "payer_channels",
    "spent",
    "outlays",
    "authorized",
    "transfers",
    "sealed_replies",
    "reply_times",
    OLD_REPLIES_NAME,
    "watched",
    "index_start",
    "facilitated",
    // The store's own.
    "journal",
    "filler",
];

/// A table of values of type `T`, for example `const CUSTOMERS: Table<String> = Table::new("customers");`.
///
/// A constant with a name that this crate has taken does not compile:
///
/// ```compile_fail
/// # use hearth_payments::store::Table;
/// const MINE: Table<String> = Table::new("payer_channels");
/// ```
pub struct Table<T> {
    name: &'static str,
    values: PhantomData<fn() -> T>,
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Table<T> {}

impl<T> fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.name).finish()
    }
}

impl<T> Table<T> {
    /// Names a table. The name stands in the file, so that another name is another table; each type has a table of its
    /// own.
    ///
    /// # Panics
    /// When this crate has a table of this name: at compile time where the table is a constant.
    pub const fn new(name: &'static str) -> Self {
        assert!(!is_taken(name), "hearth-payments has a table of this name");
        Self::of_name(name)
    }

    /// Names one of this crate's own tables.
    pub(crate) const fn own(name: &'static str) -> Self {
        assert!(is_taken(name), "the name is not among those taken");
        Self::of_name(name)
    }

    const fn of_name(name: &'static str) -> Self {
        Self {
            name,
            values: PhantomData,
        }
    }

    /// Returns the table's name in the file.
    pub const fn name(self) -> &'static str {
        self.name
    }
}

const fn is_taken(name: &str) -> bool {
    let mut index = 0;
    while index < TAKEN.len() {
        if is_same(name.as_bytes(), TAKEN[index].as_bytes()) {
            return true;
        }
        index += 1;
    }
    false
}

/// Compares in a constant, where `==` cannot.
const fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut index = 0;
    while index < one.len() {
        if one[index] != other[index] {
            return false;
        }
        index += 1;
    }
    true
}
