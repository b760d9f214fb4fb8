use alloy_primitives::{Address, B256};
use proptest::prelude::*;

use super::*;
use crate::content::ContentHash;
use crate::run::book::{Audit, BookForm, Member};
use crate::run::message::{LossBits, Work};

const EPOCH_S: u64 = 3_600;

fn rules(audit_per_mille: u32, newcomer_rounds: u32, rounds: u64) -> RunRules {
    RunRules {
        run: B256::repeat_byte(7),
        quorum: 1,
        trainers_max: 16,
        steps: 100,
        steps_min: 1,
        grace_ms: 0,
        attempt_ms: 1_000,
        carry: false,
        audit_per_mille,
        newcomer_rounds,
        rounds,
    }
}

fn trainer(number: u8) -> DeviceId {
    DeviceId([number; 32])
}

fn account(number: u8) -> Address {
    Address::repeat_byte(number)
}

/// Who earns by replays.
const AUDITOR: u8 = 200;

#[derive(Debug, Clone)]
struct Round {
    epoch: u64,
    members: Vec<(u8, u32)>,
    audits: Vec<(u64, u8, AuditOutcome)>,
}

fn run(rules: RunRules, rounds: &[Round]) -> PaidRun {
    let mut history = History::new(rules);
    let mut paid = Vec::new();
    for (index, round) in rounds.iter().enumerate() {
        let members = round.members.iter().map(|(number, steps)| Member {
            account: account(*number),
            trainer: trainer(*number),
            work: Work {
                contribution: ContentHash([*number; 32]),
                first_loss: LossBits::of(2.0),
                last_loss: LossBits::of(1.0),
                local_end: None,
                local_start: None,
                log: ContentHash::default(),
                steps: *steps,
            },
        });
        let audits = round.audits.iter().map(|(index, number, outcome)| Audit {
            auditors: vec![account(AUDITOR)],
            index: *index,
            outcome: *outcome,
            trainer: trainer(*number),
        });
        let book = RoundBook {
            audits: audits.collect(),
            beacon: B256::ZERO,
            format: BookForm::V1,
            index: index as u64,
            members: members.collect(),
            parent: B256::ZERO,
            previous: history.last_book(),
            run: rules.run,
        };
        let beacon = B256::repeat_byte(index as u8);
        history.apply(&book, beacon).unwrap();
        paid.push(PaidRound {
            epoch: round.epoch,
            beacon,
            book,
        });
    }
    PaidRun {
        rules,
        step_cost: 10,
        rounds: paid,
    }
}

fn plain(epoch: u64, members: &[(u8, u32)]) -> Round {
    Round {
        epoch,
        members: members.to_vec(),
        audits: Vec::new(),
    }
}

fn of(credits: &[Credit], number: u8, index: u64) -> Credit {
    let mut found = credits.iter().filter(|credit| {
        credit.account == account(number) && credit.index == index && !credit.is_replay
    });
    *found.next().unwrap()
}

fn pot() -> u128 {
    emission::ember_cap(0, EPOCH_S).units() * 9 / 10
}

#[test]
fn an_epoch_is_divided_by_work_and_vests_round_by_round() {
    // A quarter is replayed, so that pay vests over four rounds; no beacon here draws anyone of the first round.
    let rules = rules(250, 0, 10);
    let mut rounds = vec![plain(0, &[(1, 30), (2, 10)])];
    for _ in 0..2 {
        rounds.push(plain(1, &[]));
    }
    let run = run(rules, &rounds);
    let drawn: Vec<u8> = {
        let mut history = History::new(rules);
        history
            .apply(&run.rounds[0].book, run.rounds[0].beacon)
            .unwrap();
        history.open_audits().keys().map(|key| key.1.0[0]).collect()
    };
    let credits = credits(&[run], 1, EPOCH_S).unwrap();
    for (number, share) in [(1, 3), (2, 1)] {
        let credit = of(&credits, number, 0);
        assert_eq!(credit.whole.units(), pot() * share / 4);
        if drawn.contains(&number) {
            assert_eq!(
                (credit.vested, credit.state),
                (Amount::ZERO, PayState::Audited)
            );
        } else {
            assert_eq!(credit.state, PayState::Vesting { rounds_left: 2 });
            assert!(credit.vested.units().abs_diff(credit.whole.units() / 2) <= 1);
        }
    }
    assert!(
        drawn.len() < 2,
        "one of the two has to be left out of the draw"
    );
}

