//! What lies and crashes must not do, each found by the simulation.

use alloy_primitives::keccak256;

use super::super::book::{BookForm, Member};
use super::super::committee::tests::{committee, seat};
use super::super::message::{
    Close, Commit, Endorsement, LossBits, Opening, Proposal, Report, Reveal, Work,
};
use super::super::trainer::tests::{head, losses, rules, work};
use super::*;
use crate::id::ChainId;
use crate::ledger::statement::LedgerStatement;

const NOW: Timestamp = Timestamp(10_000_000);

fn identity(device: DeviceId) -> ValidatorIdentity {
    ValidatorIdentity {
        device,
        domain: LedgerDomain::new(ChainId(1), Address::ZERO),
        runs: Address::ZERO,
    }
}

/// The validator whose turn is the first attempt, among `count`.
fn proposer(count: u8) -> Validator {
    let all = committee(3, 1..count + 1);
    let first = all.proposer(head().state, 0).unwrap().device;
    let mut validator = Validator::new(identity(first), rules());
    validator.handle(NOW, ValidatorEvent::Committee(all));
    validator.handle(
        NOW,
        ValidatorEvent::Head {
            head: head(),
            book: None,
        },
    );
    validator
}

fn trainer(number: u8) -> DeviceId {
    DeviceId([100 + number; 32])
}

fn start() -> RoundStart {
    RoundStart {
        run: rules().run,
        index: 0,
        parent: head().state,
    }
}

fn heard(from: DeviceId, message: RunMessage) -> ValidatorEvent {
    ValidatorEvent::Heard { from, message }
}

fn commits(number: u8, done: &Work) -> ValidatorEvent {
    let commit = Commit {
        index: 0,
        parent: head().state,
        account: Address::ZERO,
        commitment: done.commitment(&start(), trainer(number), Address::ZERO),
    };
    heard(trainer(number), RunMessage::Commit(commit))
}

fn reveals(number: u8, done: &Work) -> ValidatorEvent {
    let parent = head().state;
    let work = done.clone();
    heard(trainer(number), RunMessage::Reveal(Reveal { parent, work }))
}

fn closing(effects: &[ValidatorEffect]) -> Option<&Close> {
    effects.iter().find_map(|effect| match effect {
        ValidatorEffect::Say(RunMessage::Close(close)) => Some(close),
        _ => None,
    })
}

/// The book of the first round, with one member.
fn book() -> RoundBook {
    let member = Member {
        account: Address::ZERO,
        trainer: trainer(1),
        work: work(1),
    };
    RoundBook {
        audits: Vec::new(),
        beacon: head().beacon,
        format: BookForm::V1,
        index: 0,
        members: vec![member],
        parent: head().state,
        previous: None,
        run: rules().run,
    }
}

/// A validator that knows of one audit, and what each device reports on it.
fn audited(all: RunCommittee, reports: &[(u8, AuditOutcome)]) -> Validator {
    audited_in(rules(), all, reports)
}

/// The same, in a run with other rules.
fn audited_in(rules: RunRules, all: RunCommittee, reports: &[(u8, AuditOutcome)]) -> Validator {
    audited_by(device(1), rules, all, reports)
}

/// The same, of another device.
fn audited_by(
    me: DeviceId,
    rules: RunRules,
    all: RunCommittee,
    reports: &[(u8, AuditOutcome)],
) -> Validator {
    let mut validator = Validator::new(identity(me), rules);
    validator.handle(NOW, ValidatorEvent::Committee(all));
    let next = Head {
        index: 1,
        next_number: 2,
        state: B256::repeat_byte(0x52),
        ..head()
    };
    let book = Some(Box::new(book()));
    validator.handle(NOW, ValidatorEvent::Head { head: next, book });
    for (device, outcome) in reports {
        tells(&mut validator, NOW, *device, *outcome, found(*outcome));
    }
    validator
}

