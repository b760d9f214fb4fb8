//! Tensors as `transformers` names them, and as llama.cpp does.

use hearth_training::Architecture;

/// The parts of a layer.
const PARTS: [(&str, &str); 9] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// What a tensor is called in GGUF files, and the height of the heads whose rows lie in another order there.
pub(super) struct Renamed {
    pub(super) name: String,
    pub(super) turned_head: Option<usize>,
}

/// Returns how a tensor of a model is called in GGUF files; nothing where it is none.
pub(super) fn of_tensor(name: &str, architecture: &Architecture) -> Option<Renamed> {
    let outside = match name {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(name) = outside {
        return Some(Renamed {
            name: name.to_owned(),
            turned_head: None,
        });
    }
    let (layer, part) = name
        .strip_prefix("model.layers.")?
        .strip_suffix(".weight")?
        .split_once('.')?;
    let (_, part) = PARTS.into_iter().find(|(ours, _)| *ours == part)?;
    let turned = matches!(part, "attn_q" | "attn_k");
    Some(Renamed {
        name: format!("blk.{layer}.{part}.weight"),
        turned_head: turned.then_some(architecture.head),
    })
}

/// Returns how a tensor of an adapter is called in GGUF files. The rows of `B` are those of the matrix, and lie in its order.
pub(super) fn of_adapter(name: &str, architecture: &Architecture) -> Option<Renamed> {
    let matrix = name.strip_prefix("base_model.model.")?;
    let (matrix, side) = matrix.strip_suffix(".weight")?.rsplit_once(".lora_")?;
    let base = of_tensor(&format!("{matrix}.weight"), architecture)?;
    let (side, turned_head) = match side {
        "A" => ("a", None),
        "B" => ("b", base.turned_head),
        _ => return None,
    };
    Some(Renamed {
        name: format!("{}.lora_{side}", base.name),
        turned_head,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hearth_training::{Adapter, AdapterLayout, Layout, Target};

    use super::*;

    #[test]
    fn every_tensor_has_a_name_of_its_own() {
        let architecture = Architecture {
            vocabulary: 300,
            width: 32,
            layers: 12,
            query_heads: 4,
            key_value_heads: 2,
            head: 8,
            hidden: 48,
            context: 64,
            rope_theta: 10_000.0,
            norm_epsilon: 1e-5,
            tied_head: false,
        };
        let layout = Layout::new(architecture).unwrap();
        let mut names = BTreeSet::new();
        for tensor in layout.tensors().list() {
            let renamed = of_tensor(&tensor.name, &architecture).unwrap();
            assert!(renamed.name.len() < 64);
            assert!(names.insert(renamed.name), "{}", tensor.name);
        }
        assert!(names.contains("blk.11.ffn_down.weight"));
        let adapter = Adapter {
            rank: 4,
            alpha: 8.0,
            targets: Target::ALL.to_vec(),
        };
        let adapter = AdapterLayout::new(&layout, adapter).unwrap();
        for tensor in adapter.tensors().list() {
            let renamed = of_adapter(&tensor.name, &architecture).unwrap();
            assert!(names.insert(renamed.name), "{}", tensor.name);
        }
        assert!(names.contains("blk.0.attn_q.weight.lora_b"));
        assert!(of_tensor("model.layers.0.self_attn.q_proj.bias", &architecture).is_none());
    }
}
