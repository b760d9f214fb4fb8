//! Files that strangers wrote: damaged, cut off, and made to take room.

use std::io::Cursor;
use std::sync::LazyLock;

use hearth_outcome::gguf::{ImportError, Precision, read_model, write_model};
use hearth_outcome::manifest::ModelManifest;
use hearth_outcome::transformers::{read_folder, write_folder};
use hearth_training::Architecture;
use proptest::prelude::*;

use super::{Whole, architecture};

/// A model of a few bytes, so that damage meets every part of its file.
fn smallest() -> Whole {
    let architecture = Architecture {
        width: 32,
        layers: 1,
        query_heads: 2,
        key_value_heads: 1,
        head: 8,
        hidden: 8,
        ..architecture()
    };
    Whole::new(architecture, 31)
}

static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::new();
    write_model(&smallest().model(), Precision::Q8_0, &mut bytes).unwrap();
    bytes
});

fn read(bytes: &[u8]) -> Result<(), ImportError> {
    read_model(Cursor::new(bytes), bytes.len() as u64).map(|_| ())
}

/// Where a text stands in the file.
fn place(text: &str) -> usize {
    let found = FILE
        .windows(text.len())
        .position(|at| at == text.as_bytes());
    found.unwrap()
}

#[test]
fn absurd_sizes_are_refused_before_room_is_taken() {
    read(&FILE).unwrap();
    // The value of a key of four bytes stands behind its name and its kind.
    for name in [
        "llama.block_count",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.key_length",
        "llama.context_length",
    ] {
        for value in [0, 0xffff_ffff, 0x7fff_ffff, 200] {
            let mut bytes = FILE.clone();
            let at = place(name) + name.len() + 4;
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            let fine = name == "llama.context_length" && value == 200;
            assert_eq!(read(&bytes).is_ok(), fine, "{name}: {value}");
        }
    }
    for (name, value) in [("counts", u64::MAX), ("more", 1 << 40), ("some", 100_000)] {
        for at in [8, 16] {
            let mut bytes = FILE.clone();
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            assert!(matches!(read(&bytes), Err(ImportError::Head(_))), "{name}");
        }
    }
    // The length of the list of tokens.
    let mut bytes = FILE.clone();
    let at = place("tokenizer.ggml.tokens") + "tokenizer.ggml.tokens".len() + 8;
    bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(read(&bytes), Err(ImportError::Head(_))));
}

#[test]
fn tensors_that_share_their_bytes_are_refused() {
    let mut bytes = FILE.clone();
    // The file holds the shape of the embedding and no more of it than of a norm.
    let name = "token_embd.weight";
    let at = place(name) + name.len() + 4 + 8;
    bytes[at..at + 8].copy_from_slice(&200_000u64.to_le_bytes());
    assert!(matches!(read(&bytes), Err(ImportError::Tensor(_))));
}

#[test]
fn every_beginning_of_a_file_is_refused() {
    let head = FILE.len().min(9_000);
    for length in (0..head).chain((head..FILE.len()).step_by(97)) {
        assert!(read(&FILE[..length]).is_err(), "{length}");
    }
}

proptest! {
    #[test]
    fn damaged_files_never_panic(
        changes in proptest::collection::vec((0usize..FILE.len(), any::<u8>()), 1..6),
        in_head in any::<bool>(),
    ) {
        let mut bytes = FILE.clone();
        for (place, byte) in changes {
            let place = if in_head { place % 12_000 } else { place };
            let place = place % bytes.len();
            bytes[place] = byte;
        }
        let _ = read(&bytes);
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(read(&bytes).is_err());
        let mut named = b"GGUF\x03\0\0\0".to_vec();
        named.extend(&bytes);
        prop_assert!(read(&named).is_err());
        prop_assert!(ModelManifest::read(&bytes).is_err());
    }
}

proptest! {
    // Each writes a folder.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_folders_never_panic(
        changes in proptest::collection::vec((0usize..3_000, any::<u8>()), 1..4),
        which in 0usize..3,
        cut in 0usize..400,
    ) {
        let folder = tempfile::tempdir().unwrap();
        write_folder(&smallest().model(), None, folder.path()).unwrap();
        let name = ["config.json", "model.safetensors", "tokenizer.json"][which];
        let path = folder.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        for (place, byte) in changes {
            let place = place % bytes.len();
            bytes[place] = byte;
        }
        let kept = bytes.len().saturating_sub(cut);
        std::fs::write(&path, &bytes[..kept]).unwrap();
        let _ = read_folder(folder.path());
    }
}
