//! A household with a host, a member, strangers and liars.

use super::certificate::STATEMENT_TTL_MS_MAX;
use super::*;
use crate::signature::testing::Key;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const HOUR_MS: u64 = 3_600_000;
const HOST: DeviceId = DeviceId([1; 32]);
const PHONE: DeviceId = DeviceId([2; 32]);
const OTHER: DeviceId = DeviceId([3; 32]);

fn signs(key: &Key) -> impl Fn(B256) -> Option<Signature> {
    move |digest| Some(key.sign(digest))
}

/// A host, and its key.
fn host() -> (Household, Key) {
    let key = Key::new(7);
    let mut host = Household::new(HOST, key.address(), None, NOW);
    assert!(host.renew(NOW, "tower", &signs(&key)).unwrap());
    (host, key)
}

fn newcomer(device: DeviceId, byte: u8) -> Household {
    let key = Key::new(byte);
    let mut own = Household::new(device, key.address(), None, NOW);
    own.renew(NOW, "newcomer", &signs(&key)).unwrap();
    own
}

/// A host that let the phone in, and the phone.
fn joined() -> (Household, Key, Household) {
    let (mut host, key) = host();
    let mut phone = newcomer(PHONE, 9);
    let secret = Secret([5; 32]);
    let ticket = host.invite(NOW, &secret, HOUR_MS).unwrap();
    let told = host.admit(NOW, PHONE, "phone", &ticket.secret, &signs(&key));
    phone.adopt(NOW, ticket.household, told.unwrap()).unwrap();
    (host, key, phone)
}

#[test]
fn a_device_that_was_invited_belongs_and_both_sides_know() {
    let (host, key, phone) = joined();
    for side in [&host, &phone] {
        assert_eq!(side.account(), key.address());
        assert!(side.is_member(NOW, &PHONE) && side.is_member(NOW, &HOST));
        assert!(!side.is_member(NOW, &OTHER));
    }
    assert!(host.is_host() && !phone.is_host());
    let again = Household::new(PHONE, Key::new(9).address(), Some(phone.standing()), NOW);
    assert!(again.is_member(NOW, &HOST), "it survives a restart");
}

#[test]
fn an_invitation_is_for_one_device_and_ends() {
    let (mut host, key) = host();
    let secret = Secret([5; 32]);
    let sign = signs(&key);
    host.invite(NOW, &secret, HOUR_MS).unwrap();
    let wrong = host.admit(NOW, PHONE, "phone", &Secret([6; 32]), &sign);
    assert_eq!(wrong, Err(JoinRefusal::Unknown));
    let nameless = host.admit(NOW, PHONE, "a\nb", &secret, &sign);
    assert_eq!(nameless, Err(JoinRefusal::Name));
    let first = host.admit(NOW, PHONE, "phone", &secret, &sign).unwrap();
    // The answer may have been lost; who asks again gets the same one.
    let again = host.admit(NOW, PHONE, "phone", &secret, &sign);
    assert_eq!(again, Ok(first));
    let replayed = host.admit(NOW, OTHER, "other", &secret, &sign);
    assert_eq!(replayed, Err(JoinRefusal::Used));
    let late = Secret([8; 32]);
    let ticket = host.invite(NOW, &late, HOUR_MS).unwrap();
    let expired = host.admit(ticket.expires_at, OTHER, "other", &late, &sign);
    assert_eq!(expired, Err(JoinRefusal::Unknown));
    assert!(!host.is_member(NOW, &OTHER));
}

#[test]
fn used_invitations_are_still_used_after_a_restart() {
    let (mut host, key) = host();
    let secret = Secret([5; 32]);
    host.invite(NOW, &secret, HOUR_MS).unwrap();
    host.admit(NOW, PHONE, "phone", &secret, &signs(&key))
        .unwrap();
    let mut host = Household::new(HOST, key.address(), Some(host.standing()), NOW);
    let replayed = host.admit(NOW, OTHER, "other", &secret, &signs(&key));
    assert_eq!(replayed, Err(JoinRefusal::Used));
}

