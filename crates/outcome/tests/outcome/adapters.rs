//! Adapters over a base: the folder of `peft`, what is said of the base, and both as one model.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use hearth_outcome::gguf::{Precision, read_model_head, write_model};
use hearth_outcome::transformers::{
    ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, FolderError, check_weights, read_adapter_weights,
    read_folder_head, read_weights, write_adapter_folder, write_folder,
};
use hearth_outcome::{MergeError, TrainedAdapter, Vocabulary, merge};
use hearth_training::{Adapter, AdapterLayout, Architecture, Layout, Target, Weights};
use serde_json::{Value, json};

use super::{Whole, architecture, label, lively, tokenizer};

fn adapter(whole: &Whole, targets: &[Target]) -> (AdapterLayout, Weights) {
    let adapter = Adapter {
        rank: 3,
        alpha: 5.0,
        targets: targets.to_vec(),
    };
    let layout = AdapterLayout::new(&whole.layout, adapter).unwrap();
    let weights = lively(layout.tensors(), 41);
    (layout, weights)
}

fn written(whole: &Whole, layout: &AdapterLayout, weights: &Weights, folder: &Path) {
    let adapter = TrainedAdapter {
        base: &whole.layout,
        layout,
        weights,
        label: &label(),
    };
    write_adapter_folder(&adapter, "A base", folder).unwrap();
}

#[test]
fn an_adapter_comes_back_from_its_folder_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::new(architecture(), 40);
    let (layout, weights) = adapter(&whole, &[Target::Query, Target::Down]);
    written(&whole, &layout, &weights, folder.path());
    let read = read_adapter_weights(folder.path(), &layout).unwrap();
    assert_eq!(read.values(), weights.values());

    let config = fs::read(folder.path().join(ADAPTER_CONFIG_FILE)).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["peft_type"], "LORA");
    assert_eq!(config["base_model_name_or_path"], "A base");
    assert_eq!(config["r"], 3);
    assert_eq!(config["lora_alpha"], json!(5.0));
    assert_eq!(config["target_modules"], json!(["q_proj", "down_proj"]));

    // Another adapter's tensors are not taken for it, and neither is half a file.
    let (other, _) = adapter(&whole, &[Target::Query]);
    let error = read_adapter_weights(folder.path(), &other).unwrap_err();
    assert!(matches!(error, FolderError::Unknown(_)), "{error}");
    let path = folder.path().join(ADAPTER_WEIGHTS_FILE);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    let error = read_adapter_weights(folder.path(), &layout).unwrap_err();
    assert!(matches!(error, FolderError::Stored { .. }), "{error}");
}

#[test]
fn what_a_base_is_can_be_said_without_its_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::new(architecture(), 42);
    let path = folder.path().join("model.gguf");
    write_model(
        &whole.model(),
        Precision::F16,
        &mut File::create(&path).unwrap(),
    )
    .unwrap();
    let head = read_model_head(&path).unwrap();
    assert_eq!(*head.layout.architecture(), architecture());
    assert_eq!(head.name.as_deref(), Some("A small model"));
    let tokens = head.vocabulary.unwrap();
    assert!(tokens.has_tokens_of(&whole.vocabulary));
    let retold = whole.vocabulary.clone().with_template("{{ 1 }}").unwrap();
    assert!(tokens.has_tokens_of(&retold.with_ends(1, 2).unwrap()));
    let text = "an entirely other text, of other words and of other pairs of letters".to_owned();
    let texts = std::iter::repeat_n(text, 4);
    let other = hearth_datasets::tokenizer::ByteTokenizer::train(300, texts).unwrap();
    assert!(!tokens.has_tokens_of(&Vocabulary::of(&other).unwrap()));

    // A file that ends within its numbers is found out before any is read.
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(read_model_head(&path).is_err());
}

#[test]
fn one_file_of_weights_is_read_by_a_shape_that_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::new(architecture(), 43);
    write_folder(&whole.model(), Some(tokenizer().json()), folder.path()).unwrap();
    let head = read_folder_head(folder.path()).unwrap();
    assert_eq!(*head.layout.architecture(), architecture());
    assert!(head.vocabulary.unwrap().has_tokens_of(&whole.vocabulary));
    let path = folder.path().join("model.safetensors");
    check_weights(&path, &head.layout).unwrap();
    let read = read_weights(&path, &head.layout).unwrap();
    assert_eq!(read.values(), whole.weights.values());

    let narrow = Architecture {
        hidden: 64,
        ..architecture()
    };
    let narrow = Layout::new(narrow).unwrap();
    let error = check_weights(&path, &narrow).unwrap_err();
    assert!(matches!(error, FolderError::Tensor(_)), "{error}");
    assert!(read_weights(&path, &narrow).is_err());
}

#[test]
fn a_merged_matrix_is_the_sum_that_the_paper_states() {
    let whole = Whole::new(architecture(), 44);
    let (layout, weights) = adapter(&whole, &[Target::Key, Target::Up]);
    let merged = merge(&whole.weights, &layout, &weights).unwrap();
    let (rank, factor) = (3, 5.0f32 / 3.0);
    for tensor in whole.layout.tensors().list() {
        let (was, is) = (
            &whole.weights.values()[tensor.range()],
            &merged.values()[tensor.range()],
        );
        let matrix = tensor.name.strip_suffix(".weight").unwrap();
        let side =
            |side: &str| weights.tensor(&format!("base_model.model.{matrix}.lora_{side}.weight"));
        let Some((a, b)) = side("A").zip(side("B")) else {
            assert_eq!(was, is, "{}", tensor.name);
            continue;
        };
        for (place, (was, is)) in was.iter().zip(is).enumerate() {
            let (row, column) = (place / tensor.columns, place % tensor.columns);
            let products = (0..rank)
                .map(|k| f64::from(b[row * rank + k]) * f64::from(a[k * tensor.columns + column]));
            let wanted = f64::from(*was) + f64::from(factor) * products.sum::<f64>();
            assert_eq!(*is, wanted as f32, "{} {row} {column}", tensor.name);
        }
    }

    // Another model's weights have no place for it.
    let shallow = Architecture {
        layers: 1,
        ..architecture()
    };
    let shallow = Arc::new(Layout::new(shallow).unwrap());
    let frozen = lively(shallow.tensors(), 45);
    assert_eq!(
        merge(&frozen, &layout, &weights).unwrap_err(),
        MergeError::Layout
    );
    assert_eq!(
        merge(&whole.weights, &layout, &frozen).unwrap_err(),
        MergeError::Layout
    );
}
