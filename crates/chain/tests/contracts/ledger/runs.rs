//! Runs: pledges that go back or are earned, and rounds that two thirds of the run's validators state.

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::SolCall;
use hearth_chain::bindings::Runs::{self, RunTerms};
use hearth_chain::bindings::{Devices, Rewards, Validators, test_dollar_init};
use hearth_protocol::ledger::statement::{LedgerStatement, RoundStatement, subject};

use super::town::{ENROLLMENT_S, EPOCH_S, Town, device, household, sign};
use crate::chain::Receipt;
use crate::peers::{FalseToken, FeeToken, ReentrantToken};

pub(super) const ALL: [usize; 3] = [0, 1, 2];
const SOFT_CAP: u128 = 1_000;

/// A run in a town, funded in one token.
pub(super) struct Run {
    pub(super) terms: RunTerms,
    pub(super) id: B256,
}

/// Weights after a round.
pub(super) fn state(round: u64) -> B256 {
    U256::from(round + 1).into()
}

/// A run of three checkpoints of two rounds; pledges are open for two epochs and bound for ten.
pub(super) fn run_in(town: &mut Town, token: Address) -> Run {
    let terms = RunTerms {
        manifest: B256::repeat_byte(9),
        state: B256::repeat_byte(8),
        token,
        softCap: if token.is_zero() { 0 } else { SOFT_CAP },
        deadline: town.origin + 2 * EPOCH_S,
        end: town.origin + 10 * EPOCH_S,
        checkpoints: 3,
        roundsPerCheckpoint: 2,
    };
    let call = Runs::runOfCall {
        terms: terms.clone(),
    };
    let id = town.read(town.at.runs, &call);
    Run { terms, id }
}

/// A town in which households 5 and 6 hold a token and let the runs take it.
fn funded(init: Bytes) -> (Town, Run) {
    let mut town = Town::new(3);
    let token = town.create(init);
    for funder in [household(5), household(6)] {
        town.mint(token, funder.address(), 10_000);
        town.approve(&funder, token, town.at.runs);
    }
    let run = run_in(&mut town, token);
    (town, run)
}

fn pledge(town: &mut Town, run: &Run, funder: usize, amount: u128) -> Receipt {
    let call = Runs::pledgeCall {
        terms: run.terms.clone(),
        amount: U256::from(amount),
    };
    let runs = town.at.runs;
    town.send(&household(funder), runs, &call)
}

fn withdraw(town: &mut Town, run: &Run, funder: usize, amount: u128) -> Receipt {
    let call = Runs::withdrawCall {
        terms: run.terms.clone(),
        amount: U256::from(amount),
    };
    let runs = town.at.runs;
    town.send(&household(funder), runs, &call)
}

fn refund(town: &mut Town, run: &Run, funder: usize) -> Receipt {
    let call = Runs::refundCall {
        terms: run.terms.clone(),
        funder: household(funder).address(),
    };
    town.relay(town.at.runs, &call)
}

fn release(town: &mut Town, run: &Run) -> Receipt {
    let call = Runs::releaseCall {
        terms: run.terms.clone(),
    };
    town.relay(town.at.runs, &call)
}

/// A round that goes on from the one before, signed by these devices of an epoch's set.
pub(super) fn round_call(
    town: &mut Town,
    run: &Run,
    round: u64,
    epoch: u64,
    devices: &[usize],
) -> Runs::recordRoundCall {
    let parent = match round {
        0 => run.terms.state,
        _ => state(round - 1),
    };
    let statement = RoundStatement {
        run: run.id,
        round,
        parent,
        contributions: B256::repeat_byte(7),
        next: state(round),
    };
    let (mask, signatures) = town.signed(epoch, &statement.for_runs(town.at.runs), devices);
    Runs::recordRoundCall {
        terms: run.terms.clone(),
        round,
        parent,
        contributions: statement.contributions,
        next: statement.next,
        epoch,
        mask,
        signatures,
    }
}

fn record(town: &mut Town, run: &Run, round: u64, epoch: u64) -> Receipt {
    let call = round_call(town, run, round, epoch, &ALL);
    town.relay(town.at.runs, &call)
}

fn books(town: &mut Town, run: &Run) -> Runs::RunState {
    town.read(town.at.runs, &Runs::stateOfCall { run: run.id })
}

fn balance(town: &mut Town, run: &Run, account: Address) -> u128 {
    town.balance(run.terms.token, account)
}

