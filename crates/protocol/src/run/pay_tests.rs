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
        funding: None,
    }
}

fn plain(epoch: u64, members: &[(u8, u32)]) -> Round {
    Round {
        epoch,
        members: members.to_vec(),
        audits: Vec::new(),
    }
}

/// So many rounds of one trainer, all of whose work is replayed: each book says that the work before was the same, and the
/// last one that it was not.
fn caught(rules: RunRules, worked: u64, last: AuditOutcome) -> Vec<Round> {
    let mut rounds = Vec::new();
    for index in 0..worked {
        let before = index.checked_sub(1);
        let audits = before.map(|before| (before, 1, AuditOutcome::Same));
        rounds.push(Round {
            audits: audits.into_iter().collect(),
            ..plain(0, &[(1, 10)])
        });
    }
    let is_convicted = last == AuditOutcome::Different;
    let goes_on = !is_convicted && worked < rules.rounds;
    rounds.push(Round {
        audits: vec![(worked - 1, 1, last)],
        ..plain(0, if goes_on { &[(1, 10)] } else { &[] })
    });
    rounds
}

/// Checks that of a forfeited contribution so many of the parts were paid that it vests in.
fn is_forfeited_after(credit: &Credit, followed: u64, rules: RunRules) {
    let over = rules.vesting_rounds();
    let expected = credit.whole.units() * u128::from(followed.min(over)) / u128::from(over);
    assert_eq!(credit.state, PayState::Forfeited);
    assert!(credit.vested.units().abs_diff(expected) <= 1 + (credit.whole.units() >> 31));
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
    // A quarter is replayed, so that pay vests over thirteen rounds. A trainer with nothing at stake is replayed in any case.
    let rules = rules(250, 0, 30);
    let mut rounds = vec![plain(0, &[(1, 30), (2, 10)])];
    rounds.push(Round {
        audits: vec![(0, 1, AuditOutcome::Same)],
        ..plain(1, &[])
    });
    rounds.push(plain(1, &[]));
    let run = run(rules, &rounds);
    let credits = credits(&[run], 1, EPOCH_S).unwrap();
    let (passed, open) = (of(&credits, 1, 0), of(&credits, 2, 0));
    assert_eq!(passed.whole.units(), pot() * 3 / 4);
    assert_eq!(passed.state, PayState::Vesting { rounds_left: 11 });
    let expected = passed.whole.units() * 2 / 13;
    assert!(passed.vested.units().abs_diff(expected) <= 1 + (expected >> 30));
    assert_eq!(open.whole.units(), pot() / 4);
    assert_eq!((open.vested, open.state), (Amount::ZERO, PayState::Audited));
}

#[test]
fn who_has_more_at_stake_is_replayed_less_and_twice_what_it_gains_is_at_stake() {
    for per_mille in [10, 50, 100, 250, 300, 1_000] {
        let rules = rules(per_mille, 0, 1_000);
        let mut earlier = Vec::new();
        let mut before = 1_000;
        for index in 0..2 * rules.vesting_rounds() {
            let at_stake = rules.at_stake(index, &earlier);
            let rate = rules.audit_rate(7, at_stake);
            assert!(rate <= before && rate >= u64::from(per_mille));
            before = rate;
            // Twice the pay of what is not replayed, against what is lost where it is.
            let gain = 2 * 7 * rules.vesting_rounds();
            let gains = (1_000 - rate) * gain;
            assert!(rate * at_stake <= gains + gain + at_stake || rate == u64::from(per_mille));
            assert!(
                rate * at_stake >= gains,
                "{per_mille} {index}: {rate} of {at_stake}"
            );
            earlier.push((index, 7));
        }
        assert_eq!(before, u64::from(per_mille), "{per_mille}");
    }
}

#[test]
fn who_withholds_what_a_replay_starts_from_forfeits_and_begins_anew() {
    let (four, rules) = (4, rules(250, 5, 40));
    let mut rounds = caught(rules, four + 1, AuditOutcome::Unavailable);
    let mut history = History::new(rules);
    for round in &run(rules, &rounds).rounds {
        history.apply(&round.book, round.beacon).unwrap();
    }
    let open: Vec<_> = history.open_audits().keys().copied().collect();
    assert_eq!(open, [(5, trainer(1))], "it has nothing at stake");
    rounds.extend(vec![plain(0, &[]); 20]);
    let credits = credits(&[run(rules, &rounds)], 0, EPOCH_S).unwrap();
    let refused = PayState::Refused(AuditOutcome::Unavailable);
    assert_eq!(of(&credits, 1, four).state, refused);
    for index in 0..four {
        is_forfeited_after(&of(&credits, 1, index), four - index, rules);
    }
    assert_eq!(of(&credits, 1, 5).state, PayState::Vested);
}

