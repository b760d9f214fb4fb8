use super::*;
use crate::id::ChainId;
use crate::ledger::draw::Seat;
use crate::run::committee::RunSeat;
use crate::signature::testing::Key;

/// Seconds of an epoch: a turn lasts a second.
const EPOCH_S: u64 = 8;
const EPOCH: u64 = 5;
/// The newest epoch with final records of Ember and of Voice.
const BASE: Option<u64> = Some(3);
const OPENED_AT: Timestamp = Timestamp(1_000_000);
const SEATS: u8 = 4;

const EMBER: Address = Address::repeat_byte(0xe1);
const VOICE: Address = Address::repeat_byte(0xe2);
const DOLLAR: Address = Address::repeat_byte(0xe3);
const POUND: Address = Address::repeat_byte(0xe4);
const REWARDS: Address = Address::repeat_byte(0xe5);

fn domain() -> LedgerDomain {
    LedgerDomain::new(ChainId(7), Address::repeat_byte(0xe6))
}

fn device(number: u8) -> DeviceId {
    DeviceId([number; 32])
}

fn committee() -> RunCommittee {
    let seats = (1..=SEATS).map(|number| RunSeat {
        device: device(number),
        seat: Seat {
            device: Key::new(number).address(),
            household: Address::repeat_byte(number),
            weight: 1_000,
        },
    });
    RunCommittee::draw(EPOCH + 1, B256::ZERO, B256::ZERO, seats.collect())
}

fn run(number: u8) -> B256 {
    B256::repeat_byte(number)
}

fn tree(asset: Address, base: Option<u64>) -> TreeFacts {
    TreeFacts {
        asset,
        base,
        root: B256::left_padding_from(asset.as_slice()),
        total: Amount::new(1_000),
        data: ContentHash([asset.0[0]; 32]),
    }
}

/// The trees of an epoch in which each asset follows another epoch; `POUND` follows none.
fn trees() -> Vec<TreeFacts> {
    vec![
        tree(EMBER, BASE),
        tree(VOICE, BASE),
        tree(DOLLAR, Some(1)),
        tree(POUND, None),
    ]
}

fn due() -> DueEpoch {
    DueEpoch {
        epoch: EPOCH,
        base: BASE,
        pledge_bases: BTreeMap::from([(DOLLAR, Some(1)), (POUND, None)]),
        committee: committee(),
        opened_at: OPENED_AT,
        runs: BTreeSet::from([run(1), run(2)]),
    }
}

/// A validator, and the time.
struct World {
    number: u8,
    machine: EpochValidator,
    now: Timestamp,
}

impl World {
    /// The validator that proposes first, or the one that does so as the `place`th.
    fn of_turn(place: u64) -> Self {
        let committee = committee();
        let seat = committee.proposer(turn_of(EPOCH), place).unwrap();
        let number = seat.device.0[0];
        Self {
            number,
            machine: EpochValidator::new(device(number), domain(), REWARDS, EPOCH_S),
            now: OPENED_AT,
        }
    }

    fn tell(&mut self, event: EpochEvent) -> Vec<EpochEffect> {
        self.machine.handle(self.now, event)
    }

    fn hear(&mut self, from: u8, message: EpochMessage) -> Vec<EpochEffect> {
        let from = device(from);
        self.tell(EpochEvent::Heard { from, message })
    }

    fn computed(&mut self, trees: Option<Vec<TreeFacts>>) -> Vec<EpochEffect> {
        self.tell(EpochEvent::Computed {
            epoch: EPOCH,
            runs: due().runs.into_iter().collect(),
            trees,
        })
    }

    /// Signs what it was asked to sign.
    fn sign(&mut self, effects: Vec<EpochEffect>) -> Vec<EpochEffect> {
        let key = Key::new(self.number);
        let mut after = Vec::new();
        for effect in effects {
            let EpochEffect::Sign(statement) = effect else {
                continue;
            };
            let signature = Some(signed(&key, &statement));
            after.extend(self.tell(EpochEvent::Signed {
                statement,
                signature,
            }));
        }
        after
    }

    /// How many trees a seat is known to have signed.
    fn signed_by(&self, number: u8) -> usize {
        let key = Key::new(number).address();
        let all = self.machine.endorsements.values();
        all.filter(|signers| signers.contains_key(&key)).count()
    }
}

fn signed(key: &Key, statement: &EpochStatement) -> Signature {
    key.sign(domain().statement_digest(&statement.for_rewards(REWARDS)))
}

