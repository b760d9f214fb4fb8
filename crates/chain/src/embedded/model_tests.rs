//! Random payments against a model that is a table of balances and nonces.

use std::collections::BTreeMap;

use alloy_primitives::{Address, U256};
use proptest::prelude::*;
use serde_json::json;

use super::testing::{WEI, account, balance, config, payment, quantity, send};
use super::{Embedded, RpcError};

/// A payment that may be impossible: its nonce may be off and its value too large.
#[derive(Debug, Clone)]
struct Payment {
    from: u8,
    to: u8,
    nonce_offset: i8,
    value: u64,
}

fn payments() -> impl Strategy<Value = Vec<Payment>> {
    let one = (
        0_u8..4,
        0_u8..6,
        prop_oneof![8 => Just(0_i8), 1 => Just(-1), 1 => 1_i8..3],
        0..WEI,
    )
        .prop_map(|(from, to, nonce_offset, value)| Payment {
            from,
            to,
            nonce_offset,
            value,
        });
    prop::collection::vec(one, 1..40)
}

/// What a chain must do, said in the plainest way.
#[derive(Default)]
struct Model {
    accounts: BTreeMap<Address, (u64, u64)>,
    waiting: BTreeMap<(Address, u64), (Address, u64)>,
}

impl Model {
    /// `Ok(true)` if a payment is accepted, with every payment that it makes possible carried out.
    fn pay(&mut self, from: Address, nonce: u64, to: Address, value: u64) -> bool {
        let (next, has) = self.accounts[&from];
        if nonce < next || value > has || self.waiting.contains_key(&(from, nonce)) {
            return false;
        }
        self.waiting.insert((from, nonce), (to, value));
        // One arrival makes payments of its own sender possible, and no others: others wait for nonces, not for money.
        while let Some((to, value)) = self.waiting.remove(&(from, self.accounts[&from].0)) {
            let payer = self.accounts.get_mut(&from).unwrap();
            if value > payer.1 {
                return true;
            }
            payer.0 += 1;
            payer.1 -= value;
            self.accounts.entry(to).or_default().1 += value;
        }
        true
    }

    /// What the chain drops when it has mined: what its sender can no longer pay.
    fn tidy(&mut self) {
        let has = |from: &Address| self.accounts[from].1;
        self.waiting
            .retain(|(from, _), (_, value)| *value <= has(from));
    }
}

fn nonce_of(chain: &Embedded, address: Address) -> u64 {
    quantity(chain, "eth_getTransactionCount", json!([address, "latest"])).to()
}

fn compare(chain: &Embedded, model: &Model) -> Result<(), TestCaseError> {
    for (address, (nonce, wei)) in &model.accounts {
        prop_assert_eq!(nonce_of(chain, *address), *nonce);
        prop_assert_eq!(balance(chain, *address), U256::from(*wei));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn balances_and_nonces_follow_the_model(payments in payments()) {
        let chain = Embedded::in_memory(config()).unwrap();
        let mut model = Model::default();
        for index in 0..6 {
            let wei = if index < 4 { WEI } else { 0 };
            model.accounts.insert(account(index).address(), (0, wei));
        }
        for Payment { from, to, nonce_offset, value } in payments {
            let (from, to) = (account(from), account(to).address());
            let Some(nonce) = model.accounts[&from.address()].0.checked_add_signed(i64::from(nonce_offset)) else {
                continue;
            };
            let (_, raw) = payment(&from, nonce, to, value);
            let outcome = send(&chain, &raw);
            let expected = model.pay(from.address(), nonce, to, value);
            model.tidy();
            prop_assert_eq!(outcome.is_ok(), expected, "nonce {} value {}: {:?}", nonce, value, outcome);
            if let Err(error) = outcome {
                prop_assert!(matches!(error.code, RpcError::REJECTED), "{}", error);
            }
            compare(&chain, &model)?;
        }
        let total: U256 = model.accounts.keys().map(|address| balance(&chain, *address)).sum();
        prop_assert_eq!(total, U256::from(4 * WEI), "no coin is made or lost");
    }
}