#[test]
fn a_removed_device_is_a_stranger_and_cannot_come_back_with_what_it_has() {
    let (mut host, key, mut phone) = joined();
    let old = phone.standing().statements;
    host.remove(NOW, PHONE, &signs(&key)).unwrap();
    assert!(!host.is_member(NOW, &PHONE));
    assert_eq!(
        host.compare(NOW, old),
        Ok(false),
        "old certificates are no news"
    );
    assert!(!host.is_member(NOW, &PHONE));
    let back = host.admit(NOW, PHONE, "phone", &Secret([5; 32]), &signs(&key));
    assert_eq!(back, Err(JoinRefusal::Unknown), "its invitation is burnt");
    // When it hears of it, it belongs to its own household again.
    assert_eq!(phone.compare(NOW, host.roster().statements()), Ok(true));
    assert!(phone.is_host() && !phone.is_member(NOW, &HOST));
    // A new invitation lets it in, even within the same millisecond.
    let secret = Secret([6; 32]);
    host.invite(NOW, &secret, HOUR_MS).unwrap();
    host.admit(NOW, PHONE, "phone", &secret, &signs(&key))
        .unwrap();
    assert!(host.is_member(NOW, &PHONE));
    let nobody = host.remove(NOW, OTHER, &signs(&key));
    assert_eq!(nobody, Err(HouseholdError::NoDevice));
    assert_eq!(
        host.remove(NOW, HOST, &signs(&key)),
        Err(HouseholdError::Itself)
    );
}

#[test]
fn statements_that_are_forged_foreign_or_out_of_time_are_refused() {
    let (host, key, _) = joined();
    let good = host.roster().certificate(&PHONE).unwrap().clone();
    let sign = |certificate: Certificate, key: &Key| {
        let signature = key.sign(certificate.digest());
        HouseholdStatement::Certificate(SignedCertificate {
            certificate,
            signature,
        })
    };
    let told = |statement: HouseholdStatement| host.clone().compare(NOW, vec![statement]);
    let other = |change: &dyn Fn(&mut Certificate)| {
        let mut certificate = good.certificate.clone();
        certificate.device = OTHER;
        change(&mut certificate);
        certificate
    };
    let stranger = Key::new(20);
    assert_eq!(
        told(sign(other(&|_| ()), &stranger)),
        Err(HouseholdStatementError::Forged)
    );
    let moved = HouseholdStatement::Certificate(SignedCertificate {
        certificate: other(&|_| ()),
        signature: good.signature,
    });
    assert_eq!(told(moved), Err(HouseholdStatementError::Forged));
    let foreign = other(&|one| one.household = stranger.address());
    let expected = HouseholdStatementError::OtherHousehold(stranger.address());
    assert_eq!(told(sign(foreign, &stranger)), Err(expected));
    let early = other(&|one| one.issued_at = NOW.plus_ms(HOUR_MS));
    assert_eq!(told(sign(early, &key)), Err(HouseholdStatementError::Times));
    let endless = other(&|one| one.expires_at = NOW.plus_ms(STATEMENT_TTL_MS_MAX + 1));
    assert_eq!(
        told(sign(endless, &key)),
        Err(HouseholdStatementError::Times)
    );
    let nameless = other(&|one| one.name.clear());
    assert_eq!(
        told(sign(nameless, &key)),
        Err(HouseholdStatementError::Name)
    );
    // One that ended is not believed, and is not a reason to distrust the device that tells it.
    let ended = other(&|one| one.expires_at = NOW);
    assert_eq!(told(sign(ended, &key)), Ok(false));
    assert_eq!(
        told(sign(other(&|_| ()), &key)),
        Ok(true),
        "the sample is right otherwise"
    );
}

