//! A trainer that strangers flood, that crashes, and that shows nothing too early.

use super::super::committee::tests::committee;
use super::super::message::{LossBits, LossKey};
use super::*;

const ME: DeviceId = DeviceId([200; 32]);
const NOW: Timestamp = Timestamp(10_000_000);

pub(crate) fn rules() -> RunRules {
    RunRules {
        run: B256::repeat_byte(0x77),
        quorum: 1,
        trainers_max: 8,
        steps: 10,
        steps_min: 2,
        grace_ms: 1_000,
        attempt_ms: 80_000,
        carry: false,
        audit_per_mille: 1_000,
        newcomer_rounds: 1,
        rounds: 100,
    }
}

pub(crate) fn head() -> Head {
    Head {
        index: 0,
        next_number: 1,
        state: B256::repeat_byte(0x51),
        beacon: B256::repeat_byte(0xbe),
        opened_at: NOW,
    }
}

/// The losses of all steps of [`work`].
pub(crate) fn losses(name: u8) -> LossKey {
    LossKey::of(&[LossBits(u32::from(name))])
}

pub(crate) fn work(name: u8) -> Work {
    Work {
        contribution: ContentHash([name; 32]),
        first_loss: LossBits::of(3.0),
        last_loss: LossBits::of(2.0),
        local_end: None,
        local_start: None,
        log: losses(name).log(),
        steps: 5,
    }
}

fn trained(kept: Option<Committed>) -> (Trainer, Vec<TrainerEffect>) {
    let mut trainer = Trainer::new(ME, Address::ZERO, rules(), kept);
    trainer.handle(NOW, TrainerEvent::Committee(committee(3, 1..4)));
    let (head, book) = (head(), None);
    let mut effects = trainer.handle(NOW, TrainerEvent::Head { head, book });
    let state = head.state;
    effects.extend(trainer.handle(NOW, TrainerEvent::Prepared { state }));
    effects.extend(trainer.handle(
        NOW,
        TrainerEvent::Trained {
            parent: state,
            work: Some(work(1)),
        },
    ));
    (trainer, effects)
}

fn commitment(effects: &[TrainerEffect]) -> ContentHash {
    let mut commits = effects.iter().filter_map(|effect| match effect {
        TrainerEffect::Say(RunMessage::Commit(commit)) => Some(commit.commitment),
        _ => None,
    });
    commits.next().unwrap()
}

fn close(from: DeviceId, number: u64, commitments: Vec<(DeviceId, ContentHash)>) -> TrainerEvent {
    TrainerEvent::Heard {
        from,
        message: RunMessage::Close(Close {
            number,
            parent: head().state,
            epoch: 3,
            commitments,
        }),
    }
}

fn shows(effects: &[TrainerEffect]) -> bool {
    let mut effects = effects.iter();
    effects.any(|effect| matches!(effect, TrainerEffect::Say(RunMessage::Reveal(_))))
}

#[test]
fn nothing_is_shown_before_the_proposer_closes_and_names_it() {
    let (mut trainer, effects) = trained(None);
    let mine = commitment(&effects);
    assert!(!shows(&effects));
    let proposer = committee(3, 1..4).proposer(head().state, 0).unwrap().device;
    let other = (1..4)
        .map(|n| DeviceId([n; 32]))
        .find(|one| *one != proposer);
    let stranger = close(DeviceId([77; 32]), 1, vec![(ME, mine)]);
    assert!(!shows(&trainer.handle(NOW, stranger)));
    let not_its_turn = close(other.unwrap(), 1, vec![(ME, mine)]);
    assert!(!shows(&trainer.handle(NOW, not_its_turn)));
    assert!(shows(
        &trainer.handle(NOW, close(proposer, 1, vec![(ME, mine)]))
    ));
}

#[test]
fn a_flood_of_closings_does_not_displace_the_proposers() {
    let (mut trainer, effects) = trained(None);
    let mine = commitment(&effects);
    let proposer = committee(3, 1..4).proposer(head().state, 1).unwrap().device;
    // It comes a moment before its turn.
    trainer.handle(Timestamp(NOW.0 - 1), close(proposer, 2, vec![(ME, mine)]));
    for number in 0..1_000 {
        let from = DeviceId([100 + u8::try_from(number % 100).unwrap(); 32]);
        trainer.handle(NOW, close(from, number, Vec::new()));
        assert!(trainer.held() <= CLOSES_MAX);
    }
    let later = NOW.plus_ms(rules().attempt_ms);
    let shown_now = shows(&trainer.handle(later, TrainerEvent::Tick));
    assert!(shown_now || trainer.shown.contains(&2));
}

#[test]
fn a_trainer_that_crashed_commits_to_the_same_work_again() {
    let (_, effects) = trained(None);
    let kept = effects.iter().find_map(|effect| match effect {
        TrainerEffect::Keep(kept) => Some(kept.clone()),
        _ => None,
    });
    let place = |effect: fn(&TrainerEffect) -> bool| effects.iter().position(effect);
    let keeps = place(|effect| matches!(effect, TrainerEffect::Keep(_)));
    let says = place(|effect| matches!(effect, TrainerEffect::Say(_)));
    assert!(keeps < says, "what is said first is lost in a crash");
    let (_, again) = trained(kept);
    assert_eq!(commitment(&again), commitment(&effects));
    let mut again = again.iter();
    assert!(!again.any(|effect| matches!(effect, TrainerEffect::Train { .. })));
}