#[test]
fn nothing_of_a_trainer_vests_while_work_of_it_is_to_be_replayed() {
    let rules = rules(250, 100, 40);
    let mut rounds = caught(rules, 2, AuditOutcome::Same);
    let last = rounds.pop().unwrap();
    rounds.extend(vec![plain(0, &[]); 5]);
    let first = |rounds: &[Round]| {
        let credits = credits(&[run(rules, rounds)], 0, EPOCH_S).unwrap();
        of(&credits, 1, 0).state
    };
    assert_eq!(first(&rounds), PayState::Vesting { rounds_left: 12 });
    rounds.push(Round {
        members: Vec::new(),
        ..last
    });
    assert_eq!(first(&rounds), PayState::Vesting { rounds_left: 6 });
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
    let (worked, rules) = (15, rules(250, 100, 50));
    let mut rounds = caught(rules, worked, AuditOutcome::Different);
    rounds.extend(vec![plain(1, &[]); 12]);
    let credits = credits(&[run(rules, &rounds)], 2, EPOCH_S).unwrap();
    let last = of(&credits, 1, worked - 1);
    assert_eq!(last.state, PayState::Refused(AuditOutcome::Different));
    assert_eq!(last.vested, Amount::ZERO);
    for index in 0..worked - 1 {
        is_forfeited_after(&of(&credits, 1, index), worked - 1 - index, rules);
    }
}

#[test]
fn a_run_that_has_all_its_rounds_pays_what_is_left_after_its_last_epoch() {
    let rules = rules(10, 0, 2);
    let mut rounds = vec![plain(0, &[(1, 5)]), plain(0, &[(1, 5)])];
    let open: Vec<_> = {
        let mut history = History::new(rules);
        for round in &run(rules, &rounds).rounds {
            history.apply(&round.book, round.beacon).unwrap();
        }
        history.open_audits().keys().map(|key| key.0).collect()
    };
    rounds.push(Round {
        audits: open
            .iter()
            .map(|index| (*index, 1, AuditOutcome::Same))
            .collect(),
        ..plain(0, &[])
    });
    let run = run(rules, &rounds);
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
    let (waiting, passed) = (state_of(&rounds, 2, 1), state_of(&rounds, 1, 1));
    assert_eq!(waiting.0, PayState::Audited);
    // It vests with all others, once nothing is open.
    assert_eq!(passed.0, PayState::Vesting { rounds_left: 1 });
    rounds.push(found(1, 2, AuditOutcome::Different));
    let (honest, cheat) = (state_of(&rounds, 1, 1), state_of(&rounds, 2, 1));
    assert_eq!((honest.0, honest.1), (PayState::Vested, true));
    assert_eq!(cheat.0, PayState::Refused(AuditOutcome::Different));
    assert_eq!(cheat.2, Amount::ZERO);
}

