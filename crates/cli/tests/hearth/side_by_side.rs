//! The same devices train two models at once: neither run takes the other's rounds, files or pay.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::training::{
    RECIPE, all_rounds, dataset, ember, fresh, join_run, made_run, shown, until, up,
    up_in_network_of,
};

/// The states after each round.
fn states(rounds: &[Value]) -> BTreeSet<String> {
    let states = rounds.iter().map(|round| round["state"].to_string());
    states.collect()
}

#[test]
fn two_runs_go_on_side_by_side_and_both_are_paid() {
    let (tower, laptop, phone) = (fresh(true), fresh(false), fresh(false));
    let data = dataset(&tower);
    let _host = up(&tower);
    let _nodes = [&laptop, &phone].map(|home| up_in_network_of(&tower, home));
    let other = RECIPE
        .replace("verses", "odes")
        .replace("width = 32", "width = 16");
    let runs = [RECIPE, &other].map(|recipe| made_run(&tower, recipe, &data));
    for (_, ticket) in &runs {
        join_run(&laptop, ticket);
        join_run(&phone, ticket);
    }
    let [verses, odes] = [0, 1].map(|place| {
        let (run, _) = &runs[place];
        let (mine, theirs) = (all_rounds(&laptop, run), all_rounds(&phone, run));
        assert_eq!(states(&mine), states(&theirs));
        for round in &mine {
            assert_eq!(round["trainers"].as_array().unwrap().len(), 2, "{round}");
        }
        mine
    });
    assert!(states(&verses).is_disjoint(&states(&odes)));
    assert_eq!(shown(&laptop, &runs[1].0)["name"], "odes");

    // Work of either run is paid; nothing is owed once no audit is open.
    let rewards = until("pay of both runs", || {
        let rewards = laptop.run(&["rewards", "--json"]).json();
        let credits = rewards["credits"].as_array()?;
        let paid = |run: &str| {
            let mut of_run = credits.iter().filter(|credit| credit["run"] == run);
            of_run.any(|credit| credit["vested"]["units"] != "0")
        };
        let is_paid = runs.iter().all(|(run, _)| paid(run));
        (is_paid && ember(&rewards["claimable"]) > 0).then_some(rewards)
    });
    let claimed = laptop.run(&["rewards", "claim", "--json"]).json();
    assert!(ember(&claimed["claimed"]) >= ember(&rewards["claimable"]));
}
