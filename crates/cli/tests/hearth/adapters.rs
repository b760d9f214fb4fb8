//! Households train an adapter over a model that is there: from its tokenizer to an adapter that anyone can check.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::program::{Home, Running};
use crate::training::{dataset, fresh, join_run, made_run, shown, until, up, up_in_network_of};

/// A small model, to be the base.
const BASE: &str = r#"
name = "verses"
license = "CC0-1.0"
rounds = 1
[model]
width = 32
layers = 2
query_heads = 2
key_value_heads = 1
context = 32
[training]
window_tokens = 32
windows = 4
rate = 0.01
optimizer = "adamw"
[devices]
trainers = 1
[round]
steps = 12
grace_s = 1
attempt_s = 24
"#;

/// An adapter over the file in the place of `BASE`.
const ADAPTER: &str = r#"
name = "verses again"
license = "CC0-1.0"
rounds = 2
[base]
model = "BASE"
[adapter]
rank = 4
targets = ["v_proj", "q_proj", "down_proj"]
[training]
window_tokens = 32
windows = 4
rate = 0.02
[devices]
trainers = 2
[round]
quorum = 2
steps = 16
grace_s = 1
attempt_s = 24
[audit]
per_mille = 1000
newcomer_rounds = 0
"#;

fn rounds(home: &Home, run: &str, count: u64) -> Value {
    until(&format!("{count} rounds"), || {
        let detail = shown(home, run);
        (detail["state"]["rounds_done"].as_u64()? >= count).then_some(detail)
    })
}

fn export(home: &Home, run: &str, out: &Path, more: &[&str]) -> Value {
    let out = out.display().to_string();
    let arguments = ["run", "export", run, "--out", &out, "--json"];
    home.run(&[&arguments, more].concat()).json()
}

/// A model of one round, trained by `laptop` and checked by `tower`: its GGUF file, and its loss on held-out text.
fn base(tower: &Home, laptop: &Home, data: &Path) -> (PathBuf, f64) {
    let (run, ticket) = made_run(tower, BASE, data);
    join_run(laptop, &ticket);
    rounds(laptop, &run, 1);
    // All is well where no base is: such a run has none to name, and nothing to merge.
    assert!(shown(laptop, &run)["base"].is_null());
    let out = laptop.path().join("base").display().to_string();
    let merged = ["run", "export", &run, "--merged", "--out", &out, "--json"];
    assert_eq!(laptop.run(&merged).error_code(1), "no_adapter");
    let written = export(laptop, &run, Path::new(&out), &[]);
    let loss = written["held_out_loss"].as_f64().unwrap();
    (written["gguf"].as_str().unwrap().into(), loss)
}

/// Imports the verses again, with a tokenizer of their own or with one that is named.
fn imported(home: &Home, name: &str, tokenizer: [&str; 2]) -> PathBuf {
    let text = home.path().join("verses.txt").display().to_string();
    let out = home.path().join(name);
    let folder = out.display().to_string();
    let import = ["data", "import", &text, "--name", name, "--license"];
    let more = ["CC0-1.0", "--out", &folder, "--json"];
    home.run(&[&import[..], &more, &tokenizer].concat()).json();
    out
}

/// A line of the run's file, what stands there instead, the error's code, and words of what it says.
const WRONG: [(&str, &str, &str, &str); 6] = [
    (
        "[adapter]",
        "[model]\nwidth = 32\n[adapter]",
        "bad_run_file",
        "[base] and [model]",
    ),
    (
        "rounds = 2",
        "rounds = 2\nseed = 1",
        "bad_run_file",
        "[base] and seed",
    ),
    ("rank = 4", "rank = 0", "bad_run", "rank is 0"),
    (
        "rank = 4",
        "rank = 4\nalpha = -1",
        "bad_run",
        "adapter.alpha is -1",
    ),
    (
        "\"v_proj\"",
        "\"x_proj\"",
        "bad_run_file",
        "unknown variant `x_proj`",
    ),
    ("\"v_proj\"", "\"q_proj\"", "bad_run", "none twice"),
];

