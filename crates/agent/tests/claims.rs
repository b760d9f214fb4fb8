//! Which answers claim a deed.

use std::collections::BTreeSet;

use hearth_agent::claims::{Claim, unfounded};

#[test]
fn claims_of_deeds_are_found_in_the_ways_in_which_models_make_them() {
    for (answer, claim) in [
        ("I've stored that for you.", Claim::Remembered),
        ("I\u{2019}ve just sent the e-mail to Ada.", Claim::Sent),
        ("Okay! I have now paid the bill.", Claim::Paid),
        ("Your file has been successfully saved.", Claim::Wrote),
        ("Done: saved to notes.txt", Claim::Wrote),
        ("I wrote it down.", Claim::Wrote),
        ("I have noted your birthday.", Claim::Remembered),
        ("The reminder is scheduled for nine.", Claim::Scheduled),
        ("I looked it up and posted it.", Claim::Sent),
        ("We have booked the table.", Claim::Paid),
    ] {
        let found = unfounded(answer, &BTreeSet::new());
        assert_eq!(found, BTreeSet::from([claim]), "{answer}");
    }
}

#[test]
fn what_is_offered_denied_or_asked_is_no_claim() {
    for answer in [
        "I can send it if you like.",
        "Nothing was sent.",
        "I have not sent it.",
        "I couldn't save the file.",
        "Shall I pay the bill?",
        "Once it is paid, the parcel leaves.",
        "The letter that Ada sent you is long.",
        "Paid work counts as income in your letter",
        "You have sent three letters.",
        "",
    ] {
        let found = unfounded(answer, &BTreeSet::new());
        assert!(found.is_empty(), "{answer}: {found:?}");
    }
}

#[test]
fn a_deed_founds_the_claims_that_it_can_mean() {
    let wrote = BTreeSet::from([Claim::Wrote]);
    assert!(unfounded("I have saved and stored it.", &wrote).is_empty());
    let found = unfounded("I have saved it and sent it.", &wrote);
    assert_eq!(found, BTreeSet::from([Claim::Sent]));
}