/// What a replay finds, by its outcome.
fn found(outcome: AuditOutcome) -> Option<LossKey> {
    match outcome {
        AuditOutcome::Same => Some(losses(1)),
        AuditOutcome::Different => Some(LossKey::of(&[LossBits(99)])),
        AuditOutcome::Unavailable => None,
    }
}

fn device(number: u8) -> DeviceId {
    DeviceId([number; 32])
}

/// A report on the work of the first trainer.
fn reports(number: u8, outcome: AuditOutcome, key: Option<LossKey>) -> ValidatorEvent {
    let report = Report {
        index: 0,
        trainer: trainer(1),
        outcome,
        seal: key.map(|key| key.seal(device(number))),
    };
    heard(device(number), RunMessage::Report(report))
}

/// What opens the seal of a report.
fn opens(number: u8, key: LossKey) -> ValidatorEvent {
    let opening = Opening {
        index: 0,
        trainer: trainer(1),
        key,
    };
    heard(device(number), RunMessage::Opening(opening))
}

/// A device reports, and opens its seal.
fn tells(
    validator: &mut Validator,
    at: Timestamp,
    number: u8,
    outcome: AuditOutcome,
    key: Option<LossKey>,
) -> Vec<ValidatorEffect> {
    let mut effects = validator.handle(at, reports(number, outcome, key));
    if let Some(key) = key {
        effects.extend(validator.handle(at, opens(number, key)));
    }
    effects
}

fn outcome(validator: &Validator) -> Option<AuditOutcome> {
    let all = validator.committees.newest().unwrap();
    let decided = validator.decided(NOW, all, (0, trainer(1)));
    decided.map(|(outcome, _)| outcome)
}

#[test]
fn slander_by_a_third_excludes_nobody() {
    use AuditOutcome::{Different, Same};
    let lies = [(2, Different), (3, Different), (4, Different)];
    let slandered = audited(committee(3, 1..10), &lies);
    assert_eq!(outcome(&slandered), None, "three of nine");
    let mut all = lies.to_vec();
    all.extend([(5, Same), (6, Same), (7, Same), (8, Same)]);
    assert_eq!(outcome(&audited(committee(3, 1..10), &all)), Some(Same));
    // Weight counts, and not heads.
    let mut seats: Vec<_> = (1..6).map(|number| seat(number, 10_000)).collect();
    seats.extend((6..9).map(|number| seat(number, 10)));
    let heavy = RunCommittee::draw(3, B256::ZERO, rules().run, seats);
    let light = [(6, Different), (7, Different), (8, Different)];
    assert_eq!(outcome(&audited(heavy, &light)), None);
}

#[test]
fn a_trainer_that_is_away_is_asked_again_before_it_forfeits() {
    let mut validator = audited(committee(3, 1..2), &[]);
    let unavailable = || ValidatorEvent::Replayed {
        index: 0,
        trainer: trainer(1),
        outcome: AuditOutcome::Unavailable,
        losses: None,
    };
    let reports = |effects: &[ValidatorEffect]| {
        let is_report =
            |one: &ValidatorEffect| matches!(one, ValidatorEffect::Say(RunMessage::Report(_)));
        effects.iter().any(is_report)
    };
    let replays = |effects: &[ValidatorEffect]| {
        effects.iter().find_map(|one| match one {
            ValidatorEffect::Replay { is_overdue, .. } => Some(*is_overdue),
            _ => None,
        })
    };
    let attempt_ms = rules().attempt_ms;
    let early = validator.handle(NOW.plus_ms(10), unavailable());
    assert!(!reports(&early) && replays(&early).is_none(), "{early:?}");
    let again = validator.handle(NOW.plus_ms(10 + attempt_ms / 2), ValidatorEvent::Tick);
    assert_eq!(replays(&again), Some(false), "{again:?}");
    validator.handle(NOW.plus_ms(2 * attempt_ms), unavailable());
    let overdue = validator.handle(NOW.plus_ms(3 * attempt_ms), ValidatorEvent::Tick);
    assert_eq!(replays(&overdue), Some(true), "{overdue:?}");
    let late = validator.handle(NOW.plus_ms(8 * attempt_ms), unavailable());
    assert!(reports(&late), "{late:?}");
}

