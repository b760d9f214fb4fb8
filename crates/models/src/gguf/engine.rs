//! What llama.cpp takes for granted of a head, and ends the process over where it does not hold.
//!
//! These are the assertions of its loader (`llama-model.cpp`, `llama-vocab.cpp`) that depend on the head alone. What it
//! answers with an error of its own is left to it.

use super::vocabulary::{self, Facts};
use super::{GgufError, Header, Value};

/// The most layers llama.cpp has room for.
const LAYERS_MAX: u64 = 512;

/// The most experts llama.cpp has room for.
const EXPERTS_MAX: u64 = 1_024;

/// How many experts a layer uses: one number, or a list of one for each layer.
pub(super) const EXPERTS_USED: &str = "expert_used_count";

/// The ways of stretching a context that llama.cpp knows.
const ROPE_SCALINGS: [&str; 4] = ["none", "linear", "yarn", "longrope"];

pub(super) fn check(header: &Header, facts: &Facts) -> Result<(), GgufError> {
    check_name(header)?;
    check_layers(header)?;
    check_experts(header, facts)?;
    check_rope(header)?;
    vocabulary::check(header, facts)?;
    if header.value("tokenizer.chat_template") == Some(&Value::Unread) {
        return Err(GgufError::key(
            "tokenizer.chat_template",
            "is too long, or no text",
        ));
    }
    Ok(())
}

/// Every other key begins with the architecture's name.
fn check_name(header: &Header) -> Result<(), GgufError> {
    let name = &header.architecture;
    // The eye of another model: the engine stops at an assertion.
    if name == "clip" {
        return Err(GgufError::key(
            "general.architecture",
            "names a part of a model that answers nothing by itself",
        ));
    }
    if matches!(header.value("general.type"), Some(Value::Text(kind)) if kind == "adapter") {
        return Err(GgufError::key(
            "general.type",
            "says that it is an adapter, which answers nothing without its base: take the model with both in it \
             (`hearth run export --merged`)",
        ));
    }
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(known) {
        return Err(GgufError::key(
            "general.architecture",
            "is no name of a kind of model",
        ));
    }
    Ok(())
}

fn refuse<T>(header: &Header, name: &str, problem: &str) -> Result<T, GgufError> {
    Err(GgufError::key(
        format!("{}.{name}", header.architecture),
        problem,
    ))
}

fn check_layers(header: &Header) -> Result<(), GgufError> {
    const NAME: &str = "block_count";
    let Some(layers) = header.layers() else {
        // A file without tensors is a vocabulary, and has no layers to count.
        return if header.tensors.is_empty() {
            Ok(())
        } else {
            Err(GgufError::Missing(format!(
                "{}.{NAME}",
                header.architecture
            )))
        };
    };
    if !(1..=LAYERS_MAX).contains(&layers) {
        return refuse(header, NAME, &format!("must be 1 to {LAYERS_MAX}"));
    }
    let next = "nextn_predict_layers";
    if header
        .of_architecture(next)
        .is_some_and(|next| next > layers)
    {
        return refuse(header, next, "is more than there are layers");
    }
    Ok(())
}

fn check_experts(header: &Header, facts: &Facts) -> Result<(), GgufError> {
    let of = |name| header.of_architecture(name).unwrap_or(0);
    let by_layer = facts.experts_used().map(u64::from);
    let (experts, used) = (of("expert_count"), by_layer.unwrap_or(of(EXPERTS_USED)));
    let (groups, groups_used) = (of("expert_group_count"), of("expert_group_used_count"));
    if experts > EXPERTS_MAX {
        return refuse(
            header,
            "expert_count",
            &format!("must be at most {EXPERTS_MAX}"),
        );
    }
    if used > experts || (experts > 0 && used == 0) {
        return refuse(header, EXPERTS_USED, "does not fit the number of experts");
    }
    let grouped = groups > 1
        && (!experts.is_multiple_of(groups) || groups_used == 0 || groups_used >= groups);
    if grouped || (groups > 0 && groups >= experts) {
        return refuse(
            header,
            "expert_group_count",
            "does not fit the number of experts",
        );
    }
    Ok(())
}

fn check_rope(header: &Header) -> Result<(), GgufError> {
    const NAME: &str = "rope.scaling.type";
    const TURNED: &str = "rope.dimension_count";
    let width = header.embedding_width().unwrap_or(0);
    let heads = header.heads().filter(|heads| *heads > 0);
    let head =
        (header.of_architecture("attention.key_length")).or(heads.map(|heads| width / heads));
    // What is turned are pairs of the numbers of a head.
    if let (Some(turned), Some(head)) = (header.of_architecture(TURNED), head)
        && (turned > head || !turned.is_multiple_of(2))
    {
        return refuse(header, TURNED, "does not fit the attention heads");
    }
    match header.value(&format!("{}.{NAME}", header.architecture)) {
        Some(Value::Text(kind)) if !ROPE_SCALINGS.contains(&&**kind) => refuse(
            header,
            NAME,
            "is a way of stretching contexts that no engine knows",
        ),
        _ => Ok(()),
    }
}