#[test]
fn a_pledge_can_be_taken_back_until_the_deadline() {
    let (mut town, run) = funded(test_dollar_init());
    pledge(&mut town, &run, 5, 800).succeeded();
    pledge(&mut town, &run, 5, 100).succeeded();
    withdraw(&mut town, &run, 5, 901).reverted_with::<Runs::InvalidAmount>();
    withdraw(&mut town, &run, 6, 1).reverted_with::<Runs::InvalidAmount>();
    withdraw(&mut town, &run, 5, 0).reverted_with::<Runs::InvalidAmount>();
    withdraw(&mut town, &run, 5, 300).succeeded();
    assert_eq!(books(&mut town, &run).pledged, 600);
    assert_eq!(balance(&mut town, &run, household(5).address()), 9_400);
    refund(&mut town, &run, 5).reverted_with::<Runs::PledgesBound>();
    town.go(2, 0);
    withdraw(&mut town, &run, 5, 1).reverted_with::<Runs::PledgesClosed>();
    pledge(&mut town, &run, 5, 1).reverted_with::<Runs::PledgesClosed>();
}

#[test]
fn under_the_soft_cap_everything_goes_back() {
    let (mut town, run) = funded(test_dollar_init());
    pledge(&mut town, &run, 5, 600).succeeded();
    pledge(&mut town, &run, 6, 399).succeeded();
    town.go(2, 0);
    release(&mut town, &run).reverted_with::<Runs::NothingToRelease>();
    refund(&mut town, &run, 5).succeeded();
    refund(&mut town, &run, 5).reverted_with::<Runs::InvalidAmount>();
    refund(&mut town, &run, 6).succeeded();
    for funder in [5, 6] {
        let account = household(funder).address();
        assert_eq!(balance(&mut town, &run, account), 10_000);
    }
    assert_eq!(books(&mut town, &run).unreleased, 0);
}

/// Somebody pledges to reach the soft cap and leaves at the last moment: the others lose nothing.
#[test]
fn who_leaves_at_the_last_moment_binds_nobody() {
    let (mut town, run) = funded(test_dollar_init());
    pledge(&mut town, &run, 5, 600).succeeded();
    pledge(&mut town, &run, 6, 5_000).succeeded();
    town.go(1, EPOCH_S - 1);
    withdraw(&mut town, &run, 6, 5_000).succeeded();
    town.go(2, 0);
    refund(&mut town, &run, 5).succeeded();
    assert_eq!(balance(&mut town, &run, household(5).address()), 10_000);
}

#[test]
fn checkpoints_release_the_pledges_part_by_part() {
    let (mut town, run) = funded(test_dollar_init());
    pledge(&mut town, &run, 5, 700).succeeded();
    pledge(&mut town, &run, 6, 400).succeeded();
    town.seat(0, ALL);
    record(&mut town, &run, 0, 0).succeeded();
    record(&mut town, &run, 1, 0).succeeded();
    release(&mut town, &run).reverted_with::<Runs::NothingToRelease>();
    town.seat(2, ALL);
    release(&mut town, &run).succeeded();
    let rewards = town.at.rewards;
    assert_eq!(balance(&mut town, &run, rewards), 1_100 / 3);
    release(&mut town, &run).reverted_with::<Runs::NothingToRelease>();
    let asset = run.terms.token;
    let account = town.read(rewards, &Rewards::accountOfCall { asset });
    assert_eq!(account.funded, 1_100 / 3);

    record(&mut town, &run, 2, 2).succeeded();
    release(&mut town, &run).reverted_with::<Runs::NothingToRelease>();
    for round in 3..8 {
        record(&mut town, &run, round, 2).succeeded();
    }
    release(&mut town, &run).succeeded();
    assert_eq!(balance(&mut town, &run, rewards), 1_100, "the last has all");
    assert_eq!(books(&mut town, &run).unreleased, 0);
    town.go(10, 0);
    refund(&mut town, &run, 5).reverted_with::<Runs::InvalidAmount>();
}

