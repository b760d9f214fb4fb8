//! Takes the values of a manifest out of its JSON.
//!
//! It looks only at what varies; the comparison of bytes afterwards looks at the rest.

use hearth_datasets::hash::{FileSeal, Hash32};
use hearth_training::{Adapter, Architecture, Target};
use serde_json::Value;

use super::{
    Account, BaseModel, DATASETS_MAX, Decimal, EVALUATIONS_MAX, Evaluation, FILES_MAX, HOLDERS_MAX,
    HolderRecord, ManifestError, ModelFile, ModelManifest, RunRecord, TrainerRecord, WHOLE_MAX,
};
use crate::label::Label;

type Read<T> = Result<T, ManifestError>;

/// Returns what `stated` says, unchecked but for its types.
pub(super) fn manifest(stated: &Value) -> Read<ModelManifest> {
    if !stated.is_object() {
        return Err(ManifestError::Field("object"));
    }
    let part = |name: &'static str| stated.get(name);
    Ok(ModelManifest {
        label: Label {
            name: text(stated, "name")?,
            description: part("description")
                .map(|_| text(stated, "description"))
                .transpose()?,
            license: text(stated, "license")?,
        },
        architecture: architecture(&stated["architecture"])?,
        adapter: part("adapter").map(adapter).transpose()?,
        files: list(stated, "files", FILES_MAX, file)?,
        base: part("base").map(base).transpose()?,
        run: part("run").map(run).transpose()?,
        datasets: list(stated, "datasets", DATASETS_MAX, |id| {
            parsed(id.as_str(), "datasets")
        })?,
        trainers: list(stated, "trainers", HOLDERS_MAX, trainer)?,
        validators: list(stated, "validators", HOLDERS_MAX, holder)?,
        funders: list(stated, "funders", HOLDERS_MAX, holder)?,
        evaluations: list(stated, "evaluations", EVALUATIONS_MAX, evaluation)?,
    })
}

fn list<T>(
    stated: &Value,
    name: &'static str,
    most: usize,
    read: impl Fn(&Value) -> Read<T>,
) -> Read<Vec<T>> {
    let items = stated[name].as_array().ok_or(ManifestError::Field(name))?;
    if items.len() > most {
        return Err(ManifestError::List(name));
    }
    items.iter().map(read).collect()
}

fn architecture(stated: &Value) -> Read<Architecture> {
    let tied = stated["tiedHead"].as_bool();
    Ok(Architecture {
        vocabulary: size(stated, "vocabulary")?,
        width: size(stated, "width")?,
        layers: size(stated, "layers")?,
        query_heads: size(stated, "queryHeads")?,
        key_value_heads: size(stated, "keyValueHeads")?,
        head: size(stated, "head")?,
        hidden: size(stated, "hidden")?,
        context: size(stated, "context")?,
        rope_theta: parsed(stated["ropeTheta"].as_str(), "ropeTheta")?,
        norm_epsilon: parsed(stated["normEpsilon"].as_str(), "normEpsilon")?,
        tied_head: tied.ok_or(ManifestError::Field("tiedHead"))?,
    })
}

fn adapter(stated: &Value) -> Read<Adapter> {
    let target = |name: &Value| {
        let mut all = Target::ALL.into_iter();
        all.find(|target| name == target.name())
            .ok_or(ManifestError::Field("targets"))
    };
    Ok(Adapter {
        rank: size(stated, "rank")?,
        alpha: parsed(stated["alpha"].as_str(), "alpha")?,
        targets: list(stated, "targets", Target::ALL.len(), target)?,
    })
}

fn file(stated: &Value) -> Read<ModelFile> {
    Ok(ModelFile {
        path: text(stated, "path")?,
        seal: FileSeal {
            blake3: hash(stated, "blake3")?,
            sha256: hash(stated, "sha256")?,
            bytes: whole(stated, "bytes")?,
        },
    })
}

fn base(stated: &Value) -> Read<BaseModel> {
    Ok(BaseModel {
        name: text(stated, "name")?,
        hash: hash(stated, "hash")?,
    })
}

fn run(stated: &Value) -> Read<RunRecord> {
    Ok(RunRecord {
        id: hash(stated, "id")?,
        manifest: hash(stated, "manifest")?,
        first_round: whole(stated, "firstRound")?,
        last_round: whole(stated, "lastRound")?,
        state: hash(stated, "state")?,
    })
}

fn trainer(stated: &Value) -> Read<TrainerRecord> {
    let HolderRecord { account, share } = holder(stated)?;
    Ok(TrainerRecord {
        account,
        token_steps: whole(stated, "tokenSteps")?,
        share,
    })
}

fn holder(stated: &Value) -> Read<HolderRecord> {
    let share = u32::try_from(whole(stated, "share")?);
    Ok(HolderRecord {
        account: account(stated["account"].as_str().unwrap_or_default())?,
        share: share.map_err(|_| ManifestError::Field("share"))?,
    })
}

fn account(text: &str) -> Read<Account> {
    const WRONG: ManifestError = ManifestError::Field("account");
    let digits = text.strip_prefix("0x").ok_or(WRONG)?;
    // Twelve bytes of zero make a hash of it, whose digits are read already.
    let padded: Hash32 = format!("{:0>64}", digits).parse().map_err(|_| WRONG)?;
    let (zero, account) = padded.0.split_at(12);
    let account: Result<[u8; 20], _> = account.try_into();
    let fine = digits.len() == 40 && zero.iter().all(|byte| *byte == 0);
    match account {
        Ok(account) if fine => Ok(Account(account)),
        _ => Err(WRONG),
    }
}

fn evaluation(stated: &Value) -> Read<Evaluation> {
    Ok(Evaluation {
        suite: hash(stated, "suite")?,
        measure: text(stated, "measure")?,
        value: Decimal::new(stated["value"].as_str().unwrap_or_default())?,
        items: whole(stated, "items")?,
        report: match stated.get("report") {
            None => None,
            Some(_) => Some(hash(stated, "report")?),
        },
    })
}

fn text(stated: &Value, name: &'static str) -> Read<String> {
    let text = stated[name].as_str().ok_or(ManifestError::Field(name))?;
    Ok(text.to_owned())
}

fn parsed<T: std::str::FromStr>(text: Option<&str>, name: &'static str) -> Read<T> {
    let value = text.and_then(|text| text.parse().ok());
    value.ok_or(ManifestError::Field(name))
}

fn hash(stated: &Value, name: &'static str) -> Read<Hash32> {
    parsed(stated[name].as_str(), name)
}

/// A number that JSON readers of any language read exactly.
fn whole(stated: &Value, name: &'static str) -> Read<u64> {
    let value = stated[name].as_u64().filter(|value| *value <= WHOLE_MAX);
    value.ok_or(ManifestError::Field(name))
}

fn size(stated: &Value, name: &'static str) -> Read<usize> {
    usize::try_from(whole(stated, name)?).map_err(|_| ManifestError::Field(name))
}
