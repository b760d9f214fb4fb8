//! Takes the values of a manifest out of its JSON.
//!
//! It looks only at what varies; the comparison of bytes afterwards looks at the rest.

use serde_json::{Map, Value};

use super::{HELD_OUT, Label, Manifest, ManifestError, Part, SHARDS_MAX, TRAINING, Tokens};
use crate::hash::{FileSeal, Hash32};

/// Returns what `stated` says, unchecked but for its types.
pub(super) fn manifest(stated: &Value) -> Result<Manifest, ManifestError> {
    let fields = stated.as_object().ok_or(ManifestError::Field("object"))?;
    let label = Label {
        name: text(fields, "name")?,
        description: text(fields, "description")?,
        license: text(fields, "license")?,
        source: optional(fields, "url")?,
        citation: optional(fields, "citeAs")?,
    };
    let tokens = Tokens {
        vocabulary: small(fields, "hearth:vocabulary")?,
        end_of_text: small(fields, "hearth:endOfText")?,
        of_shard: small(fields, "hearth:shardTokens")?,
        held_out_per_mille: small(fields, "hearth:heldOutPerMille")?,
    };
    let files = fields.get("distribution").and_then(Value::as_array);
    let files = files.ok_or(ManifestError::Field("distribution"))?;
    let (first, shards) = files
        .split_first()
        .ok_or(ManifestError::Field("distribution"))?;
    if shards.len() > SHARDS_MAX {
        return Err(ManifestError::Range {
            field: "number of shards",
            value: shards.len() as u64,
            least: 1,
            most: SHARDS_MAX as u64,
        });
    }
    let training = part(
        fields,
        ["hearth:trainingDocuments", "hearth:trainingTokens"],
        TRAINING,
        shards,
    )?;
    let held_out = part(
        fields,
        ["hearth:heldOutDocuments", "hearth:heldOutTokens"],
        HELD_OUT,
        shards,
    )?;
    Ok(Manifest {
        label,
        tokenizer: seal(first)?,
        tokens,
        training,
        held_out,
    })
}

fn part(
    fields: &Map<String, Value>,
    [documents, tokens]: [&'static str; 2],
    name: &str,
    files: &[Value],
) -> Result<Part, ManifestError> {
    let id = |file: &&Value| file["@id"].as_str().is_some_and(|id| id.starts_with(name));
    Ok(Part {
        documents: number(fields, documents)?,
        tokens: number(fields, tokens)?,
        shards: files
            .iter()
            .filter(id)
            .map(seal)
            .collect::<Result<_, _>>()?,
    })
}

fn seal(file: &Value) -> Result<FileSeal, ManifestError> {
    let field = |name: &'static str| file[name].as_str().ok_or(ManifestError::Field(name));
    let hash = |name| {
        field(name)?
            .parse::<Hash32>()
            .map_err(|_| ManifestError::Field(name))
    };
    let size = field("contentSize")?.strip_suffix(" B");
    let bytes = size.and_then(|size| size.parse().ok());
    Ok(FileSeal {
        blake3: hash("hearth:blake3")?,
        sha256: hash("sha256")?,
        bytes: bytes.ok_or(ManifestError::Field("contentSize"))?,
    })
}

fn text(fields: &Map<String, Value>, name: &'static str) -> Result<String, ManifestError> {
    optional(fields, name)?.ok_or(ManifestError::Field(name))
}

fn optional(
    fields: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<String>, ManifestError> {
    match fields.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(ManifestError::Field(name)),
    }
}

/// A number that JSON readers of any language read exactly.
fn number(fields: &Map<String, Value>, name: &'static str) -> Result<u64, ManifestError> {
    let value = fields.get(name).and_then(Value::as_u64);
    value
        .filter(|value| *value <= 1 << 53)
        .ok_or(ManifestError::Field(name))
}

fn small(fields: &Map<String, Value>, name: &'static str) -> Result<u32, ManifestError> {
    u32::try_from(number(fields, name)?).map_err(|_| ManifestError::Field(name))
}