/// What cannot be a run over a base is refused, each with an error of its own.
fn wrong_files_are_refused(home: &Home, recipe: &str, data: &Path, other: &Path) {
    let file = home.path().join("wrong.toml");
    let refused = |text: &str, data: &Path| {
        fs::write(&file, text).unwrap();
        let (file, data) = (file.display().to_string(), data.display().to_string());
        let plan = [
            "run",
            "create",
            &file,
            "--data",
            &data,
            "--dry-run",
            "--json",
        ];
        home.run(&plan).error(1)
    };
    for (line, instead, code, words) in WRONG {
        assert!(recipe.contains(line), "{line}");
        let error = refused(&recipe.replacen(line, instead, 1), data);
        assert_eq!(error["code"], code, "{instead}: {error}");
        assert!(
            error["message"].as_str().unwrap().contains(words),
            "{error}"
        );
    }
    let without = recipe.replace("[base]\nmodel", "[adapter]\n#");
    let without = without.replacen("[adapter]\nrank", "rank", 1);
    let error = refused(&without, data);
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("without [base]"),
        "{error}"
    );
    let error = refused(&ADAPTER.replace("BASE", "nobody"), data);
    assert_eq!(error["code"], "no_base", "{error}");
    let error = refused(&ADAPTER.replace("BASE", "./nobody.gguf"), data);
    assert_eq!(error["code"], "not_readable", "{error}");
    let error = refused(&ADAPTER.replace("BASE", "./verses.txt"), data);
    assert_eq!(error["code"], "bad_base", "{error}");
    // A dataset of another vocabulary: both are named.
    let error = refused(recipe, other);
    assert_eq!(error["code"], "other_tokenizer", "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("280") && message.contains("300"),
        "{error}"
    );
    assert!(
        message.contains("other") && message.contains("verses"),
        "{error}"
    );
}

/// A folder that was exported is what the ledger says, also after a replay; with a changed byte it is not.
fn is_verified(home: &Home, out: &Path, weights: &str) {
    let folder = out.display().to_string();
    let verify = ["models", "verify", &folder, "--replay", "--json"];
    let checks = home.run(&verify).json();
    let all = checks["checks"].as_array().unwrap();
    assert!(
        all.iter().all(|check| check["outcome"] == "good"),
        "{checks}"
    );
    assert_eq!(checks["replayed"]["same"], true, "{checks}");
    let file = out.join(weights);
    let whole = fs::read(&file).unwrap();
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&file, changed).unwrap();
    let damaged = home.run(&["models", "verify", &folder, "--json"]);
    let damaged: Value = serde_json::from_str(&damaged.stdout).unwrap();
    let bad = damaged["checks"].as_array().unwrap().iter();
    let bad: Vec<_> = bad.filter(|check| check["outcome"] == "bad").collect();
    // By its hash, and by what the state gives.
    assert!(
        bad.iter().any(|check| check["what"] == weights),
        "{damaged}"
    );
    assert!(
        bad.iter().any(|check| check["what"] == "the weights"),
        "{damaged}"
    );
    fs::write(&file, whole).unwrap();
}

fn copy_of_base(home: &Home, hash: &str) -> PathBuf {
    home.path().join("training/bases").join(hash)
}

/// One device had the file, and has it once; another one fetched it. Both name it. Gives its hash.
fn each_has_the_base(laptop: &Home, phone: &Home, run: &str, gguf: &Path) -> String {
    let view = rounds(laptop, run, 2);
    let hash = view["base"]["file"].as_str().unwrap().to_owned();
    assert_eq!(view["base"]["name"], "ours", "{view}");
    assert_eq!(view["base"]["adapter"]["rank"], 4, "{view}");
    let targets = serde_json::json!(["q_proj", "v_proj", "down_proj"]);
    assert_eq!(view["base"]["adapter"]["targets"], targets);
    let parameters = view["parameters"].as_u64().unwrap();
    assert!(
        view["memory_bytes"].as_u64().unwrap() > 8 * parameters,
        "{view}"
    );
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    let kept = inode(copy_of_base(laptop, &hash));
    assert_eq!(kept, inode(laptop.path().join("models/ours.gguf")));
    let view = rounds(phone, run, 2);
    assert_eq!(view["base"]["name"], "verses", "{view}");
    let fetched = fs::read(copy_of_base(phone, &hash)).unwrap();
    assert!(fetched == fs::read(gguf).unwrap());
    hash
}

