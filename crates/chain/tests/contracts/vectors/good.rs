//! Valid vectors: each digest is asked of the contract, each token authorisation is executed by the token.

use alloy_primitives::{Address, B256, Bytes, Signature, U256, address, b256, keccak256};
use alloy_sol_types::{Eip712Domain, SolStruct, SolValue};
use hearth_chain::bindings::settlement_runtime;
use hearth_chain::bindings::{
    COLLECTOR_ADDRESS, Ember, IERC3009Signature, SETTLEMENT_ADDRESS, Settlement, TestDollar,
};
use serde::{Deserialize, Serialize};

use super::{DOLLAR, Domain, EMBER, FAR, Terms, chain_with_tokens, compare, key, send, sign};
use crate::chain::{Chain, RevmChain};
use crate::signing;

const ABOUT: &str = "EIP-712 vectors of Hearth and x402 batch settlement, computed by the contracts. \
    Integers above 2^53 are decimal strings; bytes are 0x-hex. `typehashes`: keccak256 of each encoded type. `keys`: \
    private keys of the signers, published here and worth nothing. `cases`: for `message` of EIP-712 type `type` in \
    `domain`, the domain separator, the digest to sign (for ChannelConfig it is the channel id), and where `signer` is \
    given, its RFC 6979 signature r || s || v. `depositNonces`: nonce = keccak256(abi.encode(channelId, uint256 salt)).";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Vectors {
    about: String,
    typehashes: Vec<TypeHash>,
    keys: Vec<Key>,
    cases: Vec<Case>,
    deposit_nonces: Vec<DepositNonce>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeHash {
    r#type: String,
    encoded: String,
    hash: B256,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    name: String,
    private_key: B256,
    address: Address,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    name: String,
    domain: Domain,
    domain_separator: B256,
    #[serde(flatten)]
    message: Message,
    digest: B256,
    #[serde(skip_serializing_if = "Option::is_none")]
    signer: Option<Address>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DepositNonce {
    channel_id: B256,
    salt: String,
    nonce: B256,
}

/// A message by its EIP-712 type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "message")]
enum Message {
    ChannelConfig(Terms),
    Voucher(Voucher),
    Refund(Refund),
    ClaimBatch(ClaimBatch),
    TransferWithAuthorization(Authorization),
    ReceiveWithAuthorization(Authorization),
    CancelAuthorization(Cancellation),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Voucher {
    channel_id: B256,
    max_claimable_amount: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Refund {
    channel_id: B256,
    nonce: String,
    amount: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ClaimBatch {
    claims: Vec<ClaimEntry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClaimEntry {
    channel_id: B256,
    max_claimable_amount: String,
    total_claimed: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authorization {
    from: Address,
    to: Address,
    value: String,
    valid_after: String,
    valid_before: String,
    nonce: B256,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Cancellation {
    authorizer: Address,
    nonce: B256,
}

const NONCE: B256 = b256!("0x7d1f0f5c3f5a4f0a9f1d2c3b4a5968778695a4b3c2d1e0f00112233445566778");
const DEPOSIT_SALT: u64 = 7;

impl Message {
    /// The digest as a wallet works it out.
    fn digest(&self, domain: &Eip712Domain) -> B256 {
        match self {
            Self::ChannelConfig(terms) => signing::channel_id(domain, &terms.config()),
            Self::Voucher(voucher) => signing::Voucher {
                channelId: voucher.channel_id,
                maxClaimableAmount: amount(&voucher.max_claimable_amount),
            }
            .eip712_signing_hash(domain),
            Self::Refund(refund) => signing::Refund {
                channelId: refund.channel_id,
                nonce: integer(&refund.nonce),
                amount: amount(&refund.amount),
            }
            .eip712_signing_hash(domain),
            Self::ClaimBatch(batch) => {
                let entry = |entry: &ClaimEntry| signing::ClaimEntry {
                    channelId: entry.channel_id,
                    maxClaimableAmount: amount(&entry.max_claimable_amount),
                    totalClaimed: amount(&entry.total_claimed),
                };
                signing::ClaimBatch {
                    claims: batch.claims.iter().map(entry).collect(),
                }
                .eip712_signing_hash(domain)
            }
            Self::TransferWithAuthorization(authorization) => signing::TransferWithAuthorization {
                from: authorization.from,
                to: authorization.to,
                value: integer(&authorization.value),
                validAfter: integer(&authorization.valid_after),
                validBefore: integer(&authorization.valid_before),
                nonce: authorization.nonce,
            }
            .eip712_signing_hash(domain),
            Self::ReceiveWithAuthorization(authorization) => signing::ReceiveWithAuthorization {
                from: authorization.from,
                to: authorization.to,
                value: integer(&authorization.value),
                validAfter: integer(&authorization.valid_after),
                validBefore: integer(&authorization.valid_before),
                nonce: authorization.nonce,
            }
            .eip712_signing_hash(domain),
            Self::CancelAuthorization(cancellation) => signing::CancelAuthorization {
                authorizer: cancellation.authorizer,
                nonce: cancellation.nonce,
            }
            .eip712_signing_hash(domain),
        }
    }
}

fn amount(text: &str) -> u128 {
    text.parse().expect("an amount is a decimal u128")
}

fn integer(text: &str) -> U256 {
    U256::from_str_radix(text, 10).expect("an integer is a decimal uint256")
}

fn case(name: &str, domain: &Domain, message: Message, signer: Option<&str>) -> Case {
    let digest = message.digest(&domain.eip712());
    Case {
        name: name.into(),
        domain: domain.clone(),
        domain_separator: domain.eip712().separator(),
        message,
        digest,
        signer: signer.map(|signer| key(signer).address()),
        signature: signer.map(|signer| sign(signer, digest)),
    }
}

/// The channels that the other vectors speak of, by name.
fn channels() -> Vec<(&'static str, Domain, Terms)> {
    let home = Domain::settlement(RevmChain::CHAIN_ID, SETTLEMENT_ADDRESS);
    let usual = Terms::usual();
    let elsewhere = address!("0x00000000000000000000000000000000005e771e");
    vec![
        ("usual terms", home.clone(), usual.clone()),
        (
            "the same terms on another chain",
            Domain::settlement(8_453, SETTLEMENT_ADDRESS),
            usual.clone(),
        ),
        (
            "the same terms in another contract",
            Domain::settlement(RevmChain::CHAIN_ID, elsewhere),
            usual.clone(),
        ),
        (
            "the payer signs itself",
            home.clone(),
            Terms {
                payer_authorizer: Address::ZERO,
                ..usual.clone()
            },
        ),
        (
            "shortest delay",
            home.clone(),
            Terms {
                withdraw_delay: 900,
                ..usual.clone()
            },
        ),
        (
            "longest delay and greatest salt",
            home,
            Terms {
                withdraw_delay: 2_592_000,
                salt: B256::repeat_byte(0xff),
                ..usual
            },
        ),
    ]
}

fn settlement_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, domain, terms) in channels() {
        cases.push(case(
            &format!("channel, {name}"),
            &domain,
            Message::ChannelConfig(terms.clone()),
            None,
        ));
        let channel_id = terms.channel_id(&domain);
        let signer = if terms.payer_authorizer.is_zero() {
            "payer"
        } else {
            "payer session"
        };
        for max in [1, 1_000, u128::MAX] {
            let voucher = Voucher {
                channel_id,
                max_claimable_amount: max.to_string(),
            };
            let name = format!("voucher for {max}, {name}");
            cases.push(case(
                &name,
                &domain,
                Message::Voucher(voucher),
                Some(signer),
            ));
        }
        for (nonce, amount) in [
            (U256::ZERO, 1),
            (U256::from(7), 250_000),
            (U256::MAX, u128::MAX),
        ] {
            let refund = Refund {
                channel_id,
                nonce: nonce.to_string(),
                amount: amount.to_string(),
            };
            let name = format!("refund {nonce}, {name}");
            cases.push(case(
                &name,
                &domain,
                Message::Refund(refund),
                Some("receiver session"),
            ));
        }
    }
    cases.extend(batch_cases());
    cases
}

/// Batches over the channels of one chain and contract, from none to all of them.
fn batch_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let (_, home, _) = channels().swap_remove(0);
    let rows: Vec<_> = channels()
        .into_iter()
        .filter(|(_, domain, _)| *domain == home)
        .collect();
    for count in 0..=rows.len() {
        let claims = rows[..count]
            .iter()
            .zip(1_u128..)
            .map(|((_, domain, terms), n)| ClaimEntry {
                channel_id: terms.channel_id(domain),
                max_claimable_amount: (n * 1_000).to_string(),
                total_claimed: (n * 900).to_string(),
            });
        let batch = Message::ClaimBatch(ClaimBatch {
            claims: claims.collect(),
        });
        cases.push(case(
            &format!("batch of {count}"),
            &home,
            batch,
            Some("receiver session"),
        ));
    }
    cases
}

fn token_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, address) in [("Ember", EMBER), ("Test Dollar (worthless)", DOLLAR)] {
        let domain = Domain::token(name, RevmChain::CHAIN_ID, address);
        let authorization = Authorization {
            from: key("payer").address(),
            to: key("receiver").address(),
            value: "1000".into(),
            valid_after: "0".into(),
            valid_before: FAR.to_string(),
            nonce: NONCE,
        };
        let message = Message::TransferWithAuthorization(authorization);
        cases.push(case(
            &format!("exact payment in {name}"),
            &domain,
            message,
            Some("payer"),
        ));
        let cancellation = Cancellation {
            authorizer: key("payer").address(),
            nonce: B256::ZERO,
        };
        let message = Message::CancelAuthorization(cancellation);
        cases.push(case(
            &format!("cancellation in {name}"),
            &domain,
            message,
            Some("payer"),
        ));
    }
    let (_, settlement, terms) = channels().swap_remove(0);
    let deposit = Authorization {
        from: key("payer").address(),
        to: COLLECTOR_ADDRESS,
        value: "250000".into(),
        valid_after: "0".into(),
        valid_before: FAR.to_string(),
        nonce: signing::deposit_nonce(terms.channel_id(&settlement), U256::from(DEPOSIT_SALT)),
    };
    let domain = Domain::token("Test Dollar (worthless)", RevmChain::CHAIN_ID, DOLLAR);
    let message = Message::ReceiveWithAuthorization(deposit);
    cases.push(case(
        "deposit into the channel of the usual terms",
        &domain,
        message,
        Some("payer"),
    ));
    cases
}

fn make() -> Vectors {
    let encoded = [
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)",
        "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,\
         address token,uint40 withdrawDelay,bytes32 salt)",
        "Voucher(bytes32 channelId,uint128 maxClaimableAmount)",
        "Refund(bytes32 channelId,uint256 nonce,uint128 amount)",
        "ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)",
        "ClaimBatch(ClaimEntry[] claims)\
         ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)",
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,\
         bytes32 nonce)",
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,\
         bytes32 nonce)",
        "CancelAuthorization(address authorizer,bytes32 nonce)",
    ];
    let typehash = |encoded: &str| TypeHash {
        r#type: encoded.split('(').next().unwrap_or_default().to_owned(),
        encoded: encoded.to_owned(),
        hash: keccak256(encoded),
    };
    let signer = |name: &str| Key {
        name: name.into(),
        private_key: key(name).to_bytes(),
        address: key(name).address(),
    };
    let ids = channels()
        .into_iter()
        .map(|(_, domain, terms)| terms.channel_id(&domain));
    let salts = [U256::ZERO, U256::from(DEPOSIT_SALT), U256::MAX];
    let deposit_nonces = ids.flat_map(|channel_id| {
        salts.map(|salt| DepositNonce {
            channel_id,
            salt: salt.to_string(),
            nonce: signing::deposit_nonce(channel_id, salt),
        })
    });
    Vectors {
        about: ABOUT.into(),
        typehashes: encoded.into_iter().map(typehash).collect(),
        keys: ["payer", "payer session", "receiver", "receiver session"]
            .into_iter()
            .map(signer)
            .collect(),
        cases: settlement_cases()
            .into_iter()
            .chain(token_cases())
            .collect(),
        deposit_nonces: deposit_nonces.collect(),
    }
}

