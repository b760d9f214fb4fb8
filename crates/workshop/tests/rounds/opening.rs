//! What does not fit together is refused before any work, with the numbers.

use hearth_protocol::content::ContentHash;
use hearth_protocol::run::manifest::{BaseForm, RunManifest, RunStart};
use hearth_workshop::{Base, Limits, OpenError, Workshop};

use crate::trial::*;

fn refused(library: &Library, manifest: &RunManifest) -> OpenError {
    Workshop::open(manifest, &library.folders, None, LIMITS).unwrap_err()
}

#[test]
fn more_memory_than_there_is_is_refused_with_numbers() {
    let library = library();
    let manifest = manifest(&library);
    let limits = Limits {
        memory_bytes: 100_000,
        threads: 1,
    };
    let memory = Workshop::memory_of(&manifest, &limits).unwrap();
    assert_eq!(memory.windows_together, 1);
    let error = Workshop::open(&manifest, &library.folders, None, limits).unwrap_err();
    let told = error.to_string();
    let needed = memory.total_bytes();
    let begin =
        format!("the run takes {needed} bytes of memory, and 100000 are given to it; it takes ");
    assert!(told.starts_with(&begin), "{told}");
    for part in ["gradients", "optimizer", "residuals", "activations"] {
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn datasets_that_do_not_do_are_refused() {
    let library = library();
    let good = manifest(&library);
    let mut missing = good.clone();
    missing.datasets[0].id = ContentHash([1; 32]);
    assert!(matches!(
        refused(&library, &missing),
        OpenError::NoDataset(_)
    ));
    let mut few = good.clone();
    few.model.vocabulary -= 1;
    assert!(matches!(
        refused(&library, &few),
        OpenError::Vocabulary { .. }
    ));
    let mut long = good.clone();
    long.round.steps = 2_000;
    let error = refused(&library, &long);
    assert!(matches!(
        error,
        OpenError::Windows {
            part: "training",
            wanted: 6_000,
            ..
        }
    ));
    let mut measured = good;
    measured.evaluation.windows = 5_000;
    let error = refused(&library, &measured);
    assert!(matches!(
        error,
        OpenError::Windows {
            part: "held-out",
            ..
        }
    ));
    let nowhere = [library.folders[0].join("shards")];
    let error = Workshop::open(&measured, &nowhere, None, LIMITS).unwrap_err();
    assert!(matches!(error, OpenError::Folder { .. }));
}

#[test]
fn a_base_that_is_not_the_runs_is_refused() {
    let library = library();
    let mut manifest = manifest(&library);
    let whole = open(&library, &manifest);
    let weights = whole.first_state().unwrap().trained().clone();
    let file = ContentHash([5; 32]);
    let base = |file, weights: &hearth_training::Weights| {
        let weights = weights.clone();
        Some(Base { file, weights })
    };
    let open =
        |manifest: &RunManifest, base| Workshop::open(manifest, &library.folders, base, LIMITS);
    let error = open(&manifest, base(file, &weights)).unwrap_err();
    assert!(matches!(error, OpenError::OtherBase));

    manifest.start = RunStart::Base {
        base: file,
        form: BaseForm::Gguf,
    };
    let error = open(&manifest, base(ContentHash([6; 32]), &weights)).unwrap_err();
    assert!(matches!(error, OpenError::OtherBase));
    let without = open(&manifest, None).unwrap();
    let error = without.first_state().unwrap_err();
    assert!(matches!(error, OpenError::NoBase(_)));
    let with = open(&manifest, base(file, &weights)).unwrap();
    let first = with.first_state().unwrap();
    assert_eq!(first.trained().values(), weights.values());

    manifest.model.layers = 1;
    let error = open(&manifest, base(file, &weights)).unwrap_err();
    assert!(matches!(error, OpenError::BaseShape));
}
