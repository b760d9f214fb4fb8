use hearth_api::runs::{FundingAct, FundingOrder};
use hearth_protocol::content::ContentHash;
use hearth_protocol::id::ChainId;

use super::*;

const DEADLINE_S: u64 = 1_000;
const END_S: u64 = 2_000;

fn funding(now_s: u64, pledged: u128, mine: u128, rounds: u64) -> Funding {
    let token = Address::repeat_byte(3);
    Funding {
        run: B256::repeat_byte(1),
        terms: RunTerms {
            manifest: ContentHash([1; 32]),
            state: B256::repeat_byte(2),
            token,
            soft_cap: Amount::new(100),
            deadline_s: DEADLINE_S,
            end_s: END_S,
            checkpoints: 3,
            rounds_per_checkpoint: 2,
        },
        progress: RunProgress {
            state: None,
            rounds,
            next_round: rounds,
            released: 0,
            pledged: Amount::new(pledged),
            unreleased: Amount::new(pledged),
        },
        asset: ShownAsset {
            symbol: "COIN".to_owned(),
            id: AssetId {
                chain: ChainId(1),
                token,
            },
            decimals: 1,
        },
        account: Address::repeat_byte(4),
        mine: Amount::new(mine),
        now_s,
    }
}

fn order(act: FundingAct, amount: Option<&str>) -> FundingOrder {
    FundingOrder {
        run: "01".to_owned(),
        act,
        amount: amount.map(str::to_owned),
        asset: None,
    }
}

/// What the order moves, or the code of its error.
fn outcome(funding: &Funding, act: FundingAct, amount: Option<&str>) -> Result<u128, String> {
    let moved = funding.amount_of(&order(act, amount));
    moved
        .map(Amount::units)
        .map_err(|error| error.code().to_owned())
}

fn refused(code: &str) -> Result<u128, String> {
    Err(code.to_owned())
}

#[test]
fn before_the_deadline_pledges_are_made_and_withdrawn() {
    use FundingAct::{Pledge, Refund, Release, Withdraw};
    let open = funding(DEADLINE_S - 1, 50, 20, 2);
    assert_eq!(outcome(&open, Pledge, Some("1.5")), Ok(15));
    assert_eq!(outcome(&open, Withdraw, None), Ok(20));
    assert_eq!(outcome(&open, Withdraw, Some("0.5")), Ok(5));
    assert_eq!(
        outcome(&open, Withdraw, Some("2.1")),
        refused("exceeds_pledge")
    );
    assert_eq!(outcome(&open, Refund, None), refused("pledges_open"));
    assert_eq!(outcome(&open, Release, None), refused("pledges_open"));
    for odd in ["", "0", "-1", "1e3", "0.05", "<b>1</b>", &"9".repeat(60)] {
        assert_eq!(
            outcome(&open, Pledge, Some(odd)),
            refused("bad_amount"),
            "{odd}"
        );
    }
    assert_eq!(outcome(&open, Pledge, None), refused("bad_amount"));
    let none = funding(1, 50, 0, 0);
    assert_eq!(outcome(&none, Withdraw, None), refused("nothing_pledged"));
}

#[test]
fn under_the_soft_cap_everything_goes_back() {
    use FundingAct::{Pledge, Refund, Release, Withdraw};
    let missed = funding(DEADLINE_S, 99, 20, 6);
    assert_eq!(missed.view().state, FundingState::Missed);
    assert_eq!(outcome(&missed, Refund, None), Ok(20));
    assert_eq!(outcome(&missed, Release, None), refused("soft_cap_missed"));
    assert_eq!(
        outcome(&missed, Pledge, Some("1")),
        refused("pledges_closed")
    );
    assert_eq!(outcome(&missed, Withdraw, None), refused("pledges_closed"));
}

#[test]
fn checkpoints_release_their_parts_and_the_end_gives_back_the_rest() {
    use FundingAct::{Refund, Release};
    let mut bound = funding(DEADLINE_S, 100, 25, 5);
    assert_eq!(bound.view().state, FundingState::Bound);
    assert_eq!(outcome(&bound, Release, None), Ok(66));
    assert_eq!(outcome(&bound, Refund, None), refused("pledges_bound"));
    bound.progress.released = 2;
    assert_eq!(
        outcome(&bound, Release, None),
        refused("nothing_to_release")
    );
    assert_eq!(bound.view().released.units, "66");

    let ended = funding(END_S, 100, 25, 5);
    // 100 - 66 are left of 100, and a quarter of that is ours.
    assert_eq!(outcome(&ended, Refund, None), Ok(8));
    assert_eq!(outcome(&ended, Release, None), Ok(66));
    // More rounds than checkpoints take release no more than all of it.
    let full = funding(END_S, 100, 25, u64::MAX);
    assert_eq!(outcome(&full, Release, None), Ok(100));
    assert_eq!(outcome(&full, Refund, None), refused("nothing_left"));
    let most = funding(END_S, u128::MAX, u128::MAX, 2);
    assert_eq!(outcome(&most, Release, None), Ok(u128::MAX / 3));
}