#[test]
fn work_that_is_drawn_pays_after_its_replay_and_false_work_never() {
    // All work is replayed.
    let rules = rules(1_000, 0, 10);
    let decided = |outcome| Round {
        epoch: 0,
        members: vec![(1, 10)],
        audits: vec![(0, 1, AuditOutcome::Same), (0, 2, outcome)],
    };
    for outcome in [AuditOutcome::Different, AuditOutcome::Unavailable] {
        let first = plain(0, &[(1, 10), (2, 10)]);
        let waiting = run(rules, std::slice::from_ref(&first));
        let early = credits(&[waiting], 0, EPOCH_S).unwrap();
        assert!(early.iter().all(|credit| credit.vested == Amount::ZERO));
        assert!(early.iter().all(|credit| credit.state == PayState::Audited));

        let both = run(rules, &[first, decided(outcome)]);
        let late = credits(&[both], 0, EPOCH_S).unwrap();
        let (honest, other) = (of(&late, 1, 0), of(&late, 2, 0));
        assert_eq!(
            (honest.state, honest.vested),
            (PayState::Vested, honest.whole)
        );
        assert_eq!(other.state, PayState::Refused(outcome));
        assert_eq!(other.vested, Amount::ZERO);
        // What one is not paid is not given to the other.
        assert_eq!(honest.whole.units(), pot() / 3);
        let replays: Vec<_> = late.iter().filter(|credit| credit.is_replay).collect();
        let paid = usize::from(outcome == AuditOutcome::Different) + 1;
        assert_eq!(replays.len(), paid);
        let sum: u128 = replays.iter().map(|credit| credit.vested.units()).sum();
        let whole = emission::ember_cap(0, EPOCH_S).units() - pot();
        assert!(whole - sum < 2, "{sum} of {whole}");
    }
}

#[test]
fn a_cheat_forfeits_what_has_not_vested_of_its_other_rounds() {
    let rules = rules(250, 0, 50);
    // The beacons draw some of them. The first drawn one is found to be false in the round after the last.
    let worked = 15;
    let mut rounds = vec![plain(0, &[(1, 10)]); worked];
    let probe = run(rules, &rounds);
    let mut history = History::new(rules);
    for round in &probe.rounds {
        history.apply(&round.book, round.beacon).unwrap();
    }
    let (drawn, _) = *history.open_audits().keys().next().unwrap();
    rounds.push(Round {
        epoch: 0,
        members: Vec::new(),
        audits: vec![(drawn, 1, AuditOutcome::Different)],
    });
    let told = rounds.len() as u64 - 1;
    rounds.extend(vec![plain(1, &[]); 12]);
    let run = run(rules, &rounds);
    let credits = credits(&[run], 2, EPOCH_S).unwrap();
    for index in 0..worked as u64 {
        let credit = of(&credits, 1, index);
        if index == drawn {
            assert_eq!(credit.state, PayState::Refused(AuditOutcome::Different));
            assert_eq!(credit.vested, Amount::ZERO);
        } else {
            assert_eq!(credit.state, PayState::Forfeited);
            let followed = u128::from((told - index - 1).min(4));
            let expected = credit.whole.units() * followed / 4;
            assert!(credit.vested.units().abs_diff(expected) <= 1 + (expected >> 30));
        }
    }
}

#[test]
fn a_run_that_has_all_its_rounds_pays_what_is_left_after_its_last_epoch() {
    let rules = rules(10, 0, 2);
    let run = run(rules, &[plain(0, &[(1, 5)]), plain(0, &[(1, 5)])]);
    let open = {
        let mut history = History::new(rules);
        for round in &run.rounds {
            history.apply(&round.book, round.beacon).unwrap();
        }
        history.open_audits().len()
    };
    assert_eq!(open, 0, "these beacons draw nobody");
    let during = earned(&credits(std::slice::from_ref(&run), 0, EPOCH_S).unwrap());
    let after = earned(&credits(&[run], 1, EPOCH_S).unwrap());
    assert!(during[&account(1)].units() < pot() / 50);
    assert!(pot() - after[&account(1)].units() < 3);
}

