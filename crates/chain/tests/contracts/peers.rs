//! The hostile and the odd contracts that ours must live with; sources in `contracts/test/`.

use alloy_primitives::{Address, Bytes};
use alloy_sol_types::{SolConstructor, sol};

#[allow(clippy::all)]
mod generated {
    use super::sol;

    sol!(
        AllowanceCollector,
        "../../contracts/artifacts/test/AllowanceCollector.json"
    );
    sol!(BareToken, "../../contracts/artifacts/test/BareToken.json");
    sol!(FalseToken, "../../contracts/artifacts/test/FalseToken.json");
    sol!(FeeToken, "../../contracts/artifacts/test/FeeToken.json");
    sol!(
        OneKeyWallet,
        "../../contracts/artifacts/test/OneKeyWallet.json"
    );
    sol!(
        ReentrantCollector,
        "../../contracts/artifacts/test/ReentrantCollector.json"
    );
    sol!(
        ReentrantToken,
        "../../contracts/artifacts/test/ReentrantToken.json"
    );
}

pub(crate) use generated::{
    AllowanceCollector, BareToken, FalseToken, FeeToken, OneKeyWallet, ReentrantCollector,
    ReentrantToken,
};

/// Init code of a contract account that signs with `key`.
pub(crate) fn one_key_wallet(key: Address) -> Bytes {
    let arguments = OneKeyWallet::constructorCall { key_: key }.abi_encode();
    [OneKeyWallet::BYTECODE.as_ref(), &arguments]
        .concat()
        .into()
}