/// The validators of an audit that one replay decides, in the order in which they are asked, and a machine of the last.
fn last_of_five() -> (Validator, Vec<u8>) {
    let all = committee(3, 1..6);
    let order = |validator: &Validator| -> Vec<u8> {
        let devices = validator.auditors(&all, (0, trainer(1)));
        devices.iter().map(|one| one.0[0]).collect()
    };
    let last = *order(&audited(all.clone(), &[])).last().unwrap();
    let validator = audited_by(device(last), rules(), all.clone(), &[]);
    let key = (0, trainer(1));
    let open = &validator.history.open_audits()[&key];
    assert_eq!(validator.asked(NOW, key, open), 1, "one is asked at first");
    let order = order(&validator);
    (validator, order)
}

fn auditors(validator: &Validator, at: Timestamp) -> Option<Vec<Address>> {
    let all = validator.committees.newest().unwrap();
    let decided = validator.decided(at, all, (0, trainer(1)));
    decided.map(|(_, accounts)| accounts)
}

fn household(number: u8) -> Address {
    seat(number, 1).seat.household
}

#[test]
fn who_replayed_nothing_decides_nothing_and_is_found_by_all() {
    let (mut validator, order) = last_of_five();
    let made_up = LossKey::of(&[LossBits(7)]);
    tells(
        &mut validator,
        NOW,
        order[0],
        AuditOutcome::Same,
        Some(made_up),
    );
    assert_eq!(auditors(&validator, NOW), None);
    // The next one is asked when an attempt has passed, and shows what it found.
    let later = NOW.plus_ms(rules().attempt_ms);
    let same = AuditOutcome::Same;
    tells(&mut validator, later, order[1], same, found(same));
    assert_eq!(auditors(&validator, later), Some(vec![household(order[1])]));
    assert!(validator.liars().contains(&device(order[0])));
}

#[test]
fn who_reports_what_another_has_shown_earns_nothing() {
    let (mut validator, order) = last_of_five();
    let same = AuditOutcome::Same;
    let later = NOW.plus_ms(rules().attempt_ms);
    tells(&mut validator, later, order[1], same, found(same));
    let after = later.plus_ms(1);
    tells(&mut validator, after, order[0], same, found(same));
    assert_eq!(auditors(&validator, after), Some(vec![household(order[1])]));
    // Both earn who reported before either showed anything.
    let (mut validator, order) = last_of_five();
    for number in [order[0], order[1]] {
        validator.handle(later, reports(number, same, found(same)));
    }
    for number in [order[1], order[0]] {
        validator.handle(after, opens(number, losses(1)));
    }
    assert_eq!(auditors(&validator, after).unwrap().len(), 2);
}

#[test]
fn nobody_earns_by_being_quicker_than_who_was_asked() {
    let (mut validator, order) = last_of_five();
    let same = AuditOutcome::Same;
    tells(&mut validator, NOW, order[3], same, found(same));
    assert_eq!(auditors(&validator, NOW), None);
    tells(&mut validator, NOW, order[0], same, found(same));
    assert_eq!(auditors(&validator, NOW), Some(vec![household(order[0])]));
}

#[test]
fn a_seal_is_opened_when_enough_have_reported() {
    let all = committee(3, 1..6);
    let replayed = |outcome| ValidatorEvent::Replayed {
        index: 0,
        trainer: trainer(1),
        outcome,
        losses: found(outcome),
    };
    let is_open = |effects: &[ValidatorEffect]| {
        let is_opening =
            |one: &ValidatorEffect| matches!(one, ValidatorEffect::Say(RunMessage::Opening(_)));
        effects.iter().any(is_opening)
    };
    let (_, order) = last_of_five();
    let mut first = audited_by(device(order[0]), rules(), all.clone(), &[]);
    assert!(is_open(&first.handle(NOW, replayed(AuditOutcome::Same))));
    // More than a third of the weight has to find the same where work differs.
    let different = AuditOutcome::Different;
    let mut first = audited_by(device(order[0]), rules(), all, &[]);
    assert!(!is_open(&first.handle(NOW, replayed(different))));
    let second = reports(order[1], different, found(different));
    assert!(is_open(&first.handle(NOW, second)));
    assert_eq!(
        outcome(&first),
        None,
        "the second one has not opened its own"
    );
    first.handle(NOW, opens(order[1], found(different).unwrap()));
    assert_eq!(outcome(&first), Some(different));
}

