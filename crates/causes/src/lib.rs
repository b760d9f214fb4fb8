//! The one way to show an error with what caused it.
//!
//! An error says in its own text what failed, and holds as its source why. Neither a log nor a person may lose the why, so
//! whatever shows an error shows the whole chain: `an offer was not sent: the stream broke: connection reset`. The command
//! line, what a node answers to its owner, and every line of a log do it by [`WithCauses`].
//!
//! It is a crate of its own, below all others, because the logs of each crate need it, and `doors` and `models` know no
//! other crate of this workspace.
//!
//! Deliberately absent: errors. Each operation has its own, beside it.

use std::error::Error;
use std::fmt;

/// The most causes that are shown: a source that leads back to itself must end.
const CAUSES_MAX: usize = 16;

/// An error, and after colons each of its causes that the texts before do not tell already.
#[derive(Debug, Clone, Copy)]
pub struct Causes<'a>(&'a (dyn Error + 'a));

/// What shows an error with its causes.
pub trait WithCauses {
    /// The error with its causes, as one line of text.
    fn with_causes(&self) -> Causes<'_>;
}

impl<E: Error> WithCauses for E {
    fn with_causes(&self) -> Causes<'_> {
        Causes(self)
    }
}

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.0.to_string();
        f.write_str(&told)?;
        let mut next = self.0.source();
        for _ in 0..CAUSES_MAX {
            let Some(cause) = next else {
                break;
            };
            // Errors of other libraries often print their cause themselves.
            let text = cause.to_string();
            if !told.contains(&text) {
                write!(f, ": {text}")?;
                told = text;
            }
            next = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    enum SendError {
        #[error("the offer was not sent")]
        Stream(#[source] StreamError),
        #[error(transparent)]
        Other(#[from] StreamError),
        #[error("nobody is there")]
        Nobody,
    }

    #[derive(Debug, Error)]
    #[error("the stream broke")]
    struct StreamError(#[source] io::Error);

    /// Prints its cause, as errors of other libraries do.
    #[derive(Debug)]
    struct DiskError(io::Error);

    impl fmt::Display for DiskError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "the offer was not kept ({})", self.0)
        }
    }

    impl Error for DiskError {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    fn reset() -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionReset, "the peer closed it")
    }

    #[test]
    fn every_cause_is_told_from_the_outermost_inwards() {
        let error = SendError::Stream(StreamError(reset()));
        assert_eq!(
            error.with_causes().to_string(),
            "the offer was not sent: the stream broke: the peer closed it"
        );
        assert_eq!(
            SendError::Nobody.with_causes().to_string(),
            "nobody is there"
        );
    }

    #[test]
    fn what_an_error_tells_of_its_cause_is_not_told_twice() {
        let error = DiskError(reset());
        assert_eq!(
            error.with_causes().to_string(),
            "the offer was not kept (the peer closed it)"
        );
        let error = SendError::from(StreamError(reset()));
        assert_eq!(
            error.with_causes().to_string(),
            "the stream broke: the peer closed it"
        );
    }

    #[test]
    fn what_stands_behind_a_reference_or_a_trait_is_shown_the_same() {
        let error = SendError::Stream(StreamError(reset()));
        let shown = error.with_causes().to_string();
        let reference = &error;
        assert_eq!(reference.with_causes().to_string(), shown);
        let any: &dyn Error = &error;
        assert_eq!(any.with_causes().to_string(), shown);
    }

    #[test]
    fn a_chain_without_end_is_cut() {
        #[derive(Debug)]
        struct Endless;

        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("it goes on")
            }
        }

        impl Error for Endless {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&Endless)
            }
        }

        assert_eq!(Endless.with_causes().to_string(), "it goes on");
    }
}
