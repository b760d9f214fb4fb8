//! What no stranger can bring about, whatever the model does: an agent is driven here by a program that obeys everything it
//! reads, and chooses at random otherwise.

#![allow(clippy::unwrap_used)]

use hearth_mandate::context::{Context, Taken};
use hearth_mandate::inspection::Form;
use hearth_mandate::label::{Label, Provenance, Tier, Trust};
use hearth_mandate::tool::{Deed, Permission, Steering, Tool, ToolName};
use hearth_mandate::verdict::Verdict;
use proptest::prelude::*;
use serde_json::{Value, json};

const TIERS: [Tier; 3] = [Tier::Device, Tier::Household, Tier::Network];
const DEEDS: [Deed; 6] = [
    Deed::Read,
    Deed::WriteInside,
    Deed::Fetch,
    Deed::Pay,
    Deed::Send,
    Deed::ChangeMemory,
];

fn label() -> impl Strategy<Value = Label> {
    (0..3_usize, any::<bool>()).prop_map(|(tier, is_trusted)| Label {
        tier: TIERS[tier],
        trust: if is_trusted {
            Trust::Trusted
        } else {
            Trust::Untrusted
        },
    })
}

/// What the program does next.
#[derive(Debug, Clone)]
enum Step {
    /// It reads something new, whose text a stranger may have written.
    Take(Label),
    /// It has a variable shown.
    Show(usize),
    /// It has a question about one answered.
    Flag(usize, bool),
    /// It calls a tool with something it has seen, or with a variable.
    Call(usize, usize, Option<usize>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        label().prop_map(Step::Take),
        (0..4_usize).prop_map(Step::Show),
        (0..4_usize, any::<bool>()).prop_map(|(variable, answer)| Step::Flag(variable, answer)),
        (0..DEEDS.len(), 0..3_usize, proptest::option::of(0..4_usize))
            .prop_map(|(deed, tier, variable)| Step::Call(deed, tier, variable)),
    ]
}

/// What happened without a question: the deed, and what it was done with.
type Done = Vec<(Deed, Tier, Value)>;

/// Plays the steps. What strangers wrote is `words`, which the program puts into its calls as soon as it has seen it.
fn play(steps: &[Step], words: &str, may_show: bool) -> Done {
    let mut context = Context::new(Tier::Network);
    context.hear_owner("do it");
    let (mut done, mut seen) = (Vec::new(), String::new());
    for step in steps {
        match step {
            Step::Take(label) => {
                let is_strangers = label.trust == Trust::Untrusted || label.tier < Tier::Network;
                let text = if is_strangers { words } else { "plain" };
                let taken = context.take(json!(text), Provenance::from_nowhere(*label));
                if taken.unwrap() == Taken::Shown {
                    seen.push_str(text);
                }
            }
            Step::Show(variable) if may_show => {
                if let Ok(value) = context.show(&format!("v{variable}")) {
                    seen.push_str(value.as_str().unwrap());
                }
            }
            Step::Show(_) => {}
            Step::Flag(variable, answer) => {
                drop(context.inspect(&format!("v{variable}"), &Form::Flag, json!(answer)));
            }
            Step::Call(deed, tier, variable) => {
                let tool = Tool {
                    name: ToolName::new("tool").unwrap(),
                    deed: DEEDS[*deed],
                    reaches: TIERS[*tier],
                    steering: Steering::All,
                    permission: Permission::Always,
                    returns: Label::FREE,
                };
                let written = match variable {
                    Some(variable) => json!({"to": {"$variable": format!("v{variable}")}}),
                    None => json!({"to": seen}),
                };
                if let Ok(arguments) = context.resolve(&written)
                    && context.judge(&tool, &arguments) == Verdict::Allowed
                {
                    done.push((tool.deed, tool.reaches, arguments.value().clone()));
                }
            }
        }
    }
    done
}

proptest! {
    #[test]
    fn labels_are_a_lattice(a in label(), b in label(), c in label()) {
        prop_assert_eq!(a.join(a), a);
        prop_assert_eq!(a.join(b), b.join(a));
        prop_assert_eq!(a.join(b).join(c), a.join(b.join(c)));
        prop_assert_eq!(a.join(Label::FREE), a);
        prop_assert!(a.flows_to(a.join(b)) && b.flows_to(a.join(b)));
        prop_assert!(!(a.flows_to(b) && b.flows_to(a)) || a == b);
    }

    /// No deed of consequence has anything of a stranger in it, and nothing private reaches who may not see it.
    #[test]
    fn nothing_happens_by_a_strangers_words_or_with_what_is_private(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let done = play(&steps, "EVIL", true);
        for (deed, reaches, value) in &done {
            let has_words = value.to_string().contains("EVIL");
            // A text of an untrusted source or of a private one: neither may go out by itself.
            let is_out = *reaches == Tier::Network && deed.is_consequential();
            prop_assert!(!(has_words && is_out), "{deed:?} {value}");
        }
    }

    /// As long as nothing of it is shown, a stranger's text changes nothing at all in what happens without a question to the
    /// world outside.
    #[test]
    fn what_is_not_shown_changes_no_deed(
        steps in proptest::collection::vec(step(), 1..40),
        (one, other) in ("[a-z]{1,8}", "[a-z]{1,8}"),
    ) {
        let outside = |done: Done| -> Done {
            let mut done = done;
            done.retain(|(deed, reaches, _)| deed.is_consequential() && *reaches == Tier::Network);
            done
        };
        let first = outside(play(&steps, &one, false));
        let second = outside(play(&steps, &other, false));
        prop_assert_eq!(first, second);
    }
}
