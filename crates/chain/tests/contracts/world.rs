//! A payer, a provider and a stranger on a chain with a dollar token, and the short words that the tests use.

use alloy_primitives::aliases::U40;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{Eip712Domain, SolCall, SolError, SolEvent, SolStruct, SolValue};
use hearth_chain::bindings::Settlement::{self, ChannelConfig, VoucherClaim};
use hearth_chain::bindings::{COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS, TestDollar, test_dollar_init};

use crate::chain::{Chain, Receipt, RevmChain};
use crate::signing::{
    ReceiveWithAuthorization, Refund, Voucher, channel_id, claim_batch, deposit_nonce,
    settlement_domain, token_domain,
};

/// Seconds that a withdrawal waits in these tests.
pub(crate) const DELAY_S: u64 = 3_600;

/// Atomic units that the payer starts with.
pub(crate) const PAYER_FUNDS: u128 = 1_000_000_000_000;

/// An account that sends or signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Payer,
    PayerAuthorizer,
    Receiver,
    ReceiverAuthorizer,
    Stranger,
}

/// A chain and the accounts of one test on it.
pub(crate) struct World {
    pub(crate) chain: Box<dyn Chain>,
    pub(crate) token: Address,
    name: String,
    salts: u64,
}

/// A channel's money and nonces, as the contract tells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) balance: u128,
    pub(crate) claimed: u128,
    pub(crate) pending: u128,
    pub(crate) initiated_at: u64,
    pub(crate) refund_nonce: u64,
}

impl World {
    pub(crate) fn on_revm(name: &str) -> Self {
        Self::enter(Box::new(RevmChain::new()), name)
    }

    /// Deploys a dollar on `chain` and gives the payer some. Accounts follow from `name`, so that tests with
    /// different names can share a chain.
    pub(crate) fn enter(chain: Box<dyn Chain>, name: &str) -> Self {
        let mut world = Self {
            chain,
            token: Address::ZERO,
            name: name.to_owned(),
            salts: 0,
        };
        world.token = world.create(test_dollar_init());
        world.mint(world.token, world.address(Role::Payer), PAYER_FUNDS);
        world
    }

    /// The chain, for the next test.
    pub(crate) fn leave(self) -> Box<dyn Chain> {
        self.chain
    }

    pub(crate) fn key(&self, role: Role) -> PrivateKeySigner {
        let seed = keccak256(format!("{} {role:?}", self.name));
        PrivateKeySigner::from_bytes(&seed).expect("a hash is a key but for one in 2^128")
    }

    pub(crate) fn address(&self, role: Role) -> Address {
        self.key(role).address()
    }

    pub(crate) fn create(&mut self, init_code: Bytes) -> Address {
        let key = self.key(Role::Stranger);
        let receipt = self.chain.send(&key, TxKind::Create, init_code);
        receipt.outcome.expect("the constructor succeeds");
        receipt.created.expect("a creation has an address")
    }

    pub(crate) fn send<C: SolCall>(&mut self, from: Role, to: Address, call: &C) -> Receipt {
        let key = self.key(from);
        self.chain
            .send(&key, TxKind::Call(to), call.abi_encode().into())
    }

    pub(crate) fn settlement<C: SolCall>(&mut self, from: Role, call: &C) -> Receipt {
        self.send(from, SETTLEMENT_ADDRESS, call)
    }

    pub(crate) fn read<C: SolCall>(&mut self, to: Address, call: &C) -> C::Return {
        let output = self
            .chain
            .read(to, call.abi_encode().into())
            .expect("a view succeeds");
        C::abi_decode_returns(&output).expect("a view answers in its own type")
    }

    /// Creates tokens; every token of these tests has the dollar's `mint`.
    pub(crate) fn mint(&mut self, token: Address, to: Address, value: u128) {
        let call = TestDollar::mintCall {
            to,
            value: U256::from(value),
        };
        self.send(Role::Stranger, token, &call).succeeded();
    }

    pub(crate) fn balance(&mut self, token: Address, account: Address) -> u128 {
        self.read(token, &TestDollar::balanceOfCall { account })
            .to()
    }

    pub(crate) fn domain(&self) -> Eip712Domain {
        settlement_domain(self.chain.chain_id())
    }

