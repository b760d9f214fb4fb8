//! Weights as safetensors: what is written is read back, and hostile bytes are refused.

use std::sync::Arc;

use hearth_training::{Architecture, Layout, ReadError, Weights, read, write};
use proptest::prelude::*;

fn layout() -> Arc<Layout> {
    let architecture = Architecture {
        vocabulary: 17,
        width: 8,
        layers: 1,
        query_heads: 2,
        key_value_heads: 1,
        head: 4,
        hidden: 12,
        context: 16,
        rope_theta: 10_000.0,
        norm_epsilon: 1e-5,
        tied_head: false,
    };
    Arc::new(Layout::new(architecture).expect("the model is sound"))
}

/// A file of one tensor, with this header.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn what_is_written_is_read_back() {
    let layout = layout();
    let weights = Weights::fresh(layout.tensors(), 3);
    let bytes = write(&weights);
    let back = read(layout.tensors(), &bytes).expect("it was just written");
    assert_eq!(back.values(), weights.values());
    assert_eq!(write(&back), bytes);
}

#[test]
fn what_is_not_these_weights_is_refused() {
    let layout = layout();
    let tensors = layout.tensors();
    let refused = |bytes: &[u8]| read(tensors, bytes).expect_err("it is not these weights");
    assert!(matches!(refused(b""), ReadError::Format(_)));
    assert!(matches!(
        refused(&u64::MAX.to_le_bytes()),
        ReadError::Format(_)
    ));
    let one = r#"{"model.norm.weight":{"dtype":"F32","shape":[8],"data_offsets":[0,32]}}"#;
    assert!(matches!(refused(&file(one, 32)), ReadError::Missing(_)));
    let other = r#"{"x":{"dtype":"F32","shape":[8],"data_offsets":[0,32]}}"#;
    assert!(matches!(refused(&file(other, 32)), ReadError::Unknown(name) if name == "x"));
    assert!(matches!(refused(&vec![0; 1 << 20]), ReadError::Long { .. }));
    let weights = write(&Weights::fresh(tensors, 3));
    let half = String::from_utf8_lossy(&weights).replace("F32", "I32");
    let mut half = half.into_bytes();
    half.truncate(weights.len());
    assert!(read(tensors, &half).is_err());
}

#[test]
fn numbers_that_are_none_are_refused() {
    let layout = layout();
    let mut bytes = write(&Weights::fresh(layout.tensors(), 3));
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let refused = read(layout.tensors(), &bytes).expect_err("the last number is NaN");
    assert!(matches!(refused, ReadError::Numbers(_)));
}

proptest! {
    #[test]
    fn damaged_files_never_panic(place in 0usize..1_000, byte: u8, cut in 0usize..2_000) {
        let layout = layout();
        let mut bytes = write(&Weights::fresh(layout.tensors(), 3));
        bytes[place] = byte;
        let kept = bytes.len() - cut;
        let _ = read(layout.tensors(), &bytes[..kept]);
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(layout().tensors(), &bytes).is_err());
    }
}