#[test]
fn what_no_checkpoint_released_goes_back_after_the_end() {
    let (mut town, run) = funded(test_dollar_init());
    pledge(&mut town, &run, 5, 700).succeeded();
    pledge(&mut town, &run, 6, 400).succeeded();
    town.seat(2, ALL);
    for round in 0..3 {
        record(&mut town, &run, round, 2).succeeded();
    }
    town.go(9, EPOCH_S - 1);
    refund(&mut town, &run, 5).reverted_with::<Runs::PledgesBound>();
    town.seat(10, ALL);
    // Rounds after the end count for the model, and for no checkpoint.
    record(&mut town, &run, 3, 10).succeeded();
    refund(&mut town, &run, 5).succeeded();
    refund(&mut town, &run, 6).succeeded();
    // The checkpoint that was reached is paid still, whenever somebody asks.
    release(&mut town, &run).succeeded();
    let kept = 1_100 - 1_100 / 3;
    let back: Vec<u128> = [5, 6]
        .iter()
        .map(|funder| balance(&mut town, &run, household(*funder).address()))
        .collect();
    assert_eq!(
        back,
        [9_300 + 700 * kept / 1_100, 9_600 + 400 * kept / 1_100]
    );
    assert!(
        books(&mut town, &run).unreleased < 2,
        "rounding alone stays"
    );
}

#[test]
fn the_first_valid_record_of_a_round_counts() {
    let mut town = Town::new(3);
    let run = run_in(&mut town, Address::ZERO);
    town.seat(0, ALL);
    let first = round_call(&mut town, &run, 0, 0, &ALL);
    let weak = round_call(&mut town, &run, 0, 0, &[0]);
    town.relay(town.at.runs, &weak)
        .reverted_with::<Validators::TooLittleWeight>();
    town.relay(town.at.runs, &first).succeeded();
    town.relay(town.at.runs, &first)
        .reverted_with::<Runs::InvalidRound>();
    let books = books(&mut town, &run);
    assert_eq!(
        (books.state, books.rounds, books.nextRound),
        (state(0), 1, 1)
    );

    let mut elsewhere = round_call(&mut town, &run, 1, 0, &ALL);
    elsewhere.parent = B256::ZERO;
    town.relay(town.at.runs, &elsewhere)
        .reverted_with::<Runs::InvalidParent>();
    let mut forged = round_call(&mut town, &run, 1, 0, &ALL);
    forged.next = B256::ZERO;
    town.relay(town.at.runs, &forged)
        .reverted_with::<Validators::NotSigned>();
    record(&mut town, &run, 1, 0).succeeded();
}

/// Validators who could not agree on round 1 go on with a later number from the same weights.
#[test]
fn a_round_without_agreement_is_passed_over() {
    let mut town = Town::new(3);
    let run = run_in(&mut town, Address::ZERO);
    town.seat(0, ALL);
    record(&mut town, &run, 0, 0).succeeded();
    for (round, is_good) in [(1_026, false), (5, true)] {
        let statement = RoundStatement {
            run: run.id,
            round,
            parent: state(0),
            contributions: B256::ZERO,
            next: state(round),
        };
        let (mask, signatures) = town.signed(0, &statement.for_runs(town.at.runs), &ALL);
        let call = Runs::recordRoundCall {
            terms: run.terms.clone(),
            round,
            parent: state(0),
            contributions: B256::ZERO,
            next: state(round),
            epoch: 0,
            mask,
            signatures,
        };
        let receipt = town.relay(town.at.runs, &call);
        if is_good {
            receipt.succeeded();
        } else {
            receipt.reverted_with::<Runs::InvalidRound>();
        }
    }
    assert_eq!(books(&mut town, &run).nextRound, 6);
}

#[test]
fn the_set_in_office_and_the_one_before_speak_for_a_run() {
    let mut town = Town::new(3);
    let run = run_in(&mut town, Address::ZERO);
    town.seat(0, ALL);
    record(&mut town, &run, 0, 1).reverted_with::<Runs::NotInOffice>();
    town.go(1, 1);
    record(&mut town, &run, 0, 0).succeeded();
    for number in ALL {
        town.enroll(number, 1).succeeded();
    }
    town.go(1, ENROLLMENT_S);
    record(&mut town, &run, 1, 0).succeeded();
    record(&mut town, &run, 2, 1).succeeded();
    town.seat(2, ALL);
    record(&mut town, &run, 3, 0).reverted_with::<Runs::NotInOffice>();
    record(&mut town, &run, 3, 2).succeeded();
}

#[test]
fn a_round_of_one_run_says_nothing_about_another() {
    let mut town = Town::new(3);
    let run = run_in(&mut town, Address::ZERO);
    let mut other = run.terms.clone();
    other.manifest = B256::repeat_byte(1);
    town.seat(0, ALL);
    let mut call = round_call(&mut town, &run, 0, 0, &ALL);
    call.terms = other;
    town.relay(town.at.runs, &call)
        .reverted_with::<Validators::NotSigned>();
}

