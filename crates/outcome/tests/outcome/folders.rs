//! Folders of `transformers`, as written here and as others write them.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use hearth_outcome::transformers::{FolderError, read_folder, write_folder};
use hearth_training::Architecture;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};

use super::{Whole, architecture, tokenizer};

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_folder_comes_back_to_the_bit() {
    for tied_head in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let architecture = Architecture {
            tied_head,
            ..architecture()
        };
        let whole = Whole::new(architecture, 21);
        let json = tokenizer().json().to_vec();
        let names = write_folder(&whole.model(), Some(&json), folder.path()).unwrap();
        assert!(names.iter().all(|name| folder.path().join(name).is_file()));
        assert_eq!(
            fs::read(folder.path().join("tokenizer.json")).unwrap(),
            json
        );
        let base = read_folder(folder.path()).unwrap();
        assert_eq!(*base.layout.architecture(), architecture);
        assert_eq!(base.weights.values(), whole.weights.values());
        assert_eq!(base.vocabulary.as_ref(), Some(&whole.vocabulary));

        let again = tempfile::tempdir().unwrap();
        write_folder(&whole.model(), Some(&json), again.path()).unwrap();
        for name in names {
            let read = |folder: &Path| fs::read(folder.join(name)).unwrap();
            assert!(read(folder.path()) == read(again.path()), "{name}");
        }
    }
}

#[test]
fn a_chat_template_of_the_tokenizer_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut whole = Whole::new(architecture(), 25);
    let template = "{% for message in messages %}{{ message.content }}{% endfor %}";
    whole.vocabulary = whole.vocabulary.with_template(template).unwrap();
    write_folder(&whole.model(), None, folder.path()).unwrap();
    let read = |folder: &Path| read_folder(folder).unwrap().vocabulary.unwrap();
    assert_eq!(read(folder.path()).chat_template(), template);
    fs::write(folder.path().join("chat_template.jinja"), "{{ 1 }}").unwrap();
    assert_eq!(read(folder.path()).chat_template(), "{{ 1 }}");
}

#[test]
fn a_folder_says_what_transformers_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::new(architecture(), 22);
    write_folder(&whole.model(), None, folder.path()).unwrap();
    let config = json_of(&folder.path().join("config.json"));
    assert_eq!(config["architectures"], json!(["LlamaForCausalLM"]));
    assert_eq!(config["rms_norm_eps"], json!(1e-5));
    assert_eq!(config["rope_theta"], json!(10_000.0));
    assert_eq!(config["num_key_value_heads"], 2);
    let weights = fs::read(folder.path().join("model.safetensors")).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&weights).unwrap();
    let format = metadata.metadata().as_ref().unwrap().get("format");
    assert_eq!(format.map(String::as_str), Some("pt"));
    assert!(metadata.info("lm_head.weight").is_some());
    let tokenizer = json_of(&folder.path().join("tokenizer_config.json"));
    assert_eq!(tokenizer["eos_token"], "<|endoftext|>");
}

/// Writes the weights as other programs do: brain precision, in two files.
fn write_shards(whole: &Whole, folder: &Path) {
    let tensors = whole.layout.tensors().list();
    let brain = |values: &[f32]| -> Vec<u8> {
        let halves = values.iter().map(|value| (value.to_bits() >> 16) as u16);
        halves.flat_map(u16::to_le_bytes).collect()
    };
    let (first, second) = tensors.split_at(7);
    let mut map = serde_json::Map::new();
    for (name, part) in [("one.safetensors", first), ("two.safetensors", second)] {
        let data: Vec<_> = part
            .iter()
            .map(|tensor| {
                map.insert(tensor.name.clone(), name.into());
                (tensor, brain(&whole.weights.values()[tensor.range()]))
            })
            .collect();
        let views = data.iter().map(|(tensor, data)| {
            let view = TensorView::new(Dtype::BF16, tensor.shape(), data).unwrap();
            (tensor.name.clone(), view)
        });
        serialize_to_file(views, None::<HashMap<_, _>>, &folder.join(name)).unwrap();
    }
    let index = json!({"metadata": {}, "weight_map": map});
    let path = folder.join("model.safetensors.index.json");
    fs::write(path, index.to_string()).unwrap();
}

#[test]
fn weights_in_several_files_of_half_the_size_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::new(architecture(), 23);
    write_folder(&whole.model(), None, folder.path()).unwrap();
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    write_shards(&whole, folder.path());
    let base = read_folder(folder.path()).unwrap();
    for (read, value) in base.weights.values().iter().zip(whole.weights.values()) {
        assert_eq!(read.to_bits(), value.to_bits() & 0xffff_0000);
    }
    let index = folder.path().join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap();
    for path in ["../two.safetensors", "/two.safetensors", "two.bin", ""] {
        fs::write(&index, text.replace("two.safetensors", path)).unwrap();
        let error = read_folder(folder.path()).unwrap_err();
        assert!(matches!(error, FolderError::Index), "{path}: {error}");
    }
}

#[test]
fn shapes_that_cannot_be_trained_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::new(architecture(), 24);
    write_folder(&whole.model(), None, folder.path()).unwrap();
    let path = folder.path().join("config.json");
    let config = json_of(&path);
    let with = |name: &str, value: Value| {
        let mut changed = config.clone();
        changed[name] = value;
        fs::write(&path, changed.to_string()).unwrap();
        read_folder(folder.path()).map(|_| ())
    };
    assert!(with("use_cache", false.into()).is_ok());
    let stretched = json!({"rope_type": "llama3", "factor": 8.0});
    let later = json!({"rope_type": "default", "rope_theta": 10_000.0});
    assert!(with("rope_parameters", later).is_ok());
    for (name, value) in [
        ("model_type", "gpt2".into()),
        ("attention_bias", true.into()),
        ("hidden_act", "gelu".into()),
        ("rope_scaling", stretched.clone()),
        ("rope_parameters", stretched),
        ("hidden_size", (-1).into()),
        ("hidden_size", 1e300.into()),
        ("vocab_size", u64::MAX.into()),
        ("num_hidden_layers", 3.into()),
        ("num_hidden_layers", 1.into()),
        ("num_attention_heads", 0.into()),
        ("tie_word_embeddings", "yes".into()),
        ("rms_norm_eps", 0.into()),
    ] {
        let shown = format!("{name}: {value}");
        assert!(with(name, value).is_err(), "{shown}");
    }
}
