//! The schemas that answers must follow, checked where they are written.
//!
//! A schema that cannot be followed is told with its field and reason before anybody is asked; a
//! schema that was good once is not compiled again while programs go on using it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hearth_protocol::content::ContentHash;
use tokio::time::Instant;

use super::failure::Failure;
use super::names::Schema;
use crate::answers::{Answerer, SchemaFault};

/// Schemas that are known to be good.
const SOUND_MAX: usize = 512;
/// How long the schemas of one question are checked, together.
const CHECKED_WITHIN: Duration = Duration::from_secs(5);

/// What was checked.
#[derive(Debug, Default)]
pub(super) struct Forms {
    /// The one that was checked last is at the end.
    sound: Mutex<VecDeque<ContentHash>>,
}

impl Forms {
    /// Checks the schemas of a question.
    ///
    /// # Errors
    /// With the field of the first that cannot be followed.
    pub(super) async fn check(
        &self,
        answerer: &dyn Answerer,
        schemas: &[Schema],
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + CHECKED_WITHIN;
        for Schema { param, schema } in schemas {
            let text = schema.to_string();
            let hash = ContentHash::of(text.as_bytes());
            if self.is_sound(&hash) {
                continue;
            }
            let within = deadline.saturating_duration_since(Instant::now());
            match answerer.check_schema(text, within).await {
                Ok(()) => self.keep(hash),
                // There is no time for more of them: the provider finds out.
                Err(SchemaFault::Unchecked) => return Ok(()),
                Err(SchemaFault::Refused(reason)) => {
                    return Err(Failure::bad_schema(param.clone(), &reason));
                }
            }
        }
        Ok(())
    }

    fn is_sound(&self, hash: &ContentHash) -> bool {
        let sound = self.sound.lock().unwrap_or_else(PoisonError::into_inner);
        sound.contains(hash)
    }

    fn keep(&self, hash: ContentHash) {
        let mut sound = self.sound.lock().unwrap_or_else(PoisonError::into_inner);
        if sound.len() >= SOUND_MAX {
            sound.pop_front();
        }
        sound.push_back(hash);
    }
}
