//! Who validates: enrollment, the draw, the cap, two thirds, the quorum, verdicts.

use alloy_primitives::{Address, B256, Bytes, U256};
use hearth_chain::bindings::{Devices, Rewards, Validators, test_dollar_init};
use hearth_protocol::ledger::draw::{Seat, committee, race_time};
use hearth_protocol::ledger::statement::{LedgerStatement, VerdictStatement, subject};
use hearth_protocol::money::Amount;

use super::town::{ENROLLMENT_S, EPOCH_S, FOUNDING_VOTES, Town, device, household, sign, tree};
use crate::chain::{Chain, Receipt};

const TOPIC: B256 = B256::repeat_byte(5);

/// The seats of an epoch as the protocol knows them.
fn seats(town: &mut Town, epoch: u64) -> Vec<Seat> {
    let seats = town.seats(epoch).into_iter();
    seats
        .map(|seat| Seat {
            device: seat.device,
            household: seat.household,
            weight: seat.weight.to(),
        })
        .collect()
}

/// Has the sender "anyone" check a statement for itself, signed by these devices.
fn check_call(town: &mut Town, epoch: u64, run: B256, devices: &[usize]) -> Validators::checkCall {
    let statement = LedgerStatement {
        subject: subject(super::town::key("anyone").address(), TOPIC),
        sequence: 3,
        content: B256::repeat_byte(6),
    };
    let (mask, signatures) = town.signed(epoch, &statement, devices);
    Validators::checkCall {
        epoch,
        run,
        topic: TOPIC,
        sequence: 3,
        content: statement.content,
        mask,
        signatures,
    }
}

fn check(town: &mut Town, epoch: u64, devices: &[usize]) -> Receipt {
    let call = check_call(town, epoch, B256::ZERO, devices);
    town.relay(town.at.validators, &call)
}

#[test]
fn a_device_enrolls_in_the_first_quarter_of_an_epoch_once() {
    let mut town = Town::new(2);
    town.enroll(0, 0)
        .reverted_with::<Validators::EnrollmentClosed>();
    town.go(0, 1);
    town.enroll(0, 0).succeeded();
    town.enroll(0, 0)
        .reverted_with::<Validators::AlreadyEnrolled>();
    town.go(0, ENROLLMENT_S);
    town.enroll(1, 0)
        .reverted_with::<Validators::EnrollmentClosed>();
    town.go(1, 1);
    // What it signed for the epoch before is not a sign of life now.
    town.enroll(0, 0)
        .reverted_with::<Devices::InvalidSignature>();
    town.enroll(0, 1).succeeded();
}

#[test]
fn only_registered_devices_of_households_with_votes_enroll() {
    let mut town = Town::new(1);
    town.register(5).succeeded();
    town.go(0, 1);
    town.enroll(5, 0).reverted_with::<Validators::NoWeight>();
    town.enroll(6, 0).reverted_with::<Devices::DeviceUnknown>();
    let statement = LedgerStatement::enrollment(town.at.validators, 0);
    let digest = town.domain().statement_digest(&statement);
    let call = Validators::enrollCall {
        device: device(0).address(),
        signature: sign(&device(5), digest),
    };
    town.relay(town.at.validators, &call)
        .reverted_with::<Devices::InvalidSignature>();
}

#[test]
fn the_quickest_of_many_have_the_seats() {
    let mut town = Town::new(40);
    town.go(0, 1);
    let mut refused = 0;
    for number in 0..40 {
        let receipt = town.enroll(number, 0);
        if receipt.outcome.is_err() {
            receipt.reverted_with::<Validators::NotDrawn>();
            refused += 1;
        }
    }
    assert!(refused < 8, "some of the late ones are quicker");
    let beacon = town.read(town.at.validators, &Validators::beaconCall { epoch: 0 });
    let mut expected: Vec<(u128, Address)> = (0..40)
        .map(|number| {
            let household = household(number).address();
            let weight = u128::from(FOUNDING_VOTES);
            (
                race_time(beacon, B256::ZERO, household, weight),
                device(number).address(),
            )
        })
        .collect();
    expected.sort();
    let mut drawn: Vec<(u128, Address)> = town
        .seats(0)
        .iter()
        .map(|seat| (seat.time.to(), seat.device))
        .collect();
    drawn.sort();
    assert_eq!(drawn, expected[..32]);
}