    pub(crate) fn channel_id(&self, config: &ChannelConfig) -> B256 {
        channel_id(&self.domain(), config)
    }

    pub(crate) fn sign(&self, role: Role, digest: B256) -> Bytes {
        let signature = self
            .key(role)
            .sign_hash_sync(&digest)
            .expect("a local key signs");
        signature.as_bytes().to_vec().into()
    }

    /// Terms between the payer and the receiver, in dollars.
    pub(crate) fn config(&self) -> ChannelConfig {
        ChannelConfig {
            payer: self.address(Role::Payer),
            payerAuthorizer: self.address(Role::PayerAuthorizer),
            receiver: self.address(Role::Receiver),
            receiverAuthorizer: self.address(Role::ReceiverAuthorizer),
            token: self.token,
            withdrawDelay: U40::from(DELAY_S),
            salt: B256::ZERO,
        }
    }

    /// The same terms under the `n`th salt.
    pub(crate) fn config_n(&self, n: u64) -> ChannelConfig {
        ChannelConfig {
            salt: U256::from(n).into(),
            ..self.config()
        }
    }

    /// A deposit that the payer authorised by ERC-3009, under a salt not used before.
    pub(crate) fn deposit_call(
        &mut self,
        config: &ChannelConfig,
        amount: u128,
    ) -> Settlement::depositCall {
        self.salts += 1;
        let salt = U256::from(self.salts);
        let valid_before = U256::from(self.chain.now() + DELAY_S);
        let authorization = ReceiveWithAuthorization {
            from: config.payer,
            to: COLLECTOR_ADDRESS,
            value: U256::from(amount),
            validAfter: U256::ZERO,
            validBefore: valid_before,
            nonce: deposit_nonce(self.channel_id(config), salt),
        };
        let domain = token_domain(
            "Test Dollar (worthless)",
            self.chain.chain_id(),
            config.token,
        );
        let signature = self.sign(Role::Payer, authorization.eip712_signing_hash(&domain));
        Settlement::depositCall {
            config: config.clone(),
            amount,
            collector: COLLECTOR_ADDRESS,
            collectorData: (U256::ZERO, valid_before, salt, signature)
                .abi_encode_params()
                .into(),
        }
    }

    pub(crate) fn deposit(&mut self, config: &ChannelConfig, amount: u128) -> Receipt {
        let call = self.deposit_call(config, amount);
        self.settlement(Role::Stranger, &call)
    }

    /// A row to claim, its voucher signed by `signer`.
    pub(crate) fn row_by(
        &self,
        signer: Role,
        config: &ChannelConfig,
        ceiling: u128,
        total: u128,
    ) -> VoucherClaim {
        let voucher = Voucher {
            channelId: self.channel_id(config),
            maxClaimableAmount: ceiling,
        };
        VoucherClaim {
            voucher: Settlement::Voucher {
                channel: config.clone(),
                maxClaimableAmount: ceiling,
            },
            signature: self.sign(signer, voucher.eip712_signing_hash(&self.domain())),
            totalClaimed: total,
        }
    }

    pub(crate) fn row(&self, config: &ChannelConfig, ceiling: u128, total: u128) -> VoucherClaim {
        self.row_by(Role::PayerAuthorizer, config, ceiling, total)
    }

    /// Claims `total` of a channel with a voucher for just that.
    pub(crate) fn claim(&mut self, config: &ChannelConfig, total: u128) -> Receipt {
        let row = self.row(config, total, total);
        self.claim_rows(Role::ReceiverAuthorizer, vec![row])
    }

    pub(crate) fn claim_rows(&mut self, from: Role, rows: Vec<VoucherClaim>) -> Receipt {
        self.settlement(
            from,
            &Settlement::claimCall {
                voucherClaims: rows,
            },
        )
    }

    /// A batch signed by `signer`.
    pub(crate) fn signed_claim(
        &self,
        signer: Role,
        rows: Vec<VoucherClaim>,
    ) -> Settlement::claimWithSignatureCall {
        let digest = claim_batch(&self.domain(), &rows).eip712_signing_hash(&self.domain());
        Settlement::claimWithSignatureCall {
            voucherClaims: rows,
            authorizerSignature: self.sign(signer, digest),
        }
    }