#[test]
fn the_last_rounds_are_paid_by_books_of_audits_and_a_cheat_in_them_forfeits() {
    // All work is replayed, and the run has two rounds.
    let rules = rules(1_000, 0, 2);
    let work = [(1, 10), (2, 10)];
    let found = |round, number, outcome| Round {
        epoch: 1,
        members: Vec::new(),
        audits: vec![(round, number, outcome)],
    };
    let mut rounds = vec![plain(0, &work), plain(0, &work)];
    let state_of = |rounds: &[Round], number, index| {
        let credits = credits(&[run(rules, rounds)], 2, EPOCH_S).unwrap();
        let credit = of(&credits, number, index);
        (credit.state, credit.vested == credit.whole, credit.vested)
    };
    assert_eq!(state_of(&rounds, 1, 1).0, PayState::Audited);
    for (index, number) in [(0, 1), (0, 2), (1, 1)] {
        rounds.push(found(index, number, AuditOutcome::Same));
    }
    let (waiting, paid) = (state_of(&rounds, 2, 1), state_of(&rounds, 1, 1));
    assert_eq!(waiting.0, PayState::Audited);
    assert_eq!((paid.0, paid.1), (PayState::Vested, true));
    rounds.push(found(1, 2, AuditOutcome::Different));
    let (honest, cheat) = (state_of(&rounds, 1, 1), state_of(&rounds, 2, 1));
    assert_eq!((honest.0, honest.1), (PayState::Vested, true));
    assert_eq!(cheat.0, PayState::Refused(AuditOutcome::Different));
    assert_eq!(cheat.2, Amount::ZERO);
}

#[test]
fn books_of_audits_vest_nothing_and_a_conviction_by_one_leaves_what_rounds_have_vested() {
    // Pay vests over ten rounds; no beacon here draws anyone but in the last round.
    let mut rules = rules(100, 0, 3);
    let rounds = vec![plain(0, &[(1, 10)]); 3];
    let open = |rules: RunRules| {
        let paid = run(rules, &rounds);
        let mut history = History::new(rules);
        for round in &paid.rounds {
            history.apply(&round.book, round.beacon).unwrap();
        }
        history.open_audits().keys().copied().collect::<Vec<_>>()
    };
    let mut rates = (100..900).step_by(50);
    let drawn = rates.find_map(|rate| {
        rules.audit_per_mille = rate;
        let drawn = open(rules);
        (drawn.len() == 1).then(|| drawn[0].0)
    });
    let drawn = drawn.expect("some rate draws one of three");
    let before = credits(&[run(rules, &rounds)], 0, EPOCH_S).unwrap();
    let mut ended = rounds.clone();
    ended.push(Round {
        epoch: 0,
        members: Vec::new(),
        audits: vec![(drawn, 1, AuditOutcome::Different)],
    });
    let after = credits(&[run(rules, &ended)], 9, EPOCH_S).unwrap();
    for index in (0..3).filter(|index| *index != drawn) {
        let (had, has) = (of(&before, 1, index), of(&after, 1, index));
        assert_eq!(has.state, PayState::Forfeited);
        assert_eq!(has.vested, had.vested);
    }
}

#[test]
fn after_the_last_round_a_book_has_audits_alone_and_only_open_ones() {
    let rules = rules(1_000, 0, 1);
    let first = plain(0, &[(1, 10), (2, 10)]);
    let one = Round {
        epoch: 0,
        members: Vec::new(),
        audits: vec![(0, 1, AuditOutcome::Same)],
    };
    let ended = run(rules, &[first, one]);
    let mut history = History::new(rules);
    history
        .apply(&ended.rounds[0].book, ended.rounds[0].beacon)
        .unwrap();
    let good = ended.rounds[1].book.clone();
    let mut with_members = good.clone();
    with_members.members = ended.rounds[0].book.members[1..].to_vec();
    let mut without_audits = good.clone();
    without_audits.audits.clear();
    for bad in [&with_members, &without_audits] {
        assert_eq!(history.check(bad), Err(HistoryError::Over));
    }
    history.apply(&good, B256::ZERO).unwrap();
    let again = RoundBook {
        index: 2,
        previous: history.last_book(),
        ..good
    };
    let refused = history.check(&again).unwrap_err();
    assert!(matches!(refused, HistoryError::Audit { index: 0, .. }));
    assert_eq!(history.open_audits().len(), 1);
}

