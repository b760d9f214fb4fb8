//! Trainers that do not do what they say: each lie differs from a replay, or is refused before one.

use hearth_aggregation::{Contribution, encode};
use hearth_protocol::content::ContentHash;
use hearth_workshop::{
    AggregateError, Checkpoint, Difference, LocalState, OrderError, TrainError, Workshop,
};

use crate::trial::*;

/// A run after its first round, in which trainers 1 and 2 took part.
struct Village {
    _library: Library,
    workshop: Workshop,
    first: Checkpoint,
    state: Checkpoint,
    kept: Done,
    others: Done,
}

fn village() -> Village {
    let library = library();
    let workshop = open(&library, &manifest(&library));
    let first = workshop.first_state().unwrap();
    let kept = train(&workshop, order(1, 0, &first, None));
    let others = train(&workshop, order(2, 0, &first, None));
    let both = [
        admitted(1, 8, &kept.work.contribution),
        admitted(2, 8, &others.work.contribution),
    ];
    let state = aggregate(&workshop, &first, 0, &both);
    Village {
        _library: library,
        workshop,
        first,
        state,
        kept,
        others,
    }
}

impl Village {
    fn local(&self) -> Option<LocalState> {
        local(&self.workshop, &self.kept)
    }

    /// What a replay of trainer 1's second round finds of what it claims.
    fn found(&self, done: &Done) -> Vec<Difference> {
        let order = order(1, 1, &self.state, self.local());
        replay(&self.workshop, order, done).differences
    }

    /// Claims these values as a contribution of an honest round.
    fn claimed(&self, honest: &Done, change: impl Fn(f32) -> f32) -> Done {
        let sections = self.workshop.sections();
        let read = Contribution::read(sections, &honest.work.contribution).unwrap();
        let values = read.sections().map(|section| section.values());
        let values: Vec<Vec<f32>> = values
            .map(|values| values.into_iter().map(&change).collect())
            .collect();
        let slices: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
        let contribution = encode(sections, &slices).unwrap();
        let mut work = honest.work.clone();
        work.claim.contribution = ContentHash::of(&contribution);
        work.contribution = contribution;
        Done {
            work,
            local: honest.local.clone(),
        }
    }
}

#[test]
fn the_truth_differs_in_nothing_and_other_work_in_everything() {
    let village = village();
    let workshop = &village.workshop;
    let honest = train(workshop, order(1, 1, &village.state, village.local()));
    assert_eq!(village.found(&honest), []);
    let everything = [
        Difference::Contribution,
        Difference::LocalState,
        Difference::FirstLoss,
        Difference::LastLoss,
    ];

    let mut other_windows = order(1, 1, &village.state, village.local());
    other_windows.beacon = [99; 32];
    assert_eq!(village.found(&train(workshop, other_windows)), everything);

    let mut stale = order(1, 1, &village.first, village.local());
    stale.round = 1;
    assert_eq!(village.found(&train(workshop, stale)), everything);

    // The first step is what it should be; those that were not taken are missed.
    let mut lazy = order(1, 1, &village.state, village.local());
    lazy.steps = 3;
    assert_eq!(
        village.found(&train(workshop, lazy)),
        [
            Difference::Contribution,
            Difference::LocalState,
            Difference::LastLoss
        ]
    );

    // Moments that were forgotten change what is learned, but not the loss of the first step.
    let forgetful = train(workshop, order(1, 1, &village.state, None));
    assert!(
        village
            .found(&forgetful)
            .contains(&Difference::Contribution)
    );
}

#[test]
fn an_update_that_was_scaled_or_turned_is_canonical_and_still_another_one() {
    let village = village();
    let honest = train(
        &village.workshop,
        order(1, 1, &village.state, village.local()),
    );
    let looks = |done: &Done| village.workshop.check(&done.work.contribution).unwrap();
    let scaled = village.claimed(&honest, |value| 8.0 * value);
    assert_eq!(village.found(&scaled), [Difference::Contribution]);
    assert!(looks(&scaled).norm > 7.0 * looks(&honest).norm);
    let turned = village.claimed(&honest, |value| -value);
    assert_eq!(village.found(&turned), [Difference::Contribution]);
    let nothing = village.claimed(&honest, |_| 0.0);
    assert_eq!(looks(&nothing).norm, 0.0);
    assert_eq!(village.found(&nothing), [Difference::Contribution]);
}

