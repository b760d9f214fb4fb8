//! The schemas that answers must follow, checked where they are written.
//!
//! A schema that cannot be followed is told with its field and reason before anybody is asked; a
//! schema that was good once is not compiled again while programs go on using it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use hearth_models::grammar::GrammarError;
use hearth_protocol::content::ContentHash;

use super::failure::Failure;
use super::names::Schema;
use crate::answers::Answerer;

/// Schemas that are known to be good.
const SOUND_MAX: usize = 512;

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
        for Schema { param, schema } in schemas {
            let text = schema.to_string();
            let hash = ContentHash::of(text.as_bytes());
            if self.is_sound(&hash) {
                continue;
            }
            match answerer.check_schema(text).await {
                Ok(()) => self.keep(hash),
                // Whoever answers finds out.
                Err(GrammarError::Unavailable) => {}
                Err(error) => return Err(Failure::bad_schema(param.clone(), &error.to_string())),
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
