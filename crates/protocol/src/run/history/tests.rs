use alloy_primitives::Address;

use super::*;
use crate::run::book::BookForm;
use crate::run::message::{LossBits, Work};

const LOST: DeviceId = DeviceId([1; 32]);
const OTHER: DeviceId = DeviceId([2; 32]);

fn file(number: u8) -> ContentHash {
    ContentHash([number; 32])
}

/// Work that began with what is called `start`, or anew, and ended with `end`.
fn member(trainer: DeviceId, start: Option<u8>, end: u8) -> Member {
    Member {
        account: Address::ZERO,
        trainer,
        work: Work {
            contribution: file(0),
            first_loss: LossBits::of(2.0),
            last_loss: LossBits::of(1.0),
            local_end: Some(file(end)),
            local_start: start.map(file),
            log: ContentHash::default(),
            steps: 10,
        },
    }
}

fn book(index: u64, members: Vec<Member>) -> RoundBook {
    RoundBook {
        audits: Vec::new(),
        beacon: B256::repeat_byte(index as u8),
        format: BookForm::V1,
        index,
        members,
        parent: B256::repeat_byte(100 + index as u8),
        previous: None,
        run: B256::ZERO,
    }
}

#[test]
fn what_a_trainer_kept_came_about_by_its_own_works_back_to_where_it_began_anew() {
    let books = [
        book(0, vec![member(LOST, None, 9)]),
        // It lost what it had kept.
        book(1, vec![member(LOST, None, 10)]),
        book(2, vec![member(OTHER, None, 11)]),
        book(
            3,
            vec![member(OTHER, Some(11), 10), member(LOST, Some(10), 12)],
        ),
        book(4, vec![member(LOST, Some(12), 13)]),
        book(5, vec![member(LOST, Some(13), 14)]),
    ];
    let work = RecordedWork::of(&books[4], &books[4].members[0]);
    let led_by = work.led_by(books.iter());
    let expected = [(3, 1), (1, 0)].map(|(index, place)| {
        let book: &RoundBook = &books[index];
        RecordedWork::of(book, &book.members[place])
    });
    assert_eq!(led_by, expected);

    // Older books are gone: the first one there begins with what somebody else has to give.
    let led_by = work.led_by(books[2..].iter());
    assert_eq!(led_by, expected[..1]);

    let anew = RecordedWork::of(&books[1], &books[1].members[0]);
    assert_eq!(anew.led_by(books.iter()), []);
}
