//! After the last round: books of audits alone, until no audit is open (spec: runs, section 4).
//!
//! Without them what was found of the last rounds would be in no book, and what they earn would be paid whatever was
//! found. Such a book has no members and changes no weights. It leads to a state of its own, so that the chain takes one
//! record of each state here as well.

use super::super::Head;
use super::super::board::Draft;
use super::super::book::{BookForm, RoundBook};
use super::super::turn;
use super::Validator;
use crate::time::Timestamp;

impl Validator {
    /// The book of audits to propose: of all that are open, or of those that are decided when others would train.
    pub(super) fn draft_of_audits(&self, now: Timestamp, head: Head) -> Draft {
        let rules = self.history.rules();
        let audits = self.decided_audits(now);
        let is_all = audits.len() == self.history.open_audits().len();
        let waited = turn::gone_ms(&head, rules, now) >= turn::train_ms(rules);
        if audits.is_empty() || !(is_all || waited) {
            return Draft::Open;
        }
        Draft::Fixed(Box::new(RoundBook {
            audits,
            beacon: head.beacon,
            format: BookForm::V1,
            index: head.index,
            members: Vec::new(),
            parent: head.state,
            previous: self.history.last_book(),
            run: rules.run,
        }))
    }
}
