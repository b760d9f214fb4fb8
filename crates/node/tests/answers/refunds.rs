//! What is left in a channel with a device of the network comes back over the network: all of it, once, and to its payer.

use hearth_net::{IncomingAnswers, Network};
use hearth_node::roles::payer::Payer;
use hearth_payments::purse::{Beginning, PayError, Purse, Refund};
use hearth_protocol::answer::frame::RefusalCode;
use hearth_protocol::answer::{PayerFrame, ProviderFrame, StopReason};
use hearth_protocol::audience::Openness;
use hearth_protocol::channel::payer::Status;
use hearth_protocol::id::ChannelId;
use hearth_protocol::money::Amount;
use hearth_protocol::offer::Offer;
use hearth_protocol::x402::{ErrorCode, PaymentJson, SettleResponse};
use hearth_surface::answers::Ending;

use crate::world::{LONG, Shop, World, ask, price, question};

/// Tokens of the answers that are bought.
const TOKENS: u32 = 8;

/// What the payer has in its one channel, and how it stands.
fn channel(purse: &Purse) -> (ChannelId, Amount, Status) {
    let views = purse.channels().unwrap();
    assert_eq!(views.len(), 1, "{views:?}");
    let record = &views[0].stored.record;
    let status = record.status.clone();
    (views[0].channel, record.refundable(), status)
}

async fn buys(payer: &Payer) -> Amount {
    let heard = ask(payer, question("Name a colour.", TOKENS), |_| {}).await;
    assert_eq!(heard.stop, Ending::Model(StopReason::Length), "{heard:?}");
    price().cost(heard.usage.prompt_tokens, TOKENS)
}

fn begun(beginning: Beginning) -> Refund {
    match beginning {
        Beginning::ToCarry(refund) => *refund,
        Beginning::Done(done) => panic!("{done:?}"),
    }
}

/// One answer was bought: from whom, by whom, what the payer had before, and what it paid.
async fn one_bought(world: &World) -> (Shop, Payer, Amount, Amount) {
    let shop = world.shop(2, vec![price()]).await;
    let payer = world.payer(&[&shop], 16).await;
    let had = world.purse_holds().await;
    let paid = buys(&payer).await;
    (shop, payer, had, paid)
}

/// What a provider says to a refund that somebody brings.
async fn says(network: &Network, shop: &Shop, payment: PaymentJson) -> ProviderFrame {
    let address = shop.network.address();
    let said = async {
        let mut stream = network.ask(shop.device(), Some(&address)).await.unwrap();
        stream.send(&PayerFrame::Refund(payment)).await.unwrap();
        stream.recv().await.unwrap().expect("an answer")
    };
    tokio::time::timeout(LONG, said).await.unwrap()
}