#[test]
fn who_signs_two_records_of_a_round_is_expelled_by_them() {
    let mut town = Town::new(3);
    let run = run_in(&mut town, Address::ZERO);
    let statement = |next: u64| RoundStatement {
        run: run.id,
        round: 4,
        parent: state(3),
        contributions: B256::ZERO,
        next: state(next),
    };
    let sign_one = |town: &Town, statement: RoundStatement| {
        let statement: LedgerStatement = statement.for_runs(town.at.runs);
        sign(&device(1), town.domain().statement_digest(&statement))
    };
    let call = Devices::expelCall {
        device: device(1).address(),
        subject: subject(town.at.runs, statement(4).topic()),
        sequence: 4,
        contents: [statement(4).content(), statement(5).content()],
        firstSignature: sign_one(&town, statement(4)),
        secondSignature: sign_one(&town, statement(5)),
    };
    town.relay(town.at.devices, &call).succeeded();
    town.go(0, 1);
    town.enroll(1, 0).reverted_with::<Devices::DeviceInactive>();
}

#[test]
fn terms_that_no_run_can_have_are_refused() {
    let mut town = Town::new(3);
    let token = town.create(test_dollar_init());
    let good = run_in(&mut town, token).terms;
    let runs = town.at.runs;
    for bad in [
        RunTerms {
            checkpoints: 0,
            ..good.clone()
        },
        RunTerms {
            roundsPerCheckpoint: 0,
            ..good.clone()
        },
        RunTerms {
            softCap: 0,
            ..good.clone()
        },
        RunTerms {
            token: Address::ZERO,
            ..good.clone()
        },
        RunTerms {
            end: good.deadline - 1,
            ..good.clone()
        },
    ] {
        let call = Runs::pledgeCall {
            terms: bad,
            amount: U256::from(1),
        };
        town.send(&household(5), runs, &call)
            .reverted_with::<Runs::InvalidTerms>();
    }
    let free = run_in(&mut town, Address::ZERO);
    pledge(&mut town, &free, 5, 1).reverted_with::<Runs::PledgesClosed>();
    town.go(10, 0);
    refund(&mut town, &free, 5).reverted_with::<Runs::InvalidAmount>();
    release(&mut town, &free).reverted_with::<Runs::NothingToRelease>();
}

#[test]
fn a_fee_on_the_way_is_not_pledged_and_not_released() {
    let (mut town, run) = funded(FeeToken::BYTECODE.clone());
    pledge(&mut town, &run, 5, 2_000).succeeded();
    assert_eq!(books(&mut town, &run).pledged, 1_980);
    town.seat(2, ALL);
    for round in 0..6 {
        record(&mut town, &run, round, 2).succeeded();
    }
    release(&mut town, &run).succeeded();
    let asset = run.terms.token;
    let account = town.read(town.at.rewards, &Rewards::accountOfCall { asset });
    // What arrived, again less the fee.
    assert_eq!(account.funded, 1_980 - 19);
    let runs = town.at.runs;
    assert_eq!(balance(&mut town, &run, runs), 0);
}

/// No token stands in the way of a round, nor of another run's money.
#[test]
fn a_token_that_says_no_stops_neither_rounds_nor_books() {
    let (mut town, run) = funded(FalseToken::BYTECODE.clone());
    pledge(&mut town, &run, 5, 1_500).succeeded();
    town.relay(run.terms.token, &FalseToken::refuseCall {})
        .succeeded();
    town.seat(2, ALL);
    record(&mut town, &run, 0, 2).succeeded();
    record(&mut town, &run, 1, 2).succeeded();
    assert!(release(&mut town, &run).outcome.is_err());
    assert_eq!(books(&mut town, &run).released, 0);
    record(&mut town, &run, 2, 2).succeeded();
}

#[test]
fn a_token_that_calls_back_gets_no_pledge_back_twice() {
    let (mut town, run) = funded(ReentrantToken::BYTECODE.clone());
    let attacker: PrivateKeySigner = household(5);
    pledge(&mut town, &run, 5, 500).succeeded();
    pledge(&mut town, &run, 6, 400).succeeded();
    town.go(2, 0);
    let again = Runs::refundCall {
        terms: run.terms.clone(),
        funder: attacker.address(),
    };
    let arm = ReentrantToken::armCall {
        target_: town.at.runs,
        callback_: again.abi_encode().into(),
    };
    town.relay(run.terms.token, &arm).succeeded();
    assert!(refund(&mut town, &run, 5).outcome.is_err());
    let runs = town.at.runs;
    assert_eq!(balance(&mut town, &run, runs), 900);
}