fn endorsement(number: u8, tree: TreeFacts) -> EpochMessage {
    EpochMessage::Endorsement(EpochEndorsement {
        epoch: EPOCH,
        base: BASE,
        tree,
        signature: signed(&Key::new(number), &statement(EPOCH, &tree)),
    })
}

fn proposal(base: Option<u64>, trees: Vec<TreeFacts>) -> EpochMessage {
    EpochMessage::Proposal(EpochProposal {
        epoch: EPOCH,
        base,
        runs: due().runs.into_iter().collect(),
        trees,
    })
}

fn is_asked_to_sign(effects: &[EpochEffect]) -> bool {
    let mut effects = effects.iter();
    effects.any(|effect| matches!(effect, EpochEffect::Sign(_)))
}

fn computations(effects: &[EpochEffect]) -> usize {
    let effects = effects.iter();
    effects
        .filter(|effect| matches!(effect, EpochEffect::Compute { .. }))
        .count()
}

/// A validator that has the second turn, with its own trees, and the number of the one that proposes first.
fn second(trees: Vec<TreeFacts>) -> (World, u8) {
    let first = World::of_turn(0).number;
    let mut second = World::of_turn(1);
    assert_ne!(first, second.number);
    assert_eq!(second.tell(EpochEvent::Due(due())), []);
    // It computes what is proposed, and that is asked for with the first proposal.
    let asked = second.hear(first, proposal(BASE, trees.clone()));
    assert_eq!(computations(&asked), 1);
    (second, first)
}

#[test]
fn each_tree_is_computed_proposed_signed_and_recorded_with_its_own_base() {
    let mut first = World::of_turn(0);
    let asked = first.tell(EpochEvent::Due(due()));
    let wanted = EpochEffect::Compute {
        epoch: EPOCH,
        base: BASE,
        pledge_bases: due().pledge_bases,
        runs: vec![run(1), run(2)],
    };
    assert_eq!(asked, [wanted]);
    let effects = first.computed(Some(trees()));
    let proposed = EpochEffect::Say(proposal(BASE, trees()));
    assert_eq!(effects[0], proposed);
    assert_eq!(effects.len(), 5, "and each of four trees is signed");
    first.sign(effects);
    let mut recorded = Vec::new();
    let own = first.number;
    for other in (1..=SEATS).filter(|number| *number != own) {
        for tree in trees() {
            recorded.extend(first.hear(other, endorsement(other, tree)));
        }
    }
    let bases = recorded.iter().map(|effect| match effect {
        EpochEffect::Record {
            statement, base, ..
        } => (statement.asset, *base),
        other => panic!("{other:?}"),
    });
    let bases: BTreeMap<Address, Option<u64>> = bases.collect();
    assert_eq!(
        bases,
        trees().iter().map(|tree| (tree.asset, tree.base)).collect()
    );
}

#[test]
fn a_proposal_is_signed_where_every_tree_follows_the_same_epoch_here() {
    let (mut second, _) = second(trees());
    assert!(is_asked_to_sign(&second.computed(Some(trees()))));
}

#[test]
fn a_proposal_with_another_base_of_one_pledge_is_not_signed() {
    // Its record of epoch 2 is not final here: this device counts from the one of epoch 1.
    let mut theirs = trees();
    theirs[2].base = Some(2);
    let (mut second, first) = second(theirs);
    assert!(!is_asked_to_sign(&second.computed(Some(trees()))));
    // What it would have made itself is signed in the next turn, by whom it is.
    second.now = OPENED_AT.plus_ms(1_000);
    let effects = second.tell(EpochEvent::Tick);
    assert!(effects.contains(&EpochEffect::Say(proposal(BASE, trees()))));
    assert!(is_asked_to_sign(&effects));
    // Signatures of the other base are of another tree: they do not add up.
    second.sign(effects);
    let mut other = trees()[2];
    other.base = Some(2);
    let third = (1..=SEATS).find(|number| ![first, second.number].contains(number));
    for number in [first, third.unwrap()] {
        assert_eq!(second.hear(number, endorsement(number, other)), []);
    }
    assert_eq!(second.signed_by(first), 1);
}

#[test]
fn a_proposal_that_follows_another_record_of_ember_is_not_looked_at() {
    let first = World::of_turn(0).number;
    let mut second = World::of_turn(1);
    second.tell(EpochEvent::Due(due()));
    assert_eq!(second.hear(first, proposal(Some(4), trees())), []);
    assert_eq!(second.hear(first, proposal(None, trees())), []);
}

