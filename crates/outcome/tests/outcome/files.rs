//! What is written is read back, to the bit where nothing was rounded.

use std::io::Cursor;

use hearth_outcome::gguf::{Precision, WriteError, read_model, write_model};
use hearth_outcome::{Split, TokenKind, Vocabulary, VocabularyError};
use hearth_training::{Architecture, Weights};

use super::{Whole, architecture, tokenizer};

fn bytes(whole: &Whole, precision: Precision) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_model(&whole.model(), precision, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_model_comes_back_to_the_bit_with_its_tokens() {
    for tied_head in [false, true] {
        let architecture = Architecture {
            tied_head,
            ..architecture()
        };
        let whole = Whole::new(architecture, 11);
        let bytes = bytes(&whole, Precision::F32);
        let base = read_model(Cursor::new(&bytes), bytes.len() as u64).unwrap();
        assert_eq!(*base.layout.architecture(), architecture);
        assert_eq!(base.weights.values(), whole.weights.values());
        assert_eq!(base.vocabulary.as_ref(), Some(&whole.vocabulary));
    }
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let whole = Whole::new(architecture(), 12);
    for precision in [Precision::F32, Precision::F16, Precision::Q8_0] {
        let first = bytes(&whole, precision);
        assert!(first == bytes(&whole, precision), "{precision:?}");
        // What was rounded once is not rounded again.
        let base = read_model(Cursor::new(&first), first.len() as u64).unwrap();
        let again = Whole {
            layout: base.layout,
            weights: base.weights,
            vocabulary: base.vocabulary.unwrap(),
            label: whole.label.clone(),
        };
        if precision != Precision::Q8_0 {
            assert!(first == bytes(&again, precision), "{precision:?}");
        }
    }
}

#[test]
fn rounded_numbers_are_near_what_they_were() {
    let whole = Whole::new(architecture(), 13);
    for (precision, most) in [(Precision::F16, 5e-4), (Precision::Q8_0, 5e-3)] {
        let bytes = bytes(&whole, precision);
        let base = read_model(Cursor::new(&bytes), bytes.len() as u64).unwrap();
        let values = base.weights.values().iter().zip(whole.weights.values());
        let apart = values.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart > 0.0 && apart < most, "{precision:?}: {apart}");
    }
}

#[test]
fn what_does_not_fit_together_is_not_written() {
    let whole = Whole::new(architecture(), 14);
    let refused = |whole: &Whole, precision| {
        let mut out = Vec::new();
        write_model(&whole.model(), precision, &mut out).unwrap_err()
    };
    let small = Architecture {
        vocabulary: 299,
        ..architecture()
    };
    let few = Whole::new(small, 14);
    let error = refused(&few, Precision::F32);
    assert!(
        matches!(error, WriteError::Tokens { most: 299, .. }),
        "{error}"
    );
    let other = Whole {
        weights: few.weights,
        ..Whole::new(architecture(), 14)
    };
    assert!(matches!(
        refused(&other, Precision::F32),
        WriteError::Weights
    ));
    let mut values = whole.weights.values().to_vec();
    values[5] = 1e6;
    let large = Whole {
        weights: Weights::new(whole.weights.tensors(), values).unwrap(),
        ..Whole::new(architecture(), 14)
    };
    let error = refused(&large, Precision::F16);
    assert!(matches!(error, WriteError::TooLarge(name) if name == "token_embd.weight"));
    let mut named = whole;
    named.label.name = "two\nlines".to_owned();
    assert!(matches!(
        refused(&named, Precision::F32),
        WriteError::Label(_)
    ));
}

#[test]
fn a_tokenizer_is_written_as_one_that_makes_the_same_tokens() {
    let tokenizer = tokenizer();
    let vocabulary = Vocabulary::of(&tokenizer).unwrap();
    assert_eq!(vocabulary.split(), Split::Gpt2);
    assert_eq!(vocabulary.tokens()[0].kind, TokenKind::Control);
    let json = vocabulary.to_tokenizer_json();
    assert_eq!(Vocabulary::read(&json).unwrap(), vocabulary);
    let again = hearth_datasets::tokenizer::ByteTokenizer::load(json).unwrap();
    let (mut one, mut other) = (Vec::new(), Vec::new());
    let text = "the hedgehog's 12 gardens, für alle";
    tokenizer.encode(text, &mut one).unwrap();
    again.encode(text, &mut other).unwrap();
    assert_eq!(one, other);
}

#[test]
fn a_tokenizer_whose_words_have_no_name_is_refused() {
    let json = String::from_utf8(tokenizer().json().to_vec()).unwrap();
    let words = json.replace("\"use_regex\":true", "\"use_regex\":false");
    assert_ne!(words, json);
    let error = Vocabulary::read(words.as_bytes()).unwrap_err();
    assert!(matches!(error, VocabularyError::Split), "{error}");
    let error = Vocabulary::read(b"{}").unwrap_err();
    assert!(matches!(error, VocabularyError::Tokenizer(_)), "{error}");
}