#[test]
fn each_run_has_its_own_sixteen_and_contract_and_protocol_agree() {
    let mut town = Town::new(40);
    town.go(0, 1);
    for number in 0..40 {
        town.enroll(number, 0);
    }
    town.go(0, ENROLLMENT_S);
    let beacon = town.read(town.at.validators, &Validators::beaconCall { epoch: 0 });
    let seats = seats(&mut town, 0);
    let mut masks = Vec::new();
    for run in [B256::ZERO, B256::repeat_byte(1), B256::repeat_byte(2)] {
        town.relay(town.at.validators, &Validators::sealCall { epoch: 0, run })
            .succeeded();
        let sealed = town.read(
            town.at.validators,
            &Validators::committeeCall { epoch: 0, run },
        );
        let expected = committee(beacon, run, &seats);
        assert_eq!(sealed.mask, expected.mask);
        assert_eq!(sealed.cap.to::<u128>(), expected.cap);
        assert_eq!(sealed.total.to::<u128>(), expected.total);
        masks.push(sealed.mask);
    }
    assert_eq!(masks[1].count_ones(), 16);
    assert_ne!(masks[1], masks[2]);

    // A seat of the epoch that the run did not draw has no say in it.
    let outsider = (0..32).find(|seat| masks[1] >> seat & 1 == 0).unwrap();
    let number = (0..40)
        .find(|number| device(*number).address() == seats[outsider].device)
        .unwrap();
    let call = check_call(&mut town, 0, B256::repeat_byte(1), &[number]);
    town.relay(town.at.validators, &call)
        .reverted_with::<Validators::NotSigned>();
}

#[test]
fn two_thirds_of_the_weight_decide() {
    let mut town = Town::new(6);
    town.seat(0, 0..6);
    check(&mut town, 0, &[0, 1, 2]).reverted_with::<Validators::TooLittleWeight>();
    check(&mut town, 0, &[0, 1, 2, 3]).succeeded();
    check(&mut town, 0, &[]).reverted_with::<Validators::TooLittleWeight>();
}

#[test]
fn signatures_count_in_their_seats_alone() {
    let mut town = Town::new(3);
    town.seat(0, 0..3);
    let good = check_call(&mut town, 0, B256::ZERO, &[0, 1, 2]);
    let bytes = good.signatures.to_vec();
    let swapped = [&bytes[65..130], &bytes[..65], &bytes[130..]].concat();
    let twice = [&bytes[..65], &bytes[..65], &bytes[..65]].concat();
    let validators = town.at.validators;
    for signatures in [swapped, twice] {
        let call = Validators::checkCall {
            signatures: signatures.into(),
            ..good.clone()
        };
        town.relay(validators, &call)
            .reverted_with::<Validators::NotSigned>();
    }
    for signatures in [bytes[..194].to_vec(), [&bytes[..], &[0]].concat(), vec![]] {
        let call = Validators::checkCall {
            signatures: signatures.into(),
            ..good.clone()
        };
        town.relay(validators, &call)
            .reverted_with::<Validators::InvalidSignatures>();
    }
    let beyond = Validators::checkCall {
        mask: good.mask | 1 << 31,
        signatures: [&bytes[..], &bytes[..65]].concat().into(),
        ..good.clone()
    };
    town.relay(validators, &beyond)
        .reverted_with::<Validators::NotSigned>();
    // Signed for the sender, for nobody else.
    town.send(&household(0), validators, &good)
        .reverted_with::<Validators::NotSigned>();
    town.relay(validators, &good).succeeded();
}

#[test]
fn a_set_is_in_office_once_its_enrollment_is_over() {
    let mut town = Town::new(2);
    town.go(0, 1);
    town.enroll(0, 0).succeeded();
    town.enroll(1, 0).succeeded();
    check(&mut town, 0, &[0, 1]).reverted_with::<Validators::NotSealed>();
    town.go(0, ENROLLMENT_S);
    check(&mut town, 0, &[0, 1]).succeeded();
    // Nobody enrolled in epoch 1.
    town.go(1, ENROLLMENT_S);
    check(&mut town, 1, &[]).reverted_with::<Validators::NoQuorum>();
}

/// Gives a household votes the way that work does: by a record of an epoch.
fn earn_votes(town: &mut Town, epoch: u64, account: Address, votes: u128) {
    let rewards = tree(town.at.voice, &[(account, votes)]);
    town.seat(epoch + 1, 0..3);
    town.record(epoch, None, &rewards, &[0, 1, 2]).succeeded();
    town.chain.advance(super::town::WINDOW_S);
    town.claim(epoch, &rewards, account).succeeded();
}

#[test]
fn who_comes_late_waits_for_the_next_epoch() {
    let mut town = Town::new(3);
    town.register(9).succeeded();
    let newcomer = household(9).address();
    let rewards = tree(town.at.voice, &[(newcomer, 1_000)]);
    town.seat(1, 0..3);
    town.record(0, None, &rewards, &[0, 1, 2]).succeeded();
    // The window ends when epoch 2 has begun: votes claimed now do not count in it.
    town.go(2, 60);
    town.claim(0, &rewards, newcomer).succeeded();
    town.go(2, 70);
    town.enroll(9, 2).reverted_with::<Validators::NoWeight>();
    town.go(3, 1);
    town.enroll(9, 3).succeeded();
}

#[test]
fn no_household_counts_for_more_than_its_cap() {
    let mut town = Town::new(3);
    town.register(9).succeeded();
    let newcomer = household(9).address();
    // As much as all founders have.
    earn_votes(&mut town, 0, newcomer, 3 * u128::from(FOUNDING_VOTES));
    town.seat(3, [0, 1, 2, 9]);
    let seats = seats(&mut town, 3);
    let weight = |number: usize| {
        let device = device(number).address();
        let seat = seats.iter().find(|seat| seat.device == device);
        seat.expect("it is seated").weight
    };
    assert!(weight(9) > 2 * weight(0));
    check(&mut town, 3, &[9]).reverted_with::<Validators::TooLittleWeight>();
    check(&mut town, 3, &[9, 0]).reverted_with::<Validators::TooLittleWeight>();
    check(&mut town, 3, &[0, 1, 2]).succeeded();
}

