//! What is fuzzed, and what must hold for any input.
//!
//! Each target is a plain function over bytes. libFuzzer drives it through a small binary of the same
//! name in `fuzz_targets/`; the test below drives it through every seed in `corpus/`, so that an input
//! that once broke something is tried again in every run of the tests. Nothing here knows libFuzzer.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use hearth_protocol::id::{AccountId, AssetId, ChainId, ChannelId};

/// A function that must not panic, whatever it is given.
pub type Target = fn(&[u8]);

/// Every target, by the name of its binary and of the folder of its seeds.
pub const TARGETS: &[(&str, Target)] = &[("identifiers", identifiers)];

/// Identifiers of chains, accounts, assets and channels (spec: identifiers): what is read is written
/// in one form, and that form is read as the same thing.
pub fn identifiers(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    is_stable::<ChainId>(text);
    is_stable::<AccountId>(text);
    is_stable::<AssetId>(text);
    is_stable::<ChannelId>(text);
}

/// Reads a text; what was read must be written in a form that is read as the same thing.
fn is_stable<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(read) = text.parse::<T>() {
        let written = read.to_string();
        let again = written.parse::<T>().ok();
        assert_eq!(
            again.as_ref(),
            Some(&read),
            "{text:?} was written as {written:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_seed_passes_its_target() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for (name, target) in TARGETS {
            let seeds = fs::read_dir(corpus.join(name)).expect("each target has a folder of seeds");
            let mut count = 0;
            for seed in seeds {
                let path = seed.expect("a readable folder").path();
                println!("{name}: {}", path.display());
                target(&fs::read(&path).expect("a readable seed"));
                count += 1;
            }
            assert!(count > 0, "{name} has no seed");
        }
    }

    #[test]
    fn every_target_has_a_binary_and_every_binary_a_target() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets");
        let mut binaries: Vec<String> = fs::read_dir(folder)
            .expect("the folder of binaries")
            .map(|entry| entry.expect("a readable folder").path())
            .map(|path| {
                path.file_stem()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        binaries.sort();
        let mut names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        assert_eq!(binaries, names);
    }

    #[test]
    #[should_panic(expected = "was written as")]
    fn a_form_that_is_not_read_again_is_found() {
        #[derive(Debug, PartialEq)]
        struct Lossy;
        impl FromStr for Lossy {
            type Err = ();
            fn from_str(text: &str) -> Result<Self, ()> {
                (text == "in").then_some(Self).ok_or(())
            }
        }
        impl Display for Lossy {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("out")
            }
        }
        is_stable::<Lossy>("in");
    }
}
