//! Which crate may depend on which, and who may name the libraries that reach the outside.
//!
//! The table is the house plan of ARCHITECTURE.md. Development dependencies count too: a test that
//! needs a forbidden room is a sign that the subject lives in the wrong one.

use std::path::Path;

use super::Violation;
use crate::workspace::{Metadata, Package};

/// Every crate, and the crates of this workspace that it may depend on.
const EDGES: &[(&str, &[&str])] = &[
    ("hearth-protocol", &[]),
    ("hearth-agent", &[]),
    ("hearth-aggregation", &[]),
    ("hearth-api", &[]),
    ("hearth-calls", &[]),
    ("hearth-causes", &[]),
    ("hearth-datasets", &[]),
    ("hearth-environment", &[]),
    ("hearth-mandate", &["hearth-protocol"]),
    (
        "hearth-chain",
        &[
            "hearth-protocol",
            "hearth-doors",
            "hearth-causes",
            "hearth-environment",
        ],
    ),
    ("hearth-doors", &["hearth-causes"]),
    ("hearth-models", &["hearth-calls", "hearth-causes"]),
    (
        "hearth-net",
        &["hearth-protocol", "hearth-causes", "hearth-environment"],
    ),
    (
        "hearth-payments",
        &[
            "hearth-protocol",
            "hearth-chain",
            "hearth-doors",
            "hearth-api",
            "hearth-causes",
            "hearth-environment",
        ],
    ),
    (
        "hearth-surface",
        &[
            "hearth-protocol",
            "hearth-calls",
            "hearth-chain",
            "hearth-environment",
            "hearth-doors",
            "hearth-payments",
            "hearth-api",
        ],
    ),
    (
        "hearth-node",
        &[
            "hearth-protocol",
            "hearth-calls",
            "hearth-models",
            "hearth-chain",
            "hearth-datasets",
            "hearth-doors",
            "hearth-net",
            "hearth-payments",
            "hearth-outcome",
            "hearth-surface",
            "hearth-workshop",
            "hearth-api",
            "hearth-causes",
            "hearth-environment",
        ],
    ),
    (
        "hearth-outcome",
        &["hearth-datasets", "hearth-models", "hearth-training"],
    ),
    ("hearth-sim", &["hearth-protocol"]),
    ("hearth-training", &[]),
    (
        "hearth-workshop",
        &[
            "hearth-aggregation",
            "hearth-datasets",
            "hearth-protocol",
            "hearth-training",
        ],
    ),
    (
        "hearth-cli",
        &[
            "hearth-node",
            "hearth-api",
            "hearth-causes",
            "hearth-environment",
        ],
    ),
    (
        "hearth-fuzz",
        &[
            "hearth-aggregation",
            "hearth-protocol",
            "hearth-calls",
            "hearth-datasets",
            "hearth-models",
            "hearth-chain",
            "hearth-net",
            "hearth-outcome",
            "hearth-payments",
            "hearth-surface",
            "hearth-node",
            "hearth-api",
        ],
    ),
    ("xtask", &[]),
];

/// Libraries that only some crates may name: the chain is reached through `chain`, the outside
/// through the crates that do I/O, and loose errors stay at the edges.
const RESERVED: &[(&str, &[&str])] = &[
    ("alloy-provider", &["hearth-chain"]),
    ("alloy-rpc-client", &["hearth-chain"]),
    ("alloy-transport", &["hearth-chain"]),
    ("alloy-transport-http", &["hearth-chain"]),
    ("anyhow", &["hearth-cli", "xtask"]),
    (
        "axum",
        &[
            "hearth-chain",
            "hearth-doors",
            "hearth-payments",
            "hearth-surface",
            "hearth-node",
            "hearth-cli",
        ],
    ),
    ("clap", &["hearth-cli", "xtask"]),
    ("getrandom", &["hearth-environment"]),
    ("iroh", &["hearth-net"]),
    ("iroh-blobs", &["hearth-net"]),
    ("iroh-gossip", &["hearth-net"]),
    ("iroh-mainline-address-lookup", &["hearth-net"]),
    ("iroh-mdns-address-lookup", &["hearth-net"]),
    ("iroh-relay", &["hearth-net"]),
    ("llama-cpp-2", &["hearth-models"]),
    ("llguidance", &["hearth-models"]),
    ("redb", &["hearth-chain", "hearth-payments", "hearth-node"]),
    (
        "reqwest",
        &[
            "hearth-chain",
            "hearth-models",
            "hearth-payments",
            "hearth-node",
            "hearth-cli",
        ],
    ),
    ("revm", &["hearth-chain"]),
    (
        "tokio",
        &[
            "hearth-chain",
            "hearth-doors",
            "hearth-environment",
            "hearth-models",
            "hearth-net",
            "hearth-payments",
            "hearth-surface",
            "hearth-node",
            "hearth-cli",
        ],
    ),
    ("toktrie", &["hearth-models"]),
];

/// Checks every edge of the workspace against the two tables.
pub(super) fn check(metadata: &Metadata, root: &Path) -> Vec<Violation> {
    let members: Vec<&str> = metadata
        .packages
        .iter()
        .map(|package| &*package.name)
        .collect();
    let mut violations = Vec::new();
    for package in &metadata.packages {
        let manifest = package
            .manifest_path
            .strip_prefix(root)
            .unwrap_or(&package.manifest_path)
            .to_path_buf();
        let broken = broken_edges(package, &members);
        violations.extend(
            broken
                .into_iter()
                .map(|message| Violation::new(&manifest, 0, message)),
        );
    }
    violations
}

