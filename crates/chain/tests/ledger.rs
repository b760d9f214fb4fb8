//! The ledger as a program uses it: on the embedded chain, through the client alone.
#![cfg(feature = "evm")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected should fail there"
)]

#[path = "ledger/anvil.rs"]
mod anvil;
#[path = "ledger/home.rs"]
mod home;

use alloy_primitives::{Address, B256, U256};
use hearth_chain::client::ChainClient;
use hearth_chain::embedded::{
    Embedded, EmbeddedConfig, Genesis, LEDGER_ADDRESSES, TEST_DOLLAR_ADDRESS,
};
use hearth_chain::ledger::{BondPlace, Ledger, LedgerError, LedgerRefusal, SignatureSet};
use hearth_protocol::content::ContentHash;
use hearth_protocol::id::ChainId;
use hearth_protocol::ledger::emission::ember_cap;
use hearth_protocol::ledger::statement::{
    EpochStatement, Equivocation, LedgerStatement, RoundStatement, RunTerms, VerdictStatement,
};
use hearth_protocol::ledger::sum_tree::{ShownLeaf, SumTree};
use hearth_protocol::money::Amount;

use home::{EPOCH_S, Home, WINDOW_S, device, household, key, sign};

fn refusal<T: std::fmt::Debug>(outcome: Result<T, LedgerError>) -> LedgerRefusal {
    let error = outcome.unwrap_err();
    let refused = error.refusal().cloned();
    refused.unwrap_or_else(|| panic!("it failed otherwise: {error:?}"))
}

/// A run without pledges.
fn plain_run(origin_s: u64) -> RunTerms {
    RunTerms {
        manifest: ContentHash([9; 32]),
        state: B256::repeat_byte(8),
        token: Address::ZERO,
        soft_cap: Amount::ZERO,
        deadline_s: origin_s,
        end_s: origin_s + 100 * EPOCH_S,
        checkpoints: 2,
        rounds_per_checkpoint: 1,
    }
}

/// A round that goes on from the one before.
fn round(terms: &RunTerms, round: u64) -> RoundStatement {
    let state = |round: u64| B256::from(U256::from(round + 1));
    RoundStatement {
        run: terms.run(),
        round,
        parent: round.checked_sub(1).map_or(terms.state, state),
        contributions: B256::repeat_byte(7),
        next: state(round),
    }
}

fn tree(asset: Address, earned: &[(Address, u128)]) -> SumTree {
    let earned = earned.iter();
    let earned = earned.map(|(account, units)| (*account, Amount::new(*units)));
    SumTree::new(asset, &earned.collect()).unwrap()
}

fn leaf(tree: &SumTree, account: Address) -> ShownLeaf {
    ShownLeaf {
        account,
        cumulative: tree.cumulative(account).unwrap(),
        proof: tree.proof(account).unwrap(),
    }
}

fn stated(tree: &SumTree, epoch: u64) -> EpochStatement {
    let root = tree.root();
    EpochStatement {
        epoch,
        asset: tree.asset(),
        root: root.hash,
        total: root.sum,
        data: tree.data_hash(),
    }
}