#[test]
fn nobody_is_pulled_into_a_household_by_an_answer_that_does_not_hold() {
    let (mut host, key) = host();
    host.invite(NOW, &Secret([5; 32]), HOUR_MS).unwrap();
    let told = host
        .admit(NOW, OTHER, "other", &Secret([5; 32]), &signs(&key))
        .unwrap();
    let mut phone = newcomer(PHONE, 9);
    // A certificate of somebody else, and a household that is not the ticket's.
    let someone = phone.adopt(NOW, key.address(), told.clone());
    assert_eq!(someone, Err(HouseholdError::NoCertificate));
    let wrong = phone.adopt(NOW, Address::repeat_byte(9), told);
    assert!(matches!(wrong, Err(HouseholdError::Statement(_))));
    assert!(phone.is_host());
    // A member of one household joins no other, and a host with members neither.
    let (host, _, phone) = joined();
    let elsewhere = phone.may_adopt(NOW, Address::repeat_byte(9));
    assert_eq!(elsewhere, Err(HouseholdError::Elsewhere(host.account())));
    let leads = host.may_adopt(NOW, Address::repeat_byte(9));
    assert_eq!(leads, Err(HouseholdError::Leads));
}

#[test]
fn a_member_can_do_nothing_in_the_households_name() {
    let (_, _, mut phone) = joined();
    let own = Key::new(9);
    let sign = signs(&own);
    let invited = phone.invite(NOW, &Secret([1; 32]), HOUR_MS);
    assert_eq!(invited, Err(HouseholdError::NotHost));
    let admitted = phone.admit(NOW, OTHER, "other", &Secret([5; 32]), &sign);
    assert_eq!(admitted, Err(JoinRefusal::NotHost));
    assert_eq!(phone.remove(NOW, HOST, &sign), Err(HouseholdError::NotHost));
    phone.leave().unwrap();
    assert!(phone.is_host() && !phone.is_member(NOW, &HOST));
    assert_eq!(phone.leave(), Err(HouseholdError::NotJoined));
}

#[test]
fn strangers_are_told_nothing_of_the_others() {
    let (host, _, _) = joined();
    assert_eq!(host.told_to(NOW, &PHONE).len(), 2);
    assert_eq!(host.told_to(NOW, &OTHER), []);
}

#[test]
fn a_certificate_is_shown_to_who_proved_to_hold_the_key_and_to_nobody_else() {
    let (host, _, phone) = joined();
    let (secret, wrong) = ([1; 32], [2; 32]);
    let own = host.roster().certificate(&HOST).unwrap();
    let proof = KinProof::new(&secret, &OTHER, &HOST);
    let told = host.told_to_kin(&OTHER, &proof, &secret);
    assert_eq!(told, Ok(vec![HouseholdStatement::Certificate(own.clone())]));
    let refused = Err(JoinRefusal::Stranger);
    // Another key; a proof that was seen on its way to or from another; a member without the key.
    for proof in [
        KinProof::new(&wrong, &OTHER, &HOST),
        KinProof::new(&secret, &PHONE, &HOST),
        KinProof::new(&secret, &HOST, &OTHER),
        KinProof::new(&secret, &OTHER, &OTHER),
    ] {
        assert_eq!(host.told_to_kin(&OTHER, &proof, &secret), refused);
    }
    let proof = KinProof::new(&secret, &OTHER, &PHONE);
    assert_eq!(phone.told_to_kin(&OTHER, &proof, &secret), refused);
}

#[test]
fn certificates_are_made_anew_in_time_and_end_where_the_host_is_gone() {
    let (mut host, key, mut phone) = joined();
    let later = NOW.plus_ms(CERTIFICATE_TTL_MS - RENEW_BEFORE_MS + 1);
    assert!(!host.renew(NOW, "tower", &signs(&key)).unwrap());
    assert!(host.renew(later, "tower", &signs(&key)).unwrap());
    assert_eq!(phone.compare(later, host.told_to(later, &PHONE)), Ok(true));
    let end = NOW.plus_ms(CERTIFICATE_TTL_MS);
    assert!(phone.is_member(end, &HOST));
    let end = later.plus_ms(CERTIFICATE_TTL_MS);
    assert!(!phone.is_member(end, &HOST) && !phone.is_member(end, &PHONE));
    let alone = Household::new(PHONE, Key::new(9).address(), Some(phone.standing()), end);
    assert!(alone.is_host(), "its own certificate ended");
}