#[test]
fn books_of_audits_vest_nothing_and_a_conviction_by_one_leaves_what_rounds_have_vested() {
    // Pay vests over 37 rounds, of which the run has three.
    let rules = rules(100, 3, 3);
    let rounds = caught(rules, 3, AuditOutcome::Different);
    let credits = credits(&[run(rules, &rounds)], 9, EPOCH_S).unwrap();
    for index in [0, 1] {
        is_forfeited_after(&of(&credits, 1, index), 2 - index, rules);
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
            let none = Earned::new();
            let pledges = PledgesEarned { now: &none, at_base: &none };
            let EmberTree { sums: tree, emitted } = ember_tree(&earned, pledges, before, through, EPOCH_S);
            let votes = voice_tree(&emitted, Some(&voice), through, EPOCH_S);
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

/// A token that a run is funded in.
const TOKEN: Address = Address::repeat_byte(90);

fn funded(rounds_per_checkpoint: u32, releases: &[(u64, u32, u128)], run: PaidRun) -> PaidRun {
    let releases = releases
        .iter()
        .map(|(epoch, checkpoints, arrived)| PledgeRelease {
            epoch: *epoch,
            checkpoints: *checkpoints,
            arrived: Amount::new(*arrived),
        });
    PaidRun {
        funding: Some(RunFunding {
            token: TOKEN,
            rounds_per_checkpoint,
            releases: releases.collect(),
        }),
        ..run
    }
}

fn pledged(runs: &[PaidRun], through: u64) -> Vec<Credit> {
    pledge_credits(runs, TOKEN, through, EPOCH_S).unwrap()
}

/// A run of four rounds that is over: a book of audits says that all work that was drawn was done.
fn four_rounds() -> PaidRun {
    let rules = rules(10, 0, 4);
    let mut rounds = vec![
        plain(0, &[(1, 30), (2, 10)]),
        plain(0, &[(1, 10), (2, 50)]),
        plain(1, &[(2, 100)]),
        plain(1, &[(1, 100)]),
    ];
    let mut history = History::new(rules);
    for round in &run(rules, &rounds).rounds {
        history.apply(&round.book, round.beacon).unwrap();
    }
    let open = history.open_audits().keys();
    let audits = open.map(|(index, device)| (*index, device.0[0], AuditOutcome::Same));
    rounds.push(Round {
        audits: audits.collect(),
        ..plain(1, &[])
    });
    run(rules, &rounds)
}

#[test]
fn the_part_of_a_checkpoint_is_divided_among_the_work_of_its_rounds() {
    let run = funded(2, &[(1, 1, 1_000), (2, 2, 501)], four_rounds());
    assert!(pledged(std::slice::from_ref(&run), 0).is_empty());
    let first = pledged(std::slice::from_ref(&run), 1);
    let wholes: Vec<_> = first.iter().map(|c| (c.account, c.whole.units())).collect();
    assert_eq!(
        wholes,
        [(1, 300), (2, 100), (1, 100), (2, 500)].map(|(number, units)| (account(number), units))
    );
    // All of it has vested when the run is over.
    let all = pledged(std::slice::from_ref(&run), 2);
    assert!(
        all.iter().all(|credit| credit.state == PayState::Vested),
        "{all:?}"
    );
    let earned = earned(&all);
    assert_eq!(earned[&account(1)].units(), 400 + 250);
    assert_eq!(earned[&account(2)].units(), 600 + 250);
    // Pledges in one token are nothing in another.
    let other = pledge_credits(&[run], account(91), 2, EPOCH_S).unwrap();
    assert!(other.is_empty());
}

#[test]
fn a_release_of_several_checkpoints_gives_each_the_same() {
    let run = funded(1, &[(1, 3, 100)], four_rounds());
    let credits = pledged(&[run], 2);
    let of_round = |index: u64| {
        let credits = credits.iter().filter(|credit| credit.index == index);
        credits.map(|credit| credit.whole.units()).sum::<u128>()
    };
    // Rounding within a round leaves less than a unit for each contribution.
    assert_eq!([0, 1, 2, 3].map(of_round), [32, 32, 34, 0]);
    // Terms that no honest run has: no work is counted twice, and nothing is divided by nothing.
    for (rounds, releases) in [(0, [(1, 1, 100)]), (u32::MAX, [(1, u32::MAX, u128::MAX)])] {
        let odd = funded(rounds, &releases, four_rounds());
        let sum: u128 = pledged(&[odd], 9).iter().map(|c| c.whole.units()).sum();
        assert!(sum <= u128::MAX / 2);
    }
}

#[test]
fn a_cheat_is_not_paid_of_pledges_and_nobody_gains_by_it() {
    let rules = rules(1_000, 0, 100);
    let rounds = caught(rules, 3, AuditOutcome::Different);
    let run = funded(1, &[(0, 3, 300)], run(rules, &rounds));
    let credits = pledged(&[run], 0);
    assert_eq!(
        of(&credits, 1, 2).state,
        PayState::Refused(AuditOutcome::Different)
    );
    assert_eq!(of(&credits, 1, 2).vested, Amount::ZERO);
    is_forfeited_after(&of(&credits, 1, 0), 1, rules);
    assert!(credits.iter().all(|credit| credit.account == account(1)));
}

#[test]
fn pledges_in_ember_come_on_top_of_the_emission_and_give_no_votes() {
    let run = funded(2, &[(1, 1, 1_000)], four_rounds());
    let runs = [run];
    let none = Earned::new();
    let earned_by = |epoch| earned(&credits(&runs, epoch, EPOCH_S).unwrap());
    let pledged_by = |epoch| earned(&pledged(&runs, epoch));
    let plain = PledgesEarned {
        now: &none,
        at_base: &none,
    };
    let first = ember_tree(&earned_by(0), plain, None, 0, EPOCH_S);
    let base = Some((0, &first.sums));
    let (now, at_base) = (pledged_by(2), pledged_by(0));
    assert_eq!((earned(&pledged(&runs, 2)).len(), at_base.len()), (2, 0));
    let pledges = PledgesEarned {
        now: &now,
        at_base: &at_base,
    };
    let with = ember_tree(&earned_by(2), pledges, base, 2, EPOCH_S);
    let without = ember_tree(&earned_by(2), plain, base, 2, EPOCH_S);
    assert_eq!(with.emitted, without.emitted);
    for (number, pledged) in [(1, 400), (2, 600)] {
        let account = account(number);
        assert_eq!(
            with.sums[&account].units(),
            without.sums[&account].units() + pledged
        );
    }
    // What the next record has of pledges was given before: nothing comes twice.
    let pledges = PledgesEarned {
        now: &now,
        at_base: &now,
    };
    let next = ember_tree(&earned_by(9), pledges, Some((2, &with.sums)), 9, EPOCH_S);
    let plainly = ember_tree(&earned_by(9), plain, Some((2, &without.sums)), 9, EPOCH_S);
    assert_eq!(next.emitted, plainly.emitted);
    let sum = |tree: &Earned| tree.values().map(|sum| sum.units()).sum::<u128>();
    assert_eq!(sum(&next.sums), sum(&plainly.sums) + 1_000);
}

#[test]
fn a_tree_of_pledges_never_has_less_than_the_one_before() {
    let base = Earned::from([(account(1), Amount::new(5)), (account(2), Amount::new(9))]);
    let earned = Earned::from([(account(1), Amount::new(7)), (account(2), Amount::new(3))]);
    let tree = pledge_tree(&earned, Some(&base));
    assert_eq!(tree[&account(1)], Amount::new(7));
    assert_eq!(tree[&account(2)], Amount::new(9));
    assert_eq!(pledge_tree(&earned, None), earned);
}
