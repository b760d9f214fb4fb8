//! Vectors that must be refused: each is tried on the contract, and the error it gives is part of the vector.

use alloy_primitives::{Address, B256, Bytes, U256, address, uint};
use alloy_sol_types::{SolInterface, SolStruct, SolValue};
use hearth_chain::bindings::{COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS, Settlement, TestDollar};
use serde::{Deserialize, Serialize};

use super::{DOLLAR, Domain, FAR, Terms, chain_with_tokens, compare, key, send, sign};
use crate::chain::{Receipt, RevmChain};
use crate::signing;

const ABOUT: &str = "Vouchers and deposits that must be refused; `error` is the contract's custom error. \
    `vouchers`: a channel of `terms` in `domain` holds `deposited`; the receiver claims `totalClaimed` with a voucher for \
    `maxClaimableAmount` and this signature. `terms`: a deposit on these terms is refused. Keys are those of eip712.json.";

/// Atomic units in the channel that the bad vouchers are for.
const DEPOSITED: u128 = 10_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BadVectors {
    about: String,
    vouchers: Vec<BadVoucher>,
    terms: Vec<BadTerms>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BadVoucher {
    name: String,
    domain: Domain,
    terms: Terms,
    deposited: String,
    max_claimable_amount: String,
    total_claimed: String,
    signature: Bytes,
    error: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct BadTerms {
    name: String,
    domain: Domain,
    terms: Terms,
    error: String,
}

/// What is wrong, and how a good value is made so.
type Edit<T> = (&'static str, fn(&mut T));

/// What a voucher's signer put its name to.
struct Signed {
    signer: &'static str,
    domain: Domain,
    terms: Terms,
    max: u128,
}

fn home() -> Domain {
    Domain::settlement(RevmChain::CHAIN_ID, SETTLEMENT_ADDRESS)
}

/// What a good signer signs for 1,000.
fn good() -> Signed {
    Signed {
        signer: "payer session",
        domain: home(),
        terms: Terms::usual(),
        max: 1_000,
    }
}

impl Signed {
    fn signature(&self) -> Vec<u8> {
        let voucher = signing::Voucher {
            channelId: self.terms.channel_id(&self.domain),
            maxClaimableAmount: self.max,
        };
        sign(
            self.signer,
            voucher.eip712_signing_hash(&self.domain.eip712()),
        )
        .to_vec()
    }
}

/// Good signatures of something else, or by somebody else.
fn misplaced_signatures() -> Vec<(&'static str, Vec<u8>)> {
    let elsewhere = address!("0x00000000000000000000000000000000005e771e");
    let in_domain = |domain: Domain| Signed { domain, ..good() };
    let other_chain = in_domain(Domain::settlement(8_453, SETTLEMENT_ADDRESS));
    let other_contract = in_domain(Domain::settlement(RevmChain::CHAIN_ID, elsewhere));
    let other_version = in_domain(Domain {
        version: "2".into(),
        ..home()
    });
    let other_salt = Terms {
        salt: B256::with_last_byte(1),
        ..Terms::usual()
    };
    let signed = [
        (
            "signed by the payer instead of its authorizer",
            Signed {
                signer: "payer",
                ..good()
            },
        ),
        (
            "signed by the receiver",
            Signed {
                signer: "receiver",
                ..good()
            },
        ),
        ("signed for another chain", other_chain),
        ("signed for another contract", other_contract),
        ("signed in a domain of another version", other_version),
        (
            "signed for another channel",
            Signed {
                terms: other_salt,
                ..good()
            },
        ),
        ("signed for one unit less", Signed { max: 999, ..good() }),
        (
            "signed for one unit more",
            Signed {
                max: 1_001,
                ..good()
            },
        ),
    ];
    signed
        .map(|(name, signed)| (name, signed.signature()))
        .to_vec()
}

/// The good signature with its bytes changed.
fn malformed_signatures() -> Vec<(&'static str, Vec<u8>)> {
    let edits: [Edit<Vec<u8>>; 9] = [
        ("empty signature", Vec::clear),
        ("signature of 64 bytes", |signature| signature.truncate(64)),
        ("signature of 66 bytes", |signature| signature.push(0)),
        ("v is 0 or 1", |signature| signature[64] -= 27),
        ("v is 29", |signature| signature[64] = 29),
        ("v of the other point", |signature| {
            signature[64] = 55 - signature[64]
        }),
        ("r is zero", |signature| signature[..32].fill(0)),
        ("s is zero", |signature| signature[32..64].fill(0)),
        (
            "s in the upper half, the same message signed twice",
            |signature| mirror(signature),
        ),
    ];
    let edited = edits.map(|(name, edit)| {
        let mut signature = good().signature();
        edit(&mut signature);
        (name, signature)
    });
    edited.to_vec()
}

/// Turns a signature into the other one that the same key and message have.
fn mirror(signature: &mut [u8]) {
    const ORDER: U256 =
        uint!(0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141_U256);
    let s = ORDER - U256::from_be_slice(&signature[32..64]);
    signature[32..64].copy_from_slice(&s.to_be_bytes::<32>());
    signature[64] = 55 - signature[64];
}

fn make() -> BadVectors {
    BadVectors {
        about: ABOUT.into(),
        vouchers: bad_vouchers(),
        terms: bad_terms(),
    }
}

fn bad_vouchers() -> Vec<BadVoucher> {
    let mut vouchers = Vec::new();
    let mut push = |name: &str, max: u128, total: u128, signature: Vec<u8>| {
        let mut bad = BadVoucher {
            name: name.into(),
            domain: home(),
            terms: Terms::usual(),
            deposited: DEPOSITED.to_string(),
            max_claimable_amount: max.to_string(),
            total_claimed: total.to_string(),
            signature: signature.into(),
            error: String::new(),
        };
        bad.error = error_of(claim(&bad, max, total));
        vouchers.push(bad);
    };
    for (name, signature) in misplaced_signatures()
        .into_iter()
        .chain(malformed_signatures())
    {
        push(name, 1_000, 1_000, signature);
    }
    push(
        "one unit above the voucher",
        1_000,
        1_001,
        good().signature(),
    );
    let generous = Signed {
        max: u128::MAX,
        ..good()
    }
    .signature();
    push(
        "one unit above the escrow",
        u128::MAX,
        DEPOSITED + 1,
        generous,
    );
    vouchers
}

fn bad_terms() -> Vec<BadTerms> {
    let edits: [Edit<Terms>; 6] = [
        ("zero payer", |terms| terms.payer = Address::ZERO),
        ("zero receiver", |terms| terms.receiver = Address::ZERO),
        ("zero receiver's authorizer", |terms| {
            terms.receiver_authorizer = Address::ZERO
        }),
        ("zero token", |terms| terms.token = Address::ZERO),
        ("delay one second too short", |terms| {
            terms.withdraw_delay = 899
        }),
        ("delay one second too long", |terms| {
            terms.withdraw_delay = 2_592_001
        }),
    ];
    let bad = edits.map(|(name, edit)| {
        let mut terms = Terms::usual();
        edit(&mut terms);
        let error = error_of(deposit(&mut chain_with_tokens(RevmChain::CHAIN_ID), &terms));
        BadTerms {
            name: name.into(),
            domain: home(),
            terms,
            error,
        }
    });
    bad.to_vec()
}

fn deposit(chain: &mut RevmChain, terms: &Terms) -> Receipt {
    let salt = U256::from(1);
    let message = signing::ReceiveWithAuthorization {
        from: terms.payer,
        to: COLLECTOR_ADDRESS,
        value: U256::from(DEPOSITED),
        validAfter: U256::ZERO,
        validBefore: U256::from(FAR),
        nonce: signing::deposit_nonce(terms.channel_id(&home()), salt),
    };
    let domain = Domain::token("Test Dollar (worthless)", RevmChain::CHAIN_ID, DOLLAR).eip712();
    let signature = sign("payer", message.eip712_signing_hash(&domain));
    let mint = TestDollar::mintCall {
        to: key("payer").address(),
        value: U256::from(DEPOSITED),
    };
    send(chain, "minter", DOLLAR, &mint).succeeded();
    let call = Settlement::depositCall {
        config: terms.config(),
        amount: DEPOSITED,
        collector: COLLECTOR_ADDRESS,
        collectorData: (U256::ZERO, U256::from(FAR), salt, signature)
            .abi_encode_params()
            .into(),
    };
    send(chain, "receiver", SETTLEMENT_ADDRESS, &call)
}

fn claim(bad: &BadVoucher, max: u128, total: u128) -> Receipt {
    let mut chain = chain_with_tokens(RevmChain::CHAIN_ID);
    deposit(&mut chain, &bad.terms).succeeded();
    let row = Settlement::VoucherClaim {
        voucher: Settlement::Voucher {
            channel: bad.terms.config(),
            maxClaimableAmount: max,
        },
        signature: bad.signature.clone(),
        totalClaimed: total,
    };
    send(
        &mut chain,
        "receiver",
        SETTLEMENT_ADDRESS,
        &Settlement::claimCall {
            voucherClaims: vec![row],
        },
    )
}

/// Name of the error that a transaction reverted with.
fn error_of(receipt: Receipt) -> String {
    let reason = receipt.outcome.expect_err("a bad vector is refused");
    let error = Settlement::SettlementErrors::abi_decode(&reason).expect("a refusal says why");
    let selector = error.selector();
    Settlement::SettlementErrors::name_by_selector(selector)
        .expect("an error of the ABI has a name")
        .to_owned()
}

#[test]
fn the_file_is_what_the_contract_refuses() {
    compare("eip712_bad.json", &make());
}

#[test]
fn the_voucher_that_the_bad_ones_are_made_from_is_good() {
    let bad = BadVoucher {
        name: String::new(),
        domain: home(),
        terms: Terms::usual(),
        deposited: DEPOSITED.to_string(),
        max_claimable_amount: "1000".into(),
        total_claimed: "1000".into(),
        signature: good().signature().into(),
        error: String::new(),
    };
    claim(&bad, 1_000, 1_000).succeeded();
}
