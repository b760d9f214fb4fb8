//! Why a plan is as it is, as data and as sentences with numbers.

use std::fmt;

use super::{
    COMPUTE_PER_SETTLING, MUON_SHARE_MAX, REST_PER_TRANSFER, SHORT_RUN_ROUNDS, STEPS_MAX, Trust,
};
use crate::compression::Compression;

/// What decides how many local steps a round has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decider {
    /// Sending the contribution.
    Upload,
    /// Fetching those of the others.
    Download,
    /// Commit, reveal, check and record.
    Settling,
    /// The run's maker.
    Maker,
    /// One step takes long enough for all of these.
    Nothing,
}

/// Why a plan has one of its choices. Its `Display` is a sentence.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// Muon is worth its cost.
    Muon {
        /// What Newton-Schulz iterations add to a step, as a share of it.
        share: f64,
        /// Tokens of a step.
        tokens_per_step: u64,
    },
    /// Muon costs too much.
    MuonTooSlow {
        /// What Newton-Schulz iterations would add to a step, as a share of it.
        share: f64,
        /// Tokens of a step.
        tokens_per_step: u64,
    },
    /// There is nothing for Muon to train.
    NoHiddenMatrices,
    /// The compression is the mildest that keeps rounds short.
    MildestForm {
        /// What was chosen.
        compression: Compression,
        /// The bytes of a contribution.
        bytes: u64,
        /// Bits that a value takes, everything included.
        bits_per_value: f64,
        /// The most steps that sending may ask for.
        steps_max: u32,
        /// The next milder form and the steps that it would need; nothing where there is none.
        milder: Option<(Compression, u32)>,
    },
    /// The compression is the strongest that the run may have, and rounds are long nevertheless.
    SmallestForm {
        /// What was chosen.
        compression: Compression,
        /// The bytes of a contribution.
        bytes: u64,
        /// Bits that a value takes, everything included.
        bits_per_value: f64,
        /// The steps that sending asks for.
        steps: u32,
        /// The most that it may ask for, if a form could be chosen freely.
        steps_max: u32,
        /// The run's rounds, where they are too few for a stronger form.
        short_run_rounds: Option<u32>,
    },
    /// A round has the fewest steps that the links allow.
    Steps {
        /// The steps of a round.
        steps: u32,
        /// What decided.
        decider: Decider,
        /// Seconds of sending.
        upload_s: f64,
        /// Seconds of fetching.
        download_s: f64,
        /// Seconds of settling.
        settle_s: f64,
        /// Seconds of computing.
        compute_s: f64,
    },
    /// The outer rate of dense contributions.
    DenseRate {
        /// The number of trainers.
        trainers: u32,
    },
    /// The outer rate of the largest values.
    SparseRate {
        /// The rate.
        rate: f32,
        /// The number of trainers.
        trainers: u32,
        /// Who they are.
        trust: Trust,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = MUON_SHARE_MAX * 100.0;
        match *self {
            Self::Muon {
                share,
                tokens_per_step,
            } => write!(
                f,
                "Muon trains the hidden matrices: at {tokens_per_step} tokens a step it adds {:.1}% to a step, less \
                 than {limit:.0}%.",
                share * 100.0
            ),
            Self::MuonTooSlow {
                share,
                tokens_per_step,
            } => write!(
                f,
                "AdamW trains all tensors: at {tokens_per_step} tokens a step Muon would add {:.1}% to a step, and \
                 from {limit:.0}% on it is not worth it.",
                share * 100.0
            ),
            Self::NoHiddenMatrices => write!(
                f,
                "AdamW trains all tensors: there are 0 hidden matrices, which Muon is for."
            ),
            Self::MildestForm { .. } | Self::SmallestForm { .. } => self.fmt_form(f),
            Self::Steps { .. } => self.fmt_steps(f),
            Self::DenseRate { trainers } => write!(
                f,
                "The outer rate is 1: each of the {trainers} contributions has every value, so that their mean is the \
                 step."
            ),
            Self::SparseRate {
                rate,
                trainers,
                trust,
            } => {
                let (share, who) = match trust {
                    Trust::Strangers => ("half the number", "strangers"),
                    Trust::Trusted => ("the number", "trusted devices"),
                };
                write!(
                    f,
                    "The outer rate is {rate}, {share} of the {trainers} trainers, as for {who}: few contributions have \
                     the same places, so that their mean over all is too small a step."
                )
            }
        }
    }
}

impl Reason {
    fn fmt_form(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MildestForm {
                compression,
                bytes,
                bits_per_value,
                steps_max,
                milder,
            } => {
                write!(
                    f,
                    "A contribution has {}, {bytes} bytes or {bits_per_value:.3} bits a value: ",
                    Name(compression)
                )?;
                match milder {
                    None => write!(
                        f,
                        "rounds of at most {steps_max} steps need no stronger compression."
                    ),
                    Some((milder, steps)) => write!(
                        f,
                        "with {} a round would need {steps} steps, more than {steps_max}.",
                        Name(milder)
                    ),
                }
            }
            Self::SmallestForm {
                compression,
                bytes,
                bits_per_value,
                steps,
                steps_max,
                short_run_rounds,
            } => {
                write!(
                    f,
                    "A contribution has {}, {bytes} bytes or {bits_per_value:.3} bits a value, and sending asks for {steps} \
                     steps a round, more than {steps_max}: ",
                    Name(compression)
                )?;
                match short_run_rounds {
                    None => write!(f, "there is no stronger compression."),
                    Some(rounds) => write!(
                        f,
                        "{rounds} rounds, fewer than {SHORT_RUN_ROUNDS}, are too few for a stronger compression."
                    ),
                }
            }
            _ => Ok(()),
        }
    }

    fn fmt_steps(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Steps {
            steps,
            decider,
            upload_s,
            download_s,
            settle_s,
            compute_s,
        } = *self
        else {
            return Ok(());
        };
        let decides = match decider {
            Decider::Upload => "the upload decides",
            Decider::Download => "the download decides",
            Decider::Settling => "settling decides",
            Decider::Nothing => "one step is enough",
            Decider::Maker => {
                return write!(
                    f,
                    "A round has {steps} local steps, as was asked: they take {compute_s:.1} s on the slower devices, \
                     sending {upload_s:.2} s, fetching {download_s:.2} s, and settling {settle_s:.1} s."
                );
            }
        };
        write!(
            f,
            "A round has {steps} local steps: they take {compute_s:.1} s on the slower devices, at least \
             {COMPUTE_PER_SETTLING} times the {settle_s:.1} s of settling where {STEPS_MAX} steps are enough for it, and with \
             it {REST_PER_TRANSFER} times the {upload_s:.2} s of sending or the {download_s:.2} s of fetching; {decides}."
        )
    }
}

/// A compression in words.
struct Name(Compression);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Compression::TopK { k } => write!(f, "the {k} largest of each 4096 values"),
            Compression::Dense8 => write!(f, "all values in 8 bits"),
            Compression::Dense4 => write!(f, "all values in 4 bits"),
        }
    }
}