/// The adapter learned something, and its folder says over what.
fn an_adapter_comes_out(home: &Home, run: &str, hash: &str, before: f64, out: &Path) {
    let view = rounds(home, run, 2);
    let recorded = view["recorded"].as_array().unwrap();
    let both = |round: &Value| round["trainers"].as_array().unwrap().len() == 2;
    assert!(recorded.iter().all(both), "{view}");
    let trainer = recorded[1]["trainers"][0]["trainer"].as_str().unwrap();
    let replayed = home.run(&["run", "replay", run, "1", trainer, "--json"]);
    assert_eq!(replayed.json()["same"], true);

    let written = export(home, run, out, &[]);
    // All devices hold out the same text.
    let after = written["held_out_loss"].as_f64().unwrap();
    println!("held-out loss {before} before, {after} after");
    assert!(after < before - 0.02, "{before} {after}");
    assert_eq!(written["over"]["name"], "verses", "{written}");
    assert!(Path::new(written["gguf"].as_str().unwrap()).ends_with("adapter.gguf"));
    let json = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(out.join(name)).unwrap()).unwrap()
    };
    let config = json("adapter_config.json");
    assert_eq!(config["r"], 4, "{config}");
    assert_eq!(config["lora_alpha"], 8.0, "{config}");
    assert_eq!(json("hearth-model.json")["base"]["hash"], hash);
    is_verified(home, out, "adapter_model.safetensors");
}

/// A copy of the base that was damaged while its device was down is got again, and what comes out is the same.
fn a_damaged_base_is_got_again(home: &Home, node: Running, run: &str, hash: &str, out: &Path) {
    node.stop("TERM");
    let copy = copy_of_base(home, hash);
    let whole = fs::read(&copy).unwrap();
    let mut damaged = whole.clone();
    let place = damaged.len() / 2;
    damaged[place] ^= 1;
    fs::write(&copy, damaged).unwrap();
    let _node = up(home);
    until("the base again", || {
        (fs::read(&copy).ok()? == whole).then_some(())
    });
    let again = home.path().join("again");
    let folder = again.display().to_string();
    let export = ["run", "export", run, "--out", &folder, "--json"];
    until("the adapter again", || {
        serde_json::from_str::<Value>(&home.run(&export).stdout).ok()
    });
    let weights = |folder: &Path| fs::read(folder.join("adapter_model.safetensors")).unwrap();
    assert!(weights(&again) == weights(out));
}

#[test]
fn households_train_an_adapter_over_a_model_that_one_of_them_has() {
    let (tower, laptop, phone) = (fresh(true), fresh(false), fresh(false));
    let data = dataset(&tower);
    let _host = up(&tower);
    let _laptop = up_in_network_of(&tower, &laptop);
    let node = up_in_network_of(&tower, &phone);
    let (gguf, before) = base(&tower, &laptop, &data);
    let file = gguf.display().to_string();
    let import = ["models", "import", &file, "--name", "ours", "--json"];
    laptop.run(&import).json();

    // The tokenizer of a file, and that of a model by its name, are the same.
    let verses = "verses.txt";
    fs::copy(tower.path().join(verses), laptop.path().join(verses)).unwrap();
    let over = imported(&tower, "over", ["--tokenizer", &file]);
    let same = imported(&laptop, "over", ["--tokenizer", "ours"]);
    let tokenizers = [&over, &same].map(|data| fs::read(data.join("tokenizer.json")).unwrap());
    assert!(tokenizers[0] == tokenizers[1]);
    let other = imported(&tower, "other", ["--vocabulary", "280"]);
    let recipe = ADAPTER.replace("BASE", &file);
    wrong_files_are_refused(&tower, &recipe, &over, &other);

    let (run, ticket) = made_run(&tower, &recipe, &over);
    join_run(&laptop, &ticket);
    join_run(&phone, &ticket);
    let hash = each_has_the_base(&laptop, &phone, &run, &gguf);
    let out = phone.path().join("adapter");
    an_adapter_comes_out(&phone, &run, &hash, before, &out);

    let merged = laptop.path().join("merged");
    let written = export(&laptop, &run, &merged, &["--merged"]);
    is_verified(&laptop, &merged, "model.safetensors");
    let file = written["gguf"].as_str().unwrap();
    let import = ["models", "import", file, "--name", "both", "--json"];
    laptop.run(&import).json();
    a_damaged_base_is_got_again(&phone, node, &run, &hash, &out);
}
