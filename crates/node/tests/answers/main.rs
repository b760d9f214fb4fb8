//! Answers end to end: real streams between peers, a real chain, and a real model or a script in its place.

// Clippy knows the tests themselves, not what they share.
#![allow(clippy::unwrap_used)]

mod hostile;
mod refunds;
mod vocabulary;
mod world;

use hearth_chain::embedded::Mining;
use hearth_protocol::answer::StopReason;
use hearth_protocol::answer::payer::Patience;
use hearth_protocol::money::Amount;
use hearth_surface::answers::{Answerer, Ending, Input};

use world::{MODEL, World, ask, charges, price, question};

/// Not a test: what a process does that was started by [`world::launcher`].
#[test]
fn serves_as_a_reader() {
    if hearth_node::reader::is_reader() {
        hearth_node::reader::serve();
        std::process::exit(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs outside programs"]
async fn an_answer_is_paid_by_the_token_and_claimed() {
    let world = World::start().await;
    let shop = world.shop(2, vec![price()]).await;
    let payer = world.payer(&[&shop], 16).await;
    let mut paid = Amount::ZERO;
    for length in [1, 40] {
        let heard = ask(&payer, question("Name three colours.", length), |_| {}).await;
        assert_eq!(heard.stop, Ending::Model(StopReason::Length), "{heard:?}");
        assert_eq!(heard.usage.output_tokens, length);
        let cost = price().cost(heard.usage.prompt_tokens, length);
        assert_eq!(charges(&payer, &heard)[&shop.device()], cost);
        assert_eq!(heard.usage.charged[0].units, cost.to_string());
        paid = paid.saturating_add(cost);
    }
    shop.till.settlement.claim(true).await.unwrap();
    assert_eq!(world.balance(&shop).await, paid);
}

/// A deposit that an answer needs in its middle becomes final later than a token may take to come.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs outside programs"]
async fn an_answer_goes_on_while_the_chain_takes_its_time_with_a_deposit() {
    let interval_ms = 3 * Patience::default().stall_ms;
    let world = World::start_mining(Mining::Every { interval_ms }).await;
    let shop = world.shop(2, vec![price()]).await;
    let payer = world.payer(&[&shop], 16).await;
    let before = world.purse_holds().await;
    let heard = ask(&payer, question("Tell me a long story.", 200), |_| {}).await;
    assert_eq!(heard.stop, Ending::Model(StopReason::Length), "{heard:?}");
    assert_eq!(heard.sources.len(), 1, "{:?}", heard.sources);
    let cost = price().cost(heard.usage.prompt_tokens, 200);
    assert_eq!(charges(&payer, &heard)[&shop.device()], cost);
    let first = price().cost(heard.usage.prompt_tokens, 16).units() * 5;
    let deposited = before.saturating_sub(world.purse_holds().await);
    assert!(
        deposited.units() > first,
        "no deposit in the middle: {deposited}"
    );
}

/// A task that read a long prompt itself would hold up all others on its thread.
#[tokio::test]
#[ignore = "needs outside programs"]
async fn others_go_on_while_a_prompt_is_turned_into_ids() {
    let world = World::start().await;
    let shop = world.shop(2, Vec::new()).await;
    let payer = world.payer(&[&shop], 512).await;
    let count = |text: &str| payer.count_tokens(MODEL.to_owned(), Input::text(text.to_owned()));
    // The first one loads the tokenizer.
    let sea = count("The sea.").await.unwrap();
    let mut counting = count("The sea.");
    assert!(futures::poll!(&mut counting).is_pending());
    assert_eq!(counting.await.unwrap(), sea);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs outside programs"]
async fn the_same_seed_and_question_give_the_same_answer_paid_or_free() {
    let world = World::start().await;
    let paid = world.shop(2, vec![price()]).await;
    let first = ask(
        &world.payer(&[&paid], 512).await,
        question("Tell me of the sea.", 30),
        |_| {},
    )
    .await;
    let free = world.shop(3, Vec::new()).await;
    let second = ask(
        &world.payer_named("other", &[&free], 512).await,
        question("Tell me of the sea.", 30),
        |_| {},
    )
    .await;
    assert_eq!(first.text, second.text);
    assert!(second.usage.charged.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs outside programs"]
async fn another_provider_goes_on_where_one_vanishes() {
    let world = World::start().await;
    let whole = {
        let alone = world.shop(4, vec![price()]).await;
        let payer = world.payer_named("alone", &[&alone], 16).await;
        ask(&payer, question("Count to fifty.", 60), |_| {}).await
    };
    let first = world.shop(2, vec![price()]).await;
    let second = world.shop(3, vec![price()]).await;
    let payer = world.payer(&[&first, &second], 16).await;
    let devices = [first.device(), second.device()];
    let mut shops = [Some(first), Some(second)];
    let mut vanished = None;
    let heard = ask(&payer, question("Count to fifty.", 60), |tokens| {
        if tokens >= 30 && vanished.is_none() {
            // Whoever answers first is the one that goes.
            let answering = usize::from(
                shops[0]
                    .as_ref()
                    .is_none_or(|shop| shop.provider.served()[0].generator.load_now().busy == 0),
            );
            vanished = shops[answering]
                .take()
                .map(|shop| (answering, shop.vanish()));
        }
    })
    .await;
    let (gone, _) = vanished.expect("somebody answered");
    assert_eq!(heard.stop, Ending::Model(StopReason::Length), "{heard:?}");
    assert_eq!(heard.usage.output_tokens, 60);
    assert_eq!(heard.sources.len(), 2, "{:?}", heard.sources);
    assert_eq!(heard.text[..20], whole.text[..20]);
    let charges = charges(&payer, &heard);
    for device in devices {
        assert!(!charges[&device].is_zero(), "each is paid for its part");
    }
    let rest = charges[&devices[1 - gone]];
    let most = price().cost(heard.usage.prompt_tokens + 60, 60);
    assert!(rest < most, "{rest} < {most}");
}