#[test]
fn an_audit_by_those_who_left_office_is_not_reported() {
    let mut validator = audited(committee(3, 1..4), &[(2, AuditOutcome::Same)]);
    assert!(
        validator
            .decided(NOW, validator.committees.newest().unwrap(), (0, trainer(1)))
            .is_none_or(|(_, accounts)| !accounts.is_empty())
    );
    validator.handle(NOW, ValidatorEvent::Committee(committee(4, 5..9)));
    assert_eq!(outcome(&validator), None);
}

#[test]
fn a_validator_that_starts_again_does_nothing_about_the_past() {
    let mut validator = Validator::new(identity(DeviceId([1; 32])), rules());
    validator.handle(NOW, ValidatorEvent::Committee(committee(3, 1..2)));
    let past = ValidatorEvent::Past {
        book: Box::new(book()),
        beacon: head().beacon,
    };
    assert_eq!(validator.handle(NOW, past), []);
    assert_eq!(validator.history().index(), 1);
}

fn proposed(effects: &[ValidatorEffect]) -> Option<&Proposal> {
    effects.iter().find_map(|effect| match effect {
        ValidatorEffect::Say(RunMessage::Proposal(proposal)) => Some(&**proposal),
        _ => None,
    })
}

#[test]
fn after_the_last_round_what_is_found_is_recorded_without_members() {
    let rules = RunRules {
        rounds: 1,
        ..rules()
    };
    let mut validator = audited_in(rules, committee(3, 1..2), &[]);
    assert!(!validator.is_over());
    let same = AuditOutcome::Same;
    let asked = tells(&mut validator, NOW.plus_ms(10), 1, same, found(same));
    let [ValidatorEffect::Aggregate(book)] = &asked[..] else {
        panic!("{asked:?}");
    };
    assert_eq!((book.members.len(), book.audits.len()), (0, 1));
    let own = book.own_state().unwrap();
    let aggregated = ValidatorEvent::Aggregated {
        book: book.name(),
        next: Some(own),
    };
    let effects = validator.handle(NOW.plus_ms(20), aggregated);
    let proposal = proposed(&effects).unwrap();
    assert_eq!(proposal.next, own);
    let signs =
        |effect: &ValidatorEffect| matches!(effect, ValidatorEffect::Sign(s) if s.next == own);
    assert!(effects.iter().any(signs), "{effects:?}");

    let next = Head {
        index: 2,
        next_number: 3,
        state: own,
        beacon: B256::repeat_byte(0xcf),
        opened_at: NOW.plus_ms(30),
    };
    let book = Some(book.clone());
    let ended = validator.handle(NOW.plus_ms(30), ValidatorEvent::Head { head: next, book });
    assert_eq!(ended, []);
    assert!(validator.is_over());
}

