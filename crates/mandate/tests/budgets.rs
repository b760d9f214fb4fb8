//! What agents may spend.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use hearth_mandate::budget::{BudgetError, Budgets, LINES_MAX, Line, Period, Purchase, SetAside};
use hearth_mandate::tool::ToolName;
use hearth_protocol::id::AssetId;
use hearth_protocol::money::Amount;
use hearth_protocol::time::Timestamp;
use proptest::prelude::*;

const NOON: Timestamp = Timestamp(86_400_000 * 20_000 + 43_200_000);
const DAY_MS: u64 = 86_400_000;

fn asset() -> AssetId {
    let text = "eip155:8453/erc20:0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913";
    text.parse().unwrap()
}

fn amount(units: u128) -> Amount {
    Amount::new(units)
}

fn chat() -> Line {
    Line::Chat("c1".into())
}

fn task(name: &str) -> Line {
    Line::Task(name.into())
}

fn purchase(most: u128, lines: &[Line]) -> Purchase {
    Purchase {
        asset: asset(),
        most: amount(most),
        lines: lines.to_vec(),
    }
}

fn budgets() -> Budgets {
    let mut budgets = Budgets::default();
    budgets.limit(Line::All, asset(), Period::Day, amount(100));
    budgets.limit(task("news"), asset(), Period::Whole, amount(50));
    budgets
}

#[test]
fn two_tasks_and_a_chat_that_meet_one_budget_do_not_exceed_it() {
    let mut budgets = budgets();
    let _first = budgets
        .reserve(&purchase(40, &[task("news")]), NOON)
        .unwrap();
    let second = budgets
        .reserve(&purchase(40, &[task("mail")]), NOON)
        .unwrap();
    let third = budgets.reserve(&purchase(40, &[chat()]), NOON);
    let exhausted = BudgetError::Exhausted {
        line: Line::All,
        asked: amount(40),
        left: amount(20),
    };
    assert_eq!(third, Err(exhausted));
    // What did not fit in one line is set aside in none.
    assert_eq!(
        budgets.spent(chat(), asset(), Period::Day, NOON),
        Amount::ZERO
    );
    budgets.settle(second, amount(5), NOON);
    let third = budgets.reserve(&purchase(40, &[chat()]), NOON).unwrap();
    budgets.release(third);
    assert_eq!(
        budgets.spent(Line::All, asset(), Period::Day, NOON),
        amount(45)
    );
}

#[test]
fn a_task_has_so_much_for_good_and_the_agent_so_much_each_day() {
    let mut budgets = budgets();
    let tomorrow = NOON.plus_ms(DAY_MS);
    let first = budgets
        .reserve(&purchase(30, &[task("news")]), NOON)
        .unwrap();
    budgets.settle(first, amount(30), NOON);
    let second = budgets.reserve(&purchase(30, &[task("news")]), tomorrow);
    let exhausted = BudgetError::Exhausted {
        line: task("news"),
        asked: amount(30),
        left: amount(20),
    };
    assert_eq!(second, Err(exhausted));
    assert!(budgets.reserve(&purchase(100, &[chat()]), tomorrow).is_ok());
}

#[test]
fn nothing_is_spent_where_nobody_said_how_much_and_each_purchase_is_asked_about() {
    let mut budgets = Budgets::default();
    let one = purchase(1, &[chat()]);
    assert_eq!(budgets.reserve(&one, NOON), Err(BudgetError::NoBudget));
    assert!(budgets.is_asked_about(&one));
    assert!(!budgets.is_asked_about(&purchase(0, &[])));
    budgets.ask_above(asset(), amount(10));
    assert!(!budgets.is_asked_about(&purchase(10, &[])));
    assert!(budgets.is_asked_about(&purchase(11, &[])));
}

#[test]
fn a_line_that_is_named_twice_counts_once_and_too_many_are_refused() {
    let mut budgets = budgets();
    let tool = Line::Tool(ToolName::new("shop/buy").unwrap());
    let twice = purchase(60, &[tool.clone(), tool.clone(), Line::All]);
    let aside = budgets.reserve(&twice, NOON).unwrap();
    assert_eq!(budgets.spent(tool, asset(), Period::Day, NOON), amount(60));
    budgets.release(aside);
    let many = vec![chat(); LINES_MAX + 1];
    assert_eq!(
        budgets.reserve(&purchase(1, &many), NOON),
        Err(BudgetError::Full)
    );
}

#[derive(Debug, Clone)]
enum Step {
    Reserve(u128, usize),
    Settle(usize, u128),
    Release(usize),
    Crash,
    Later(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..60_u128, 0..3_usize).prop_map(|(most, line)| Step::Reserve(most, line)),
        2 => (0..4_usize, 0..100_u128).prop_map(|(which, part)| Step::Settle(which, part)),
        1 => (0..4_usize).prop_map(Step::Release),
        1 => Just(Step::Crash),
        1 => (0..DAY_MS).prop_map(Step::Later),
    ]
}

proptest! {
    /// Whatever goes on side by side, crashes, and is charged up to what was set aside: what was really spent stays within
    /// the limit of each day, and that of a task for good.
    #[test]
    fn no_limit_is_exceeded(steps in proptest::collection::vec(step(), 1..60)) {
        let lines = [task("news"), task("mail"), chat()];
        let mut budgets = budgets();
        let mut open: Vec<(SetAside, u128, usize)> = Vec::new();
        let mut now = NOON;
        let (mut by_day, mut of_news): (BTreeMap<u64, u128>, u128) = (BTreeMap::new(), 0);
        for step in steps {
            match step {
                Step::Reserve(most, line) => {
                    let wanted = purchase(most, &lines[line..=line]);
                    if let Ok(aside) = budgets.reserve(&wanted, now) {
                        open.push((aside, most, line));
                    }
                }
                Step::Settle(which, part) if which < open.len() => {
                    let (aside, most, line) = open.swap_remove(which);
                    let charged = most * part / 100;
                    budgets.settle(aside, amount(charged), now);
                    *by_day.entry(now.0 / DAY_MS).or_default() += charged;
                    of_news += if line == 0 { charged } else { 0 };
                }
                Step::Release(which) if which < open.len() => {
                    budgets.release(open.swap_remove(which).0);
                }
                Step::Settle(..) | Step::Release(_) => {}
                Step::Crash => {
                    // What was in progress may have been charged in full, on this day.
                    for (_, most, line) in open.drain(..) {
                        *by_day.entry(now.0 / DAY_MS).or_default() += most;
                        of_news += if line == 0 { most } else { 0 };
                    }
                    let sums = budgets.sums(now);
                    budgets = Budgets::restore(sums);
                    budgets.limit(Line::All, asset(), Period::Day, amount(100));
                    budgets.limit(task("news"), asset(), Period::Whole, amount(50));
                }
                Step::Later(ms) => now = now.plus_ms(ms),
            }
            prop_assert!(by_day.values().all(|spent| *spent <= 100), "{by_day:?}");
            prop_assert!(of_news <= 50, "{of_news}");
        }
    }
}