#[tokio::test]
async fn an_epoch_goes_from_registration_to_a_claim() {
    let home = Home::new(1).await;
    assert_eq!(home.ledger.addresses(), &LEDGER_ADDRESSES);
    go_through_an_epoch(&home).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs outside programs"]
async fn an_epoch_goes_the_same_way_on_anvil() {
    let (_node, client) = anvil::start().await;
    go_through_an_epoch(&Home::put_up(client, anvil::payer(), 1).await).await;
}

/// Registration, enrollment, two rounds, a record in two assets and claims, with one validator.
async fn go_through_an_epoch(home: &Home) {
    let ledger = &home.ledger;
    let session = device(0).address();
    assert_eq!(ledger.clock().epoch_s(), EPOCH_S);
    assert_eq!(ledger.clock().window_s(), WINDOW_S);
    assert_eq!(ledger.registration(session).await.unwrap(), None);
    home.register(0).await.unwrap();
    let found = ledger.registration(session).await.unwrap().unwrap();
    assert_eq!(found.household, household(0).address());
    let twice = refusal(home.register(0).await);
    assert_eq!(twice, LedgerRefusal::DeviceExists(session));

    home.seat(0, &[0]).await;
    assert_eq!(ledger.in_office().await.unwrap(), Some(0));
    let seats = ledger.seats(0).await.unwrap();
    assert_eq!(seats.holders[0].device, found.device);
    assert_eq!(seats.holders[0].seat.device, session);
    record_two_rounds(home).await;

    // What was earned in epoch 0, stated by the validators of epoch 1.
    home.seat(1, &[0]).await;
    let at = ledger.addresses();
    let (worker, helper) = (key("worker").address(), key("helper").address());
    let ember = tree(at.ember, &[(worker, 3_000), (helper, 500)]);
    let voice = tree(at.voice, &[(worker, 7)]);
    let recorded_at_s = record_epoch_zero(home, [&ember, &voice]).await;
    claim_for(home, worker, [&ember, &voice], recorded_at_s).await;
    let unclaimed = ledger.claimed(helper, at.ember).await.unwrap();
    assert_eq!(unclaimed, Amount::ZERO);
}

async fn record_two_rounds(home: &Home) {
    let (ledger, at) = (&home.ledger, home.ledger.addresses());
    let terms = plain_run(ledger.clock().origin_s());
    let committee = ledger.committee(0, terms.run()).await.unwrap();
    for number in 0..2 {
        let round = round(&terms, number);
        let signed = home.signed(&committee, &round.for_runs(at.runs), &[0]);
        let call = at.record_round(&terms, &round, 0, &signed);
        home.send(&call).await.unwrap();
    }
    let progress = ledger.run_progress(terms.run()).await.unwrap();
    assert_eq!(progress.state, Some(round(&terms, 1).next));
    assert_eq!((progress.rounds, progress.next_round), (2, 2));

    let page = ledger.rounds(terms.run(), 0).await.unwrap();
    assert!(page.is_last());
    let rounds: Vec<_> = page.items.iter().map(|round| round.statement).collect();
    assert_eq!(rounds, [round(&terms, 0), round(&terms, 1)]);
    assert!(page.items[0].block.number < page.items[1].block.number);
    assert!(page.items[0].block.timestamp_s >= ledger.clock().enrollment_s(0).end);
    let rest = ledger.rounds(terms.run(), page.items[1].block.number);
    assert_eq!(rest.await.unwrap().items.len(), 1);
    let none = ledger.rounds(terms.run(), page.next_block).await.unwrap();
    assert!(none.items.is_empty() && none.is_last());
}

/// Records what was earned in Ember and Voice. Returns when it was recorded.
async fn record_epoch_zero(home: &Home, trees: [&SumTree; 2]) -> u64 {
    let (ledger, at) = (&home.ledger, home.ledger.addresses());
    let set = ledger.committee(1, B256::ZERO).await.unwrap();
    for tree in trees {
        let statement = stated(tree, 0);
        let signed = home.signed(&set, &statement.for_rewards(at.rewards), &[0]);
        let call = at.record_epoch(&statement, None, &signed);
        home.send(&call).await.unwrap();
        let twice = refusal(home.send(&call).await);
        assert_eq!(twice, LedgerRefusal::RecordExists(0));
    }
    let record = ledger.epoch_record(at.ember, 0).await.unwrap().unwrap();
    let root = trees[0].root();
    assert_eq!((record.root, record.total), (root.hash, root.sum));
    assert_eq!((record.base, record.is_revoked), (None, false));
    assert_eq!(ledger.epoch_record(at.ember, 1).await.unwrap(), None);
    let recorded = ledger.epoch_records(0).await.unwrap().items;
    let recorded: Vec<_> = recorded.iter().map(|record| record.statement).collect();
    assert_eq!(recorded, trees.map(|tree| stated(tree, 0)));
    record.recorded_at_s
}

/// Somebody who has nothing to do with it claims for an account.
async fn claim_for(home: &Home, account: Address, trees: [&SumTree; 2], recorded_at_s: u64) {
    let (ledger, at) = (&home.ledger, home.ledger.addresses());
    let [ember, voice] = trees.map(|tree| at.claim(tree.asset(), 0, &leaf(tree, account)));
    let early = refusal(home.send(&ember).await);
    assert_eq!(early, LedgerRefusal::NotFinal(0));
    home.go(ledger.clock().final_from_s(recorded_at_s)).await;
    home.send(&voice).await.unwrap();
    // The same claim again pays nothing.
    for _ in 0..2 {
        home.send(&ember).await.unwrap();
        let earned = trees.map(|tree| tree.cumulative(account).unwrap());
        let held = ledger.embers(account).await.unwrap();
        assert_eq!(held, U256::from(earned[0].units()));
        let votes = ledger.votes(account).await.unwrap();
        assert_eq!(votes, U256::from(earned[1].units()));
        assert_eq!(ledger.claimed(account, at.ember).await.unwrap(), earned[0]);
    }
    let books = ledger.asset_books(at.ember).await.unwrap();
    assert_eq!(books.payable, trees[0].root().sum);
}

#[tokio::test]
async fn a_round_is_recorded_once_and_only_by_those_who_were_drawn() {
    let home = Home::new(3).await;
    let ledger = &home.ledger;
    let at = *ledger.addresses();
    for number in 0..3 {
        home.register(number).await.unwrap();
    }
    let terms = plain_run(ledger.clock().origin_s());
    let early = ledger.committee(0, terms.run()).await;
    assert_eq!(refusal(early), LedgerRefusal::NotSealed(0));
    assert_eq!(ledger.in_office().await.unwrap(), None);
    home.seat(0, &[0, 1, 2]).await;
    let committee = ledger.committee(0, terms.run()).await.unwrap();
    assert_eq!(committee.members().count(), 3);
    let statement = round(&terms, 0).for_runs(at.runs);
    let record = |signed: &SignatureSet| at.record_round(&terms, &round(&terms, 0), 0, signed);

    // A stranger in the place of a member.
    let digest = ledger.domain().statement_digest(&statement);
    let forged = SignatureSet {
        mask: 1,
        signatures: vec![sign(&key("stranger"), digest)],
    };
    let refused = refusal(home.send(&record(&forged)).await);
    assert_eq!(refused, LedgerRefusal::NotSigned(U256::ZERO));
    assert!(
        refused.to_string().contains("seat 0 does not belong"),
        "{refused}"
    );
    // One of three.
    let one = home.signed(&committee, &statement, &[1]);
    assert!(!committee.is_decided_by(one.mask));
    let refused = refusal(home.send(&record(&one)).await);
    assert!(
        matches!(refused, LedgerRefusal::TooLittleWeight { .. }),
        "{refused}"
    );
    // Of another round.
    let other = round(&terms, 1).for_runs(at.runs);
    let other = home.signed(&committee, &other, &[0, 1, 2]);
    let refused = refusal(home.send(&record(&other)).await);
    assert!(matches!(refused, LedgerRefusal::NotSigned(_)), "{refused}");

    let all = home.signed(&committee, &statement, &[0, 1, 2]);
    assert!(committee.is_decided_by(all.mask));
    home.send(&record(&all)).await.unwrap();
    // The same again, and another content of the same round.
    let again = refusal(home.send(&record(&all)).await);
    let recorded = LedgerRefusal::InvalidRound {
        round: 0,
        next_round: 1,
    };
    assert_eq!(again, recorded);
    let second = RoundStatement {
        next: B256::repeat_byte(0xbb),
        ..round(&terms, 0)
    };
    let signed = home.signed(&committee, &second.for_runs(at.runs), &[0, 1, 2]);
    let call = at.record_round(&terms, &second, 0, &signed);
    assert_eq!(refusal(home.send(&call).await), recorded);
    assert_eq!(ledger.run_progress(terms.run()).await.unwrap().rounds, 1);

    expel_who_signed_both(&home, [statement, second.for_runs(at.runs)]).await;
}

/// Anyone who has both signatures of a device has it expelled.
async fn expel_who_signed_both(home: &Home, statements: [LedgerStatement; 2]) {
    let (ledger, at) = (&home.ledger, home.ledger.addresses());
    let proof = Equivocation {
        device: device(1).address(),
        first: statements[0],
        other: statements[1].content,
        signatures: statements.map(|statement| {
            let digest = ledger.domain().statement_digest(&statement);
            sign(&device(1), digest)
        }),
    };
    home.send(&at.expel(&proof)).await.unwrap();
    let expelled = ledger.registration(device(1).address()).await.unwrap();
    assert!(expelled.unwrap().is_expelled);
    home.go(ledger.clock().enrollment_s(1).start).await;
    let refused = refusal(home.enroll(1, 1).await);
    assert_eq!(refused, LedgerRefusal::DeviceInactive(device(1).address()));
}

#[tokio::test]
async fn pledges_go_back_under_the_soft_cap_and_are_released_above_it() {
    let home = Home::new(1).await;
    let ledger = &home.ledger;
    let at = *ledger.addresses();
    home.register(0).await.unwrap();
    home.seat(0, &[0]).await;
    let origin_s = ledger.clock().origin_s();
    let terms = |soft_cap| RunTerms {
        token: TEST_DOLLAR_ADDRESS,
        soft_cap: Amount::new(soft_cap),
        deadline_s: origin_s + EPOCH_S,
        ..plain_run(origin_s)
    };
    let (missed, reached) = (terms(1_000), terms(600));
    let me = home.sender.key().account;

    let refused = refusal(home.send(&at.pledge(&missed, Amount::new(600))).await);
    assert!(
        matches!(refused, LedgerRefusal::TooLittleAllowed { .. }),
        "{refused}"
    );
    let allowed = at.approve(TEST_DOLLAR_ADDRESS, at.runs, Amount::new(10_000));
    home.send(&allowed).await.unwrap();
    // The same pledge twice is two pledges.
    for _ in 0..2 {
        home.send(&at.pledge(&missed, Amount::new(300)))
            .await
            .unwrap();
    }
    home.send(&at.withdraw_pledge(&missed, Amount::new(100)))
        .await
        .unwrap();
    home.send(&at.pledge(&reached, Amount::new(600)))
        .await
        .unwrap();
    assert_eq!(
        ledger.pledge_of(missed.run(), me).await.unwrap(),
        Amount::new(500)
    );
    let early = refusal(home.send(&at.refund(&missed, me)).await);
    assert_eq!(early, LedgerRefusal::PledgesBound(missed.run()));

    home.go(origin_s + EPOCH_S).await;
    let late = refusal(home.send(&at.pledge(&missed, Amount::new(1))).await);
    assert_eq!(late, LedgerRefusal::PledgesClosed(missed.run()));
    home.send(&at.refund(&missed, me)).await.unwrap();
    assert_eq!(
        ledger.pledge_of(missed.run(), me).await.unwrap(),
        Amount::ZERO
    );
    assert_eq!(home.dollars(me).await, 10_000 - 600);

    let none = refusal(home.send(&at.release(&reached)).await);
    assert_eq!(none, LedgerRefusal::NothingToRelease(reached.run()));
    let committee = ledger.committee(0, reached.run()).await.unwrap();
    for number in 0..2 {
        let round = round(&reached, number);
        let signed = home.signed(&committee, &round.for_runs(at.runs), &[0]);
        let call = at.record_round(&reached, &round, 0, &signed);
        home.send(&call).await.unwrap();
        home.send(&at.release(&reached)).await.unwrap();
    }
    let progress = ledger.run_progress(reached.run()).await.unwrap();
    assert_eq!((progress.released, progress.unreleased), (2, Amount::ZERO));
    let books = ledger.asset_books(TEST_DOLLAR_ADDRESS).await.unwrap();
    assert_eq!(books.funded, Amount::new(600));
}

#[tokio::test]
async fn a_verdict_takes_a_part_of_a_bond_and_a_false_record_is_revoked() {
    let home = Home::new(2).await;
    let ledger = &home.ledger;
    let at = *ledger.addresses();
    for number in 0..2 {
        home.register(number).await.unwrap();
    }
    let bond = BondPlace {
        device: device(1).address(),
        court: at.validators,
        token: TEST_DOLLAR_ADDRESS,
    };
    let allowed = at.approve(TEST_DOLLAR_ADDRESS, at.devices, Amount::new(1_000));
    home.send(&allowed).await.unwrap();
    home.send(&at.bond(&bond, Amount::new(1_000)))
        .await
        .unwrap();
    let not_mine = refusal(home.send(&at.unbond(&bond, Amount::new(1))).await);
    assert!(
        matches!(not_mine, LedgerRefusal::NotOfDevice(_)),
        "{not_mine}"
    );
    home.seat(0, &[0, 1]).await;
    let verdict = VerdictStatement {
        device: device(1).address(),
        token: TEST_DOLLAR_ADDRESS,
        amount: Amount::new(250),
        evidence: B256::repeat_byte(5),
    };
    let set = ledger.committee(0, B256::ZERO).await.unwrap();
    let signed = home.signed(&set, &verdict.for_validators(at.validators), &[0, 1]);
    let call = at.verdict(0, B256::ZERO, &verdict, &signed);
    home.send(&call).await.unwrap();
    assert!(matches!(
        refusal(home.send(&call).await),
        LedgerRefusal::VerdictExists { .. }
    ));
    assert!(ledger.is_excluded(device(1).address()).await.unwrap());
    assert_eq!(ledger.stake(&bond).await.unwrap().bonded, Amount::new(750));

    // A total above what the epoch can give is refused at once.
    home.seat(1, &[0]).await;
    let set = ledger.committee(1, B256::ZERO).await.unwrap();
    let most = ember_cap(0, EPOCH_S).units();
    let excessive = stated(&tree(at.ember, &[(Address::repeat_byte(1), most + 1)]), 0);
    let signed = home.signed(&set, &excessive.for_rewards(at.rewards), &[0]);
    let call = at.record_epoch(&excessive, None, &signed);
    let refused = refusal(home.send(&call).await);
    assert!(
        matches!(refused, LedgerRefusal::InvalidTotal { .. }),
        "{refused}"
    );
    home.revoke_a_record_out_of_order(&set).await;
    let record = ledger.epoch_record(at.ember, 0).await.unwrap().unwrap();
    assert!(record.is_revoked);
    let enrollment = LedgerStatement::enrollment(at.validators, 1);
    assert_eq!(enrollment.content, B256::ZERO);
}

#[tokio::test]
async fn a_chain_without_a_ledger_says_so() {
    let genesis = Genesis::standard(Address::repeat_byte(1));
    let chain = Embedded::in_memory(EmbeddedConfig::new(genesis)).unwrap();
    let id = ChainId(chain.chain_id());
    let client = ChainClient::from_transport(chain.transport(), id);
    let missing = Ledger::find(client.clone(), LEDGER_ADDRESSES.runs).await;
    assert!(matches!(missing, Err(LedgerError::Missing { chain, .. }) if chain == id));
    // A contract that is there, but none of a ledger.
    let another = Ledger::find(client, TEST_DOLLAR_ADDRESS).await;
    assert!(
        matches!(another, Err(LedgerError::Another { .. })),
        "{another:?}"
    );
}