#[test]
fn a_book_of_audits_that_leads_to_other_weights_is_not_signed() {
    let rules = RunRules {
        rounds: 1,
        ..rules()
    };
    let same = [(1, AuditOutcome::Same), (2, AuditOutcome::Same)];
    let mut validator = audited_in(rules, committee(3, 1..3), &same);
    let state = B256::repeat_byte(0x52);
    let all = validator.committees.newest().unwrap();
    // Where this device is the first to propose, the other's turn is the second.
    let (attempt, other) = (0..2)
        .map(|attempt| (attempt, all.proposer(state, attempt).unwrap().device))
        .find(|(_, device)| *device != DeviceId([1; 32]))
        .unwrap();
    let audits = vec![super::super::book::Audit {
        auditors: auditors(&validator, NOW).unwrap(),
        index: 0,
        outcome: AuditOutcome::Same,
        trainer: trainer(1),
    }];
    let ending = RoundBook {
        audits,
        index: 1,
        members: Vec::new(),
        parent: state,
        previous: Some(book().name()),
        ..book()
    };
    for (next, is_signed) in [(state, false), (ending.own_state().unwrap(), true)] {
        let now = NOW.plus_ms(attempt * rules.attempt_ms + 1);
        let proposal = Box::new(Proposal {
            number: 2 + attempt,
            epoch: 3,
            book: ending.clone(),
            next,
        });
        validator.board.attempts.clear();
        let mut effects =
            validator.handle(now, heard(other, RunMessage::Proposal(proposal.clone())));
        effects.extend(validator.handle(
            now,
            ValidatorEvent::Aggregated {
                book: ending.name(),
                next: ending.own_state(),
            },
        ));
        let signs = |effect: &ValidatorEffect| matches!(effect, ValidatorEffect::Sign(_));
        assert_eq!(effects.iter().any(signs), is_signed, "{effects:?}");
    }
}

#[test]
fn strangers_who_commit_at_once_close_no_round() {
    let mut validator = proposer(4);
    for number in 1..4 {
        let effects = validator.handle(NOW.plus_ms(10), commits(number, &work(number)));
        assert_eq!(closing(&effects), None);
    }
    let too_soon = validator.handle(NOW.plus_ms(20_000), ValidatorEvent::Tick);
    assert_eq!(closing(&too_soon), None);
    // Training ends after three eighths of an attempt.
    let in_time = validator.handle(NOW.plus_ms(32_000), ValidatorEvent::Tick);
    assert_eq!(closing(&in_time).unwrap().commitments.len(), 3);
}

#[test]
fn a_newcomer_has_a_place_where_all_are_taken() {
    let rules = rules();
    let all = committee(3, 1..2);
    let mut validator = Validator::new(identity(device(1)), rules);
    validator.handle(NOW, ValidatorEvent::Committee(all));
    let member = |number: u8| Member {
        trainer: trainer(number),
        work: work(number),
        account: Address::ZERO,
    };
    let mut previous = None;
    for index in 0..4_u64 {
        let book = RoundBook {
            index,
            members: (1..=8).map(member).collect(),
            parent: B256::repeat_byte(index as u8),
            previous,
            ..book()
        };
        previous = Some(book.name());
        let past = ValidatorEvent::Past {
            book: Box::new(book),
            beacon: head().beacon,
        };
        assert_eq!(validator.handle(NOW, past), []);
    }
    let next = Head {
        index: 4,
        next_number: 5,
        ..head()
    };
    validator.handle(
        NOW,
        ValidatorEvent::Head {
            head: next,
            book: None,
        },
    );
    for number in 1..=10 {
        let commit = Commit {
            index: 4,
            parent: next.state,
            account: Address::ZERO,
            commitment: ContentHash([number; 32]),
        };
        validator.handle(NOW, heard(trainer(number), RunMessage::Commit(commit)));
    }
    let effects = validator.handle(NOW.plus_ms(32_000), ValidatorEvent::Tick);
    let named = &closing(&effects).unwrap().commitments;
    let is_new = |(device, _): &&(DeviceId, _)| *device > trainer(8);
    assert_eq!(named.len(), rules.trainers_max as usize);
    assert_eq!(named.iter().filter(is_new).count(), 1);
}