/// The founders are gone. Who has a tenth of the votes cannot decide at once, and is not locked out for long.
#[test]
fn the_ledger_goes_on_without_its_founders() {
    let mut town = Town::new(3);
    town.register(9).succeeded();
    let newcomer = household(9).address();
    let tenth = 3 * u128::from(FOUNDING_VOTES) / 9;
    earn_votes(&mut town, 0, newcomer, tenth);
    town.go(3, 1);
    town.enroll(9, 3).succeeded();
    town.go(3, ENROLLMENT_S);
    check(&mut town, 3, &[9]).reverted_with::<Validators::NoQuorum>();

    town.seat(18, [9]);
    check(&mut town, 18, &[9]).succeeded();
}

fn verdict(town: &mut Town, epoch: u64, verdict: VerdictStatement, devices: &[usize]) -> Receipt {
    let statement = verdict.for_validators(town.at.validators);
    let (mask, signatures) = town.signed(epoch, &statement, devices);
    let call = Validators::convictCall {
        epoch,
        run: B256::ZERO,
        device: verdict.device,
        token: verdict.token,
        amount: U256::from(verdict.amount.units()),
        evidence: verdict.evidence,
        mask,
        signatures,
    };
    town.relay(town.at.validators, &call)
}

#[test]
fn a_verdict_excludes_and_burns_a_quarter_at_most_once() {
    let mut town = Town::new(4);
    let token = town.create(test_dollar_init());
    let owner = household(3);
    let validators = town.at.validators;
    town.mint(token, owner.address(), 1_000);
    town.approve(&owner, token, town.at.devices);
    let bond = Devices::bondCall {
        device: device(3).address(),
        court: validators,
        token,
        amount: U256::from(1_000),
    };
    let devices = town.at.devices;
    town.send(&owner, devices, &bond).succeeded();
    town.seat(0, 0..4);

    let found = VerdictStatement {
        device: device(3).address(),
        token,
        amount: Amount::new(250),
        evidence: B256::repeat_byte(1),
    };
    let excessive = VerdictStatement {
        amount: Amount::new(251),
        ..found
    };
    verdict(&mut town, 0, excessive, &[0, 1, 2]).reverted_with::<Devices::ExcessiveSlash>();
    verdict(&mut town, 0, found, &[0, 1]).reverted_with::<Validators::TooLittleWeight>();
    verdict(&mut town, 0, found, &[0, 1, 2]).succeeded();
    assert_eq!(town.stake(3, validators, token), (750, 0));
    verdict(&mut town, 0, found, &[0, 1, 2]).reverted_with::<Validators::VerdictExists>();

    town.go(1, 1);
    town.enroll(3, 1).reverted_with::<Devices::DeviceInactive>();
    // A set that is out of office finds nothing any more.
    town.seat(2, 0..3);
    let later = VerdictStatement {
        evidence: B256::repeat_byte(2),
        ..found
    };
    verdict(&mut town, 0, later, &[0, 1, 2]).reverted_with::<Validators::NotInOffice>();
}

#[test]
fn a_device_without_a_bond_can_be_excluded() {
    let mut town = Town::new(4);
    town.seat(0, 0..4);
    let found = VerdictStatement {
        device: device(9).address(),
        token: Address::ZERO,
        amount: Amount::ZERO,
        evidence: B256::repeat_byte(1),
    };
    verdict(&mut town, 0, found, &[0, 1, 2]).succeeded();
    let call = Validators::isExcludedCall {
        device: device(9).address(),
    };
    assert!(town.read(town.at.validators, &call));
}

#[test]
fn signatures_of_one_epoch_say_nothing_in_another() {
    let mut town = Town::new(3);
    town.seat(1, 0..3);
    let rewards = tree(town.at.ember, &[(household(0).address(), 1)]);
    let call = town.record_call(0, None, &rewards, &[0, 1, 2]);
    town.relay(town.at.rewards, &call).succeeded();
    town.seat(2, 0..3);
    // The same signatures, for the next epoch and for another asset.
    for replay in [
        Rewards::recordCall {
            epoch: 1,
            ..call.clone()
        },
        Rewards::recordCall {
            asset: town.at.voice,
            ..call.clone()
        },
    ] {
        town.relay(town.at.rewards, &replay)
            .reverted_with::<Validators::NotSigned>();
    }
    let silent = Rewards::recordCall {
        epoch: 1,
        mask: 0,
        signatures: Bytes::new(),
        ..call
    };
    town.relay(town.at.rewards, &silent)
        .reverted_with::<Validators::TooLittleWeight>();
    assert!(town.chain.now() < town.origin + 3 * EPOCH_S);
}