#[test]
fn a_household_is_bounded() {
    let (mut host, key) = host();
    let sign = signs(&key);
    for number in 0..INVITATIONS_MAX {
        let secret = Secret([u8::try_from(number).unwrap(); 32]);
        host.invite(NOW, &secret, HOUR_MS).unwrap();
    }
    let more = host.invite(NOW, &Secret([99; 32]), HOUR_MS);
    assert_eq!(more, Err(InvitationError::Full.into()));
    let long = host.invite(NOW, &Secret([99; 32]), INVITATION_TTL_MS_MAX + 1);
    assert_eq!(long, Err(InvitationError::Period.into()));
    let mut now = NOW;
    let mut refused = None;
    for number in 0..=u8::try_from(DEVICES_MAX).unwrap() {
        now = now.plus_ms(2 * HOUR_MS);
        let secret = Secret([100; 32]);
        host.invite(now, &secret, HOUR_MS).unwrap();
        let device = DeviceId([100 + number; 32]);
        refused = host.admit(now, device, "one more", &secret, &sign).err();
    }
    assert_eq!(refused, Some(JoinRefusal::Full));
    assert_eq!(host.roster().members(now).count(), DEVICES_MAX);
    assert!(json_len(&host.roster().statements()) < MESSAGE_BYTES_MAX);
}

/// How long the statements are as JSON, which is longer than what is sent.
fn json_len(statements: &[HouseholdStatement]) -> usize {
    serde_json::to_vec(statements).unwrap().len()
}

#[test]
fn a_device_that_leaves_is_let_go_by_the_host_and_by_nobody_else() {
    let (mut host, key, mut phone) = joined();
    let sign = signs(&key);
    let nobody = host.release(NOW, OTHER, &sign);
    assert_eq!(nobody, Err(JoinRefusal::Stranger));
    assert_eq!(host.release(NOW, HOST, &sign), Err(JoinRefusal::Stranger));
    // A member has no key to let anybody go with.
    let member = phone.release(NOW, HOST, &signs(&Key::new(9)));
    assert_eq!(member, Err(JoinRefusal::NotHost));
    assert!(host.is_member(NOW, &PHONE) && phone.is_member(NOW, &HOST));
    let told = host.release(NOW, PHONE, &sign).unwrap();
    assert!(!host.is_member(NOW, &PHONE));
    // The answer may have been lost; who asks again gets the same one.
    assert_eq!(host.release(NOW, PHONE, &sign), Ok(told.clone()));
    let reply = |one: &HouseholdStatement| HouseholdReply::Statements(vec![one.clone()]);
    assert!(phone.is_released_by(NOW, &reply(&told)));
    assert!(!host.is_released_by(NOW, &reply(&told)), "it is another's");
    let HouseholdStatement::Removal(mut forged) = told else {
        panic!("{told:?}");
    };
    forged.removal.removed_at = NOW.plus_ms(1);
    assert!(!phone.is_released_by(NOW, &reply(&HouseholdStatement::Removal(forged))));
    let refused = HouseholdReply::Refused(JoinRefusal::Stranger);
    assert!(!phone.is_released_by(NOW, &refused));
    phone.leave().unwrap();
    // Its invitation is burnt; a new one lets it in again.
    let back = host.admit(NOW, PHONE, "phone", &Secret([5; 32]), &sign);
    assert_eq!(back, Err(JoinRefusal::Unknown));
    let secret = Secret([6; 32]);
    let ticket = host.invite(NOW, &secret, HOUR_MS).unwrap();
    let told = host.admit(NOW, PHONE, "phone", &secret, &sign).unwrap();
    phone.adopt(NOW, ticket.household, told).unwrap();
    assert!(phone.is_member(NOW, &HOST) && host.is_member(NOW, &PHONE));
}