#[test]
fn who_is_named_and_gives_nothing_is_not_named_again() {
    let mut validator = proposer(1);
    for number in 1..4 {
        validator.handle(NOW, commits(number, &work(number)));
    }
    let effects = validator.handle(NOW.plus_ms(32_000), ValidatorEvent::Tick);
    assert_eq!(closing(&effects).unwrap().commitments.len(), 3);
    validator.handle(NOW.plus_ms(33_000), reveals(2, &work(2)));
    // The third one shows its work, and gives it to nobody.
    validator.handle(NOW.plus_ms(33_000), reveals(3, &work(3)));
    let checked = ValidatorEvent::Checked {
        contribution: work(2).contribution,
        is_good: true,
    };
    validator.handle(NOW.plus_ms(34_000), checked);
    validator.handle(NOW.plus_ms(60_000), ValidatorEvent::Tick);
    let effects = validator.handle(NOW.plus_ms(80_001), ValidatorEvent::Tick);
    let named = &closing(&effects).unwrap().commitments;
    assert_eq!(named.len(), 1);
    assert_eq!(named[0].0, trainer(2));
}

#[test]
fn a_copy_is_told_from_its_original_by_who_committed_first() {
    let mut validator = proposer(1);
    validator.handle(NOW, commits(1, &work(7)));
    validator.handle(NOW.plus_ms(32_000), ValidatorEvent::Tick);
    validator.handle(NOW.plus_ms(33_000), reveals(1, &work(7)));
    validator.handle(NOW.plus_ms(34_000), commits(2, &work(7)));
    validator.handle(NOW.plus_ms(35_000), reveals(2, &work(7)));
    let contribution = work(7).contribution;
    for attempt in 0..10 {
        assert!(validator.is_own(trainer(1), contribution, attempt));
        assert!(!validator.is_own(trainer(2), contribution, attempt));
    }
}

#[test]
fn a_seat_that_signs_without_end_fills_nothing() {
    let key = secp256k1::SecretKey::from_byte_array([9; 32]).unwrap();
    let public = key
        .public_key(secp256k1::SECP256K1)
        .serialize_uncompressed();
    let mut one = seat(1, 1_000);
    one.seat.device = Address::from_raw_public_key(&public[1..]);
    let all = RunCommittee::draw(3, B256::ZERO, rules().run, vec![one]);
    let identity = identity(one.device);
    let mut validator = Validator::new(identity, rules());
    validator.handle(NOW, ValidatorEvent::Committee(all));
    validator.handle(
        NOW,
        ValidatorEvent::Head {
            head: head(),
            book: None,
        },
    );
    let mut accused = Vec::new();
    for number in 0..60_u64 {
        let statement = RoundStatement {
            run: rules().run,
            round: 1 + number % 20,
            parent: head().state,
            contributions: keccak256(number.to_le_bytes()),
            next: B256::ZERO,
        };
        let digest = identity
            .domain
            .statement_digest(&statement.for_runs(identity.runs));
        let message = secp256k1::Message::from_digest(digest.0);
        let signed = secp256k1::SECP256K1.sign_ecdsa_recoverable(message, &key);
        let (id, rs) = signed.serialize_compact();
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&rs);
        bytes[64] = 27 + u8::from(i32::from(id) == 1);
        let endorsement = Endorsement {
            number: statement.round,
            parent: statement.parent,
            contributions: ContentHash(statement.contributions.0),
            next: statement.next,
            signature: Signature::from_bytes(&bytes).unwrap(),
        };
        let from = one.device;
        let effects = validator.handle(NOW, heard(from, RunMessage::Endorsement(endorsement)));
        accused.extend(effects.into_iter().filter_map(|effect| match effect {
            ValidatorEffect::Accuse(proof) => Some(proof),
            _ => None,
        }));
    }
    // Two numbers are near, and a seat has one ballot under each. It is accused once.
    assert_eq!(validator.held(), 2 + 2 + 1);
    let [proof] = &accused[..] else {
        panic!("{accused:?}");
    };
    assert_ne!(proof.first.content, proof.other);
    for (content, signature) in [proof.first.content, proof.other]
        .into_iter()
        .zip(proof.signatures)
    {
        let said = LedgerStatement {
            content,
            ..proof.first
        };
        let digest = identity.domain.statement_digest(&said);
        assert_eq!(signature.signer(digest), Ok(one.seat.device));
    }
    assert!(validator.held() <= validator.held_max());
}
