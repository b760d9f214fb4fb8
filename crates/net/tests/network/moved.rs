//! A device that is killed and comes back at another port.

use std::time::Duration;

use tokio::runtime::Runtime;

use crate::{Device, hears, offer, soon};

/// A runtime whose end is a device's end: it says goodbye to nobody.
fn killable() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn a_device_that_was_killed_is_found_at_its_new_port_while_old_connections_are_held() {
    let (staying, killed, again) = (killable(), killable(), killable());
    let b = staying.block_on(Device::new(71));
    let seller = |life: &Runtime| life.block_on(Device::new(72));
    let mut a = seller(&killed);
    killed.block_on(a.join(&b));
    a.network.publish(offer("before")).unwrap();
    let device = a.network.device();
    staying.block_on(async {
        let mut heard = b.network.offer_changes();
        if b.network.offers().is_empty() {
            hears(&mut heard, device, "before").await;
        }
    });
    // Something is being answered, and connections of several kinds are open.
    let (_asks, _answers) = staying.block_on(b.ask(&mut a));
    let before = a.network.address();
    killed.shutdown_background();
    std::mem::forget(a);

    let mut a = seller(&again);
    assert_ne!(a.network.address().direct, before.direct, "at another port");
    a.network.publish(offer("after")).unwrap();
    // It knows where the others are, and they do not know where it is.
    again.block_on(a.join(&b));
    staying.block_on(async {
        let found = async {
            loop {
                // As a node does: what it cannot reach it dials anew, by what it was told meanwhile.
                if let Ok(mut asks) = b.network.ask(device, None).await {
                    let sent = asks
                        .send(&hearth_protocol::answer::PayerFrame::Cancel)
                        .await;
                    let arrived = tokio::time::timeout(Duration::from_secs(1), a.incoming.next());
                    if sent.is_ok() && arrived.await.is_ok() {
                        return;
                    }
                }
                b.network.disconnect(device);
            }
        };
        soon("finding it again", found).await;
    });
}
