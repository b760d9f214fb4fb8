//! `config.json` of a `LlamaForCausalLM`.

use hearth_training::Architecture;
use serde_json::{Value, json};
use thiserror::Error;

use crate::vocabulary::Vocabulary;

/// The longest `config.json`, in bytes.
pub(super) const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// A `config.json` is not that of a model that can be trained.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It is not JSON.
    #[error("config.json is not JSON")]
    Json(#[source] serde_json::Error),
    /// A field is missing, or states what cannot be trained.
    #[error("config.json: {0:?} is missing, or states something that cannot be trained here")]
    Field(&'static str),
}

/// A number of single precision, in the shortest form that gives it again.
fn number(value: f32) -> Value {
    let shortest: f64 = value
        .to_string()
        .parse()
        .expect("the digits of a number are a number");
    shortest.into()
}

/// Returns the fields of `config.json`.
pub(super) fn of(a: &Architecture, vocabulary: &Vocabulary) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": vocabulary.beginning(),
        "eos_token_id": vocabulary.end(),
        "head_dim": a.head,
        "hidden_act": "silu",
        "hidden_size": a.width,
        "initializer_range": 0.02,
        "intermediate_size": a.hidden,
        "max_position_embeddings": a.context,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": a.query_heads,
        "num_hidden_layers": a.layers,
        "num_key_value_heads": a.key_value_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": number(a.norm_epsilon),
        "rope_scaling": null,
        "rope_theta": number(a.rope_theta),
        "tie_word_embeddings": a.tied_head,
        "torch_dtype": "float32",
        "use_cache": true,
        "vocab_size": a.vocabulary,
    })
}

/// Reads the shape, and the tokens that begin and end a text where it names them. Fields that are left out have the values
/// that `transformers` gives them.
pub(super) fn read(bytes: &[u8]) -> Result<(Architecture, [Option<u32>; 2]), ConfigError> {
    let stated: Value = serde_json::from_slice(bytes).map_err(ConfigError::Json)?;
    let fields = Fields(&stated);
    if stated["model_type"] != "llama" {
        return Err(ConfigError::Field("model_type"));
    }
    fields.is("hidden_act", &"silu".into())?;
    fields.is("attention_bias", &false.into())?;
    fields.is("mlp_bias", &false.into())?;
    fields.rope_is_plain()?;
    let width = fields.size("hidden_size", None)?;
    let query_heads = fields.size("num_attention_heads", None)?;
    let architecture = Architecture {
        vocabulary: fields.size("vocab_size", None)?,
        width,
        layers: fields.size("num_hidden_layers", None)?,
        query_heads,
        key_value_heads: fields.size("num_key_value_heads", Some(query_heads))?,
        head: fields.size("head_dim", width.checked_div(query_heads))?,
        hidden: fields.size("intermediate_size", None)?,
        context: fields.size("max_position_embeddings", Some(2_048))?,
        rope_theta: fields.rope_theta()?,
        norm_epsilon: fields.number("rms_norm_eps", 1e-6)?,
        tied_head: fields.truth("tie_word_embeddings")?,
    };
    let token = |name: &str| stated[name].as_u64().and_then(|id| u32::try_from(id).ok());
    Ok((architecture, ["bos_token_id", "eos_token_id"].map(token)))
}

/// A field that is left out is null.
struct Fields<'a>(&'a Value);

impl Fields<'_> {
    /// The field has this value, if it is there.
    fn is(&self, name: &'static str, wanted: &Value) -> Result<(), ConfigError> {
        let stated = &self.0[name];
        let same = stated.is_null() || stated == wanted;
        same.then_some(()).ok_or(ConfigError::Field(name))
    }

    fn size(&self, name: &'static str, default: Option<usize>) -> Result<usize, ConfigError> {
        let value = match &self.0[name] {
            Value::Null => default,
            stated => stated.as_u64().and_then(|size| usize::try_from(size).ok()),
        };
        value.ok_or(ConfigError::Field(name))
    }

    fn number(&self, name: &'static str, default: f32) -> Result<f32, ConfigError> {
        match &self.0[name] {
            Value::Null => Ok(default),
            stated => stated
                .as_f64()
                .map(|number| number as f32)
                .ok_or(ConfigError::Field(name)),
        }
    }

    fn truth(&self, name: &'static str) -> Result<bool, ConfigError> {
        match &self.0[name] {
            Value::Null => Ok(false),
            stated => stated.as_bool().ok_or(ConfigError::Field(name)),
        }
    }

    /// Positions are not stretched. Later versions of `transformers` state it, and the base, in one field.
    fn rope_is_plain(&self) -> Result<(), ConfigError> {
        for name in ["rope_scaling", "rope_parameters"] {
            let stated = &self.0[name];
            let kind = stated.get("rope_type").or_else(|| stated.get("type"));
            if !(stated.is_null() || kind.is_some_and(|kind| kind == "default")) {
                return Err(ConfigError::Field(name));
            }
        }
        Ok(())
    }

    fn rope_theta(&self) -> Result<f32, ConfigError> {
        let inner = self.0["rope_parameters"]["rope_theta"].as_f64();
        inner.map_or_else(
            || self.number("rope_theta", 10_000.0),
            |number| Ok(number as f32),
        )
    }
}