#[test]
fn the_file_is_what_wallets_and_contracts_compute() {
    let vectors = make();
    for case in &vectors.cases {
        println!("{}", case.name);
        check(case, &vectors);
    }
    check_typehashes(&vectors.typehashes);
    compare("eip712.json", &vectors);
}

fn check_typehashes(typehashes: &[TypeHash]) {
    let mut chain = chain_with_tokens(RevmChain::CHAIN_ID);
    let told = [
        (
            "ChannelConfig",
            read(
                &mut chain,
                SETTLEMENT_ADDRESS,
                &Settlement::CHANNEL_CONFIG_TYPEHASHCall {},
            ),
        ),
        (
            "Voucher",
            read(
                &mut chain,
                SETTLEMENT_ADDRESS,
                &Settlement::VOUCHER_TYPEHASHCall {},
            ),
        ),
        (
            "Refund",
            read(
                &mut chain,
                SETTLEMENT_ADDRESS,
                &Settlement::REFUND_TYPEHASHCall {},
            ),
        ),
        (
            "ClaimEntry",
            read(
                &mut chain,
                SETTLEMENT_ADDRESS,
                &Settlement::CLAIM_ENTRY_TYPEHASHCall {},
            ),
        ),
        (
            "ClaimBatch",
            read(
                &mut chain,
                SETTLEMENT_ADDRESS,
                &Settlement::CLAIM_BATCH_TYPEHASHCall {},
            ),
        ),
    ];
    for (name, told) in told {
        let ours = typehashes.iter().find(|entry| entry.r#type == name);
        assert_eq!(ours.map(|entry| entry.hash), Some(told), "{name}");
    }
}

/// Asks the contract of the case's domain whether it agrees.
fn check(case: &Case, vectors: &Vectors) {
    let mut chain = chain_with_tokens(case.domain.chain_id);
    let contract = case.domain.verifying_contract;
    match &case.message {
        Message::TransferWithAuthorization(_)
        | Message::ReceiveWithAuthorization(_)
        | Message::CancelAuthorization(_) => execute(&mut chain, case),
        message => {
            chain.place(contract, settlement_runtime());
            assert_eq!(
                told_digest(&mut chain, contract, message, vectors),
                case.digest
            );
        }
    }
    if let (Some(signature), Some(signer)) = (&case.signature, case.signer) {
        let signature = Signature::from_raw(signature).expect("a signature of 65 bytes");
        assert_eq!(
            signature.recover_address_from_prehash(&case.digest).ok(),
            Some(signer)
        );
    }
}

fn read<C: alloy_sol_types::SolCall>(chain: &mut RevmChain, to: Address, call: &C) -> C::Return {
    let output = chain
        .read(to, call.abi_encode().into())
        .expect("a view succeeds");
    C::abi_decode_returns(&output).expect("a view answers in its own type")
}

fn told_digest(
    chain: &mut RevmChain,
    contract: Address,
    message: &Message,
    vectors: &Vectors,
) -> B256 {
    match message {
        Message::ChannelConfig(terms) => read(
            chain,
            contract,
            &Settlement::getChannelIdCall {
                config: terms.config(),
            },
        ),
        Message::Voucher(voucher) => {
            let max = amount(&voucher.max_claimable_amount);
            let call = Settlement::getVoucherDigestCall {
                channelId: voucher.channel_id,
                maxClaimableAmount: max,
            };
            read(chain, contract, &call)
        }
        Message::Refund(refund) => {
            let (nonce, amount) = (integer(&refund.nonce), amount(&refund.amount));
            let call = Settlement::getRefundDigestCall {
                channelId: refund.channel_id,
                nonce,
                amount,
            };
            read(chain, contract, &call)
        }
        Message::ClaimBatch(batch) => {
            let rows = batch.claims.iter().map(|entry| Settlement::VoucherClaim {
                voucher: Settlement::Voucher {
                    channel: terms_of(vectors, entry.channel_id).config(),
                    maxClaimableAmount: amount(&entry.max_claimable_amount),
                },
                signature: Bytes::new(),
                totalClaimed: amount(&entry.total_claimed),
            });
            let call = Settlement::getClaimBatchDigestCall {
                voucherClaims: rows.collect(),
            };
            read(chain, contract, &call)
        }
        _ => unreachable!("token messages are executed instead"),
    }
}

/// The terms of a channel, from the vector that names it.
fn terms_of(vectors: &Vectors, channel_id: B256) -> &Terms {
    let named = vectors.cases.iter().find_map(|case| match &case.message {
        Message::ChannelConfig(terms) if case.digest == channel_id => Some(terms),
        _ => None,
    });
    named.expect("every channel of the vectors has a vector of its own")
}

/// Has the token execute what was signed.
fn execute(chain: &mut RevmChain, case: &Case) {
    let token = case.domain.verifying_contract;
    let separator = read(chain, token, &Ember::eip712DomainCall {});
    assert_eq!(
        (separator.name.as_str(), separator.verifyingContract),
        (case.domain.name.as_str(), token)
    );
    let mint = TestDollar::mintCall {
        to: key("payer").address(),
        value: U256::from(1_000_000),
    };
    send(chain, "minter", token, &mint).succeeded();
    let signature = case.signature.clone().expect("authorisations are signed");
    match &case.message {
        Message::TransferWithAuthorization(authorization) => {
            let call = IERC3009Signature::transferWithAuthorizationCall {
                from: authorization.from,
                to: authorization.to,
                value: integer(&authorization.value),
                validAfter: integer(&authorization.valid_after),
                validBefore: integer(&authorization.valid_before),
                nonce: authorization.nonce,
                signature,
            };
            send(chain, "receiver", token, &call).succeeded();
        }
        Message::CancelAuthorization(cancellation) => {
            let Cancellation { authorizer, nonce } = *cancellation;
            let call = IERC3009Signature::cancelAuthorizationCall {
                authorizer,
                nonce,
                signature,
            };
            send(chain, "receiver", token, &call).succeeded();
        }
        Message::ReceiveWithAuthorization(authorization) => {
            let (_, _, terms) = channels().swap_remove(0);
            let (after, before) = (
                integer(&authorization.valid_after),
                integer(&authorization.valid_before),
            );
            let call = Settlement::depositCall {
                config: terms.config(),
                amount: amount(&authorization.value),
                collector: authorization.to,
                collectorData: (after, before, U256::from(DEPOSIT_SALT), signature)
                    .abi_encode_params()
                    .into(),
            };
            send(chain, "receiver", SETTLEMENT_ADDRESS, &call).succeeded();
        }
        _ => unreachable!("channel messages are hashed instead"),
    }
}