fn settled(frame: ProviderFrame) -> SettleResponse {
    match frame {
        ProviderFrame::Refunded(json) => json.read().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_was_not_spent_comes_back_whoever_may_use_the_device_now() {
    let world = World::scripted().await;
    let (shop, payer, had, paid) = one_bought(&world).await;
    let purse = payer.purse().unwrap();
    let (id, left, _) = channel(purse);
    shop.provider.set_open(Openness::Nobody);
    let refunded = payer.refund(shop.device(), id).await.unwrap();
    assert_eq!(refunded.settled.amount, Some(left.to_string()));
    assert_eq!(world.purse_holds().await, had.saturating_sub(paid));
    assert_eq!(channel(purse), (id, Amount::ZERO, Status::Closed));
    // What was spent was claimed on the way.
    shop.till.settlement.claim(true).await.unwrap();
    assert_eq!(world.balance(&shop).await, paid);
    let again = payer.refund(shop.device(), id).await;
    assert!(matches!(again, Err(PayError::Prepare(_))), "{again:?}");
    // The next answer opens another channel.
    shop.provider.set_open(Openness::Everyone);
    buys(&payer).await;
    assert_eq!(purse.channels().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_payer_has_a_channel_refunded_and_nobody_twice() {
    let world = World::scripted().await;
    let (shop, payer, had, paid) = one_bought(&world).await;
    let purse = payer.purse().unwrap();
    let (id, left, _) = channel(purse);
    let refund = begun(purse.begin_refund(id).await.unwrap());
    let payment = refund.payment();
    let (stranger, _) = world.network(77).await;

    let mut forged: serde_json::Value = serde_json::from_slice(payment.as_bytes()).unwrap();
    let signature = &mut forged["payload"]["voucher"]["signature"];
    *signature = format!("0x{}1b", "11".repeat(64)).into();
    let forged = serde_json::to_vec(&forged).unwrap();
    for worthless in [forged, b"{}".to_vec(), b"null".to_vec(), vec![0xff; 200]] {
        match says(&stranger, &shop, worthless.into()).await {
            ProviderFrame::Refused(refusal) => {
                assert_eq!(refusal.code, RefusalCode::PaymentRefused, "{refusal:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    // The payer's own words count, whoever brings them: the money goes to the payer.
    let first = settled(says(&stranger, &shop, payment.clone()).await);
    assert!(first.success, "{first:?}");
    let again = settled(says(&stranger, &shop, payment).await);
    let nothing = ErrorCode::RefundNoBalance.as_str();
    assert_eq!(again.error_reason.as_deref(), Some(nothing), "{again:?}");
    assert_eq!(first.amount, Some(left.to_string()));
    assert_eq!(world.purse_holds().await, had.saturating_sub(paid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_whose_answer_was_lost_is_settled_when_it_is_asked_for_again() {
    let world = World::scripted().await;
    let (shop, payer, had, paid) = one_bought(&world).await;
    let purse = payer.purse().unwrap();
    let (id, left, _) = channel(purse);
    let refund = begun(purse.begin_refund(id).await.unwrap());
    // It was done, and the payer heard nothing of it.
    let (carrier, _) = world.network(77).await;
    let done = settled(says(&carrier, &shop, refund.payment()).await);
    assert!(done.success, "{done:?}");
    drop(refund);
    assert_eq!(channel(purse).2, Status::Refunding);
    let again = payer.refund(shop.device(), id).await.unwrap();
    assert_eq!(again.settled.amount, Some(left.to_string()));
    assert_eq!(channel(purse), (id, Amount::ZERO, Status::Closed));
    assert_eq!(world.purse_holds().await, had.saturating_sub(paid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_whose_figure_a_claim_made_public_is_signed_again_for_the_one_that_is_named() {
    let world = World::scripted().await;
    let (shop, payer, had, paid) = one_bought(&world).await;
    let purse = payer.purse().unwrap();
    let (id, left, _) = channel(purse);
    // From here on anyone has the voucher of what was charged.
    shop.till.settlement.claim(true).await.unwrap();
    let refund = begun(purse.begin_refund(id).await.unwrap());
    let (stranger, _) = world.network(77).await;
    let said = says(&stranger, &shop, refund.payment()).await;
    let ProviderFrame::PaymentRequired(correction) = said else {
        panic!("{said:?}");
    };
    let correction = correction.read().unwrap();
    let mismatch = ErrorCode::CumulativeMismatch.as_str();
    assert_eq!(
        correction.error.as_deref(),
        Some(mismatch),
        "{correction:?}"
    );
    drop(refund);
    let refunded = payer.refund(shop.device(), id).await.unwrap();
    assert_eq!(refunded.settled.amount, Some(left.to_string()));
    assert_eq!(channel(purse), (id, Amount::ZERO, Status::Closed));
    assert_eq!(world.purse_holds().await, had.saturating_sub(paid));
    assert_eq!(world.balance(&shop).await, paid);
}

/// Says of every refund that it was done, and does nothing.
async fn lies(mut incoming: IncomingAnswers) {
    while let Some(asked) = incoming.next().await {
        let (mut sender, mut receiver) = asked.stream.split();
        if let Ok(Some(PayerFrame::Refund(payment))) = receiver.recv().await {
            let payment: serde_json::Value = serde_json::from_slice(payment.as_bytes()).unwrap();
            let done = serde_json::json!({
                "success": true,
                "transaction": format!("0x{}", "11".repeat(32)),
                "network": payment["accepted"]["network"],
                "amount": "1",
            });
            let done = serde_json::to_vec(&done).unwrap();
            sender
                .send(&ProviderFrame::Refunded(done.into()))
                .await
                .unwrap();
            sender.finish();
            sender.taken().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_counts_once_the_chain_shows_it() {
    let world = World::scripted().await;
    let shop = world.shop(2, vec![price()]).await;
    let (liar, incoming) = world.network(77).await;
    let lying = tokio::spawn(lies(incoming));
    let honest = world.offer(&shop);
    let nothing = Offer {
        device: liar.device(),
        models: Vec::new(),
        ..honest.clone()
    };
    let sellers = [(&shop.network, honest), (&liar, nothing)];
    let payer = world.payer_of("payer", &sellers, 16).await;
    let had = world.purse_holds().await;
    let paid = buys(&payer).await;
    let purse = payer.purse().unwrap();
    let (id, left, _) = channel(purse);
    let said = payer.refund(liar.device(), id).await;
    assert!(matches!(said, Err(PayError::Unseen)), "{said:?}");
    assert_eq!(channel(purse), (id, left, Status::Refunding));
    let refunded = payer.refund(shop.device(), id).await.unwrap();
    assert_eq!(refunded.settled.amount, Some(left.to_string()));
    assert_eq!(channel(purse), (id, Amount::ZERO, Status::Closed));
    assert_eq!(world.purse_holds().await, had.saturating_sub(paid));
    lying.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_with_a_device_that_is_away_stays_as_it_is() {
    let world = World::scripted().await;
    let shop = world.shop(2, vec![price()]).await;
    let payer = world.payer(&[&shop], 16).await;
    buys(&payer).await;
    let purse = payer.purse().unwrap();
    let before = channel(purse);
    let device = shop.device();
    shop.network.shutdown().await;
    shop.vanish();
    let asked = payer.refund(device, before.0).await;
    assert!(matches!(asked, Err(PayError::Unreached(_))), "{asked:?}");
    assert_eq!(channel(purse), before);
}