fn arbitrary_round() -> impl Strategy<Value = (u64, Vec<(u8, u32)>)> {
    let members = prop::collection::btree_map(1_u8..6, 1_u32..100, 0..5);
    // Now and then a run rests for so long that it is settled.
    let later = prop_oneof![9 => 0_u64..3, 1 => 160_u64..180];
    (
        later,
        members.prop_map(|members| members.into_iter().collect()),
    )
}

proptest! {
    #[test]
    fn trees_only_grow_and_stay_within_the_emission(
        steps in prop::collection::vec(arbitrary_round(), 1..20),
        per_mille in 10_u32..1_000,
        outcomes in prop::collection::vec(0_u8..4, 20),
        skipped in prop::collection::vec(any::<bool>(), 64),
        all_rounds in 5_u64..30,
    ) {
        let rules = rules(per_mille, 1, all_rounds);
        let mut history = History::new(rules);
        let (mut epoch, mut rounds): (u64, Vec<Round>) = (0, Vec::new());
        for ((later, members), outcome) in steps.into_iter().zip(outcomes) {
            epoch += later;
            let members = members.into_iter();
            let members = members.filter(|(n, _)| !history.standing(trainer(*n)).is_excluded);
            let audits = history.open_audits().keys().take(2).map(|(index, device)| {
                let outcome = match outcome {
                    0 => AuditOutcome::Different,
                    1 => AuditOutcome::Unavailable,
                    _ => AuditOutcome::Same,
                };
                (*index, device.0[0], outcome)
            });
            let audits: Vec<_> = audits.collect();
            let convicted = |n: u8| {
                audits.iter().any(|(_, t, o)| *t == n && *o == AuditOutcome::Different)
            };
            let mut members: Vec<_> = members.filter(|(n, _)| !convicted(*n)).collect();
            if !history.has_rounds_left() {
                if audits.is_empty() {
                    break;
                }
                members.clear();
            }
            rounds.push(Round { epoch, members, audits });
            let so_far = run(rules, &rounds);
            let last = so_far.rounds.last().unwrap();
            history.apply(&last.book, last.beacon).unwrap();
        }
        let run = [run(rules, &rounds)];
        let (mut base, mut voice): (Option<(u64, Earned)>, Earned) = (None, Earned::new());
        for through in 0..epoch + 200 {
            if skipped[usize::try_from(through).unwrap() % 64] {
                continue;
            }
            let earned = earned(&credits(&run, through, EPOCH_S).unwrap());
            let before = base.as_ref().map(|(epoch, tree)| (*epoch, tree));
            let tree = ember_tree(&earned, before, through, EPOCH_S);
            let both = base.as_ref().map(|(_, tree)| (tree, &voice));
            let votes = voice_tree(&tree, both, through, EPOCH_S);
            let sum = |tree: &Earned| tree.values().map(|sum| sum.units()).sum::<u128>();
            let (had, at) = base.as_ref().map_or((0, None), |(at, tree)| (sum(tree), Some(*at)));
            let epochs = at.map_or(through + 1, |at| through - at).min(CARRIED_EPOCHS);
            let cap = emission::ember_cap(through, EPOCH_S).units() * u128::from(epochs);
            prop_assert!(sum(&tree) - had <= cap);
            let voice_cap = emission::voice_cap(through, EPOCH_S) * U256::from(epochs);
            prop_assert!(U256::from(sum(&votes) - sum(&voice)) <= voice_cap);
            if let Some((_, old)) = &base {
                prop_assert!(old.iter().all(|(who, had)| tree[who] >= *had));
            }
            prop_assert!(tree.iter().all(|(who, sum)| earned.get(who).is_some_and(|e| e >= sum)));
            (base, voice) = (Some((through, tree)), votes);
        }
    }
}
