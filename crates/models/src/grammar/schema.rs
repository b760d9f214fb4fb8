//! Whether a JSON Schema can be followed, for one who does not run the model.
//!
//! A program's schema is checked where the program asks: the fault is then told with its reason before
//! anybody else is asked, and a provider that calls a good schema bad is not believed. Which tokens a
//! model has does not matter for that, so tokens are single bytes here.

use std::sync::{Arc, LazyLock};

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use tokio::sync::{Semaphore, oneshot};
use toktrie::{ApproximateTokEnv, InferenceCapabilities};

use super::{GrammarError, GrammarSource, STACK_BYTES, check, limits, refused};

/// Schemas that are checked at the same time.
const CHECKING_MAX: usize = 2;

static CHECKING: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(CHECKING_MAX)));
static FACTORY: LazyLock<Result<ParserFactory, GrammarError>> = LazyLock::new(factory);

/// Checks a JSON Schema without a model, within the bounds that an engine has, on a thread of its own.
///
/// # Errors
/// When no engine could follow it.
pub async fn check_schema(schema: String) -> Result<(), GrammarError> {
    let source = GrammarSource::JsonSchema(schema);
    check(&source)?;
    let permit = Arc::clone(&CHECKING).acquire_owned().await;
    let permit = permit.map_err(|_| GrammarError::Unavailable)?;
    let (done, checked) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("hearth-schema".to_owned())
        .stack_size(STACK_BYTES);
    let spawned = thread.spawn(move || {
        let _permit = permit;
        let _ = done.send(check_here(source.text()));
    });
    spawned.map_err(|_| GrammarError::Unavailable)?;
    checked.await.map_err(|_| GrammarError::Unavailable)?
}

fn check_here(schema: &str) -> Result<(), GrammarError> {
    let factory = FACTORY.as_ref().map_err(Clone::clone)?;
    let schema = serde_json::from_str(schema).map_err(|error| refused(&error))?;
    let grammar = TopLevelGrammar::from_json_schema(schema);
    let parser = llguidance::panic_utils::catch_unwind(std::panic::AssertUnwindSafe(|| {
        factory.create_parser(grammar)
    }));
    let matcher = Matcher::new(parser);
    matcher
        .get_error()
        .map_or(Ok(()), |error| Err(refused(&error)))
}

fn factory() -> Result<ParserFactory, GrammarError> {
    let environment = ApproximateTokEnv::single_byte_env();
    let caps = InferenceCapabilities::default();
    let factory = ParserFactory::new(&environment, caps, &[]);
    let mut factory = factory.map_err(|error| refused(&error))?;
    factory.quiet();
    *factory.limits_mut() = limits();
    Ok(factory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_schema_is_checked_without_a_model() {
        let good = r#"{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}"#;
        assert_eq!(check_schema(good.to_owned()).await, Ok(()));
        for bad in [
            r#"{"type":"object","properties":{"a":{"type":"string","not":{"enum":["no"]}}},"required":["a"]}"#,
            r#"{"type":"string","pattern":"("}"#,
            r##"{"$ref":"#/nowhere"}"##,
            r#"{"type":"strange"}"#,
        ] {
            let refused = check_schema(bad.to_owned()).await;
            assert!(
                matches!(refused, Err(GrammarError::Refused(_))),
                "{bad}: {refused:?}"
            );
        }
        let deep = "[".repeat(65);
        assert_eq!(check_schema(deep).await, Err(GrammarError::TooDeep));
    }
}