#[test]
fn a_pledge_whose_newest_record_becomes_final_is_computed_anew() {
    let (mut second, first) = second(trees());
    let mut later = due();
    later.pledge_bases.insert(DOLLAR, Some(4));
    assert_eq!(second.tell(EpochEvent::Due(later.clone())), []);
    // What was computed for the base of before is no answer to what is proposed now.
    let asked = second.hear(first, proposal(BASE, trees()));
    let wanted = EpochEffect::Compute {
        epoch: EPOCH,
        base: BASE,
        pledge_bases: later.pledge_bases,
        runs: vec![run(1), run(2)],
    };
    assert_eq!(asked, [wanted]);
}

#[test]
fn an_asset_without_growth_has_no_tree_and_needs_none() {
    let mut first = World::of_turn(0);
    first.tell(EpochEvent::Due(due()));
    let grown = vec![tree(POUND, None)];
    let effects = first.computed(Some(grown.clone()));
    assert_eq!(effects[0], EpochEffect::Say(proposal(BASE, grown.clone())));
    assert_eq!(effects[1], EpochEffect::Sign(statement(EPOCH, &grown[0])));
    assert_eq!(effects.len(), 2);
    // Who sees no growth in it does not sign it, and where nothing grew there is no proposal.
    let (mut other, _) = second(grown);
    assert_eq!(other.computed(Some(Vec::new())), []);
    let mut idle = World::of_turn(0);
    idle.tell(EpochEvent::Due(due()));
    assert_eq!(idle.computed(Some(Vec::new())), []);
}

#[test]
fn what_cannot_be_computed_now_is_neither_proposed_nor_signed_and_computed_again_later() {
    let mut first = World::of_turn(0);
    first.tell(EpochEvent::Due(due()));
    assert_eq!(first.computed(None), [], "not at once, again and again");
    assert_eq!(first.tell(EpochEvent::Tick), []);
    first.now = first.now.plus_ms(first.machine.again_ms);
    assert_eq!(computations(&first.tell(EpochEvent::Tick)), 1);
    assert_eq!(first.tell(EpochEvent::Tick), [], "asked once");
    let effects = first.computed(Some(trees()));
    assert_eq!(effects[0], EpochEffect::Say(proposal(BASE, trees())));

    let (mut second, _) = second(trees());
    assert_eq!(second.computed(None), []);
    second.now = second.now.plus_ms(second.machine.again_ms);
    assert_eq!(computations(&second.tell(EpochEvent::Tick)), 1);
    assert!(is_asked_to_sign(&second.computed(Some(trees()))));
}

#[test]
fn a_seat_that_signs_without_end_fills_nothing() {
    let (mut second, first) = second(trees());
    for total in 0..200 {
        let total = Amount::new(total);
        let endless = TreeFacts {
            total,
            ..trees()[0]
        };
        second.hear(first, endorsement(first, endless));
    }
    assert_eq!(second.signed_by(first), 1, "one tree of an asset");
    assert_eq!(second.machine.endorsements.len(), 1);
    for number in 0..TREES_MAX as u64 + 50 {
        let asset = Address::left_padding_from(&number.to_be_bytes());
        second.hear(first, endorsement(first, tree(asset, None)));
    }
    assert_eq!(second.signed_by(first), TREES_MAX);
    assert_eq!(second.machine.endorsements.len(), TREES_MAX);
    // Others are heard as before.
    let other = (1..=SEATS).find(|number| ![first, second.number].contains(number));
    let other = other.unwrap();
    second.hear(other, endorsement(other, trees()[0]));
    assert_eq!(second.signed_by(other), 1);
}

#[test]
fn nobody_speaks_for_another_seat() {
    let (mut second, first) = second(trees());
    // A stranger, and another seat, say the first one's signature with another base, which it does not cover.
    let mut moved = trees()[2];
    moved.base = Some(2);
    let other = (1..=SEATS).find(|number| ![first, second.number].contains(number));
    for from in [other.unwrap(), 99] {
        second.hear(from, endorsement(first, moved));
    }
    assert_eq!(second.machine.endorsements.len(), 0);
    second.hear(first, endorsement(first, trees()[2]));
    assert_eq!(second.signed_by(first), 1);
}

#[test]
fn a_proposal_of_more_trees_than_there_can_be_is_dropped() {
    let first = World::of_turn(0).number;
    let mut second = World::of_turn(1);
    second.tell(EpochEvent::Due(due()));
    let endless = vec![trees()[0]; TREES_MAX + 1];
    assert_eq!(second.hear(first, proposal(BASE, endless)), []);
    assert!(second.machine.proposals.is_empty());
}