    /// A refund signed by `signer`.
    pub(crate) fn signed_refund(
        &self,
        signer: Role,
        config: &ChannelConfig,
        amount: u128,
        nonce: u64,
    ) -> Settlement::refundWithSignatureCall {
        let nonce = U256::from(nonce);
        let refund = Refund {
            channelId: self.channel_id(config),
            nonce,
            amount,
        };
        Settlement::refundWithSignatureCall {
            config: config.clone(),
            amount,
            nonce,
            receiverAuthorizerSignature: self
                .sign(signer, refund.eip712_signing_hash(&self.domain())),
        }
    }

    pub(crate) fn refund(&mut self, config: &ChannelConfig, amount: u128) -> Receipt {
        self.settlement(
            Role::ReceiverAuthorizer,
            &Settlement::refundCall {
                config: config.clone(),
                amount,
            },
        )
    }

    pub(crate) fn settle(&mut self, config: &ChannelConfig) -> Receipt {
        let call = Settlement::settleCall {
            receiver: config.receiver,
            token: config.token,
        };
        self.settlement(Role::Stranger, &call)
    }

    pub(crate) fn initiate(&mut self, config: &ChannelConfig, amount: u128) -> Receipt {
        self.settlement(
            Role::Payer,
            &Settlement::initiateWithdrawCall {
                config: config.clone(),
                amount,
            },
        )
    }

    pub(crate) fn finalize(&mut self, config: &ChannelConfig) -> Receipt {
        self.settlement(
            Role::Payer,
            &Settlement::finalizeWithdrawCall {
                config: config.clone(),
            },
        )
    }

    pub(crate) fn books(&mut self, config: &ChannelConfig) -> Books {
        let id = self.channel_id(config);
        let money = self.read(
            SETTLEMENT_ADDRESS,
            &Settlement::channelsCall { channelId: id },
        );
        let pending = self.read(
            SETTLEMENT_ADDRESS,
            &Settlement::pendingWithdrawalsCall { channelId: id },
        );
        let nonce = self.read(
            SETTLEMENT_ADDRESS,
            &Settlement::refundNonceCall { channelId: id },
        );
        Books {
            balance: money.balance,
            claimed: money.totalClaimed,
            pending: pending.amount,
            initiated_at: pending.initiatedAt.to(),
            refund_nonce: nonce.to(),
        }
    }

    /// What the receiver of a channel claimed and was paid in its token.
    pub(crate) fn earned(&mut self, config: &ChannelConfig) -> (u128, u128) {
        let call = Settlement::receiversCall {
            receiver: config.receiver,
            token: config.token,
        };
        let earned = self.read(SETTLEMENT_ADDRESS, &call);
        (earned.totalClaimed, earned.totalSettled)
    }
}

impl Receipt {
    /// Fails the test, with the reason, where the transaction reverted.
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        if let Err(reason) = &self.outcome {
            panic!("reverted: {}", explain(reason));
        }
        self
    }

    /// Fails the test where the transaction did anything else than revert with the error `E`.
    #[track_caller]
    pub(crate) fn reverted_with<E: SolError>(self) {
        match &self.outcome {
            Ok(()) => panic!("succeeded, where {} was due", E::SIGNATURE),
            Err(reason) => {
                assert!(
                    reason.starts_with(&E::SELECTOR),
                    "{} was due, not {}",
                    E::SIGNATURE,
                    explain(reason)
                );
            }
        }
    }

    /// The events of type `E` that `contract` emitted.
    pub(crate) fn events<E: SolEvent>(&self, contract: Address) -> Vec<E> {
        let logs = self.logs.iter().filter(|log| log.address == contract);
        logs.filter_map(|log| E::decode_log_data(&log.data).ok())
            .collect()
    }
}

fn explain(reason: &Bytes) -> String {
    use alloy_sol_types::SolInterface;
    match Settlement::SettlementErrors::abi_decode(reason) {
        Ok(error) => format!("{error:?}"),
        Err(_) => match TestDollar::TestDollarErrors::abi_decode(reason) {
            Ok(error) => format!("{error:?}"),
            Err(_) => reason.to_string(),
        },
    }
}