#[test]
fn a_local_state_that_was_made_up_is_found() {
    let village = village();
    let mut liar = train(
        &village.workshop,
        order(1, 1, &village.state, village.local()),
    );
    liar.work.claim.local = Some(ContentHash([1; 32]));
    assert_eq!(village.found(&liar), [Difference::LocalState]);
    liar.work.claim.local = None;
    assert_eq!(village.found(&liar), [Difference::LocalState]);
}

#[test]
fn a_loss_that_was_made_up_is_found() {
    let village = village();
    let mut liar = train(
        &village.workshop,
        order(1, 1, &village.state, village.local()),
    );
    liar.work.claim.first_loss = f32::NAN;
    liar.work.claim.last_loss /= 2.0;
    assert_eq!(
        village.found(&liar),
        [Difference::FirstLoss, Difference::LastLoss]
    );
}

#[test]
fn a_copy_shares_all_and_independent_work_does_not() {
    let village = village();
    let (own, others) = (&village.kept.work, &village.others.work);
    let workshop = &village.workshop;
    let copied = workshop
        .overlap(&others.contribution, &others.contribution)
        .unwrap();
    assert_eq!(copied.equal_share(), 1.0);
    let independent = workshop
        .overlap(&own.contribution, &others.contribution)
        .unwrap();
    assert!(independent.equal_share() < 0.8, "{independent:?}");
    let order = order(1, 0, &village.first, None);
    let verdict = replay(workshop, order, &village.others);
    assert!(verdict.differences.contains(&Difference::Contribution));
    let refused = workshop.overlap(&own.contribution, b"none");
    assert!(refused.is_err());
}

#[test]
fn orders_that_no_run_has_are_refused_before_any_work() {
    let village = village();
    let workshop = &village.workshop;
    let refused = |order| {
        let error = workshop.train(order, &mut Vec::new(), &mut go_on);
        match error.unwrap_err() {
            TrainError::Order(error) => error,
            other => panic!("{other:?}"),
        }
    };
    let mut back = order(1, 0, &village.state, None);
    assert!(matches!(refused(back), OrderError::Round { .. }));
    back = order(1, 1_000, &village.state, None);
    assert!(matches!(refused(back), OrderError::Round { .. }));
    let mut short = order(1, 1, &village.state, None);
    short.steps = 2;
    assert!(matches!(refused(short), OrderError::Steps { .. }));
    let mut long = order(1, 1, &village.state, None);
    long.steps = 9;
    assert!(matches!(refused(long), OrderError::Steps { .. }));
    let foreign = order(2, 1, &village.state, village.local());
    assert!(matches!(refused(foreign), OrderError::Trainer(_)));
    let early = order(1, 0, &village.first, village.local());
    assert!(matches!(refused(early), OrderError::LocalRound { .. }));
}

#[test]
fn what_is_no_contribution_is_neither_looked_at_nor_added() {
    let village = village();
    let workshop = &village.workshop;
    let good = &village.kept.work.contribution;
    let mut cut = good.clone();
    cut.pop();
    let mut long = good.clone();
    long.push(0);
    let mut other = good.clone();
    other[0] ^= 1;
    let mut odd = good.clone();
    let last = odd.len() - 30;
    odd[last..].fill(0xff);
    for bad in [&cut, &long, &other, &odd] {
        assert!(workshop.check(bad).is_err());
        let both = [admitted(1, 8, good), admitted(2, 8, bad)];
        let refused = workshop.aggregate(village.first.clone(), 0, &both, &mut go_on);
        assert!(matches!(refused, Err(AggregateError::Contribution { .. })));
    }
    let refused = |round: u32, admitted: &[hearth_workshop::Admitted<'_>]| {
        let state = village.state.clone();
        workshop
            .aggregate(state, round, admitted, &mut go_on)
            .unwrap_err()
    };
    let one = admitted(1, 8, good);
    assert!(matches!(refused(1, &[]), AggregateError::Members { .. }));
    assert!(matches!(
        refused(1, &[one; 5]),
        AggregateError::Members { .. }
    ));
    assert!(matches!(refused(1, &[one; 2]), AggregateError::Cohort(_)));
    assert!(matches!(refused(0, &[one]), AggregateError::Round { .. }));
    let lazy = admitted(2, 2, good);
    assert!(matches!(
        refused(1, &[one, lazy]),
        AggregateError::Steps { .. }
    ));
    let busy = admitted(2, 9, good);
    assert!(matches!(
        refused(1, &[one, busy]),
        AggregateError::Cohort(_)
    ));
}
