//! The embedded chain as a chain to pay on, in this process.

use alloy_primitives::Address;
use hearth_chain::embedded::{Budget, Embedded, EmbeddedConfig, Genesis, Listener};
use tokio::runtime::Runtime;

use crate::chain::{TestChain, keys};

/// The embedded chain, served on loopback, with a token of tests of which the payer holds its funds.
pub(crate) fn start() -> TestChain {
    let runtime = Runtime::new().expect("a runtime starts");
    let genesis = Genesis::standard(Address::repeat_byte(0x11));
    let chain = Embedded::in_memory(EmbeddedConfig::new(genesis)).expect("the chain starts");
    let listener = runtime
        .block_on(Listener::bind("127.0.0.1:0"))
        .expect("the loopback address has a free port");
    let address = listener.address();
    runtime.spawn(async move {
        let budget = Budget::of_process();
        chain.serve(listener, budget, std::future::pending()).await
    });
    let rpc = format!("http://{address}");
    TestChain::prepared(rpc, Box::new(runtime), keys::PAYER_ADDRESS, None)
}