#[test]
fn terms_of_strangers_divide_nothing_by_nothing() {
    let mut odd = funding(END_S, 0, 0, 7);
    odd.terms.rounds_per_checkpoint = 0;
    odd.terms.checkpoints = 0;
    odd.terms.soft_cap = Amount::ZERO;
    let view = odd.view();
    assert_eq!(
        (
            view.releasable.units.as_str(),
            view.refundable.units.as_str()
        ),
        ("0", "0")
    );
}

#[test]
fn an_order_in_another_asset_than_the_runs_is_refused() {
    let open = funding(1, 50, 20, 0);
    let said = |asset: &str| {
        let asset = Some(asset.to_owned());
        let order = FundingOrder {
            asset,
            ..order(FundingAct::Pledge, Some("1"))
        };
        open.amount_of(&order).map_err(|error| error.to_string())
    };
    assert_eq!(said("COIN"), Ok(Amount::new(10)));
    assert_eq!(said(&open.asset.id.to_string()), Ok(Amount::new(10)));
    let error = said(&format!("<script>{}", "x".repeat(10_000))).unwrap_err();
    assert!(error.len() < 300 && error.contains("COIN"), "{error}");
}

/// What an order is sent under says what stood there before it, so that the same order is not sent twice.
#[test]
fn orders_at_different_states_of_a_pledge_have_different_names() {
    let first = funding(1, 50, 20, 0);
    let later = funding(1, 60, 30, 0);
    let acts = [
        FundingAct::Pledge,
        FundingAct::Withdraw,
        FundingAct::Refund,
        FundingAct::Release,
    ];
    let mut names: Vec<_> = acts.map(|act| first.name_of(act)).to_vec();
    names.extend([FundingAct::Pledge, FundingAct::Withdraw].map(|act| later.name_of(act)));
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
    assert_eq!(
        funding(1, 70, 20, 1).name_of(FundingAct::Pledge),
        first.name_of(FundingAct::Pledge)
    );
    // The longest one is a name still.
    funding(1, u128::MAX, u128::MAX, 0).name_of(FundingAct::Withdraw);
}

fn recipe(more: &str) -> Result<FundingRecipe, toml::de::Error> {
    toml::from_str(&format!("soft_cap = \"10\"\n{more}"))
}

fn beginning(rounds: u32) -> RunBeginning {
    RunBeginning {
        manifest: ContentHash([1; 32]),
        state: B256::ZERO,
        rounds,
        now_s: 500,
    }
}

#[test]
fn a_file_that_names_a_soft_cap_alone_makes_sensible_terms() {
    let recipe = recipe("").unwrap();
    let checkpoints = |rounds: u32| recipe.plan(rounds).unwrap().checkpoints;
    assert_eq!(
        [100, 1, 7, 12, 9, 11, 22].map(checkpoints),
        [10, 1, 7, 6, 9, 1, 2]
    );
    let plan = recipe.plan(100).unwrap();
    assert_eq!(plan.asset, "EMBER");
    let terms = beginning(100).with_pledges(&plan, Address::repeat_byte(3), 6);
    let terms = terms.unwrap();
    assert_eq!(terms.soft_cap, Amount::new(10_000_000));
    assert_eq!(terms.deadline_s, 500 + 7 * 86_400);
    assert_eq!(terms.end_s, terms.deadline_s + 90 * 86_400);
    assert_eq!((terms.checkpoints, terms.rounds_per_checkpoint), (10, 10));
    let plain = beginning(100).without_pledges();
    assert!(plain.token.is_zero() && plain.soft_cap.is_zero());
}

#[test]
fn a_file_that_promises_what_no_contract_takes_is_refused() {
    assert!(recipe("hard_cap = \"3\"").is_err());
    let plan = |more: &str| recipe(more).unwrap().plan(12);
    for bad in ["checkpoints = 5", "checkpoints = 0", "checkpoints = 24"] {
        let error = plan(bad).unwrap_err();
        assert!(
            matches!(error, FundingTermsError::Checkpoints { .. }),
            "{bad}"
        );
    }
    for bad in ["open_s = 0", "lasts_s = 1", "open_s = 9999999999"] {
        assert!(
            matches!(plan(bad), Err(FundingTermsError::Time { .. })),
            "{bad}"
        );
    }
    for (cap, decimals) in [("0", 6), ("-1", 6), ("1.5", 0), ("many", 6), ("1", 255)] {
        let mut asked = plan("").unwrap();
        cap.clone_into(&mut asked.soft_cap);
        let terms = beginning(12).with_pledges(&asked, Address::ZERO, decimals);
        assert!(
            matches!(terms, Err(FundingTermsError::SoftCap { .. })),
            "{cap}"
        );
    }
    // What a program asks for, without the file.
    let mut asked = plan("").unwrap();
    asked.checkpoints = 5;
    let terms = beginning(12).with_pledges(&asked, Address::ZERO, 6);
    assert!(matches!(terms, Err(FundingTermsError::Checkpoints { .. })));
}