fn broken_edges(package: &Package, members: &[&str]) -> Vec<String> {
    let name = &*package.name;
    let Some((_, allowed)) = EDGES.iter().find(|(from, _)| *from == name) else {
        return vec![format!(
            "the crate {name} has no row in the table of edges: decide what it may depend on, and \
             say so in ARCHITECTURE.md and in xtask/src/tidy/edges.rs"
        )];
    };
    let mut broken = Vec::new();
    for dependency in &package.dependencies {
        let target = &*dependency.name;
        if members.contains(&target) && target != name && !allowed.contains(&target) {
            broken.push(format!(
                "{name} may not depend on {target}: the plan has no such edge"
            ));
        }
        // In tests anyone may use any library.
        let reserved = RESERVED.iter().find(|(library, _)| *library == target);
        if let Some((_, users)) = reserved
            && dependency.kind.as_deref() != Some("dev")
            && !users.contains(&name)
        {
            broken.push(format!(
                "{name} may not name {target}: only {} may",
                users.join(", ")
            ));
        }
    }
    broken
}

/// The page that says of each direct dependency what it is for.
pub(super) const DECISION: &str = "docs/adr/0002-dependencies.md";

/// The dependencies of the workspace's manifest that the decision does not name.
pub(super) fn unargued(manifest: &str, decision: &str) -> Vec<Violation> {
    let named: Vec<&str> = decision
        .split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'))
        .collect();
    let mut section = "";
    let mut violations = Vec::new();
    for (index, line) in manifest.lines().map(str::trim).enumerate() {
        if line.starts_with('[') {
            section = line;
        }
        let Some((name, _)) = line.split_once('=') else {
            continue;
        };
        let name = name.trim();
        let ours = EDGES.iter().any(|(member, _)| *member == name);
        let dependency = section == "[workspace.dependencies]" && !line.starts_with('#');
        if dependency && !ours && !named.contains(&name) {
            let message = format!("{DECISION} has no line that says what {name} is for");
            violations.push(Violation::new(Path::new("Cargo.toml"), index + 1, message));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        Package {
            name: name.to_owned(),
            manifest_path: "/checkout/crates/x/Cargo.toml".into(),
            dependencies: dependencies
                .iter()
                .map(|(name, kind)| Dependency {
                    name: (*name).to_owned(),
                    kind: kind.map(str::to_owned),
                })
                .collect(),
            targets: Vec::new(),
        }
    }

    fn messages(packages: Vec<Package>) -> Vec<String> {
        check(&Metadata { packages }, Path::new("/checkout"))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn the_planned_edges_are_allowed() {
        let chain = package("hearth-chain", &[("hearth-protocol", None), ("revm", None)]);
        assert!(messages(vec![chain, package("hearth-protocol", &[("serde", None)])]).is_empty());
    }

    /// Everything that a crate may be built from, itself included.
    fn reach(name: &str) -> Vec<&'static str> {
        let row = EDGES.iter().find(|(from, _)| *from == name);
        let (from, targets) = row.expect("every crate has a row");
        let further = targets.iter().flat_map(|target| reach(target));
        further.chain([*from]).collect()
    }

    #[test]
    fn what_others_may_want_to_use_needs_neither_models_nor_the_network() {
        for name in ["hearth-payments", "hearth-surface"] {
            let reach = reach(name);
            assert!(reach.contains(&"hearth-protocol"), "{name}");
            for heavy in ["hearth-models", "hearth-net", "hearth-node"] {
                assert!(!reach.contains(&heavy), "{name} can reach {heavy}");
            }
        }
    }

    #[test]
    fn an_edge_against_the_plan_is_named() {
        let protocol = package("hearth-protocol", &[("hearth-chain", None)]);
        let found = messages(vec![protocol, package("hearth-chain", &[])]);
        assert_eq!(
            found,
            [
                "crates/x/Cargo.toml: hearth-protocol may not depend on hearth-chain: \
              the plan has no such edge"
            ]
        );
    }

    #[test]
    fn tests_may_not_cross_the_plan_either() {
        let api = package("hearth-api", &[("hearth-node", Some("dev"))]);
        assert_eq!(messages(vec![api, package("hearth-node", &[])]).len(), 1);
    }

    #[test]
    fn a_crate_nobody_planned_is_refused() {
        let found = messages(vec![package("hearth-attic", &[])]);
        assert!(found[0].contains("hearth-attic has no row"), "{found:?}");
    }

    #[test]
    fn a_reserved_library_is_refused_outside_its_room_except_in_tests() {
        let found = messages(vec![package("hearth-protocol", &[("tokio", None)])]);
        assert!(
            found[0].contains("hearth-protocol may not name tokio"),
            "{found:?}"
        );
        assert!(messages(vec![package("hearth-protocol", &[("tokio", Some("dev"))])]).is_empty());
    }

    #[test]
    fn a_dependency_needs_a_line_that_says_what_for() {
        let manifest = "[workspace.dependencies]\n# Ours = first\nhearth-chain = { path = \"x\" }\n\
                        revm = \"1\"\nrevm-extra = { version = \"1\" }\n[profile.dev]\nopt-level = 2\n";
        let found = unargued(manifest, "| revm | the EVM |");
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert!(shown[0].starts_with("Cargo.toml:5: "), "{shown:?}");
        assert!(
            shown[0].ends_with("says what revm-extra is for"),
            "{shown:?}"
        );
        assert!(unargued(manifest, "revm, revm-extra: the EVM").is_empty());
    }
}
